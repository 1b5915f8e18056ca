# Which waypoint serves a Service, a ServiceEntry or a pod, and which policies it enforces for it.
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Sources: istio/istio pilot/pkg/serviceregistry/ambient/waypoints.go (selection),
# pilot/pkg/model/policyattachment.go (binding).

from __future__ import annotations

import dataclasses

from .mesh import (
    GATEWAY_NAME,
    REVISION,
    Mesh,
    Object,
    account_of,
    annotations_of,
    is_ready,
    labels_of,
    name_of,
    namespace_of,
)
from .policies import targets

USE_WAYPOINT = "istio.io/use-waypoint"
USE_WAYPOINT_NAMESPACE = "istio.io/use-waypoint-namespace"
USE_CANARY = "istio.io/use-waypoint-canary"
WAYPOINT_FOR = "istio.io/waypoint-for"
MANAGED = "gateway.istio.io/managed"
MESH_CONTROLLERS = ("istio.io-mesh-controller", "istio.io-eastwest-controller")
HBONE_PORT = 15008
WAYPOINT_CLASS = "istio-waypoint"
_CONTROLLER = "istio.io/mesh-controller"


@dataclasses.dataclass(frozen=True)
class Waypoint:
    """A waypoint that serves an object, or the one that should and does not.

    Attributes:
        gateway: None where it does not exist, or could not be read.
        pods: of the Gateway, those that have not ended.
        problem: why it does not serve the object, so that traffic goes around it.
        doubt: why nobody can say whether it does.
    """

    namespace: str
    name: str
    gateway: Object | None = None
    pods: tuple[Object, ...] = ()
    problem: str = ""
    doubt: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def programmed(self) -> bool:
        """Whether istiod has given it an address."""
        return bool(self.gateway and self.gateway.get("status", {}).get("addresses"))

    @property
    def serves(self) -> bool:
        """Whether traffic goes through it."""
        return not self.problem and not self.doubt

    @property
    def accounts(self) -> list[str]:
        """ServiceAccounts of its pods; istiod gives a Gateway's pods one of the Gateway's name."""
        return sorted({account_of(pod) for pod in self.pods}) or [self.name]

    @property
    def ready(self) -> bool:
        """Whether any of its pods is ready; without one ztunnel cuts the connection off."""
        return any(is_ready(pod) for pod in self.pods)


def named_waypoint(mesh: Mesh, item: Object) -> tuple[str, str] | None:
    """Namespace and name of the waypoint that an object's labels name, or else its namespace's."""
    space = namespace_of(item)
    for holder in (item, mesh.namespace(space)):
        labels = labels_of(holder)
        if labels.get(USE_WAYPOINT) == "none":
            return None
        if labels.get(USE_WAYPOINT):
            return labels.get(USE_WAYPOINT_NAMESPACE, space), labels[USE_WAYPOINT]
    return None


def waypoint_of(mesh: Mesh, item: Object) -> Waypoint | None:
    """The waypoint of a Service, a ServiceEntry or a pod; None where its labels name none."""
    named = named_waypoint(mesh, item)
    if named is None or labels_of(item).get(MANAGED) in MESH_CONTROLLERS:
        return None
    if item["kind"] == "Pod" and GATEWAY_NAME in labels_of(item):
        return None
    namespace, name = named
    pods = pods_of(mesh, namespace, name)
    if why := mesh.why_unknown("Gateway", namespace, name):
        return Waypoint(namespace, name, pods=pods, doubt=why)
    gateway = mesh.get("Gateway", namespace, name)
    if gateway is None:
        return Waypoint(namespace, name, problem=f"the waypoint {namespace}/{name} does not exist")
    doubt = _doubt(mesh, gateway, item)
    return Waypoint(namespace, name, gateway, pods, "" if doubt else _problem(mesh, gateway, item), doubt)


def _doubt(mesh: Mesh, gateway: Object, item: Object) -> str:
    """Why nobody can say whether a Gateway that is there serves an object, and does what istiod's waypoints do."""
    allowed, chosen = _allowed(gateway), str(gateway.get("spec", {}).get("gatewayClassName", WAYPOINT_CLASS))
    found = mesh.get("GatewayClass", "", chosen)
    controller = found.get("spec", {}).get("controllerName") if found else None
    if found is None and WAYPOINT_FOR not in labels_of(gateway) and (why := mesh.why_unread("GatewayClass", "")):
        return f"what the waypoint {name_of(gateway)} is for may stand at its GatewayClass: {why}"
    if controller not in (None, _CONTROLLER) or (found is None and chosen != WAYPOINT_CLASS):
        who = controller or "a controller that is not known"
        return f"the waypoint {name_of(gateway)} is of GatewayClass {chosen}, which {who} implements"
    space = mesh.namespace(namespace_of(gateway))
    revision = labels_of(gateway).get(REVISION) or labels_of(space).get(REVISION)
    if revision and revision != mesh.config.revision:
        own = mesh.config.revision or "not known"
        return (
            f"the waypoint {name_of(gateway)} is for revision {revision} of istiod (label {REVISION}), which is {own}"
        )
    if allowed.get("from") != "Selector":
        return ""
    if (allowed.get("selector") or {}).get("matchExpressions"):
        return f"allowedRoutes of the waypoint {name_of(gateway)} have matchExpressions, which are not evaluated"
    return mesh.why_unknown("Namespace", "", namespace_of(item))


