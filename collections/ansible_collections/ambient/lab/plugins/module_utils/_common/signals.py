# Ends a program so that it still puts right what it has changed.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import contextlib
import signal
import types
import typing as t

ENDING = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def ended_politely() -> t.Iterator[None]:
    """Turn SIGTERM and SIGINT into SystemExit, so that `finally`, contexts and exit handlers run; for a main thread."""

    def end(number: int, frame: types.FrameType | None) -> t.NoReturn:
        # Ansible sends several; what is put right is not to be broken off.
        for other in ENDING:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
