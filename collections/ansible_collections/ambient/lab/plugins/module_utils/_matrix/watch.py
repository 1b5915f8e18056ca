# Asks every cell of a matrix again and again until the answers stay the same, and then has each of them proven.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .._check.rounds import Settings
from .._claims.parse import DEFAULT_CODES, DENIALS, Claim, Expectation
from .._common.rounds import Time, repeat
from .._curl.control import BLOCKED
from .._curl.outcomes import Seen
from .diff import State, decider
from .plan import Pair

# curl's word for a server that answered with something else than HTTP (curl(1), EXIT CODES, 1 and 8).
_NOT_HTTP = (1, 8)
# Without an HTTP answer, only a proxy's own word tells a denial from a server that had no use for the request.
_PROXIES = ("ztunnel", "waypoint")
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

    pair: Pair
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


class _Answers:
    """The answers of one cell from round to round, and the proof of the last one."""

    def __init__(self, pair: Pair, stable: int) -> None:
        self.proof = Proof()
        self._pair, self._stable = pair, stable
        self.seen = Seen("")
        self.streak = 0
        self._codes: set[int] = set()
        self._changes: list[str] = []

    def add(self, seen: Seen) -> None:
        same = (seen.outcome, seen.http_code) == (self.seen.outcome, self.seen.http_code)
        self.streak = self.streak + 1 if same else 1
        if seen.outcome != self.seen.outcome:
            self._codes.clear()
        self._codes.add(seen.http_code)
        self._changes += [] if same else [str(seen)]
        self.seen = seen

    @property
    def codes(self) -> frozenset[int] | None:
        """HTTP statuses of the outcome, None where it has none."""
        if self.seen.outcome not in DEFAULT_CODES:
            return None
        return frozenset({self.seen.http_code} if self.streak >= self._stable else self._codes)

    @property
    def claim(self) -> Claim:
        """A claim that expects what was seen, whoever decided it."""
        return dataclasses.replace(self._pair.claim, after=Expectation(self.seen.outcome, self.codes), by=None)

    def cell(self, rounds: int) -> Cell:
        flapped: tuple[str, ...] = ()
        outcomes = {text.split(" ")[0] for text in self._changes[-self._stable :]}
        if self.streak < min(self._stable, rounds) and len(outcomes) > 1:
            # Where only the status varies, it is a list of codes.
            flapped = tuple(self._changes[-4:])
        problem = f"it flaps: {', '.join(flapped)}" if flapped else _unclear(self.seen, self.proof, self._pair.http)
        exits = None if self.seen.exit_code is None else frozenset({self.seen.exit_code})
        # A policy decides a denial; an answer that came through is nobody's.
        policy = decider(self.proof.policy) if self.proof.policy and self.seen.outcome in DENIALS else None
        state = State(self.seen.outcome, self.codes, exits, policy, problem)
        return Cell(self._pair, self.seen, state, self.proof.decided_by, flapped)


class _Settled:
    """The rule of a matrix: until every answer is the same for `stable` rounds, the last of which is the proof."""

    def __init__(self, pairs: t.Sequence[Pair], settings: Settings, world: World) -> None:
        self.timeout = settings.timeout
        self.cells = [_Answers(pair, settings.stable) for pair in pairs]
        self.rounds = self._tried = 0
        self.waits_for = ""
        self._stable, self._world = settings.stable, world

    def look(self, prove: bool = False) -> bool:
        """One round; whether the answers were proven in it."""
        prove = prove or (self.rounds > 0 and self._same(self._stable - 1))
        chosen = [cell for cell in self.cells if prove and cell.seen.outcome != "probe_error"]
        for cell in self.cells:
            cell.proof = Proof()
        for cell, proof in zip(
            chosen, self._world.prove([cell.claim for cell in chosen]) if chosen else (), strict=True
        ):
            cell.proof = proof
        # What no claim can expect is not in a proof, and may have changed all the same.
        asked = self._world.ask() if len(chosen) < len(self.cells) else [cell.seen for cell in self.cells]
        for cell, seen in zip(self.cells, asked, strict=True):
            cell.add(cell.proof.seen or seen)
        self.rounds += 1
        return prove

    def ends(self, look: bool, at: float) -> bool:
        """Whether this round was the last one; look: it was a proof; at: seconds since the start."""
        self._tried += look
        # A log may come late, but a destination that answers nobody goes on doing so.
        late = any(cell.proof.problem and cell.seen.outcome not in BLOCKED for cell in self.cells)
        changing = sum(cell.streak < self._stable for cell in self.cells)
        self.waits_for = f"{changing} of {len(self.cells)} answers still change, or wait for a proxy's word"
        proven = look and (self._tried >= MAX_PROOFS or not late)
        return at >= self.timeout or (proven and self._same(self._stable))

    def _same(self, rounds: int) -> bool:
        return all(cell.streak >= rounds for cell in self.cells)


def watch(pairs: t.Sequence[Pair], settings: Settings, world: World, clock: Time) -> Observed:
    """Look until all answers are the same for `stable` rounds in a row, or `timeout` seconds are over.

    The last of these rounds is a check of what was seen as claims, with controls and witnesses.

    Args:
        pairs: the cells; what their claims expect does not matter.
        settings: how often and how long to look.
        world: asks and proves.
        clock: to measure and to wait with.

    Raises:
        LabError: when the API does not answer.
    """
    rule = _Settled(pairs, settings, world)
    ended = repeat(rule.look, rule, clock, settings.interval)
    elapsed = ended.elapsed
    if not ended.last:
        # The time is over, and what is known by now is proven all the same.
        start = clock.now()
        rule.look(prove=True)
        elapsed += clock.now() - start
    return Observed([cell.cell(rule.rounds) for cell in rule.cells], rule.rounds, elapsed)


def _unclear(seen: Seen, proof: Proof, http: bool) -> str:
    """Why an answer says nothing of who may call whom; "" where it does."""
    if seen.outcome == "probe_error":
        if not http and seen.exit_code in _NOT_HTTP:
            return "the destination answered, but speaks no HTTP"
        return seen.errormsg
    if seen.outcome == "allowed" or proof.decided_by in _PROXIES:
        return ""
    if not http:
        return "no proxy says that it denied this, and the destination may speak no HTTP"
    return proof.problem if seen.outcome in (*DENIALS, *BLOCKED) else ""
