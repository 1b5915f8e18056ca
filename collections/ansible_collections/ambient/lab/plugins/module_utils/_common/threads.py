# Threads that nobody waits for once the work is broken off.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import concurrent.futures
import contextlib
import typing as t


@contextlib.contextmanager
def threads(number: int) -> t.Iterator[concurrent.futures.ThreadPoolExecutor]:
    """So many threads at most. An error or a signal drops what is queued, and does not wait for what runs."""
    pool = concurrent.futures.ThreadPoolExecutor(number)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
