# Ends a program so that it still puts right what it has changed.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
import signal
import threading
import types
import typing as t

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Seconds between two looks at whether the parent is still there.
PARENT_SECONDS = 0.5


@contextlib.contextmanager
def ended_politely() -> t.Iterator[None]:
    """Turn SIGTERM, SIGINT, SIGHUP and the parent's end into SystemExit; for a main thread.

    So `finally`, contexts and exit handlers run. The parent counts because Ansible's processes for tasks have a session
    of their own (ansible-core, executor/process/worker.py): a closed terminal, or SIGKILL, ends ansible-playbook alone,
    and a task would go on with nobody to hear of it.
    """

    def end(number: int, frame: types.FrameType | None) -> t.NoReturn:
        # Ansible sends several; what is put right is not to be broken off.
        for other in ENDING:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    # nohup(1) has a program ignore SIGHUP.
    ending = [item for item in ENDING if item != signal.SIGHUP or signal.getsignal(item) != signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in ending}
    try:
        with _ended_with_the_parent():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _ended_with_the_parent() -> t.Iterator[None]:
    """Send SIGTERM to the main thread once this process belongs to another parent."""
    parent, done, main = os.getppid(), threading.Event(), threading.main_thread().ident

    def watch() -> None:
        while not done.wait(PARENT_SECONDS):
            if os.getppid() != parent and main is not None:
                signal.pthread_kill(main, signal.SIGTERM)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
