# The objects of a cluster at one moment, and what they say about the claims' paths.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import concurrent.futures
import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._cluster.policies import (
    ROOT_NAMESPACE,
    Object,
    selects,
    target_refs,
)

# Paths of the lists that a snapshot is made of, per namespace.
LISTS = {
    "pods": "/api/v1/namespaces/{}/pods",
    "services": "/api/v1/namespaces/{}/services",
    "policies": "/apis/security.istio.io/v1/namespaces/{}/authorizationpolicies",
    "gateways": "/apis/gateway.networking.k8s.io/v1/namespaces/{}/gateways",
}
NAMESPACE = "/api/v1/namespaces/{}"
DATAPLANE_MODE = "istio.io/dataplane-mode"
REDIRECTION = "ambient.istio.io/redirection"
USE_WAYPOINT = "istio.io/use-waypoint"
# istiod labels a waypoint's pods with its name.
GATEWAY_NAME = "gateway.networking.k8s.io/gateway-name"
USE_WAYPOINT_NAMESPACE = "istio.io/use-waypoint-namespace"
# The one GatewayClass that istiod takes in targetRefs, for all waypoints, and in the root namespace only
# (pilot/pkg/model/policyattachment.go, ShouldAttachPolicy).
_EVERY_WAYPOINT = ("GatewayClass", ROOT_NAMESPACE, "istio-waypoint")


class Reader(t.Protocol):
    """The two reads that a snapshot needs; both raise LabError."""

    def get(self, path: str) -> Object | None:
        """One object, None where there is none."""

    def items(self, path: str) -> list[Object]:
        """The objects of a list."""


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Objects by namespace; a namespace that does not exist is None."""

    namespaces: dict[str, Object | None]
    pods: dict[str, list[Object]]
    services: dict[str, list[Object]]
    policies: dict[str, list[Object]]
    gateways: dict[str, list[Object]]

    def service(self, namespace: str | None, name: str | None) -> Object | None:
        """A Service by name."""
        return _named(self.services.get(namespace or "", []), name)

    def pod(self, namespace: str, name: str) -> Object | None:
        """A pod by name."""
        return _named(self.pods.get(namespace, []), name)

    def gateway(self, namespace: str, name: str) -> Object | None:
        """A Gateway by name."""
        return _named(self.gateways.get(namespace, []), name)

    def backends(self, service: Object) -> list[Object]:
        """Pods that a Service selects."""
        wanted = service.get("spec", {}).get("selector") or {}
        pods = self.pods.get(service["metadata"]["namespace"], [])
        return [pod for pod in pods if wanted and selected(pod, wanted)]

    def at_address(self, address: str) -> list[Object]:
        """Pods with an IP address."""
        return [pod for pods in self.pods.values() for pod in pods if pod.get("status", {}).get("podIP") == address]

    def ztunnel_policies(self, pod: Object) -> list[Object]:
        """Policies that the ztunnel of the pod's node enforces for it."""
        namespaces = dict.fromkeys([pod["metadata"]["namespace"], ROOT_NAMESPACE])
        return [
            policy for namespace in namespaces for policy in self.policies.get(namespace, []) if selects(policy, pod)
        ]

    def waypoint(self, service: Object) -> tuple[str, str] | None:
        """Namespace and name of the Service's waypoint, by its own label or its namespace's."""
        namespace = service["metadata"]["namespace"]
        for item in (service, self.namespaces.get(namespace) or {}):
            labels = item.get("metadata", {}).get("labels") or {}
            if labels.get(USE_WAYPOINT) == "none":
                return None
            if labels.get(USE_WAYPOINT):
                return labels.get(USE_WAYPOINT_NAMESPACE, namespace), labels[USE_WAYPOINT]
        return None

    def waypoint_policies(self, service: Object) -> list[Object]:
        """Policies that name the Service, its waypoint, or all waypoints in targetRefs."""
        namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
        wanted = {("Service", namespace, name)}
        waypoint = self.waypoint(service)
        if waypoint:
            wanted |= {("Gateway", *waypoint), _EVERY_WAYPOINT}
        return [
            policy
            for policies in self.policies.values()
            for policy in policies
            if any(
                (ref.get("kind"), policy["metadata"]["namespace"], ref.get("name")) in wanted
                for ref in target_refs(policy)
            )
        ]

    def in_mesh(self, pod: Object) -> bool:
        """Whether istio-cni redirects the pod's traffic to ztunnel, by the annotation it sets."""
        return (pod["metadata"].get("annotations") or {}).get(REDIRECTION) == "enabled"


def _named(items: t.Iterable[Object], name: str | None) -> Object | None:
    return next((item for item in items if item["metadata"]["name"] == name), None)


def selected(pod: Object, labels: t.Mapping[str, str]) -> bool:
    """Whether a pod has all of these labels."""
    return labels.items() <= (pod["metadata"].get("labels") or {}).items()


def take(reader: Reader, namespaces: t.Iterable[str]) -> Snapshot:
    """Read what is needed of these namespaces, and the policies of the root namespace, all at once.

    Raises:
        LabError: when a read fails; half a snapshot would name wrong causes.
    """
    names = sorted(set(namespaces))
    wanted = {(kind, name): path.format(name) for kind, path in LISTS.items() for name in names}
    wanted["policies", ROOT_NAMESPACE] = LISTS["policies"].format(ROOT_NAMESPACE)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = dict(zip(names, pool.map(reader.get, [NAMESPACE.format(name) for name in names]), strict=True))
        lists = dict(zip(wanted, pool.map(reader.items, wanted.values()), strict=True))
    by_kind: dict[str, dict[str, list[Object]]] = {kind: {} for kind in LISTS}
    for (kind, name), items in lists.items():
        by_kind[kind][name] = items
    return Snapshot(found, **by_kind)
