# When a check of claims stops, its result, and each claim's answers on the way.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .._claims.fields import Named
from .._common.rounds import Retry, first_of
from .._results.measured import Verdict as Word
from .._results.model import Change

MAX_HISTORY = 50
# Rounds in a row in which waiting looks pointless, until it is taken for so.
PATIENCE = 5


@dataclasses.dataclass(frozen=True)
class Verdict:
    """pass, fail or error, why, and whether looking again is of use."""

    verdict: Word
    reason: str = ""
    retry: Retry = Retry.USEFUL

    @property
    def passed(self) -> bool:
        """Whether it is a pass."""
        return self.verdict == "pass"


class Judged(t.Protocol):
    """A claim of any kind in a check."""

    @property
    def claim(self) -> Named:
        """What must hold."""

    @property
    def cause(self) -> str:
        """What probably explains that it does not hold; "" where nothing is known."""

    @property
    def verdict(self) -> Verdict:
        """Of the last round."""

    def remember(self, at: float) -> None:
        """Keep this round's answer; at: seconds since the start."""


class History:
    """Every change of one claim's answer. flapped: it passed once, and then did not."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.flapped = False
        self._passed_once = False

    def add(self, at: float, verdict: Verdict, outcome: str, http_code: int | None = None) -> None:
        """Take in one round's answer; at: seconds since the start."""
        self.flapped |= self._passed_once and not verdict.passed
        self._passed_once |= verdict.passed
        answer = Change(at=round(at, 2), outcome=outcome, http_code=http_code, verdict=verdict.verdict)
        known = self.changes and dataclasses.replace(self.changes[-1], at=answer.at) == answer
        if not known and len(self.changes) < MAX_HISTORY:
            self.changes.append(answer)


class Stable:
    """The rule of a check: until all claims hold `stable` rounds in a row, or waiting longer makes no sense.

    Args:
        stable: rounds in a row in which every claim must pass.
        timeout: seconds to wait for a change; a streak that has begun by then is followed to its end.

    Attributes:
        converged_after: seconds until the streak began; None while it is not long enough.
    """

    def __init__(self, stable: int, timeout: float) -> None:
        self.timeout = timeout
        self.converged_after: float | None = None
        self.waits_for = ""
        self._stable = stable
        self._held = self._pointless = 0
        self._since = 0.0

    def ends(self, look: t.Sequence[Judged], at: float) -> bool:
        """Take in one round, and say whether it was the last one; at: seconds since the start."""
        for run in look:
            run.remember(at)
        failing = [run for run in look if not run.verdict.passed]
        self.waits_for = first_of([f"{run.claim.name}: {run.cause or run.verdict.reason}" for run in failing])
        pointless = bool(failing) and all(run.verdict.retry is Retry.POINTLESS for run in failing)
        self._pointless = self._pointless + 1 if pointless else 0
        self._held = 0 if failing else self._held + 1
        if self._held == 1:
            self._since = at
        if self._held >= self._stable:
            self.converged_after = self._since
        if self._held:
            return self._held >= self._stable
        return self._pointless >= PATIENCE or at >= self.timeout


@dataclasses.dataclass
class Checked:
    """The end of a check. Times in seconds; converged_after is None where not every claim held long enough."""

    rounds: int
    elapsed: float
    converged_after: float | None

    @property
    def judged(self) -> t.Sequence[Judged]:
        """All claims after the last round."""
        raise NotImplementedError

    @property
    def verdict(self) -> Word:
        """The worst verdict of all."""
        if self.converged_after is not None:
            return "pass"
        # Every last answer may be right where the claims never held long enough.
        return "error" if any(run.verdict.verdict == "error" for run in self.judged) else "fail"

    def summary(self) -> dict[str, t.Any]:
        """As return values and the results file have it."""
        after = self.converged_after
        return {
            "verdict": self.verdict,
            "rounds": self.rounds,
            "elapsed": round(self.elapsed, 2),
            "converged_after": None if after is None else round(after, 2),
        }
