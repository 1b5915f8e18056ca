# Which workloads the requests of the traffic go between: a missing edge means nothing unless something was sent.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from .._check.run import ClaimRun
from .._mesh.endpoints import endpoints
from .._mesh.mesh import Mesh, Object, name_of, namespace_of, workload_name
from .._mesh.waypoints import named_waypoint
from .parse import End
from .run import GraphRun

# From a workload, to a Service or to a workload behind it.
Route = tuple[End, End]


def workload_of(pod: Object) -> End:
    """The workload that istiod takes a pod for."""
    return End("workload", namespace_of(pod), workload_name(pod))


def routes(run: ClaimRun) -> frozenset[Route]:
    """What a request of the traffic surely shows up as; nothing while it has no pod to be sent from."""
    path, destination = run.path, run.path.destination
    if path.source is None or destination.kind == "node":
        # Which of a node's pods has the address, ztunnel does not know either.
        return frozenset()
    source = workload_of(path.source)
    behind = {workload_of(end.pod) for end in path.endpoints if end.pod}
    if len(behind) > 1:
        # Nobody knows which of them got the request, and an edge to the others would be missing for no reason.
        behind = set()
    found = {(source, end) for end in behind}
    if destination.kind == "service" and destination.service:
        front = End("service", namespace_of(destination.service), destination.service["metadata"]["name"])
        # What a route sends to another Service's pods is counted as the other one's.
        found |= {
            (source, front),
            *((front, workload_of(pod)) for pod in destination.pods if workload_of(pod) in behind),
        }
    if path.at_waypoint:
        waypoint = path.at_waypoint.waypoint
        found.add((source, End("workload", waypoint.namespace, waypoint.name)))
    return frozenset(found)


def pods_of(end: End, mesh: Mesh) -> list[Object]:
    """The pods of a workload, or those behind a Service."""
    if end.kind == "workload":
        return [pod for pod in mesh.items("Pod", end.namespace) if workload_of(pod) == end]
    service = mesh.get("Service", end.namespace, end.name)
    return _behind(mesh, service) if service else []


def _behind(mesh: Mesh, service: Object) -> list[Object]:
    ports = service.get("spec", {}).get("ports") or []
    found = {name_of(end.pod): end.pod for port in ports for end in endpoints(mesh, service, port) if end.pod}
    return list(found.values())


def nodes_of(ends: t.Iterable[End], mesh: Mesh) -> frozenset[str]:
    """Nodes of the pods at some ends; ztunnel counts what it carries for the pods of its own node."""
    found = {pod.get("spec", {}).get("nodeName") for end in ends for pod in pods_of(end, mesh)}
    return frozenset(str(name) for name in found if name)


def waypoints(end: End, mesh: Mesh) -> frozenset[tuple[str, str]] | None:
    """Namespace and name of the waypoints that requests to an end may go through, and so be counted by.

    The labels alone say so: a waypoint that does not serve yet may do so later in the same window. None where the
    namespace was not read. A workload may be reached by each Service before it, and by itself
    (istio.io/waypoint-for: workload).
    """
    space = end.namespace
    unread = any(mesh.why_unread(kind, space) for kind in ("Namespace", "Service", "Pod"))
    if unread or mesh.namespace(space) is None:
        return None
    services = mesh.items("Service", space)
    if end.kind == "service":
        items = [item for item in services if item["metadata"]["name"] == end.name]
    else:
        own = pods_of(end, mesh)
        items = [*own, *(item for item in services if any(pod in own for pod in _behind(mesh, item)))]
    found = {named_waypoint(mesh, item) for item in items}
    # A waypoint's own pods are not behind it, whatever their namespace's label says.
    return frozenset(item for item in found if item and End("workload", *item) != end)


def unsent(runs: t.Iterable[GraphRun], sent: t.Collection[Route]) -> list[GraphRun]:
    """Claims that no edge is there although nothing in the traffic would make one."""
    return [run for run in runs if run.expect.outcome == "no_edge" and run.ends not in sent]
