# Judges what Kiali's graph shows against what claims expect; an edge that is not there needs a control.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._check.judge import Verdict
from ansible_collections.ambient.lab.plugins.module_utils._graph.model import NO_RESPONSE, Edge
from ansible_collections.ambient.lab.plugins.module_utils._graph.parse import (
    REPORTER,
    EdgeExpectation,
    End,
    GraphClaim,
    may_control,
    reporters,
)

# Namespace and name of the waypoints that requests to an end may go through; None where nobody knows.
WaypointsOf = t.Callable[[End], frozenset[tuple[str, str]] | None]

NO_CONTROL = "there is no edge, but nothing in the same window shows that what {} counts is drawn"
NOT_SENT = "there is no edge, but the requests that would make one were not all sent and sampled in the window"


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

    def as_dict(self) -> dict[str, t.Any]:
        """The same as plain data for the module's result."""
        return {
            "outcome": self.outcome,
            "edges": [edge.as_dict() for edge in self.edges],
            "text": str(self),
            "problem": self.problem,
        }


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


def judge_all(
    claims: t.Sequence[GraphClaim],
    phase: str,
    seen: t.Sequence[EdgesSeen],
    sent: t.Callable[[GraphClaim], bool],
    waypoints: WaypointsOf,
) -> list[Judged]:
    """All claims in one window that is long enough.

    Args:
        phase: before or after.
        seen: by each claim.
        sent: whether requests that would make a claim's edge were sent in the window, early enough to be seen.
        waypoints: that may count requests to an end.
    """
    alone = [_judge(claim.expected(phase), item) for claim, item in zip(claims, seen, strict=True)]
    there = [pair for pair in zip(claims, alone, strict=True) if pair[1].verdict.verdict == "pass"]
    judged = []
    for claim, item in zip(claims, alone, strict=True):
        if claim.expected(phase).outcome == "no_edge" and item.verdict.verdict == "pass":
            item = _absence(claim, item, there, phase, waypoints)
            if item.verdict.verdict == "pass" and not sent(claim):
                item = dataclasses.replace(item, verdict=Verdict("error", NOT_SENT))
        judged.append(item)
    return judged


def _absence(
    claim: GraphClaim,
    item: Judged,
    there: t.Sequence[tuple[GraphClaim, Judged]],
    phase: str,
    waypoints: WaypointsOf,
) -> Judged:
    """An edge that is missing as it should be, with a control for each kind of proxy that would have counted it.

    Args:
        there: the claims that hold.
    """
    controls = []
    mine = waypoints(claim.target)
    for reporter in reporters(claim, phase, mine is None or bool(mine)):
        found = [
            f"{other.between} ({', '.join(str(edge) for edge in edges)})"
            for other, result in there
            if may_control(claim, other, phase, reporter) and _same_counters(claim, other, reporter, waypoints)
            for edges in [[edge for edge in result.seen.edges if REPORTER.get(edge.protocol) == reporter]]
            if edges
        ]
        if not found:
            verdict = Verdict("error", NO_CONTROL.format(reporter))
            return dataclasses.replace(item, verdict=verdict, uncontrolled=reporter)
        controls.append(found[0])
    return dataclasses.replace(item, control=f"the same window has {', '.join(dict.fromkeys(controls))}")


def _same_counters(claim: GraphClaim, other: GraphClaim, reporter: str, waypoints: WaypointsOf) -> bool:
    """Whether the other claim's edge can't come from a waypoint that has nothing to do with this claim.

    An edge of tcp, too, may be a waypoint's, from Kiali 2 on (graph/telemetry/istio/util, GetReporter).
    """
    if other.target == claim.target:
        return True
    mine, its = waypoints(claim.target), waypoints(other.target)
    if mine is None or its is None:
        return False
    return its <= mine if reporter == "ztunnel" else its == mine != frozenset()


def _judge(expect: EdgeExpectation, seen: EdgesSeen) -> Judged:
    if seen.problem:
        return Judged(seen, Verdict("error", seen.problem))
    edges = [edge for edge in seen.edges if expect.protocol in (None, edge.protocol)]
    if expect.outcome == "no_edge":
        if edges:
            return Judged(seen, Verdict("fail", f"expected {expect}, saw {seen}"), sticky=True)
        return Judged(seen, Verdict("pass"))
    edges = [edge for edge in edges if edge.rate > 0]
    if not edges:
        return Judged(seen, Verdict("fail", f"expected {expect}, saw {seen}"), missing=True)
    for rule in (_codes, _mtls, _rate):
        problem, sticky = rule(expect, edges)
        if problem:
            return Judged(seen, Verdict("fail", problem), sticky=sticky)
    return Judged(seen, Verdict("pass"))


def _rate(expect: EdgeExpectation, edges: t.Sequence[Edge]) -> tuple[str, bool]:
    total = sum(edge.rate for edge in edges)
    if expect.min_rate is None or total >= expect.min_rate:
        return "", False
    return f"expected {expect}, saw a rate of {total:g}", False


def _codes(expect: EdgeExpectation, edges: t.Sequence[Edge]) -> tuple[str, bool]:
    if expect.codes is None:
        return "", False
    wanted = {str(code) for code in expect.codes}
    found = {code for edge in edges for code in edge.codes}
    if found == wanted:
        return "", False
    shown = ", ".join("no response" if code == NO_RESPONSE else code for code in sorted(found)) or "none"
    # A code too many stays in the window, one that is missing may come.
    return f"the codes are {shown}, the claim wants exactly {', '.join(sorted(wanted))}", bool(found - wanted)


def _mtls(expect: EdgeExpectation, edges: t.Sequence[Edge]) -> tuple[str, bool]:
    if expect.mtls is None:
        return "", False
    shares = [edge.mtls for edge in edges if edge.mtls is not None]
    if len(shares) < len(edges):
        # The appender asks Prometheus for the destination's series, which may come a sample later than the source's.
        return "Kiali does not say whether mTLS protects this edge", False
    least, most = min(shares), max(shares)
    if expect.mtls is True and least < 100:
        return f"mTLS protects only {least:.0f}% of it", True
    if expect.mtls is False and most > 0:
        return f"mTLS protects {most:.0f}% of it", True
    return "", False
