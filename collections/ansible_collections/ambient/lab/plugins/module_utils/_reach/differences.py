# Objects that differ between two states, and on which of them a way rests: what differs and was not evaluated is said.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from .._mesh.doubts import extending, isolating
from .._mesh.endpoints import port_of
from .._mesh.mesh import GATEWAY_NAME, Mesh, Object, has_labels, labels_of, name_of, namespace_of
from .._mesh.paths import Path, selects
from .._mesh.policies import provider, selector, target_refs, targets
from .._mesh.routes import EXTENSIONS, ROUTES, TRAFFIC, routing
from .._mesh.waypoints import MANAGED, USE_CANARY, USE_WAYPOINT, bound_policies, is_waypoint, is_waypoint_class

Key = tuple[str, str]
_AT_WAYPOINTS = ("AuthorizationPolicy", "RequestAuthentication")
_POLICIES = (*_AT_WAYPOINTS, "PeerAuthentication")
# What is evaluated where a way is known, and what never is.
EVALUATED = (
    *("AuthorizationPolicy", "PeerAuthentication"),
    *("Namespace", "Service", "ServiceEntry", "Gateway", "GatewayClass"),
)
KINDS = (*EVALUATED, "RequestAuthentication", "NetworkPolicy", *ROUTES, *TRAFFIC, *EXTENSIONS)
_OWN = "istio"
CONFIG = ("ConfigMap", "the mesh's configuration")
# Kinds that are of no namespace.
WIDE = ("ConfigMap", "GatewayClass")


def differing(old: Mesh, new: Mesh) -> dict[Key, str]:
    """How objects that can matter differ between two states, in words; by kind and namespace/name."""
    states = [
        {(item["kind"], name_of(item)): _written(item) for item in mesh.objects() if _matters(mesh, item)}
        for mesh in (old, new)
    ]
    found = {}
    for key in dict.fromkeys([*states[0], *states[1]]):
        was, is_ = (state.get(key) for state in states)
        if was != is_:
            label = key[1] if key[0] == "AuthorizationPolicy" else f"{key[0]} {key[1].lstrip('/')}"
            found[key] = f"{label} {'has changed' if was and is_ else 'is gone' if was else 'is new'}"
    return {**found, **_labels(old, new), **_configured(old, new)}


def _matters(mesh: Mesh, item: Object) -> bool:
    return item["kind"] in KINDS and mesh.config.takes(item) is not False


def _written(item: Object) -> Object:
    """What of an object can matter to Istio."""
    meta = {
        key: {name: text for name, text in (item["metadata"].get(key) or {}).items() if _OWN in name}
        for key in ("labels", "annotations")
    }
    return {**meta, "spec": {} if item["kind"] == "Namespace" else item.get("spec") or {}}


def _labels(old: Mesh, new: Mesh) -> dict[Key, str]:
    """Labels that differ, and that selectors name which are not evaluated."""
    keys = {key for mesh in (old, new) for item in _unevaluated(mesh) for key in _selected(item)}
    found = {}
    for kind in ("Namespace", "Pod") if keys else ():
        for item in old.items(kind):
            twin = new.get(kind, namespace_of(item), item["metadata"]["name"])
            was, is_ = labels_of(item), labels_of(twin)
            for key in sorted(keys) if twin else ():
                if was.get(key) != is_.get(key):
                    name = name_of(item).lstrip("/")
                    found[f"label {key} of {kind}", name_of(item)] = f"label {key} of {kind} {name} has changed"
    return found


def _unevaluated(mesh: Mesh) -> t.Iterator[t.Any]:
    """What has selectors of labels that are not evaluated."""
    yield mesh.config.rest
    for item in mesh.items("NetworkPolicy"):
        spec = item.get("spec") or {}
        yield {**spec, "podSelector": {"matchExpressions": (spec.get("podSelector") or {}).get("matchExpressions")}}
    yield [[one.get("allowedRoutes") for one in item["spec"].get("listeners") or []] for item in mesh.items("Gateway")]


