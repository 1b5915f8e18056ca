# Sends the traffic and looks at Kiali's graph, round by round, until all claims hold.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._check.rounds import (
    ClaimResult,
    Edge,
    Settings,
    claim_results,
    find_targets,
    judge_round,
)
from ansible_collections.ambient.lab.plugins.module_utils._check.stable import Convergence, Observation
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Claim, Source
from ansible_collections.ambient.lab.plugins.module_utils._claims.sources import Target, Unusable
from ansible_collections.ambient.lab.plugins.module_utils._cluster.snapshot import Snapshot
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._curl.control import plan
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen
from ansible_collections.ambient.lab.plugins.module_utils._curl.probing import probe_all
from ansible_collections.ambient.lab.plugins.module_utils._graph.judge import Judged
from ansible_collections.ambient.lab.plugins.module_utils._graph.parse import GraphClaim, uncontrolled
from ansible_collections.ambient.lab.plugins.module_utils._graph.traffic import (
    Route,
    nodes_of,
    routes,
    unsent,
    waypoints,
)
from ansible_collections.ambient.lab.plugins.module_utils._graph.watch import KialiApi, Look, Watch
from ansible_collections.ambient.lab.plugins.module_utils._witness.paths import namespaces_of


@dataclasses.dataclass(frozen=True)
class GraphClaimResult:
    """One claim after the last round. cause and look: what explains it, and the command to look further, if known."""

    claim: GraphClaim
    judged: Judged
    history: list[dict[str, t.Any]]
    flapped: bool = False
    cause: str = ""
    look: str = ""


@dataclasses.dataclass(frozen=True)
class GraphResult:
    """All claims after the last round. Times in seconds; converged_after is None where they did not hold.

    outcomes: what the last round's requests saw on their routes. nodes: of the pods at both ends of each claim.
    restarts: of the window.
    """

    claims: list[GraphClaimResult]
    traffic: list[ClaimResult]
    look: Look
    outcomes: frozenset[tuple[Route, str]]
    rounds: int
    elapsed: float
    converged_after: float | None
    restarts: int = 0
    nodes: t.Sequence[frozenset[str]] = ()

    @property
    def verdict(self) -> str:
        """The worst verdict of all."""
        if self.converged_after is not None:
            return "pass"
        verdicts = {item.judged.verdict.verdict for item in self.claims}
        verdicts |= {item.observation.verdict.verdict for item in self.traffic}
        return "error" if "error" in verdicts else "fail"


def check_graph(
    claims: t.Sequence[GraphClaim],
    traffic: t.Sequence[Claim],
    namespaces: t.Sequence[str],
    settings: Settings,
    edge: Edge,
    kiali: KialiApi,
) -> GraphResult:
    """Send the traffic and look, until everything holds `stable` rounds in a row or time is up.

    Time is up `timeout` seconds after the first window could have been long enough to prove anything.

    Raises:
        LabError: when the cluster's API does not answer, a source does not exist, or nothing is sent that would make
            an edge which a claim says is missing.
    """
    start = edge.now()
    where = namespaces_of(traffic)
    cluster = edge.snapshot(where)
    targets = find_targets(traffic, cluster)
    ways = [routes(claim, targets[claim.source], cluster) for claim in traffic]
    _require(claims, settings.phase, targets, ways, cluster)
    watch = Watch(claims, settings.phase, namespaces, kiali, edge.now)
    watch.begin()
    convergence = Convergence(len(traffic) + len(claims), settings.stable, settings.timeout)
    probes = plan(traffic, settings.phase)
    with concurrent.futures.ThreadPoolExecutor(settings.concurrency) as pool:
        while True:
            begin = edge.now()
            # The graph itself is the witness here.
            seen = probe_all(probes, targets, settings, edge, pool)
            sent = judge_round(traffic, probes, seen, [], cluster, settings, edge)
            held = [way for way, item in zip(ways, sent, strict=True) if item.verdict.verdict == "pass"]
            watch.note(begin, edge.now(), frozenset().union(*held))
            look = watch.look(functools.partial(waypoints, cluster=cluster))
            # Where the graph does not come at all, a longer window would not bring it.
            waits = watch.window.needed if watch.window and not look.reply.problem else 0
            convergence.timeout = settings.timeout + waits
            if convergence.add(edge.now() - start, [*sent, *(_observation(item) for item in look.judged)]):
                break
            edge.sleep(settings.interval)
            cluster = edge.snapshot(where)
            targets = find_targets(traffic, cluster)
            ways = [routes(claim, targets[claim.source], cluster) for claim in traffic]
    return GraphResult(
        _results(claims, look, convergence),
        claim_results(traffic, targets, convergence),
        watch.shown(look),
        frozenset((route, item.seen.outcome) for way, item in zip(ways, sent, strict=True) for route in way),
        convergence.rounds,
        edge.now() - start,
        convergence.converged_after,
        watch.restarts,
        [nodes_of((claim.source, claim.target), cluster) for claim in claims],
    )


def _results(claims: t.Sequence[GraphClaim], look: Look, convergence: Convergence) -> list[GraphClaimResult]:
    """The graph's claims are the last of what the convergence watches."""
    results = []
    for index, (claim, judged) in enumerate(zip(claims, look.judged, strict=True), -len(claims)):
        history = [{key: change[key] for key in ("at", "outcome", "verdict")} for change in convergence.history[index]]
        flapped = convergence.flapped(len(convergence.history) + index)
        results.append(GraphClaimResult(claim, judged, history, flapped))
    return results


def _observation(judged: Judged) -> Observation:
    """For the convergence, which remembers what kinds of edges came and went."""
    return Observation(Seen(judged.seen.kind), judged.verdict, judged.control)


def _require(
    claims: t.Sequence[GraphClaim],
    phase: str,
    targets: t.Mapping[Source, Target | Unusable],
    ways: t.Sequence[frozenset[Route]],
    cluster: Snapshot,
) -> None:
    """Stop before any traffic where it could prove nothing."""
    problems = uncontrolled(claims, phase, lambda end: bool(waypoints(end, cluster)))
    if problems:
        raise LabError(
            "\n".join(["Behind a waypoint a missing edge needs another control:", *(f"  {line}" for line in problems)])
        )
    unusable = [target for target in targets.values() if isinstance(target, Unusable)]
    if any(target.missing for target in unusable):
        lines = [f"  {target.reason}" for target in unusable if target.missing]
        raise LabError("\n".join(["The traffic can't be sent, nothing was asked:", *lines]))
    silent = unsent(claims, phase, ways)
    # The routes of a pod that is only starting are not known yet; until they are, its claims don't hold.
    if silent and not unusable:
        lines = [f"  {claim.name}: nothing in traffic surely goes {claim.between}" for claim in silent]
        raise LabError("\n".join(["A missing edge proves nothing unless requests were sent:", *lines]))
