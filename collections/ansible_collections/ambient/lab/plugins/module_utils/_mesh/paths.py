# The way of one request from a pod: which proxies it passes, and what each of them sees and enforces.
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Source: istio/ztunnel src/proxy/outbound.rs (build_request), src/proxy/inbound.rs;
# istio/istio pilot/pkg/networking/core/listener_waypoint.go.

from __future__ import annotations

import dataclasses
import typing as t

from .destinations import Destination, Request, resolve
from .doubts import Hiding, doubts_at_end, doubts_at_waypoint, doubts_before
from .endpoints import Endpoint
from .l4 import Connection, Identity
from .mesh import BYPASS, Membership, Mesh, Object, account_of, addresses_of, has_labels, is_true, name_of, namespace_of
from .policies import policies_near, selector, target_refs
from .routes import changes_answers, routed
from .waypoints import Waypoint, bound_policies, policies_naming, waypoint_of


@dataclasses.dataclass(frozen=True)
class WaypointHop:
    """A waypoint on the way.

    Attributes:
        target: the Service, the ServiceEntry or the pod that the request was sent to.
        connection: as the waypoint sees it: the client's identity, the port of the Service.
        policies: AuthorizationPolicies that it enforces for the target.
        authentications: RequestAuthentications, likewise.
    """

    waypoint: Waypoint
    target: Object
    connection: Connection
    policies: tuple[Object, ...]
    authentications: tuple[Object, ...]


@dataclasses.dataclass(frozen=True)
class ZtunnelHop:
    """The ztunnel of a pod that the request may end at. policies: AuthorizationPolicies that it enforces there."""

    pod: Object
    connection: Connection
    policies: tuple[Object, ...]

    @property
    def node(self) -> str:
        """Whose ztunnel it is."""
        return str(self.pod.get("spec", {}).get("nodeName", ""))


@dataclasses.dataclass(frozen=True)
class Path:
    """The way of one request.

    Attributes:
        source: the pod that calls; None where there is none.
        member: whether ztunnel carries the source's traffic.
        destination: what the request goes to.
        waypoint: that the labels name for it, whether it serves or not.
        at_waypoint: the waypoint on the way; None where the way does not lead through one.
        endpoints: where it may end, after the routes of the waypoint.
        at_ztunnel: the destination's ztunnel for each endpoint that has one.
        declared: AuthorizationPolicies that name the Service or ServiceEntry, whether a waypoint enforces them or not.
        doubts: what keeps the model from knowing; one sentence each.
        behind: the same of what happens once the waypoint on the way lets the request pass.
    """

    source: Object | None
    member: Membership | None
    destination: Destination
    waypoint: Waypoint | None = None
    at_waypoint: WaypointHop | None = None
    endpoints: tuple[Endpoint, ...] = ()
    at_ztunnel: tuple[ZtunnelHop, ...] = ()
    declared: tuple[Object, ...] = ()
    doubts: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()

    @property
    def ztunnel_policies(self) -> list[Object]:
        """What ztunnel enforces at any of the endpoints, each once."""
        found = {name_of(policy): policy for hop in self.at_ztunnel for policy in hop.policies}
        return list(found.values())

    @property
    def waypoint_policies(self) -> list[Object]:
        """What the waypoint on the way enforces."""
        return list(self.at_waypoint.policies) if self.at_waypoint else []

    @property
    def policies(self) -> list[Object]:
        """All AuthorizationPolicies in force on the way."""
        return [*self.waypoint_policies, *self.ztunnel_policies]

    @property
    def envoys(self) -> bool:
        """Whether an Envoy is on the way, or may be."""
        return bool(self.at_waypoint or self.destination.gateway or (self.waypoint and self.waypoint.doubt))

    @property
    def ready(self) -> bool:
        """Whether a ready endpoint is at the end of the way."""
        return any(item.ready for item in self.endpoints)


def path_of(mesh: Mesh, source: Object | None, request: Request, namespace: str) -> Path:
    """The way of a request from a pod of a namespace, if there is one; what could not be read becomes a doubt."""
    return path_to(mesh, source, request, resolve(mesh, request.host, request.port, namespace))


