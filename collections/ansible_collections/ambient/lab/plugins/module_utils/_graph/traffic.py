# Which workloads the requests of the traffic go between: a missing edge means nothing unless something was sent.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Claim
from ansible_collections.ambient.lab.plugins.module_utils._claims.sources import Target, Unusable
from ansible_collections.ambient.lab.plugins.module_utils._cluster.policies import Object
from ansible_collections.ambient.lab.plugins.module_utils._cluster.snapshot import Snapshot
from ansible_collections.ambient.lab.plugins.module_utils._cluster.workloads import workload_name
from ansible_collections.ambient.lab.plugins.module_utils._curl.control import destination
from ansible_collections.ambient.lab.plugins.module_utils._graph.parse import End, GraphClaim
from ansible_collections.ambient.lab.plugins.module_utils._witness.paths import pods_behind

# From a workload, to a Service or to a workload behind it.
Route = tuple[End, End]


def workload_of(pod: Object) -> End:
    """The workload that istiod takes a pod for."""
    return End("workload", pod["metadata"]["namespace"], workload_name(pod))


def routes(claim: Claim, target: Target | Unusable, cluster: Snapshot) -> frozenset[Route]:
    """What a request of the traffic may show up as; nothing while it has no pod to be sent from."""
    pod = cluster.pod(target.namespace, target.pod) if isinstance(target, Target) else None
    if pod is None:
        return frozenset()
    where = destination(claim.request, claim.source.namespace)
    service = cluster.service(where.namespace, where.service)
    behind = {workload_of(item) for item in pods_behind(where, cluster)}
    if len(behind) > 1:
        # Nobody knows which of them got the request, and an edge to the others would be missing for no reason.
        behind = set()
    ends, inside = set(behind), set()
    if service is not None:
        front = End("service", service["metadata"]["namespace"], service["metadata"]["name"])
        waypoint = cluster.waypoint(service)
        ends |= {front, *([End("workload", *waypoint)] if waypoint else [])}
        inside = {(front, end) for end in behind}
    return frozenset({(workload_of(pod), end) for end in ends} | inside)


def pods_of(end: End, cluster: Snapshot) -> list[Object]:
    """The pods of a workload, or those behind a Service."""
    if end.kind == "service":
        service = cluster.service(end.namespace, end.name)
        return cluster.backends(service) if service else []
    return [pod for pod in cluster.pods.get(end.namespace, []) if workload_of(pod) == end]


def nodes_of(ends: t.Iterable[End], cluster: Snapshot) -> frozenset[str]:
    """Nodes of the pods at some ends; ztunnel counts what it carries for the pods of its own node."""
    found = {pod.get("spec", {}).get("nodeName") for end in ends for pod in pods_of(end, cluster)}
    return frozenset(str(name) for name in found if name)


def waypoints(end: End, cluster: Snapshot) -> frozenset[tuple[str, str]] | None:
    """Namespace and name of the waypoints that requests to an end may go through, and so be counted by.

    None where the namespace was not read. A workload may be reached by each Service before it, and by itself
    (istio.io/waypoint-for: workload).
    """
    services = cluster.services.get(end.namespace)
    if services is None or end.namespace not in cluster.pods:
        return None
    if end.kind == "service":
        items = [item for item in services if item["metadata"]["name"] == end.name]
    else:
        own = pods_of(end, cluster)
        items = [*own, *(item for item in services if any(pod in own for pod in cluster.backends(item)))]
    found = {cluster.waypoint(item) for item in items}
    # A waypoint's own pods are not behind it, whatever their namespace's label says.
    return frozenset(item for item in found if item and End("workload", *item) != end)


def unsent(claims: t.Sequence[GraphClaim], phase: str, sent: t.Iterable[frozenset[Route]]) -> list[GraphClaim]:
    """Claims that no edge is there although nothing in the traffic would make one."""
    known = {route for part in sent for route in part}
    return [
        claim
        for claim in claims
        if claim.expected(phase).outcome == "no_edge" and (claim.source, claim.target) not in known
    ]
