# Sends the traffic and looks at Kiali's graph, round by round, until all claims hold.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._check.rounds import ClaimRounds, Edge, Settings, unusable
from ansible_collections.ambient.lab.plugins.module_utils._check.run import ClaimRun
from ansible_collections.ambient.lab.plugins.module_utils._check.stable import Checked, Stable
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Claim
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._common.rounds import repeat
from ansible_collections.ambient.lab.plugins.module_utils._graph.parse import GraphClaim, uncontrolled
from ansible_collections.ambient.lab.plugins.module_utils._graph.run import GraphRun
from ansible_collections.ambient.lab.plugins.module_utils._graph.traffic import Route, routes, unsent, waypoints
from ansible_collections.ambient.lab.plugins.module_utils._graph.watch import KialiApi, Look, Watch
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh


@dataclasses.dataclass(kw_only=True)
class GraphResult(Checked):
    """All claims after the last round. mesh: of that round. restarts: of the window."""

    claims: list[GraphRun]
    traffic: list[ClaimRun]
    look: Look
    mesh: Mesh
    restarts: int = 0

    @property
    def judged(self) -> list[ClaimRun | GraphRun]:
        """All claims after the last round."""
        return [*self.claims, *self.traffic]


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
    with concurrent.futures.ThreadPoolExecutor(settings.concurrency) as pool:
        # No proxy is asked: the graph itself is the evidence here.
        sending = ClaimRounds(traffic, settings, edge, pool)
        drawn = [GraphRun(claim, settings.phase) for claim in claims]
        _require(drawn, sending.runs, sending.mesh)
        watch = Watch(drawn, namespaces, kiali, edge.now)
        watch.begin()
        rule = Stable(settings.stable, settings.timeout)

        def look() -> list[ClaimRun | GraphRun]:
            begin = edge.now()
            sent = sending.look()
            watch.note(begin, edge.now(), _routes(run for run in sent if run.holds))
            watch.look(functools.partial(waypoints, mesh=sending.mesh))
            # Where the graph does not come at all, a longer window would not bring it.
            waits = watch.window.needed if watch.window and not watch.last.reply.problem else 0
            rule.timeout = settings.timeout + waits
            return [*sent, *drawn]

        ended = repeat(look, rule, edge, settings.interval)
    return GraphResult(
        claims=drawn,
        traffic=sending.runs,
        look=watch.shown(),
        mesh=sending.mesh,
        rounds=ended.rounds,
        elapsed=ended.elapsed,
        converged_after=rule.converged_after,
        restarts=watch.restarts,
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
    gone = unusable(sent)
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
