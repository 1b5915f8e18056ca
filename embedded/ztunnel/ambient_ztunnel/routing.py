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
    # As upstream's src/proxy/outbound.rs, build_request: an address of both a workload and a service is the
    # workload's for the choice of a waypoint, and the service's for the choice of an endpoint.
    workload = state.workload_by_address(address)
    service = state.service_by_vip(address, source.namespace)
    asked = None if workload else service
    if asked is not None and asked.waypoints:
        return _through_waypoint(source, _find_waypoint(state, source, _pick_waypoint(asked)), target, asked)
    if service is not None and service.lb_mode is not LbMode.PASSTHROUGH:
        upstream = pick_endpoint(state, source, service, port)
        if upstream is None and asked is not None:
            raise RoutingError(f"no healthy upstream: {show(ip, port)}")
    else:
        upstream = Upstream(workload, port) if workload is not None and service is None else None
    if upstream is None:
        return Route(Tunnel.TCP, ip, port)
    gateway = upstream.workload.waypoint
    if asked is None and gateway is not None and not _is_own_waypoint(state, source, gateway):
        return _through_waypoint(source, _find_waypoint(state, source, gateway), target, upstream.service)
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
        raise RoutingError(_no_destination(destination))


def _no_destination(workload: Workload) -> str:
    """That there is no way to a workload."""
    shown = f"Workload{{{workload.name} with uid {workload.uid} ({workload.protocol.value})}}"
    return f"no valid routing destination for workload: {shown}"


def _pick_waypoint(service: Service) -> Gateway:
    """One waypoint of the service, by weight; the primary one if all weights are zero."""
    gateways = [gateway for gateway, _ in service.waypoints]
    weights = [weight for _, weight in service.waypoints]
    return random.choices(gateways, weights)[0] if sum(weights) else gateways[0]


def _find_waypoint(state: State, source: Workload, gateway: Gateway) -> Upstream:
    """A pod of the waypoint. Raises RoutingError: traffic must never go around a waypoint that is named."""
    where = gateway.destination
    found: Workload | Service | None = None
    if isinstance(where, NetworkAddress):
        found = state.service_by_vip(where, source.namespace)
    found = found or state.find(where)
    if isinstance(found, Workload):
        return Upstream(found, gateway.port)
    if found is None and isinstance(where, HostAddress):
        raise RoutingError(f"unknown waypoint: waypoint {where.hostname} not found")
    upstream = pick_endpoint(state, source, found, gateway.port, waypoint=True) if found is not None else None
    if upstream is None:
        raise RoutingError(f"unknown waypoint: waypoint {_debug(gateway)} not found")
    return upstream


def _debug(gateway: Gateway) -> str:
    """A gateway as upstream's error names it: Rust's Debug form of its GatewayAddress."""
    where = gateway.destination
    if isinstance(where, HostAddress):
        name = f'Hostname(NamespacedHostname {{ namespace: "{where.namespace}", hostname: "{where.hostname}" }})'
    else:
        name = f'Address(NetworkAddress {{ network: "{where.network}", address: {where.address} }})'
    return f"GatewayAddress {{ destination: {name}, hbone_mtls_port: {gateway.port} }}"


def _is_own_waypoint(state: State, source: Workload, gateway: Gateway) -> bool:
    """True if `source` is itself a pod of the workload's waypoint: its traffic has passed it already.

    Of a service's waypoint nobody is excepted (upstream's src/proxy/outbound.rs, build_request).
    """
    found = state.find(gateway.destination)
    if isinstance(found, Workload):
        return found.uid == source.uid
    return found is not None and found.key in source.services


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
    if not sum(weights):
        return None
    chosen, target = random.choices(options, weights)[0]
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
        raise RoutingError(_no_destination(workload))
    return None