def _selected(item: t.Any) -> t.Iterator[str]:
    """Keys of labels that selectors within something name."""
    for key, value in item.items() if isinstance(item, dict) else enumerate(item if isinstance(item, list) else ()):
        if key == "matchLabels" and isinstance(value, dict):
            yield from value
        elif key == "matchExpressions":
            yield from (str(one.get("key")) for one in value or [])
        else:
            yield from _selected(value)


def _configured(old: Mesh, new: Mesh) -> dict[Key, str]:
    """What differs in the mesh's configuration and is not evaluated; of authorizers those that a policy names."""
    named = {provider(item) for mesh in (old, new) for item in mesh.items("AuthorizationPolicy")}
    was, is_ = (mesh.config.rest for mesh in (old, new))
    keys = [key for key in dict.fromkeys([*was, *is_]) if was.get(key) != is_.get(key)]
    asked = [key for key in keys if not key.startswith("extensionProviders ") or key.partition(" ")[2] in named]
    return {CONFIG: f"{CONFIG[1]} has changed: {', '.join(asked)}"} if asked else {}


def inputs(mesh: Mesh, path: Path) -> set[Key]:
    """What a way rests on, evaluated or not."""
    destination, waypoint = path.destination, path.waypoint
    served = destination.service if destination.kind in ("service", "entry") else None
    target = served or next(iter(destination.pods), None)
    ends = [end.pod for end in path.endpoints if end.pod]
    found = [item for item in (destination.service, *_spaces(mesh, target, *ends)) if item]
    if destination.gateway:
        name = destination.gateway.partition("/")[2]
        near = [item for kind in _AT_WAYPOINTS for item in mesh.items(kind, namespace_of(found[0]))]
        found += [item for item in near if ("Gateway", name) in targets(item)]
    if waypoint and waypoint.gateway:
        chosen = mesh.get("GatewayClass", "", str(waypoint.gateway.get("spec", {}).get("gatewayClassName")))
        found += [waypoint.gateway, *([chosen] if chosen else [])]
    if target and _is_enrolment_known(mesh, path, target):
        space = waypoint.namespace if waypoint else namespace_of(target)
        for kind in _AT_WAYPOINTS:
            found += bound_policies(mesh, waypoint, target, kind) if waypoint else []
            near = mesh.items(kind, namespace_of(target))
            found += [item for item in near if (target["kind"], target["metadata"]["name"]) in targets(item)]
        found += routing(mesh, destination, space)
        spaces = dict.fromkeys([space, namespace_of(target), mesh.config.root])
        found += extending(mesh, waypoint, spaces) if waypoint else []
        found += [item for pod in (waypoint.pods if waypoint else ()) for item in isolating(mesh, pod)]
    for pod in ends:
        found += [*_of_pod(mesh, pod), *isolating(mesh, pod)]
    found += isolating(mesh, path.source) if path.source else []
    if not ends and served and not mesh.config.whole:
        # Pods that stand elsewhere may be of any policy of their namespace.
        spaces = dict.fromkeys([namespace_of(served), mesh.config.root])
        found += [item for kind in _POLICIES for space in spaces for item in mesh.items(kind, space)]
    return {(item["kind"], name_of(item)) for item in found}


def _spaces(mesh: Mesh, *items: Object | None) -> list[Object]:
    found = [mesh.namespace(space) for space in {namespace_of(item) for item in items if item}]
    return [item for item in found if item]


def _is_enrolment_known(mesh: Mesh, path: Path, target: Object) -> bool:
    """Whether it is known which waypoint a target has: in a folder its Namespace, or the Gateway, may be missing."""
    if path.waypoint:
        return mesh.config.whole or path.waypoint.gateway is not None
    named = labels_of(target).get(USE_WAYPOINT) is not None
    return mesh.config.whole or named or mesh.namespace(namespace_of(target)) is not None


