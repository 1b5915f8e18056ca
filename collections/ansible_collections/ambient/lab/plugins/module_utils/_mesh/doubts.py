# What keeps the model from knowing what a request meets: one sentence for each doubt.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from .destinations import Destination, entry_addresses, rivals
from .endpoints import Endpoint
from .mesh import INGRESS, Membership, Mesh, Object, has_labels, is_gateway, labels_of, name_of, namespace_of
from .policies import policies_near, selector, targets
from .routes import EXTENSIONS
from .waypoints import USE_CANARY, USE_WAYPOINT, WAYPOINT_CLASS, Waypoint, named_waypoint


class Hiding(str):
    """A doubt about which policies decide, so that what the model evaluates tells nothing of them."""

    __slots__ = ()


# Since then policies are bound to waypoints as here (istio/istio pilot/pkg/model/policyattachment.go).
_AS_NOW = (1, 25)
# What of them could not be read may change what a waypoint does.
_READ_FOR_WAYPOINT = ("AuthorizationPolicy", "RequestAuthentication", *EXTENSIONS)


def doubts_before(
    mesh: Mesh, source: Object | None, member: Membership | None, destination: Destination, target: Object | None
) -> list[str]:
    """What keeps the model from knowing which proxies a request passes.

    target: the Service, the ServiceEntry or the pod whose waypoint counts.
    """
    found = [destination.why] if destination.kind == "unknown" else []
    if mesh.config.selects_namespaces and any(map(mesh.items, ("AuthorizationPolicy", "PeerAuthentication"))):
        found.append("the mesh's discoverySelectors, by which istiod may leave out namespaces, are not evaluated")
    if source is None:
        found.append("there is no pod yet that could send it")
    found += [Hiding(member.doubt)] if member and member.doubt else []
    if source is not None and is_gateway(source) and target is not None and named_waypoint(mesh, target):
        found.append(Hiding(f"{name_of(source)} is a gateway, and calls {INGRESS}"))
    if member and member.sidecar:
        found.append(Hiding(f"{member.why_not}: its own Envoy decides how it calls"))
    service = destination.service
    if service is not None:
        found += _unread(mesh, "Pod", namespace_of(service))
        found += _unread(mesh, "AuthorizationPolicy", namespace_of(service), mesh.config.root)
        slices = service["kind"] == "Service" and not service.get("spec", {}).get("selector")
        found += _unread(mesh, "EndpointSlice" if slices else "WorkloadEntry", namespace_of(service))
        found += _unread(mesh, "ServiceEntry", namespace_of(source) if source else namespace_of(service))
        if _is_local(destination, source):
            found.append(f"{destination} takes pods of one node alone (traffic policy Local), which is not evaluated")
    if destination.kind == "entry" and service is not None:
        if not entry_addresses(service):
            found.append(f"{destination} has no address of its own, so its name may lead around ztunnel and waypoint")
        if mesh.config.hides_entries:
            found.append("the mesh's serviceEntryVisibility is set, and is not evaluated")
    found += [f"{item['kind']} {name_of(item)} has the host, too" for item in rivals(mesh, destination)]
    if target is not None and USE_WAYPOINT not in labels_of(target):
        found += map(Hiding, filter(None, [mesh.why_unknown("Namespace", "", namespace_of(target))]))
    if target is not None and any(
        USE_CANARY in labels_of(item) for item in (target, mesh.namespace(namespace_of(target)))
    ):
        found.append(
            Hiding(f"some of the traffic goes through another waypoint (label {USE_CANARY}), which is not evaluated")
        )
    if destination.gateway:
        found.append(
            Hiding(f"{destination} is the Service of Gateway {destination.gateway}, which routes on by its own rules")
        )
    if source is not None:
        found += _isolated(mesh, source, "Egress")
    return found


def _unread(mesh: Mesh, kind: str, *spaces: str) -> list[str]:
    why = mesh.why_unread(kind, *spaces)
    return [why] if why else []


def doubts_at_end(mesh: Mesh, source: Object | None, ends: t.Iterable[Endpoint], *, direct: bool) -> list[str]:
    """What keeps the model from knowing what happens at the pods. direct: no waypoint is on the way."""
    found: list[str] = []
    pods = list({name_of(end.pod): end.pod for end in ends if end.pod}.values())
    for space in dict.fromkeys(map(namespace_of, pods)):
        found += [*_unread(mesh, "Pod", space), *_unread(mesh, "AuthorizationPolicy", space, mesh.config.root)]
    for pod in pods:
        name = f"pod {name_of(pod)}"
        found += _isolated(mesh, pod, "Ingress")
        found += map(Hiding, filter(None, [mesh.membership(pod).doubt]))
        if mesh.membership(pod).sidecar:
            found.append(Hiding(f"{name} has a sidecar, whose Envoy decides what it lets in"))
        if not labels_of(pod) and any(selector(item) for item in policies_near(mesh, pod)):
            found.append(Hiding(f"{name} has no label: istiod may give it policies whatever their selectors are"))
        if direct and source is not None:
            if name_of(source) == name_of(pod):
                found.append(f"{name} calls itself, and need not pass ztunnel")
            elif source.get("spec", {}).get("hostNetwork") and _node(source) == _node(pod):
                # istio-cni lets kubelet's probes pass that way.
                found.append(f"{name_of(source)} calls {name} from its own node's network, which may go around ztunnel")
    if pods and mesh.config.flag("PILOT_AUTO_ALLOW_WAYPOINT_POLICY"):
        found.append(Hiding("istiod's PILOT_AUTO_ALLOW_WAYPOINT_POLICY is on, and is not evaluated"))
    return found