def path_to(mesh: Mesh, source: Object | None, request: Request, destination: Destination) -> Path:
    """The way of a request to what is known already."""
    member = mesh.membership(source) if source else None
    # A waypoint is looked for at what has the virtual address, or at every pod that is called by its own.
    named = [destination.service] if destination.service and destination.kind in ("service", "entry") else []
    targets = destination.pods if destination.kind == "pods" else named
    target = targets[0] if targets else None
    waypoints = [waypoint_of(mesh, item) for item in targets]
    waypoint = waypoints[0] if waypoints else None
    places: list[Object | None] = [*targets] or [None]
    doubts = [why for item in places for why in doubts_before(mesh, source, member, destination, item)]
    doubts += [Hiding(item.doubt) for item in waypoints if item and item.doubt]
    if not _alike(waypoints, destination):
        why = f"the pods of {destination} have not all the same waypoint: it depends on which one answers"
        doubts.append(Hiding(why))
    hop, ends, behind = None, destination.endpoints, list[str]()
    if waypoint and waypoint.serves and target and member and member.captured:
        hop = WaypointHop(
            waypoint,
            target,
            Connection(_identity(mesh, source), None, _virtual_address(destination), destination.port),
            tuple(bound_policies(mesh, waypoint, target, "AuthorizationPolicy")),
            tuple(bound_policies(mesh, waypoint, target, "RequestAuthentication")),
        )
        route = routed(mesh, destination, request, waypoint.namespace)
        ends = route.endpoints
        doubts += doubts_at_waypoint(mesh, waypoint, target)
        behind = [*route.doubts, *doubts_at_end(mesh, source, ends, direct=False)]
    else:
        doubts += doubts_at_end(mesh, source, ends, direct=True)
    return Path(
        source,
        member,
        destination,
        waypoint,
        hop,
        ends,
        _ztunnels(mesh, destination, ends, source, hop.waypoint if hop else None),
        tuple(policies_naming(mesh, target)) if target else (),
        tuple(dict.fromkeys(doubts)),
        tuple(dict.fromkeys(behind)),
    )


def may_hide(mesh: Mesh, path: Path) -> bool:
    """Whether Envoy's headers may be missing from what it answers on a way: told so, or nobody could read it."""
    config, hop = mesh.config, path.at_waypoint
    unread = path.destination.gateway or (path.waypoint and path.waypoint.doubt)
    changed = hop and (
        changes_answers(mesh, path.destination, hop.waypoint.namespace)
        or doubts_at_waypoint(mesh, hop.waypoint, hop.target)
    )
    return bool(config.proxy_headers or config.assumed or unread or changed)


def _alike(waypoints: t.Sequence[Waypoint | None], destination: Destination) -> bool:
    """Whether the same waypoint, or none, is on the way to every endpoint."""
    # An address that is no pod's has none.
    strange = destination.kind == "pods" and any(end.pod is None for end in destination.endpoints)
    found = {(str(item), item.problem) if item else ("", "") for item in waypoints}
    return len(found | ({("", "")} if strange else set())) <= 1


def _virtual_address(destination: Destination) -> str | None:
    spec = (destination.service or {}).get("spec", {}) if destination.kind != "pods" else {}
    if spec.get("clusterIP") and len(spec.get("clusterIPs") or [""]) == 1:
        return str(spec["clusterIP"])
    return destination.endpoints[0].address if destination.kind == "pods" and len(destination.endpoints) == 1 else None


def _identity(mesh: Mesh, pod: Object | None) -> Identity | None:
    if pod is None or not mesh.membership(pod).captured:
        return None
    return Identity(mesh.config.trust_domains[0], namespace_of(pod), account_of(pod))


def _ztunnels(
    mesh: Mesh, destination: Destination, ends: t.Iterable[Endpoint], source: Object | None, waypoint: Waypoint | None
) -> tuple[ZtunnelHop, ...]:
    """The hops at the destination's side; behind a waypoint it is the waypoint that calls."""
    hops = []
    for end in ends:
        if end.pod is None or not mesh.membership(end.pod).captured:
            continue
        if waypoint:
            callers = waypoint.pods
            identity: Identity | None = Identity(mesh.config.trust_domains[0], waypoint.namespace, waypoint.accounts[0])
        else:
            callers = (source,) if source else ()
            identity = None if destination.kind == "node" else _identity(mesh, source)
        if end.plain or identity is None:
            identity = None
            if is_true(end.pod, BYPASS):
                # Plain text is not handed to ztunnel (istio/istio cni/pkg/iptables/iptables.go, IngressMode).
                continue
        # Of a pod with addresses of both families nobody knows which one a Service leads to.
        one = len(addresses_of(end.pod)) == 1 or destination.named_by_address
        # The caller's address is of the same family as the called one; nobody knows it where several may call.
        own = [address for pod in callers for address in addresses_of(pod) if (":" in address) == (":" in end.address)]
        address = own[0] if len(own) == 1 and one and destination.kind != "node" else None
        connection = Connection(identity, address, (end.address or None) if one else None, end.port)
        hops.append(ZtunnelHop(end.pod, connection, tuple(pod_policies(mesh, end.pod))))
    return tuple(hops)


def pod_policies(mesh: Mesh, pod: Object) -> list[Object]:
    """AuthorizationPolicies that ztunnel enforces for a pod: of its namespace or the root namespace.

    A selector without labels gets no workload at all (istiod, buildWorkloadPolicies).
    """
    return mesh.once(
        ("policies", name_of(pod)), lambda: [policy for policy in policies_near(mesh, pod) if selects(policy, pod)]
    )


def selects(policy: Object, pod: Object) -> bool:
    """Whether a policy without targetRefs is for a pod, as far as its selector says."""
    if target_refs(policy):
        return False
    if policy.get("spec", {}).get("selector") is None:
        return True
    return bool(selector(policy)) and has_labels(pod, selector(policy))