def gateway_account(gateway: Object) -> str:
    """ServiceAccount that istiod gives a Gateway's pods.

    Source: istio/istio pilot/pkg/config/kube/gatewaycommon/gateway_utils.go (GetDefaultName).
    """
    name, said = str(gateway["metadata"]["name"]), annotations_of(gateway)
    chosen = name if is_waypoint_class(gateway) else f"{name}-{gateway.get('spec', {}).get('gatewayClassName')}"
    return said.get("gateway.istio.io/service-account") or said.get("gateway.istio.io/name-override") or chosen


def is_waypoint_class(gateway: Object | None) -> bool:
    """Whether a Gateway is a waypoint as istiod makes it; so is one that is not known."""
    return str((gateway or {}).get("spec", {}).get("gatewayClassName", WAYPOINT_CLASS)) == WAYPOINT_CLASS


def is_waypoint(mesh: Mesh, pod: Object) -> bool:
    """Whether a pod is a waypoint's."""
    name = labels_of(pod).get(GATEWAY_NAME)
    return name is not None and is_waypoint_class(mesh.get("Gateway", namespace_of(pod), name))


def pods_of(mesh: Mesh, namespace: str, name: str) -> tuple[Object, ...]:
    """Pods of a Gateway that have not ended."""
    return tuple(mesh.selected(namespace, {GATEWAY_NAME: name}))


def _problem(mesh: Mesh, gateway: Object, item: Object) -> str:
    """Why a Gateway that is there does not serve an object."""
    name = name_of(gateway)
    if not gateway.get("status", {}).get("addresses"):
        return f"the waypoint {name} is not programmed: it has no address yet"
    allowed, space = _allowed(gateway), namespace_of(item)
    how, labels = allowed.get("from", "Same"), (allowed.get("selector") or {}).get("matchLabels") or {}
    fits = labels.items() <= labels_of(mesh.namespace(space)).items() if how == "Selector" else how == "All"
    if not fits and (how == "Selector" or space != namespace_of(gateway)):
        where = "allowedRoutes of its listener for HBONE"
        return f"the waypoint {name} does not take objects of namespace {space} ({where})"
    chosen = mesh.get("GatewayClass", "", str(gateway.get("spec", {}).get("gatewayClassName", WAYPOINT_CLASS)))
    holder = gateway if WAYPOINT_FOR in labels_of(gateway) else chosen
    serves = labels_of(holder).get(WAYPOINT_FOR, "service")
    kind = "workload" if item["kind"] == "Pod" else "service"
    if serves not in (kind, "all"):
        whose = "its" if holder is gateway else "its GatewayClass's"
        return f"the waypoint {name} is not for {kind}s: {whose} label {WAYPOINT_FOR} is {serves}"
    return ""


def _allowed(gateway: Object) -> Object:
    """`allowedRoutes.namespaces` of a waypoint's listener for HBONE."""
    listeners = gateway.get("spec", {}).get("listeners") or []
    listener: Object = next(
        (item for item in listeners if item.get("protocol") == "HBONE" and item.get("port") == HBONE_PORT), {}
    )
    return dict((listener.get("allowedRoutes") or {}).get("namespaces") or {})


def bound_policies(mesh: Mesh, waypoint: Waypoint, target: Object, kind: str) -> list[Object]:
    """Policies of a kind that a waypoint enforces for a Service, a ServiceEntry or a pod that it serves.

    Those bound to the waypoint, to all waypoints, and (unless the traffic goes to a pod's own address) to the object
    count alike. A policy without targetRefs is never enforced at a waypoint.
    """
    places = {
        ("Gateway", waypoint.namespace, waypoint.name),
        ("GatewayClass", mesh.config.root, WAYPOINT_CLASS),
    }
    if target["kind"] != "Pod":
        places.add((target["kind"], namespace_of(target), target["metadata"]["name"]))
    spaces = dict.fromkeys(space for _kind, space, _name in places)
    return mesh.once(
        ("bound", kind, *sorted(places)),
        lambda: [
            policy
            for space in spaces
            for policy in mesh.items(kind, space)
            if any((what, space, name) in places for what, name in targets(policy))
        ],
    )


def policies_naming(mesh: Mesh, target: Object) -> list[Object]:
    """AuthorizationPolicies that name a Service or ServiceEntry in targetRefs, whether a waypoint serves it or not."""
    wanted, space = (target["kind"], target["metadata"]["name"]), namespace_of(target)
    return mesh.once(
        ("naming", space, *wanted),
        lambda: [item for item in mesh.items("AuthorizationPolicy", space) if wanted in targets(item)],
    )
