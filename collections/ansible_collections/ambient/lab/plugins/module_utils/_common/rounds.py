# Looks again and again until a stop rule says that it is enough; and whether looking again is of any use.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import enum
import time
import typing as t

from .errors import LabError, Slow
from .progress import Progress

Look = t.TypeVar("Look")
LookIn = t.TypeVar("LookIn", contravariant=True)


class Retry(enum.Enum):
    """Whether the same question may get a better answer later.

    POINTLESS is only what somebody must write otherwise first. What is not there may still come: whoever applies
    policies (GitOps, for example) needs time.
    """

    USEFUL = "useful"
    POINTLESS = "pointless"

    @classmethod
    def unless(cls, pointless: bool) -> Retry:
        """POINTLESS where a condition holds."""
        return cls.POINTLESS if pointless else cls.USEFUL


@dataclasses.dataclass(frozen=True)
class Reason:
    """Why something is not as it is to be, and whether that may go away by itself."""

    text: str = ""
    retry: Retry = Retry.USEFUL


class Time(t.Protocol):
    """Time in seconds."""

    def now(self) -> float:
        """Of a clock that never goes back."""

    def sleep(self, seconds: float, /) -> None:
        """Wait between two rounds."""


@dataclasses.dataclass(frozen=True)
class Clock:
    """The machine's time in seconds; tests bring their own. epoch: since 1970, as the API's timestamps count."""

    now: t.Callable[[], float] = time.monotonic
    sleep: t.Callable[[float], None] = time.sleep
    epoch: t.Callable[[], float] = time.time


class Rule(t.Protocol[LookIn]):
    """When to stop looking. waits_for: what was not as it is to be in the last round, for people; "" for nothing."""

    timeout: float
    waits_for: str

    def ends(self, look: LookIn, at: float) -> bool:
        """Take in one round, and say whether it was the last one; at: seconds since the start."""


@dataclasses.dataclass(frozen=True)
class Ended(t.Generic[Look]):
    """The last look, how many there were, and the seconds that they took."""

    last: Look
    rounds: int
    elapsed: float


def repeat(look: t.Callable[[], Look], rule: Rule[Look], clock: Time, interval: float) -> Ended[Look]:
    """Look, ask the rule, pause, and look again.

    interval: seconds between two rounds; less where the rule's time is over before.

    Raises:
        Slow: when a look got no answer in time, and the rule's time is over; before that it is tried again.
    """
    start = clock.now()
    rounds = 0
    progress = Progress()
    while True:
        try:
            seen = look()
            rounds += 1
            at = clock.now() - start
            if rule.ends(seen, at):
                return Ended(seen, rounds, at)
            progress.note(rule.waits_for, at, rule.timeout)
        except Slow as slow:
            at = clock.now() - start
            progress.note(slow.message, at, rule.timeout)
            if at >= rule.timeout:
                raise
        left = rule.timeout - at
        clock.sleep(min(interval, left) if left > 0 else interval)


def require_seconds(params: t.Mapping[str, t.Any], **least: float) -> None:
    """Raises LabError where an option of a module is less than it may be, or more than an hour; all in seconds."""
    for key, seconds in least.items():
        if not seconds <= params[key] <= 3600:
            raise LabError(f"{key} must be from {seconds:g} to 3600 seconds, not {params[key]}")


class Wait(t.Generic[Look]):
    """The rule of a plain wait: until nothing is left to wait for, waiting is pointless, or time is up.

    left: what is still waited for, and whether that is of use.
    """

    def __init__(self, timeout: float, left: t.Callable[[Look], t.Sequence[Reason]]) -> None:
        self.timeout, self._left = timeout, left
        self.waits_for = ""

    def ends(self, look: Look, at: float) -> bool:
        """Whether this round was the last one."""
        left = self._left(look)
        self.waits_for = first_of([reason.text for reason in left])
        return not left or any(reason.retry is Retry.POINTLESS for reason in left) or at >= self.timeout


def first_of(lines: t.Sequence[str]) -> str:
    """The first of some lines, and how many more there are."""
    return lines[0] + (f" (and {len(lines) - 1} more)" if len(lines) > 1 else "") if lines else ""
