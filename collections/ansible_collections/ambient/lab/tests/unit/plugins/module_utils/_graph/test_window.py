# The window's arithmetic: the server's clock, what stays out, how long it must be, which requests it covers.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._graph.window import Sending, ServerClock, Window, covered


def test_the_clock_is_never_ahead_and_gets_more_exact() -> None:
    clock = ServerClock()
    assert not clock.known
    with pytest.raises(ValueError, match="no answer"):
        clock.time(0)
    # The server's time is 1000.9 at 50.0; its Date is cut, and takes 0.1 s to arrive.
    clock.observe(1000, 50.1)
    assert clock.known
    assert clock.time(50.1) == pytest.approx(1000)
    clock.observe(1002, 51.3)
    assert clock.time(51.3) == pytest.approx(1002)
    assert clock.time(50.1) == pytest.approx(1000.8)
    # A later answer that knows less changes nothing.
    clock.observe(1003, 53.0)
    assert clock.time(53.0) == pytest.approx(1003.7)


@pytest.mark.parametrize(
    ("time", "scrape", "start", "shortest"),
    [
        # A Date of 1000 may mean 1000.999, so 1001 is the first second that surely lies ahead.
        (1000.0, 1, 1001, 3),
        (1000.3, 1, 1001, 3),
        (1000.9, 1, 1001, 3),
        (1000.0, 15, 1001, 31),
        (1000.0, 0.5, 1001, 2),
        (1000.0, 0.7, 1001, 3),
    ],
)
def test_window(time: float, scrape: float, start: int, shortest: int) -> None:
    window = Window.after(time, scrape)
    assert (window.start, window.shortest) == (start, shortest)
    assert window.needed == shortest + 3
    assert window.seconds(start + 7) == 7
    assert [window.proves(start + shortest + late) for late in (-1, 0, 1)] == [False, True, True]


WINDOW = Window(1000, 2.0)


@pytest.mark.parametrize(
    ("sent", "end", "seen"),
    [
        ([(1000.0, 1000.1), (1002.1, 1002.2)], 1006, True),
        ([(1000.0, 1000.0), (1002.0, 1003.0)], 1006, True),
        # The second one was not sampled for certain yet.
        ([(1000.0, 1000.1), (1002.1, 1002.2)], 1005, False),
        # No sample lies between the two for certain.
        ([(1000.0, 1000.1), (1001.9, 1002.2)], 1006, False),
        # The first one began before the window did.
        ([(999.9, 1000.1), (1002.1, 1002.2)], 1006, False),
        ([(999.9, 1000.1), (1002.1, 1002.2), (1004.3, 1004.4)], 1008, True),
        # Only one, none, and many too close to each other.
        ([(1000.0, 1000.1)], 1100, False),
        ([], 1100, False),
        ([(1000.0, 1000.1), (1000.5, 1000.6), (1001.0, 1001.1), (1002.3, 1002.4)], 1006, True),
    ],
)
def test_covered(sent: list[tuple[float, float]], end: int, seen: bool) -> None:
    assert covered([Sending(*item) for item in sent], WINDOW, end) is seen
