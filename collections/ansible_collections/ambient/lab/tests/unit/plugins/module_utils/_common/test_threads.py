# What becomes of threads when their work is broken off.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import concurrent.futures
import threading

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._common.threads import threads


def test_a_signal_waits_for_no_thread_and_drops_what_is_queued() -> None:
    """What was changed is put back before a probe that hangs has ended."""
    released = threading.Event()
    futures: list[concurrent.futures.Future[bool]] = []

    def broken_off() -> None:
        with threads(1) as pool:
            futures.extend(pool.submit(released.wait, 5) for _ in range(2))
            raise SystemExit(143)

    try:
        with pytest.raises(SystemExit):
            broken_off()
        assert (futures[0].done(), futures[1].cancelled()) == (False, True)
    finally:
        released.set()
