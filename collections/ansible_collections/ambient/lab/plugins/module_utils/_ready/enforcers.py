# Finds the proxies that must enforce a policy: the ztunnels of the pods it selects, the pods of its waypoints.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._cluster.channel import Answer
from ansible_collections.ambient.lab.plugins.module_utils._cluster.policies import (
    ROOT_NAMESPACE,
    Object,
    selects,
    target_refs,
)
from ansible_collections.ambient.lab.plugins.module_utils._cluster.snapshot import GATEWAY_NAME, Snapshot, take
from ansible_collections.ambient.lab.plugins.module_utils._witness.proxies import ZTUNNEL_SELECTOR, Proxy, proxy_of

# istiod labels a gateway's pods with its class, and as its own
# (manifests/charts/istio-control/istio-discovery/files/waypoint.yaml).
_GATEWAY_CLASS = "gateway.networking.k8s.io/gateway-class-name"
_MANAGED = "gateway.istio.io/managed"
_ENDED = ("Succeeded", "Failed")


class Reader(t.Protocol):
    """What the barrier needs of a cluster; all raise LabError."""

    def get(self, path: str, **query: str) -> Object | None:
        """One object, None where there is none."""

    def items(self, path: str, **query: str) -> list[Object]:
        """The objects of a list."""

    def forward(self, namespace: str, pod: str, port: int, path: str) -> Answer:
        """GET a path from what listens on a pod's own localhost."""


@dataclasses.dataclass(frozen=True)
class Enforcer:
    """A proxy that must have the policy; pods: those on its node that the policy selects."""

    proxy: Proxy
    pods: tuple[Object, ...] = ()


@dataclasses.dataclass(frozen=True)
class Plan:
    """Who must enforce a policy, and why somebody who should can't yet."""

    enforcers: tuple[Enforcer, ...]
    gaps: tuple[str, ...] = ()


def plan_of(policy: Object, reader: Reader) -> Plan:
    """Who must enforce a policy as it is written now.

    Raises:
        LabError: when the API does not answer, or refuses.
    """
    return _at_waypoints(policy, reader) if target_refs(policy) else _at_ztunnels(policy, reader)


def everybody(namespace: str, reader: Reader) -> Plan:
    """Who may still have a policy of the namespace, where only its name is known: every ztunnel and istiod's gateways.

    Raises:
        LabError: when the API does not answer, or refuses.
    """
    where = "/api/v1/pods" if namespace == ROOT_NAMESPACE else f"/api/v1/namespaces/{namespace}/pods"
    pods = reader.items("/api/v1/pods", labelSelector=ZTUNNEL_SELECTOR)
    proxies = [proxy_of("ztunnel", pod) for pod in _alive(pods)]
    proxies += [proxy_of("waypoint", pod) for pod in _alive(reader.items(where, labelSelector=_MANAGED))]
    return Plan(tuple(Enforcer(proxy) for proxy in proxies), _unready(proxies))


def _at_ztunnels(policy: Object, reader: Reader) -> Plan:
    namespace = policy["metadata"]["namespace"]
    where = "/api/v1/pods" if namespace == ROOT_NAMESPACE else f"/api/v1/namespaces/{namespace}/pods"
    selected = [pod for pod in _alive(reader.items(where)) if selects(policy, pod)]
    if not selected:
        return Plan((), ("it selects no pod",))
    # A pod outside of the mesh is reached without any ztunnel.
    cluster = Snapshot({}, {}, {}, {}, {})
    captured = [pod for pod in selected if cluster.in_mesh(pod)]
    if not captured:
        return Plan((), (f"none of the {len(selected)} pods that it selects is in the mesh",))
    by_node: dict[str, list[Object]] = {}
    for pod in captured:
        by_node.setdefault(str(pod["spec"].get("nodeName", "")), []).append(pod)
    found = [proxy_of("ztunnel", pod) for pod in _alive(reader.items("/api/v1/pods", labelSelector=ZTUNNEL_SELECTOR))]
    proxies = [proxy for proxy in found if proxy.node in by_node]
    lonely = sorted(set(by_node) - {proxy.node for proxy in proxies})
    gaps = tuple(f"node {node}, where it selects a pod, has no ztunnel" for node in lonely)
    enforcers = tuple(Enforcer(proxy, tuple(by_node[proxy.node])) for proxy in proxies)
    return Plan(enforcers, gaps + _unready(proxies))


def _at_waypoints(policy: Object, reader: Reader) -> Plan:
    namespace = str(policy["metadata"]["namespace"])
    cluster = take(reader, [namespace])
    selectors: dict[tuple[str, str], str] = {}
    gaps: list[str] = []
    for ref in target_refs(policy):
        kind, name = str(ref.get("kind")), str(ref.get("name"))
        if kind == "GatewayClass":
            selectors["/api/v1/pods", f"{_GATEWAY_CLASS}={name}"] = f"a Gateway of class {name}"
            continue
        bound = _waypoint(kind, name, namespace, cluster, reader)
        if isinstance(bound, str):
            gaps.append(bound)
        else:
            path = f"/api/v1/namespaces/{bound[0]}/pods"
            selectors[path, f"{GATEWAY_NAME}={bound[1]}"] = f"waypoint {bound[0]}/{bound[1]}"
    proxies: dict[str, Proxy] = {}
    for (path, labels), title in selectors.items():
        found = [proxy_of("waypoint", pod) for pod in _alive(reader.items(path, labelSelector=labels))]
        proxies |= {str(proxy): proxy for proxy in found}
        gaps += [] if found else [f"{title} has no pod"]
    return Plan(tuple(Enforcer(proxy) for proxy in proxies.values()), (*gaps, *_unready(proxies.values())))


def _waypoint(kind: str, name: str, namespace: str, cluster: Snapshot, reader: Reader) -> tuple[str, str] | str:
    """Namespace and name of the waypoint that a targetRef means, or why there is none."""
    if kind == "Gateway":
        return (namespace, name) if cluster.gateway(namespace, name) else f"Gateway {namespace}/{name} does not exist"
    if kind == "Service":
        target = cluster.service(namespace, name)
    else:
        target = reader.get(f"/apis/networking.istio.io/v1/namespaces/{namespace}/serviceentries/{name}")
    if target is None:
        return f"{kind} {namespace}/{name} does not exist"
    return cluster.waypoint(target) or f"{kind} {namespace}/{name} has no waypoint (label istio.io/use-waypoint)"


def _alive(pods: t.Iterable[Object]) -> list[Object]:
    return [pod for pod in pods if pod.get("status", {}).get("phase") not in _ENDED]


def _unready(proxies: t.Iterable[Proxy]) -> tuple[str, ...]:
    return tuple(f"{proxy.kind} {proxy} is not ready" for proxy in proxies if not proxy.ready)
