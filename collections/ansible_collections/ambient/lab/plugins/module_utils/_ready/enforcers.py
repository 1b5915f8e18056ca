# Finds the proxies that must enforce a policy: the ztunnels of the pods it selects, the pods of its waypoints.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .._cluster.api import Getter, ProxyReader
from .._mesh.l4 import convert
from .._mesh.load import Loader
from .._mesh.mesh import REVISION, Mesh, Object, has_ended, labels_of, name_of, namespace_of
from .._mesh.paths import selects
from .._mesh.policies import target_refs, targets
from .._mesh.waypoints import (
    MANAGED,
    MESH_CONTROLLERS,
    USE_WAYPOINT,
    WAYPOINT_CLASS,
    named_waypoint,
    pods_of,
    waypoint_of,
)
from .._witness.proxies import Proxy, proxy_of, ztunnels

_KINDS = ("Pod", "Service", "ServiceEntry", "Gateway", "GatewayClass")


class Reader(ProxyReader, Getter, t.Protocol):
    """What the barrier needs of a cluster."""


@dataclasses.dataclass(frozen=True)
class Enforcer:
    """A proxy that must have the policy.

    Attributes:
        pods: those on its node that the policy selects.
        left: those on its node that it selected before it was changed.
        has_it: False where a change takes the policy away from it.
    """

    proxy: Proxy
    pods: tuple[Object, ...] = ()
    left: tuple[Object, ...] = ()
    has_it: bool = True


@dataclasses.dataclass(frozen=True)
class Plan:
    """Who must enforce a policy, and why somebody who should can't yet. root: the mesh's root namespace."""

    enforcers: tuple[Enforcer, ...]
    gaps: tuple[str, ...] = ()
    root: str = ""


def plan_of(policy: Object, reader: Reader) -> Plan:
    """Who must enforce a policy as it is written now.

    Raises:
        LabError: when the API does not answer, or refuses.
    """
    space = namespace_of(policy)
    mesh = Loader(reader, (), {space}, _KINDS).load()
    if mesh.config.takes({"kind": "AuthorizationPolicy", **policy}) is False:
        wanted = f"it is for revision {labels_of(policy)[REVISION]} (label {REVISION})"
        return Plan((), (f"{wanted}, and istiod's is {mesh.config.revision}",), mesh.config.root)
    plan = _at_waypoints(policy, mesh, reader) if target_refs(policy) else _at_ztunnels(policy, mesh, reader)
    return dataclasses.replace(plan, root=mesh.config.root)


def plan_of_change(old: Object, new: Object, reader: Reader) -> Plan:
    """Who must take over a change of a policy: whoever enforces it now, and whoever did before.

    Nothing is missing where either of them means nobody. A waypoint that it is bound to in two ways, of which a change
    takes one, counts as one that has it.

    Raises:
        LabError: as plan_of.
    """
    before, now = plan_of(old, reader), plan_of(new, reader)
    ztunnel_has_it = convert(new) is not None
    found = {str(item.proxy): item for item in now.enforcers}
    for item in before.enforcers:
        kept = found.get(str(item.proxy), Enforcer(item.proxy, has_it=item.proxy.kind == "ztunnel"))
        names = {name_of(pod) for pod in kept.pods}
        left = tuple(pod for pod in item.pods if name_of(pod) not in names)
        found[str(item.proxy)] = dataclasses.replace(kept, left=left)
    enforcers = (
        dataclasses.replace(item, has_it=ztunnel_has_it) if item.proxy.kind == "ztunnel" else item
        for item in found.values()
    )
    return Plan(tuple(enforcers), _unready(item.proxy for item in found.values()), now.root)


def everybody(reader: Reader) -> Plan:
    """Who may still have a policy of which only the name is known: every ztunnel, and all of istiod's gateways.

    A waypoint may serve objects of other namespaces, so none is left out.

    Raises:
        LabError: when the API does not answer, or refuses.
    """
    root = Loader(reader, (), (), ()).load().config.root
    proxies = ztunnels(reader, None, root)
    proxies += [proxy_of("waypoint", pod) for pod in _alive(reader.items("/api/v1/pods", labelSelector=MANAGED))]
    return Plan(tuple(Enforcer(proxy) for proxy in proxies), _unready(proxies), root)


