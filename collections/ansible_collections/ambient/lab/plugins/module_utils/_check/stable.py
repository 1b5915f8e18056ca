# Decides when a round's answers are stable, and remembers how they changed on the way.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._check.judge import Verdict
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen
from ansible_collections.ambient.lab.plugins.module_utils._witness.testimony import Testimony

MAX_HISTORY = 50


@dataclasses.dataclass(frozen=True)
class Observation:
    """What one claim's probe saw in a round, and the verdict on it.

    control: how the path was shown alive. testimony: of the witnesses, None where nobody was asked.
    """

    seen: Seen
    verdict: Verdict
    control: str | None = None
    testimony: Testimony | None = None


class Convergence:
    """Collects rounds until all claims hold `stable` rounds in a row, or waiting longer makes no sense.

    Args:
        claims: how many there are.
        stable: rounds in a row in which every claim must pass.
        timeout: seconds to wait for a change; a streak that has begun by then is followed to its end.
    """

    def __init__(self, claims: int, stable: int, timeout: float) -> None:
        self.stable = stable
        self.timeout = timeout
        self.rounds = 0
        self.converged_after: float | None = None
        self.last: t.Sequence[Observation] = ()
        self.history: list[list[dict[str, t.Any]]] = [[] for _claim in range(claims)]
        self._passed_once = [False] * claims
        self._flapped = [False] * claims
        self._streak = 0
        self._hopeless_streak = 0
        self._since = 0.0

    def add(self, at: float, observations: t.Sequence[Observation]) -> bool:
        """Take in one round; True when it was the last one.

        Args:
            at: seconds since the start.
            observations: one per claim.
        """
        self.rounds += 1
        self.last = observations
        for index, observation in enumerate(observations):
            self._remember(index, at, observation)
        verdicts = [observation.verdict for observation in observations]
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

    def close(self, observations: t.Sequence[Observation]) -> None:
        """Take in the last round once more, with what the witnesses have said after it."""
        self.last = observations
        if any(observation.verdict.verdict != "pass" for observation in observations):
            self.converged_after = None

    @property
    def holding(self) -> bool:
        """Whether every claim held in the last round."""
        return self._streak > 0

    def flapped(self, index: int) -> bool:
        """Whether the claim passed and then stopped passing."""
        return self._flapped[index]

    def _remember(self, index: int, at: float, observation: Observation) -> None:
        passed = observation.verdict.verdict == "pass"
        self._flapped[index] |= self._passed_once[index] and not passed
        self._passed_once[index] |= passed
        answer = {
            "outcome": observation.seen.outcome,
            "http_code": observation.seen.http_code,
            "verdict": observation.verdict.verdict,
        }
        changes = self.history[index]
        known = changes and all(changes[-1][key] == value for key, value in answer.items())
        if not known and len(changes) < MAX_HISTORY:
            changes.append({"at": round(at, 2), **answer})
