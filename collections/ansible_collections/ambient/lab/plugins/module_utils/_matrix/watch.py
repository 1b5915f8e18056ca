# Asks every cell of a matrix again and again until the answers stay the same, and then has each of them proven.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import itertools
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._check.rounds import Settings
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import (
    DEFAULT_CODES,
    DENIALS,
    Claim,
    Expectation,
)
from ansible_collections.ambient.lab.plugins.module_utils._common.rounds import Time, repeat
from ansible_collections.ambient.lab.plugins.module_utils._curl.control import BLOCKED
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


class World(t.Protocol):
    """What watching needs; all of it raises LabError when the API does not answer."""

    def ask(self) -> list[Seen]:
        """One round: what each cell's probe saw."""

    def prove(self, claims: t.Sequence[Claim]) -> list[Proof]:
        """Check claims in one round, with all witnesses."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell as it was seen at last. flapped: the answers of the last rounds, where they were not the same."""

    seen: Seen
    state: State
    decided_by: str = "-"
    flapped: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Observed:
    """All cells in their order; elapsed is in seconds."""

    cells: list[Cell]
    rounds: int
    elapsed: float


class Settled:
    """The rule of a matrix: until every answer has stayed the same, and is proven.

    Args:
        cells: how many there are.
        stable: rounds in a row in which an answer must be the same; the last of them is the proof.
        timeout: seconds to wait for that.
    """

    def __init__(self, cells: int, stable: int, timeout: float) -> None:
        self.timeout = timeout
        self.count = self._tried = 0
        self.last: list[Seen] = []
        self._stable = stable
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

    def ends(self, look: t.Sequence[Proof], at: float) -> bool:
        """Whether this round was the last one; look: the proof of all cells, empty where they were only asked."""
        if not look:
            return at >= self.timeout
        self._tried += 1
        # A log may come late, but a destination that answers nobody goes on doing so.
        late = any(proof.problem and proof.seen and proof.seen.outcome not in BLOCKED for proof in look)
        proven = self._tried >= MAX_PROOFS or not late
        return at >= self.timeout or (proven and self._same(self._stable))

    @property
    def provable(self) -> bool:
        """Whether the answers have stayed the same for so long that the next round can be the proof."""
        return self.count > 0 and self._same(self._stable - 1)

    def _same(self, rounds: int) -> bool:
        return all(streak >= rounds for streak in self._streaks)

    def flapped(self, index: int) -> tuple[str, ...]:
        """The last answers of a cell that has not settled; empty where only the status of its answer varies."""
        if self._streaks[index] >= min(self._stable, self.count):
            return ()
        outcomes = {change.split(" ")[0] for change in self._changes[index][-self._stable :]}
        return () if len(outcomes) == 1 else tuple(self._changes[index][-4:])

    def codes(self, index: int) -> frozenset[int] | None:
        """HTTP statuses of the cell's outcome, None where it has none."""
        if self.last[index].outcome not in DEFAULT_CODES:
            return None
        return frozenset({self.last[index].http_code} if self._streaks[index] >= self._stable else self._codes[index])


def watch(claims: t.Sequence[Claim], http: t.Sequence[bool], settings: Settings, world: World, clock: Time) -> Observed:
    """Look until all answers are the same for `stable` rounds in a row, or `timeout` seconds are over.

    The last of these rounds is a check of what was seen as claims, with controls and witnesses.

    Args:
        claims: of the cells; what they expect does not matter.
        http: per cell, whether the destination is known to answer HTTP.
        settings: how often and how long to look.
        world: asks and proves.
        clock: to measure and to wait with.

    Raises:
        LabError: when the API does not answer.
    """
    rule = Settled(len(claims), settings.stable, settings.timeout)

    def look() -> list[Proof]:
        proofs = _prove(claims, rule, world) if rule.provable else []
        seen = [proof.seen for proof in proofs]
        # What no claim can expect is not in a proof, and may have changed all the same.
        asked = world.ask() if None in seen or not proofs else ()
        rule.add([one or other for one, other in itertools.zip_longest(seen, asked)])
        return proofs

    ended = repeat(look, rule, clock, settings.interval)
    proofs, elapsed = ended.last, ended.elapsed
    if not proofs:
        # The time is over, and what is known by now is proven all the same.
        start = clock.now()
        proofs = _prove(claims, rule, world)
        rule.add([proof.seen for proof in proofs])
        elapsed += clock.now() - start
    cells = [_cell(rule, index, proofs[index], known) for index, known in enumerate(http)]
    return Observed(cells, rule.count, elapsed)


def _prove(claims: t.Sequence[Claim], rule: Settled, world: World) -> list[Proof]:
    """Check each cell that has an answer which a claim can expect; the others need no proof."""
    proofs = [Proof() for _claim in claims]
    chosen = {
        index: observed(claim, rule.last[index], rule.codes(index))
        for index, claim in enumerate(claims)
        if rule.last[index].outcome != "probe_error"
    }
    if chosen:
        for index, proof in zip(chosen, world.prove(list(chosen.values())), strict=True):
            proofs[index] = proof
    return proofs


def observed(claim: Claim, seen: Seen, codes: frozenset[int] | None) -> Claim:
    """A claim that expects what was seen, whoever decided it."""
    return dataclasses.replace(claim, after=Expectation(seen.outcome, codes), by=None)


def _cell(rule: Settled, index: int, proof: Proof, http: bool) -> Cell:
    seen, flapped = rule.last[index], rule.flapped(index)
    problem = f"it flaps: {', '.join(flapped)}" if flapped else _unclear(seen, proof, http)
    exits = None if seen.exit_code is None else frozenset({seen.exit_code})
    # A policy decides a denial; an answer that came through is nobody's.
    policy = decider(proof.policy) if proof.policy and seen.outcome in DENIALS else None
    return Cell(seen, State(seen.outcome, rule.codes(index), exits, policy, problem), proof.decided_by, flapped)


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
    return proof.problem if seen.outcome in (*DENIALS, *BLOCKED) else ""