def _at_ztunnels(policy: Object, mesh: Mesh, reader: Reader) -> Plan:
    everywhere = namespace_of(policy) == mesh.config.root
    pods = reader.items("/api/v1/pods") if everywhere else mesh.items("Pod", namespace_of(policy))
    selected = [pod for pod in _alive(pods) if selects(policy, pod)]
    if not selected:
        return Plan((), ("it selects no pod",))
    # A pod outside of the mesh is reached without any ztunnel.
    captured = [pod for pod in selected if mesh.membership(pod).captured]
    if not captured:
        return Plan((), (f"none of the {len(selected)} pods that it selects is in the mesh",))
    by_node: dict[str, list[Object]] = {}
    for pod in captured:
        by_node.setdefault(str(pod["spec"].get("nodeName", "")), []).append(pod)
    proxies = ztunnels(reader, by_node, mesh.config.root)
    lonely = sorted(set(by_node) - {proxy.node for proxy in proxies})
    gaps = tuple(f"node {node}, where it selects a pod, has no ztunnel" for node in lonely)
    enforcers = tuple(Enforcer(proxy, tuple(by_node[proxy.node])) for proxy in proxies)
    return Plan(enforcers, gaps + _unready(proxies))


def _at_waypoints(policy: Object, mesh: Mesh, reader: Reader) -> Plan:
    space = namespace_of(policy)
    bound = targets(policy)
    items = [mesh.get(kind, space, name) for kind, name in bound]
    named = [named_waypoint(mesh, item) for item in items if item and item["kind"] != "Gateway"]
    mesh = Loader(reader, (), {space, *(item[0] for item in named if item)}, _KINDS).load()
    proxies: dict[str, Proxy] = {}
    gaps: list[str] = []
    for ref in target_refs(policy):
        kind, name = str(ref.get("kind")), str(ref.get("name"))
        pods, why = _pods_for(kind, name, space, mesh, reader)
        if (kind, name) not in bound and not why:
            pods, why = (), f"{kind} {name} of its targetRefs has another group or namespace: it binds nothing"
        gaps += [why] if why else []
        proxies |= {str(proxy): proxy for proxy in (proxy_of("waypoint", pod) for pod in pods)}
    return Plan(tuple(Enforcer(proxy) for proxy in proxies.values()), (*gaps, *_unready(proxies.values())))


def _pods_for(kind: str, name: str, space: str, mesh: Mesh, reader: Reader) -> tuple[t.Sequence[Object], str]:
    """The pods of the waypoints that a targetRef means, and why there are none."""
    if kind == "GatewayClass" and space != mesh.config.root:
        return (), f"a policy for GatewayClass {name} counts in the root namespace {mesh.config.root} alone"
    if kind == "GatewayClass":
        # Whatever class a waypoint has, it counts as one of istio-waypoint (policyattachment.go, ShouldAttachPolicy).
        selector = f"{MANAGED}={MESH_CONTROLLERS[0]}"
        pods = _alive(reader.items("/api/v1/pods", labelSelector=selector)) if name == WAYPOINT_CLASS else []
        return pods, "" if pods else f"no waypoint takes a policy for GatewayClass {name}, or none has a pod"
    if kind not in ("Gateway", "Service", "ServiceEntry"):
        return (), f"no waypoint takes a policy whose targetRefs have kind {kind}"
    target = mesh.get(kind, space, name)
    if target is None:
        return (), f"{kind} {space}/{name} does not exist"
    if kind == "Gateway":
        found = pods_of(mesh, space, name)
        return found, "" if found else f"waypoint {space}/{name} has no pod"
    waypoint = waypoint_of(mesh, target)
    if waypoint is None:
        return (), f"{kind} {space}/{name} has no waypoint (label {USE_WAYPOINT})"
    if not waypoint.serves:
        return (), waypoint.problem or waypoint.doubt
    return waypoint.pods, "" if waypoint.pods else f"waypoint {waypoint} has no pod"


def _alive(pods: t.Iterable[Object]) -> list[Object]:
    return [pod for pod in pods if not has_ended(pod)]


def _unready(proxies: t.Iterable[Proxy]) -> tuple[str, ...]:
    return tuple(f"{proxy.kind} {proxy} is not ready" for proxy in proxies if not proxy.ready)
