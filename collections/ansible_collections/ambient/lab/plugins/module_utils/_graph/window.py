# The stretch of time that Kiali is asked about: it begins after all that happened before, on the server's own clock.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import math


class ServerClock:
    """The server's time, from the Date headers of its answers; the controller's clock may be wrong.

    A Date header is cut to whole seconds and on its way for a while, so what this clock says is never ahead of the
    server, and less than SLACK behind. Every answer makes it more exact.
    """

    SLACK = 1.0

    def __init__(self) -> None:
        self._ahead: float | None = None

    def observe(self, date: float, at: float) -> None:
        """Take in a Date header.

        Args:
            date: Unix time in seconds.
            at: when the answer was there, in seconds of a clock that never goes back.
        """
        ahead = date - at
        self._ahead = ahead if self._ahead is None else max(self._ahead, ahead)

    @property
    def known(self) -> bool:
        """Whether the server has said anything yet."""
        return self._ahead is not None

    def time(self, at: float) -> float:
        """The server's Unix time at a moment, at the least."""
        if self._ahead is None:
            message = "no answer has been heard"
            raise ValueError(message)
        return at + self._ahead


@dataclasses.dataclass(frozen=True)
class Window:
    """From `start` to the end that each question names; Unix times in whole seconds, as Kiali takes them.

    scrape: seconds between two samples of Prometheus.
    """

    start: int
    scrape: float

    @classmethod
    def after(cls, time: float, scrape: float) -> Window:
        """The first window that holds nothing of what happened before the answer that told the time.

        Its Date was cut, so that only the next whole second surely lies behind all of that. time: of ServerClock.
        """
        return cls(math.floor(time) + 1, scrape)

    @property
    def shortest(self) -> int:
        """Seconds it must last before it proves anything: rate() needs an increase between two samples in it."""
        return math.ceil(2 * self.scrape) + 1

    @property
    def needed(self) -> int:
        """Seconds from its making until it has been long enough, by a clock that is behind, and with one to spare."""
        return self.shortest + 3

    def seconds(self, end: int) -> int:
        """Its length; below 1 there is nothing to ask yet."""
        return end - self.start

    def proves(self, end: int) -> bool:
        """Whether it is long enough."""
        return self.seconds(end) >= self.shortest


@dataclasses.dataclass(frozen=True)
class Sending:
    """When requests were sent; server times as ServerClock tells them."""

    begin: float
    end: float


def covered(sent: list[Sending], window: Window, end: int) -> bool:
    """Whether requests at these times would be seen in the window, if anybody had counted them.

    That takes two sendings with a sample between them, and a sample after the second one, all inside the window:
    the counter's increase between those two samples is what rate() sees.
    """
    inside = [item for item in sent if item.begin >= window.start]
    sampled = [item for item in inside if item.end + ServerClock.SLACK + window.scrape <= end]
    return bool(inside) and any(item.begin >= inside[0].end + window.scrape for item in sampled)