def _of_pod(mesh: Mesh, pod: Object) -> list[Object]:
    """Policies that the ztunnel of a pod enforces, or its sidecar; of any other pod nobody knows."""
    member = mesh.membership(pod)
    if not member.captured and not member.sidecar:
        return []
    spaces = dict.fromkeys([namespace_of(pod), mesh.config.root])
    kinds = _POLICIES if member.sidecar else EVALUATED[:2]
    near = [item for kind in kinds for space in spaces for item in mesh.items(kind, space) if not target_refs(item)]
    # To a pod without labels istiod may give policies whatever their selectors are.
    return [item for item in near if not labels_of(pod) or has_labels(pod, selector(item))]


def is_idle(mesh: Mesh, key: Key, spaces: t.Collection[str]) -> bool:
    """Whether an object surely means nothing to anybody in a state. spaces: that are looked at, none are all."""
    kind, (space, _slash, name) = key[0], key[1].partition("/")
    item = mesh.get(kind, space, name)
    known = mesh.config.whole and not mesh.why_unread("Pod", space)
    if item is None:
        return kind in KINDS
    if kind == "Gateway":
        canary = any(USE_CANARY in labels_of(one) for kind in ("Namespace", "Service") for one in mesh.items(kind))
        return is_waypoint_class(item) and not canary and (mesh.config.whole or mesh.namespace(space) is not None)
    if kind == "Service":
        ports = item.get("spec", {}).get("ports") or []
        tcp = any(port_of(item, port.get("port")) for port in ports)
        return MANAGED in labels_of(item) or item.get("spec", {}).get("clusterIP") == "None" or not tcp
    if kind == "Namespace":
        return known and not any(mesh.items(one, name) for one in ("Pod", "Service", "ServiceEntry"))
    if kind in _POLICIES and target_refs(item):
        there = [
            (what, one) for what, one in targets(item) if mesh.get(what, "" if what == "GatewayClass" else space, one)
        ]
        return known and all(
            what == "Gateway" and is_idle(mesh, (what, f"{space}/{one}"), spaces) for what, one in there
        )
    if kind in (*ROUTES, *TRAFFIC, *EXTENSIONS):
        return known and not any(_is_envoy(mesh, pod) for pod in mesh.items("Pod"))
    if kind == "NetworkPolicy":
        chosen = (item.get("spec", {}).get("podSelector") or {}).get("matchLabels") or {}
        return known and not mesh.selected(space, chosen)
    chosen = [pod for pod in _chosen(mesh, item, spaces) if not is_waypoint(mesh, pod)] if kind in _POLICIES else []
    if kind == "RequestAuthentication":
        # ztunnel knows none of them.
        return (known or bool(chosen)) and all(mesh.membership(pod).captured for pod in chosen)
    return kind in _POLICIES and known and not chosen


def _chosen(mesh: Mesh, policy: Object, spaces: t.Collection[str]) -> t.Iterator[Object]:
    """Pods that a policy without targetRefs is for."""
    own = namespace_of(policy)
    for pod in mesh.items("Pod", None if own == mesh.config.root else own):
        if (not spaces or namespace_of(pod) in spaces) and (selects(policy, pod) or not selector(policy)):
            yield pod


def is_beyond(mesh: Mesh, key: Key, spaces: t.Collection[str]) -> bool:
    """Whether an Envoy that is no waypoint and no sidecar enforces a policy as well, as one of an ingress does."""
    item = mesh.get(key[0], *key[1].split("/", 1)) if key[0] in _AT_WAYPOINTS else None
    if item is None or target_refs(item):
        return False
    envoys = [pod for pod in _chosen(mesh, item, spaces) if _is_envoy(mesh, pod)]
    return any(not is_waypoint(mesh, pod) and not mesh.membership(pod).sidecar for pod in envoys)


def _is_envoy(mesh: Mesh, pod: Object) -> bool:
    """Whether a pod has an Envoy; Istio's charts label a gateway with `istio`."""
    return bool({_OWN, GATEWAY_NAME} & {*labels_of(pod)}) or mesh.membership(pod).sidecar
