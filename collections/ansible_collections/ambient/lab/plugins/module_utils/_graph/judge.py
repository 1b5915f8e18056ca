# Judges what Kiali's graph shows against what claims expect; an edge that is not there needs a control.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from .._check.stable import Verdict
from .model import NO_RESPONSE, Edge
from .parse import REPORTER, EdgeExpectation, End, GraphClaim, may_control, reporters
from .run import EdgesSeen, GraphRun, Judged

# Namespace and name of the waypoints that requests to an end may go through; None where nobody knows.
WaypointsOf = t.Callable[[End], frozenset[tuple[str, str]] | None]

NO_CONTROL = "there is no edge, but nothing in the same window shows that what {} counts is drawn"
NOT_SENT = "there is no edge, but the requests that would make one were not all sent and sampled in the window"


def judge_all(
    runs: t.Sequence[GraphRun],
    seen: t.Callable[[GraphClaim], EdgesSeen],
    sent: t.Callable[[GraphClaim], bool],
    waypoints: WaypointsOf,
) -> None:
    """Judge all claims in one window that is long enough.

    Args:
        runs: the claims.
        seen: what the graph shows between a claim's ends.
        sent: whether requests that would make a claim's edge were sent in the window, early enough to be seen.
        waypoints: that may count requests to an end.
    """
    for run in runs:
        run.judged = _judge(run.expect, seen(run.claim))
    there = [run for run in runs if run.holds and run.expect.outcome == "edge"]
    for run in runs:
        if run.holds and run.expect.outcome == "no_edge":
            _judge_absence(run, there, waypoints)
            if run.holds and not sent(run.claim):
                run.decide(Verdict("error", NOT_SENT))


def _judge_absence(run: GraphRun, there: t.Sequence[GraphRun], waypoints: WaypointsOf) -> None:
    """An edge that is missing as it should be, with a control for each kind of proxy that would have counted it.

    Args:
        there: the claims whose edge is as expected.
    """
    controls = []
    mine = waypoints(run.claim.target)
    for reporter in reporters(run.claim, run.phase, mine is None or bool(mine)):
        found = [
            f"{other.claim.between} ({', '.join(str(edge) for edge in edges)})"
            for other in there
            if may_control(run.claim, other.claim, run.phase, reporter)
            and _same_counters(run.claim, other.claim, reporter, waypoints)
            for edges in [[edge for edge in other.judged.seen.edges if REPORTER.get(edge.protocol) == reporter]]
            if edges
        ]
        if not found:
            run.decide(Verdict("error", NO_CONTROL.format(reporter)), uncontrolled=reporter)
            return
        controls.append(found[0])
    run.decide(run.verdict, control=f"the same window has {', '.join(dict.fromkeys(controls))}")


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
    problem, sticky = next(_problems(expect, edges), ("", False))
    return Judged(seen, Verdict("fail", problem) if problem else Verdict("pass"), sticky=sticky)


def _problems(expect: EdgeExpectation, edges: t.Sequence[Edge]) -> t.Iterator[tuple[str, bool]]:
    """What is wrong with edges that are there, and whether the window keeps it."""
    wanted = {str(code) for code in expect.codes or ()}
    found = {code for edge in edges for code in edge.codes}
    if expect.codes is not None and found != wanted:
        shown = ", ".join("no response" if code == NO_RESPONSE else code for code in sorted(found)) or "none"
        # A code too many stays in the window, one that is missing may come.
        yield f"the codes are {shown}, the claim wants exactly {', '.join(sorted(wanted))}", bool(found - wanted)
    shares = [edge.mtls for edge in edges if edge.mtls is not None]
    if expect.mtls is not None and len(shares) < len(edges):
        # The appender asks Prometheus for the destination's series, which may come a sample later than the source's.
        yield "Kiali does not say whether mTLS protects this edge", False
    elif expect.mtls is True and min(shares) < 100:
        yield f"mTLS protects only {min(shares):.0f}% of it", True
    elif expect.mtls is False and max(shares) > 0:
        yield f"mTLS protects {max(shares):.0f}% of it", True
    total = sum(edge.rate for edge in edges)
    if expect.min_rate is not None and total < expect.min_rate:
        yield f"expected {expect}, saw a rate of {total:g}", False