def _is_local(destination: Destination, source: Object | None) -> bool:
    """Whether a Service leads to pods of one node alone, and has others."""
    key = {"service": "internalTrafficPolicy", "node": "externalTrafficPolicy"}.get(destination.kind)
    if not key or (destination.service or {}).get("spec", {}).get(key) != "Local":
        return False
    nodes = {_node(pod) for pod in (source, *(end.pod for end in destination.endpoints))}
    return destination.kind == "node" or None in nodes or len(nodes) > 1


def _node(pod: Object | None) -> t.Any:
    return (pod or {}).get("spec", {}).get("nodeName")


def _isolated(mesh: Mesh, pod: Object, direction: str) -> list[str]:
    """What NetworkPolicies leave open: whether they cut a pod off."""
    return [
        *_unread(mesh, "NetworkPolicy", namespace_of(pod)),
        *(
            f"NetworkPolicy {name_of(item)} selects pod {name_of(pod)}, and is not evaluated"
            for item in isolating(mesh, pod, direction)
        ),
    ]


def isolating(mesh: Mesh, pod: Object, direction: str = "") -> list[Object]:
    """NetworkPolicies that may cut a pod off, in one direction or in any."""
    found = []
    for item in mesh.items("NetworkPolicy", namespace_of(pod)):
        spec = item.get("spec", {})
        types = spec.get("policyTypes") or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])
        if direction in ("", *types) and has_labels(pod, (spec.get("podSelector") or {}).get("matchLabels") or {}):
            found.append(item)
    return found


def doubts_at_waypoint(mesh: Mesh, waypoint: Waypoint, target: Object) -> list[str]:
    """What keeps the model from knowing what a waypoint does with requests to a target."""
    spaces = dict.fromkeys([waypoint.namespace, namespace_of(target), mesh.config.root])
    found = [
        f"{item['kind']} {name_of(item)} may change what waypoint {waypoint} does, and is not evaluated"
        for item in extending(mesh, waypoint, spaces)
    ]
    for kind in _READ_FOR_WAYPOINT:
        found += _unread(mesh, kind, *spaces)
    found += _unread(mesh, "Pod", waypoint.namespace)
    otherwise = {("GatewayClass", WAYPOINT_CLASS)}
    otherwise |= {("Gateway", waypoint.name)} if waypoint.namespace != mesh.config.root else set()
    for pod in waypoint.pods:
        found += [*_isolated(mesh, pod, "Ingress"), *_isolated(mesh, pod, "Egress")]
    found += [
        Hiding(f"{kind} {name_of(item)} is bound otherwise before Istio 1.25")
        for kind in _READ_FOR_WAYPOINT[:2]
        for item in mesh.items(kind, mesh.config.root)
        # There it binds to no class, but to a Gateway of any namespace.
        if (mesh.config.version or _AS_NOW) < _AS_NOW and otherwise & {*targets(item)}
    ]
    if len(waypoint.accounts) > 1:
        found.append(Hiding(f"the pods of waypoint {waypoint} have several ServiceAccounts"))
    if mesh.config.flag("ENABLE_LAYERED_WAYPOINT_AUTHORIZATION_POLICIES"):
        found.append(Hiding("istiod's ENABLE_LAYERED_WAYPOINT_AUTHORIZATION_POLICIES is on, and is not evaluated"))
    return found


def extending(mesh: Mesh, waypoint: Waypoint, spaces: t.Iterable[str]) -> list[Object]:
    """EnvoyFilters and the like that may be for a waypoint's pods."""
    near = [item for kind in EXTENSIONS for space in spaces for item in mesh.items(kind, space)]
    return [item for item in near if _may_select(item, waypoint)]


def _may_select(item: Object, waypoint: Waypoint) -> bool:
    """Whether an EnvoyFilter, a WasmPlugin or a TrafficExtension may be for a waypoint's pods."""
    spec = item.get("spec", {})
    wanted = (spec.get("workloadSelector") or {}).get("labels") or (spec.get("selector") or {}).get("matchLabels")
    return not wanted or any(has_labels(pod, wanted) for pod in waypoint.pods)
