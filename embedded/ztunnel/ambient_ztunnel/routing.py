"""Where an outbound connection goes: pure decisions over `State` (embedded provider alone)."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .identity import Identity
from .model import (
    HBONE_PORT,
    IP,
    Gateway,
    HostAddress,
    LbMode,
    LbScope,
    NetworkAddress,
    Service,
    Tunnel,
    Workload,
)
from .state import State

Address = tuple[IP, int]


class RoutingError(Exception):
    """No way to the destination; the message is what upstream's access log says."""


@dataclass(frozen=True, slots=True)
class Route:
    """One decided next hop."""

    protocol: Tunnel
    # Where the TCP connection goes; the address is None if only the hostname of `workload` is known.
    ip: IP | None
    port: int
    # :authority of the CONNECT request; None for pass-through. A missing address in it is the resolved one.
    target: str | None = None
    target_port: int | None = None
    workload: Workload | None = None
    service: Service | None = None
    sans: tuple[Identity, ...] = ()


@dataclass(frozen=True, slots=True)
class Upstream:
    """A chosen endpoint."""

    workload: Workload
    port: int
    service: Service | None = None

    def sans(self) -> tuple[Identity, ...]:
        """Every identity the endpoint may present."""
        extra = []
        for san in self.service.sans if self.service else ():
            try:
                extra.append(Identity.parse(san))
            except ValueError:
                continue
        return (self.workload.identity, *extra)


def show(ip: IP, port: int) -> str:
    """`ip:port`, with brackets around IPv6."""
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"


def route(state: State, source: Workload, target: Address) -> Route:
    """Decide the next hop for a connection of `source` to the original destination `target`.

    Raises RoutingError if the destination is known but cannot be reached.
    """
    ip, port = target
    # Within one network only: istiod gives an east-west gateway for the others.
    address = NetworkAddress(state.network, ip)
    workload = state.workload_by_address(address)
    service = None if workload else state.service_by_vip(address)
    if service is not None:
        if service.waypoints and not _is_own_waypoint(state, source, [gateway for gateway, _ in service.waypoints]):
            waypoint = _find_waypoint(state, source, _pick_waypoint(service))
            return _through_waypoint(source, waypoint, target, service)
        if service.lb_mode is LbMode.PASSTHROUGH:
            return Route(Tunnel.TCP, ip, port)
        upstream = pick_endpoint(state, source, service, port)
        if upstream is None:
            raise RoutingError(f"no healthy upstream: {show(ip, port)}")
    elif workload is not None:
        if workload.waypoint and not _is_own_waypoint(state, source, [workload.waypoint]):
            waypoint = _find_waypoint(state, source, workload.waypoint)
            return _through_waypoint(source, waypoint, target, None)
        upstream = Upstream(workload, port)
    else:
        return Route(Tunnel.TCP, ip, port)
    _same_network(source, upstream.workload)
    return _direct(upstream, ip)


def _direct(upstream: Upstream, wanted: IP) -> Route:
    """Straight to an endpoint, in the tunnel it asks for."""
    workload = upstream.workload
    ip = pick_address(workload, wanted, upstream.service)
    if workload.protocol is not Tunnel.HBONE:
        return Route(Tunnel.TCP, ip, upstream.port, workload=workload, service=upstream.service)
    return Route(
        Tunnel.HBONE,
        ip,
        HBONE_PORT,
        target=str(ip) if ip else "",
        target_port=upstream.port,
        workload=workload,
        service=upstream.service,
        sans=upstream.sans(),
    )


def _through_waypoint(source: Workload, waypoint: Upstream, target: Address, service: Service | None) -> Route:
    """To a waypoint, which reads the original destination from the authority."""
    _same_network(source, waypoint.workload)
    ip = pick_address(waypoint.workload, target[0], None)
    return Route(
        Tunnel.HBONE,
        ip,
        waypoint.port,
        target=str(target[0]),
        target_port=target[1],
        workload=waypoint.workload,
        service=service,
        sans=waypoint.sans(),
    )


def _same_network(source: Workload, destination: Workload) -> None:
    """Raise unless both ends are in one network: tunnels through east-west gateways are not spoken here."""
    if source.network != destination.network:
        raise RoutingError(f"no valid routing destination for workload: {destination.name} (another network)")


