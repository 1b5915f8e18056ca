# Everything about one claim on the graph in a check: one object, from its parsing to its report.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .._check.stable import History, Verdict
from .._results.model import Seen
from .model import Edge
from .parse import EdgeExpectation, End, GraphClaim

TOO_EARLY = "the window was still too short for Prometheus to have seen anything"


@dataclasses.dataclass(frozen=True)
class EdgesSeen:
    """What the graph shows between a claim's ends; problem: why there is no graph to look at."""

    edges: tuple[Edge, ...] = ()
    problem: str = ""

    @property
    def outcome(self) -> str:
        """edge, no_edge or no_answer."""
        if self.problem:
            return "no_answer"
        return "edge" if self.edges else "no_edge"

    @property
    def kind(self) -> str:
        """What of it is worth remembering; rates change all the time."""
        parts = [" ".join([edge.protocol, *edge.codes]).strip() for edge in self.edges]
        return " ".join([self.outcome, ", ".join(sorted(set(parts)))]).strip()

    def __str__(self) -> str:
        if not self.edges:
            return "no answer" if self.problem else "no edge"
        return ", ".join(str(edge) for edge in self.edges)

    def kept(self, protocol: str | None) -> Seen:
        """As results have it; of a protocol that the claim names, its edges are shown, if there are any."""
        shown = tuple(edge for edge in self.edges if edge.protocol == protocol) or self.edges
        text = str(dataclasses.replace(self, edges=shown))
        edges = [edge.kept() for edge in self.edges]
        return Seen(outcome=self.outcome, text=text, edges=edges, problem=self.problem)


@dataclasses.dataclass(frozen=True)
class Judged:
    """One claim in one round. sticky: the window keeps what spoils it, however long it lasts.

    missing: the edge is not there at all, which may be the telemetry's fault. uncontrolled: the kind of proxy that
    nothing shows to count, where the edge must be missing.
    """

    seen: EdgesSeen
    verdict: Verdict
    control: str | None = None
    sticky: bool = False
    missing: bool = False
    uncontrolled: str = ""


@dataclasses.dataclass
class GraphRun:
    """Everything about one claim on the graph in a check; a round replaces what it found.

    Attributes:
        claim: what must hold.
        phase: before or after.
        judged: what the last round has shown.
        proven: what the last window that was long enough, or spoilt, has shown; None where there was none.
        history: of all rounds.
        cause: what probably explains that it does not hold; "" where it does, or nothing is known.
        look: command to look further; "" for none.
    """

    claim: GraphClaim
    phase: str
    judged: Judged = Judged(EdgesSeen(), Verdict("error", TOO_EARLY))
    proven: Judged | None = None
    history: History = dataclasses.field(default_factory=History)
    cause: str = ""
    look: str = ""

    @property
    def expect(self) -> EdgeExpectation:
        """What must be seen in this phase."""
        return self.claim.expected(self.phase)

    @property
    def ends(self) -> tuple[End, End]:
        """Where the traffic comes from and goes to."""
        return self.claim.source, self.claim.target

    @property
    def verdict(self) -> Verdict:
        """Of the last round."""
        return self.judged.verdict

    @property
    def holds(self) -> bool:
        """Whether the last round's verdict is a pass."""
        return self.verdict.passed

    def decide(self, verdict: Verdict, **changed: t.Any) -> None:
        """Put another verdict in the place of the last round's; changed: more fields of `judged`."""
        self.judged = dataclasses.replace(self.judged, verdict=verdict, **changed)

    def wait(self, seen: EdgesSeen) -> None:
        """In a window that proves nothing yet, what the one before it has shown still stands."""
        early = Judged(seen, Verdict("error", TOO_EARLY))
        self.judged = dataclasses.replace(self.proven, sticky=False) if self.proven else early

    def remember(self, at: float) -> None:
        """Keep this round's answer; at: seconds since the start."""
        self.history.add(at, self.verdict, outcome=self.judged.seen.kind)
