# Says, from the cluster's objects, what is on the way of a probe: nodes, addresses, waypoint, policies.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Claim, Request
from ansible_collections.ambient.lab.plugins.module_utils._claims.sources import Target, Unusable
from ansible_collections.ambient.lab.plugins.module_utils._cluster.policies import Object, action, name_of
from ansible_collections.ambient.lab.plugins.module_utils._cluster.snapshot import Snapshot
from ansible_collections.ambient.lab.plugins.module_utils._curl.control import Destination, destination
from ansible_collections.ambient.lab.plugins.module_utils._witness.proxies import Proxy
from ansible_collections.ambient.lab.plugins.module_utils._witness.testimony import Path


def namespaces_of(claims: t.Iterable[Claim]) -> set[str]:
    """Namespaces whose objects are on the claims' ways: of the sources, the destinations, the policies in `by`."""
    names = set()
    for claim in claims:
        names |= {claim.source.namespace, destination(claim.request, claim.source.namespace).namespace or ""}
        names |= {claim.by.namespace} if claim.by else set()
    return names - {""}


def path_of(
    request: Request,
    target: Target | Unusable,
    cluster: Snapshot,
    waypoints: t.Mapping[tuple[str, str], t.Sequence[Proxy]],
) -> Path:
    """The way of one request.

    Args:
        request: of the probe.
        target: the pod that sends it.
        cluster: objects of its namespace and of the destination's.
        waypoints: the pods of each waypoint.
    """
    if isinstance(target, Unusable):
        return Path(None)
    where = destination(request, target.namespace)
    service = cluster.service(where.namespace, where.service)
    pods = pods_behind(where, cluster)
    waypoint = cluster.waypoint(service) if service else None
    policies = {name_of(item): item for pod in pods for item in cluster.ztunnel_policies(pod)}
    bound = cluster.waypoint_policies(service) if service else []
    return Path(
        source=target,
        nodes=tuple(sorted({str(pod.get("spec", {}).get("nodeName", "")) for pod in pods})),
        addresses=tuple(_address(pod, workload_port(where, service)) for pod in pods),
        service=where.service or "",
        waypoint=waypoint,
        waypoint_addresses=tuple(proxy.address for proxy in waypoints.get(waypoint, ())) if waypoint else (),
        allowing=_allowing(policies.values()),
        waypoint_allowing=_allowing(bound),
    )


def pods_behind(where: Destination, cluster: Snapshot) -> list[Object]:
    """The pods that a request may reach."""
    if where.address:
        return cluster.at_address(where.host)
    service = cluster.service(where.namespace, where.service)
    return cluster.backends(service) if service else []


def may_be_outside(request: Request, where: Destination, cluster: Snapshot) -> bool:
    """Whether a host that reads like a Service's may as well be outside: there is no such namespace (example.com)."""
    return cluster.namespaces.get(where.namespace or "") is None and request.host.split(".")[2:3] != ["svc"]


def workload_port(where: Destination, service: Object | None) -> int | None:
    """The port of the pods that ztunnel sees; None where only the pods know its number."""
    # The name of a headless Service stands for its pods' own addresses, with any port of theirs.
    if service is None or service.get("spec", {}).get("clusterIP") == "None":
        return where.port
    for port in service.get("spec", {}).get("ports") or []:
        if int(port["port"]) == where.port:
            number = port.get("targetPort", port["port"])
            return number if isinstance(number, int) else None
    return None


def _allowing(policies: t.Iterable[Object]) -> tuple[str, ...]:
    return tuple(sorted({name_of(policy) for policy in policies if action(policy) == "ALLOW"}))


def _address(pod: Object, port: int | None) -> str:
    """As proxies log it; without a port where nobody knows its number."""
    address = str(pod.get("status", {}).get("podIP", ""))
    address = f"[{address}]" if ":" in address else address
    return f"{address}:{port or ''}"