def _pick_waypoint(service: Service) -> Gateway:
    """One waypoint of the service, by weight; the primary one if all weights are zero."""
    gateways = [gateway for gateway, _ in service.waypoints]
    weights = [weight for _, weight in service.waypoints]
    return random.choices(gateways, weights)[0] if sum(weights) else gateways[0]


def _find_waypoint(state: State, source: Workload, gateway: Gateway) -> Upstream:
    """A pod of the waypoint. Raises RoutingError: traffic must never go around a waypoint that is named."""
    found = state.find(gateway.destination)
    if isinstance(found, Workload):
        return Upstream(found, gateway.port)
    if isinstance(found, Service):
        upstream = pick_endpoint(state, source, found, gateway.port, waypoint=True)
        if upstream is not None:
            return upstream
    where = gateway.destination
    name = where.hostname if isinstance(where, HostAddress) else str(where)
    raise RoutingError(f"unknown waypoint: waypoint {name} not found")


def _is_own_waypoint(state: State, source: Workload, gateways: list[Gateway]) -> bool:
    """True if `source` is itself a pod of one of the waypoints: its traffic has passed it already."""
    for gateway in gateways:
        found = state.find(gateway.destination)
        if isinstance(found, Workload):
            if found.uid == source.uid:
                return True
        elif found is not None and found.key in source.services:
            return True
    return False


def pick_endpoint(
    state: State, source: Workload, service: Service, port: int, *, waypoint: bool = False
) -> Upstream | None:
    """A ready endpoint of `service` for its port, by routing preference and capacity; None without one."""
    service_port = service.ports.get(port)
    if service_port is None and not waypoint:
        return None
    candidates: list[tuple[int, Workload, int]] = []
    for workload in state.endpoints(service):
        if not workload.addresses and not workload.hostname:
            continue
        # A named target port may differ from pod to pod; then only the pod's own mapping knows it.
        target = workload.services.get(service.key, {}).get(port) or service_port
        if not target and waypoint and workload.app_tunnel:
            target = port
        if not target:
            continue
        rank = _rank(service.lb_scopes, source, workload)
        if service.lb_mode is LbMode.STRICT and rank != len(service.lb_scopes):
            continue
        candidates.append((rank, workload, target))
    if not candidates:
        return None
    best = max(rank for rank, _, _ in candidates) if service.lb_mode is not LbMode.STANDARD else None
    options = [(workload, target) for rank, workload, target in candidates if best is None or rank == best]
    weights = [workload.capacity for workload, _ in options]
    chosen, target = random.choices(options, weights)[0] if sum(weights) else random.choice(options)
    return Upstream(chosen, target, service)


def _rank(scopes: tuple[LbScope, ...], source: Workload, endpoint: Workload) -> int:
    """How many of the preferences, in order, source and endpoint share."""
    pairs = {
        LbScope.REGION: (source.locality.region, endpoint.locality.region),
        LbScope.ZONE: (source.locality.zone, endpoint.locality.zone),
        LbScope.SUBZONE: (source.locality.subzone, endpoint.locality.subzone),
        LbScope.NODE: (source.node, endpoint.node),
        LbScope.CLUSTER: (source.cluster_id, endpoint.cluster_id),
        LbScope.NETWORK: (source.network, endpoint.network),
    }
    rank = 0
    for scope in scopes:
        if pairs[scope][0] != pairs[scope][1]:
            break
        rank += 1
    return rank


def pick_address(workload: Workload, wanted: IP, service: Service | None) -> IP | None:
    """The address to use: the one asked for, else one that the service allows, of the same family if any.

    None means that the workload has a hostname only, to be resolved. Raises RoutingError if it has neither.
    """
    if wanted in workload.addresses:
        return wanted
    families = {"IPv4": (4,), "IPv6": (6,)}.get(service.ip_families if service else "", (4, 6))
    usable = [ip for ip in workload.addresses if ip.version in families]
    if usable:
        return max(usable, key=lambda ip: ip.version == wanted.version)
    if not workload.hostname:
        raise RoutingError(f"no valid routing destination for workload: {workload.name}")
    return None
