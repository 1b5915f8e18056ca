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
    Edge,
    Settings,
    judge_all,
    missing,
    probe_round,
    read,
)
from ansible_collections.ambient.lab.plugins.module_utils._check.run import ClaimRun
from ansible_collections.ambient.lab.plugins.module_utils._check.stable import Convergence
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Claim
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._curl.control import plan
from ansible_collections.ambient.lab.plugins.module_utils._graph.parse import GraphClaim, uncontrolled
from ansible_collections.ambient.lab.plugins.module_utils._graph.run import GraphRun
from ansible_collections.ambient.lab.plugins.module_utils._graph.traffic import Route, routes, unsent, waypoints
from ansible_collections.ambient.lab.plugins.module_utils._graph.watch import KialiApi, Look, Watch
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh


@dataclasses.dataclass
class GraphResult:
    """All claims after the last round. Times in seconds; converged_after is None where they did not hold.

    mesh: of the last round. restarts: of the window.
    """

    claims: list[GraphRun]
    traffic: list[ClaimRun]
    look: Look
    mesh: Mesh
    rounds: int
    elapsed: float
    converged_after: float | None
    restarts: int = 0

    @property
    def verdict(self) -> str:
        """The worst verdict of all."""
        if self.converged_after is not None:
            return "pass"
        runs: list[ClaimRun | GraphRun] = [*self.claims, *self.traffic]
        return "error" if any(run.verdict.verdict == "error" for run in runs) else "fail"


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
    mesh = read(traffic, edge)
    sent = [ClaimRun.of(claim, settings.phase, mesh) for claim in traffic]
    drawn = [GraphRun(claim, settings.phase) for claim in claims]
    runs: list[ClaimRun | GraphRun] = [*sent, *drawn]
    _require(drawn, sent, mesh)
    watch = Watch(drawn, namespaces, kiali, edge.now)
    watch.begin()
    convergence = Convergence(settings.stable, settings.timeout)
    controls = plan(traffic, settings.phase, mesh)
    with concurrent.futures.ThreadPoolExecutor(settings.concurrency) as pool:
        while True:
            begin = edge.now()
            # The graph itself is the witness here.
            answers = probe_round(sent, mesh, controls, settings, edge, pool)
            judge_all(sent, mesh, answers, settings)
            watch.note(begin, edge.now(), _routes(run for run in sent if run.holds))
            look = watch.look(functools.partial(waypoints, mesh=mesh))
            # Where the graph does not come at all, a longer window would not bring it.
            waits = watch.window.needed if watch.window and not look.reply.problem else 0
            convergence.timeout = settings.timeout + waits
            at = edge.now() - start
            for run in runs:
                run.remember(at)
            if convergence.add(at, [run.verdict for run in runs]):
                break
            edge.sleep(settings.interval)
            mesh = read(traffic, edge)
            for claim_run in sent:
                claim_run.look(mesh)
    return GraphResult(
        drawn,
        sent,
        watch.shown(look),
        mesh,
        convergence.rounds,
        edge.now() - start,
        convergence.converged_after,
        watch.restarts,
    )


def _routes(runs: t.Iterable[ClaimRun]) -> frozenset[Route]:
    return frozenset(route for run in runs for route in routes(run))


def _require(drawn: t.Sequence[GraphRun], sent: t.Sequence[ClaimRun], mesh: Mesh) -> None:
    """Stop before any traffic where it could prove nothing."""
    problems = uncontrolled([run.claim for run in drawn], drawn[0].phase, lambda end: bool(waypoints(end, mesh)))
    if problems:
        raise LabError(
            "\n".join(["Behind a waypoint a missing edge needs another control:", *(f"  {line}" for line in problems)])
        )
    gone = missing(sent)
    if gone:
        lines = [f"  {item.reason}" for item in dict.fromkeys(gone)]
        raise LabError("\n".join(["The traffic can't be sent, nothing was asked:", *lines]))
    silent = unsent(drawn, _routes(sent))
    # Of a pod or a waypoint that is only starting the routes are not known yet; until they are, its claims don't hold.
    if silent and not any(_starting(run) for run in sent):
        lines = [f"  {run.claim.name}: nothing in traffic surely goes {run.claim.between}" for run in silent]
        lines += [f"  {why}" for (kind, _space), why in mesh.unread.items() if kind in ("Pod", "Service")]
        raise LabError("\n".join(["A missing edge proves nothing unless requests were sent:", *lines]))


def _starting(run: ClaimRun) -> bool:
    waypoint = run.path.waypoint
    return run.target is None or bool(waypoint and waypoint.gateway and not waypoint.programmed)
