# Decides when to stop asking, and remembers each claim's answers.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._check.judge import Verdict

MAX_HISTORY = 50


class History:
    """Every change of one claim's answer. flapped: it passed once, and then did not."""

    def __init__(self) -> None:
        self.changes: list[dict[str, t.Any]] = []
        self.flapped = False
        self._passed_once = False

    def add(self, at: float, verdict: Verdict, **answer: t.Any) -> None:
        """Take in one round's answer; at: seconds since the start."""
        passed = verdict.verdict == "pass"
        self.flapped |= self._passed_once and not passed
        self._passed_once |= passed
        answer = {**answer, "verdict": verdict.verdict}
        known = self.changes and all(self.changes[-1][key] == value for key, value in answer.items())
        if not known and len(self.changes) < MAX_HISTORY:
            self.changes.append({"at": round(at, 2), **answer})


class Convergence:
    """Counts rounds until all claims hold `stable` rounds in a row, or waiting longer makes no sense.

    Args:
        stable: rounds in a row in which every claim must pass.
        timeout: seconds to wait for a change; a streak that has begun by then is followed to its end.
    """

    def __init__(self, stable: int, timeout: float) -> None:
        self.stable = stable
        self.timeout = timeout
        self.rounds = 0
        self.converged_after: float | None = None
        self._streak = 0
        self._hopeless_streak = 0
        self._since = 0.0

    def add(self, at: float, verdicts: t.Sequence[Verdict]) -> bool:
        """Take in one round; True when it was the last one.

        Args:
            at: seconds since the start.
            verdicts: of all claims.
        """
        self.rounds += 1
        if all(verdict.verdict == "pass" for verdict in verdicts):
            self._streak += 1
            if self._streak == 1:
                self._since = at
        else:
            self._streak = 0
        settled = all(verdict.verdict == "pass" or verdict.hopeless for verdict in verdicts)
        self._hopeless_streak = self._hopeless_streak + 1 if settled else 0
        if self._streak >= self.stable:
            self.converged_after = self._since
            return True
        if self._streak == 0 and self._hopeless_streak >= self.stable:
            return True
        return at >= self.timeout and self._streak == 0

    def close(self, verdicts: t.Sequence[Verdict]) -> None:
        """Take in the last round once more, with what the proxies have said after it."""
        if any(verdict.verdict != "pass" for verdict in verdicts):
            self.converged_after = None

    @property
    def holding(self) -> bool:
        """Whether every claim held in the last round."""
        return self._streak > 0
