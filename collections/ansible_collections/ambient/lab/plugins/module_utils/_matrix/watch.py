# Asks every cell of a matrix again and again until the answers stay the same, and then has each of them proven.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import (
    DEFAULT_CODES,
    DENIALS,
    Claim,
    Expectation,
)
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen
from ansible_collections.ambient.lab.plugins.module_utils._matrix.deciders import decider
from ansible_collections.ambient.lab.plugins.module_utils._matrix.diff import State

# curl's word for a server that answered with something else than HTTP (curl(1), EXIT CODES, 1 and 8).
_NOT_HTTP = (1, 8)
# Without an HTTP answer, only a proxy's own word tells a denial from a server that had no use for the request.
PROXIES = ("ztunnel", "waypoint")
# A proof may fail for a moment, for example where a log is late.
MAX_PROOFS = 3


@dataclasses.dataclass(frozen=True)
class Proof:
    """What the check of claims says of one cell: who decided, by which policy, and why it is no proof ("" if it is).

    seen: the answer that the check got, None where the cell was not checked.
    """

    decided_by: str = "-"
    policy: str | None = None
    problem: str = ""
    seen: Seen | None = None


class Pace(t.Protocol):
    """How often and how long to look; times are in seconds."""

    @property
    def stable(self) -> int:
        """Rounds in a row in which an answer must be the same."""

    @property
    def timeout(self) -> float:
        """How long to wait for that."""

    @property
    def interval(self) -> float:
        """Between two rounds."""


class World(t.Protocol):
    """What watching needs; all of it raises LabError when the API does not answer."""

    def ask(self) -> list[Seen]:
        """One round: what each cell's probe saw."""

    def prove(self, claims: t.Sequence[Claim]) -> list[Proof]:
        """Check claims in one round, with all witnesses."""

    def now(self) -> float:
        """Seconds of a clock that never goes back."""

    def sleep(self, seconds: float) -> None:
        """Wait between two rounds."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell as it was seen at last. flapped: the answers of the last rounds, where they were not the same."""

    seen: Seen
    state: State
    decided_by: str = "-"
    flapped: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Watched:
    """All cells in their order; elapsed is in seconds."""

    cells: list[Cell]
    rounds: int
    elapsed: float


class Rounds:
    """Collects rounds and knows which answers have stayed the same.

    Args:
        cells: how many there are.
        stable: rounds in a row in which an answer must be the same.
    """

    def __init__(self, cells: int, stable: int) -> None:
        self.stable = stable
        self.count = 0
        self.last: list[Seen] = []
        self._streaks = [0] * cells
        self._answers: list[tuple[str, int] | None] = [None] * cells
        self._codes: list[set[int]] = [set() for _cell in range(cells)]
        self._changes: list[list[str]] = [[] for _cell in range(cells)]

    def add(self, seen: t.Sequence[Seen | None]) -> None:
        """Take in one round; None is a cell that was not asked in it."""
        self.count += 1
        self.last = [item or self.last[index] for index, item in enumerate(seen)]
        for index, item in enumerate(seen):
            if item is None:
                continue
            answer = (item.outcome, item.http_code)
            known = self._answers[index]
            self._streaks[index] = self._streaks[index] + 1 if answer == known else 1
            if known is None or known[0] != item.outcome:
                self._codes[index].clear()
            self._codes[index].add(item.http_code)
            if answer != known:
                self._changes[index].append(str(item))
                self._answers[index] = answer

    def settled(self, rounds: int) -> bool:
        """Whether every answer has stayed the same for so many rounds."""
        return all(streak >= rounds for streak in self._streaks)

    def flapped(self, index: int) -> tuple[str, ...]:
        """The last answers of a cell that has not settled; empty where only the status of its answer varies."""
        if self._streaks[index] >= min(self.stable, self.count):
            return ()
        outcomes = {change.split(" ")[0] for change in self._changes[index][-self.stable :]}
        return () if len(outcomes) == 1 else tuple(self._changes[index][-4:])

    def codes(self, index: int) -> frozenset[int] | None:
        """HTTP statuses of the cell's outcome, None where it has none."""
        if self.last[index].outcome not in DEFAULT_CODES:
            return None
        return frozenset({self.last[index].http_code} if self._streaks[index] >= self.stable else self._codes[index])


def watch(claims: t.Sequence[Claim], http: t.Sequence[bool], settings: Pace, world: World) -> Watched:
    """Look until all answers are the same for `stable` rounds in a row, or `timeout` seconds are over.

    The last of these rounds is a check of what was seen as claims, with controls and witnesses.

    Args:
        claims: of the cells; what they expect does not matter.
        http: per cell, whether the destination is known to answer HTTP.
        settings: how often and how long to look.
        world: asks, proves, and has a clock.

    Raises:
        LabError: when the API does not answer.
    """
    start = world.now()
    rounds = Rounds(len(claims), settings.stable)
    tried = 0
    while True:
        rounds.add(world.ask())
        late = world.now() - start >= settings.timeout
        if late or rounds.settled(settings.stable - 1):
            proofs = _prove(claims, rounds, world)
            # What the check saw counts as a round, too.
            rounds.add([proof.seen for proof in proofs])
            tried += 1
            proven = tried >= MAX_PROOFS or not any(proof.problem for proof in proofs)
            if late or (proven and rounds.settled(settings.stable)):
                break
        world.sleep(settings.interval)
    cells = [_cell(rounds, index, proofs[index], known) for index, known in enumerate(http)]
    return Watched(cells, rounds.count, world.now() - start)


def _prove(claims: t.Sequence[Claim], rounds: Rounds, world: World) -> list[Proof]:
    """Check each cell that has an answer which a claim can expect; the others need no proof."""
    proofs = [Proof() for _claim in claims]
    chosen = {
        index: observed(claim, rounds.last[index], rounds.codes(index))
        for index, claim in enumerate(claims)
        if rounds.last[index].outcome != "probe_error"
    }
    if chosen:
        for index, proof in zip(chosen, world.prove(list(chosen.values())), strict=True):
            proofs[index] = proof
    return proofs


def observed(claim: Claim, seen: Seen, codes: frozenset[int] | None) -> Claim:
    """A claim that expects what was seen, whoever decided it."""
    return dataclasses.replace(claim, after=Expectation(seen.outcome, codes), by=None)


def _cell(rounds: Rounds, index: int, proof: Proof, http: bool) -> Cell:
    seen, flapped = rounds.last[index], rounds.flapped(index)
    problem = f"it flaps: {', '.join(flapped)}" if flapped else _unclear(seen, proof, http)
    exits = None if seen.exit_code is None else frozenset({seen.exit_code})
    # A policy decides a denial; an answer that came through is nobody's.
    policy = decider(proof.policy) if proof.policy and seen.outcome in DENIALS else None
    return Cell(seen, State(seen.outcome, rounds.codes(index), exits, policy, problem), proof.decided_by, flapped)


def _unclear(seen: Seen, proof: Proof, http: bool) -> str:
    """Why an answer says nothing of who may call whom; "" where it does."""
    if seen.outcome == "probe_error":
        if not http and seen.exit_code in _NOT_HTTP:
            return "the destination answered, but speaks no HTTP"
        return seen.errormsg
    if seen.outcome == "allowed" or proof.decided_by in PROXIES:
        return ""
    if not http:
        return "no proxy says that it denied this, and the destination may speak no HTTP"
    return proof.problem if seen.outcome in DENIALS else ""
