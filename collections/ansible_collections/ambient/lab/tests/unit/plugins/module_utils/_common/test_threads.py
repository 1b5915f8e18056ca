# What becomes of threads when their work is broken off.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import threading

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._common.threads import threads


def test_a_signal_waits_for_no_thread_and_drops_what_is_queued() -> None:
    """What was changed is put back before a probe that hangs has ended."""
    released = threading.Event()
    try:
        with pytest.raises(SystemExit), threads(1) as pool:
            runs, queued = pool.submit(released.wait, 5), pool.submit(released.wait, 5)
            raise SystemExit(143)
        assert (runs.done(), queued.cancelled()) == (False, True)
    finally:
        released.set()
