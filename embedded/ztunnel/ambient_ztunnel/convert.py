"""From istiod's protobuf messages to plain data (embedded provider alone).

This is the one module that knows the generated classes of WDS and authorization (istio.io/istio
pkg/workloadapi).
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from workloadapi import workload_pb2 as wds
from workloadapi.security import authorization_pb2 as authz

from .model import (
    DEFAULT_TRUST_DOMAIN,
    HBONE_PORT,
    IP,
    Action,
    AppTunnel,
    CidrAddress,
    Gateway,
    HostAddress,
    LbMode,
    LbScope,
    Locality,
    Match,
    MatchKind,
    Network,
    NetworkAddress,
    Policy,
    Scope,
    Service,
    ServiceAccountMatch,
    StringMatch,
    Tunnel,
    Workload,
)

_LB_MODES = {
    wds.LoadBalancing.UNSPECIFIED_MODE: LbMode.STANDARD,
    wds.LoadBalancing.STRICT: LbMode.STRICT,
    wds.LoadBalancing.FAILOVER: LbMode.FAILOVER,
    wds.LoadBalancing.PASSTHROUGH: LbMode.PASSTHROUGH,
}
_LB_SCOPES = {
    wds.LoadBalancing.REGION: LbScope.REGION,
    wds.LoadBalancing.ZONE: LbScope.ZONE,
    wds.LoadBalancing.SUBZONE: LbScope.SUBZONE,
    wds.LoadBalancing.NODE: LbScope.NODE,
    wds.LoadBalancing.CLUSTER: LbScope.CLUSTER,
    wds.LoadBalancing.NETWORK: LbScope.NETWORK,
}
_FAMILIES = {wds.IPV4_ONLY: "IPv4", wds.IPV6_ONLY: "IPv6", wds.DUAL: "Dual"}
_SCOPES = {
    authz.GLOBAL: Scope.GLOBAL,
    authz.NAMESPACE: Scope.NAMESPACE,
    authz.WORKLOAD_SELECTOR: Scope.WORKLOAD,
}
_ACTIONS = {authz.ALLOW: Action.ALLOW, authz.DENY: Action.DENY}


def _ip(raw: bytes) -> IP:
    """An address from its 4 or 16 bytes; raises ValueError for any other length."""
    return ip_address(raw)


def gateway(message: wds.GatewayAddress) -> Gateway:
    """A gateway's address; raises ValueError if it has none."""
    port = message.hbone_mtls_port or HBONE_PORT
    match message.WhichOneof("destination"):
        case "hostname":
            return Gateway(HostAddress(message.hostname.namespace, message.hostname.hostname), port)
        case "address":
            return Gateway(NetworkAddress(message.address.network, _ip(message.address.address)), port)
    raise ValueError("gateway without destination")


def workload(message: wds.Workload) -> Workload:
    """A workload; raises ValueError for malformed addresses."""
    tunnel = None
    if message.HasField("application_tunnel"):
        tunnel = AppTunnel(
            proxy_protocol=message.application_tunnel.protocol == wds.ApplicationTunnel.PROXY,
            port=message.application_tunnel.port or None,
        )
    services = {}
    for name, ports in message.services.items():
        namespace, _, hostname = name.partition("/")
        services[HostAddress(namespace, hostname)] = {port.service_port: port.target_port for port in ports.ports}
    locality = message.locality
    return Workload(
        uid=message.uid,
        name=message.name,
        namespace=message.namespace,
        addresses=tuple(_ip(raw) for raw in message.addresses),
        hostname=message.hostname,
        network=message.network,
        protocol=Tunnel.HBONE if message.tunnel_protocol == wds.HBONE else Tunnel.TCP,
        trust_domain=message.trust_domain or DEFAULT_TRUST_DOMAIN,
        service_account=message.service_account or "default",
        waypoint=gateway(message.waypoint) if message.HasField("waypoint") else None,
        network_gateway=gateway(message.network_gateway) if message.HasField("network_gateway") else None,
        node=message.node,
        canonical_name=message.canonical_name,
        canonical_revision=message.canonical_revision,
        workload_type=wds.WorkloadType.Name(message.workload_type).lower(),
        workload_name=message.workload_name,
        native_tunnel=message.native_tunnel,
        app_tunnel=tunnel,
        services=services,
        policies=tuple(message.authorization_policies),
        healthy=message.status == wds.HEALTHY,
        cluster_id=message.cluster_id,
        locality=Locality(locality.region, locality.zone, locality.subzone),
        host_network=message.network_mode == wds.HOST_NETWORK,
        capacity=message.capacity.value if message.HasField("capacity") else 1,
    )


def service(message: wds.Service) -> Service:
    """A service; raises ValueError for malformed addresses."""
    vips = []
    cidrs = []
    for address in message.addresses:
        if address.HasField("length"):
            cidrs.append(CidrAddress(address.network, ip_network((address.address, address.length), strict=False)))
        else:
            vips.append(NetworkAddress(address.network, _ip(address.address)))
    waypoints: tuple[tuple[Gateway, int], ...] = ()
    if message.weighted_waypoints:
        waypoints = tuple((gateway(entry.destination), entry.weight) for entry in message.weighted_waypoints)
    elif message.HasField("waypoint"):
        waypoints = ((gateway(message.waypoint), 1),)
    balancing = message.load_balancing
    return Service(
        name=message.name,
        namespace=message.namespace,
        hostname=message.hostname,
        vips=tuple(vips),
        cidr_vips=tuple(cidrs),
        ports={port.service_port: port.target_port for port in message.ports},
        sans=tuple(message.subject_alt_names),
        waypoints=waypoints,
        lb_mode=_LB_MODES.get(balancing.mode, LbMode.STANDARD),
        lb_scopes=tuple(_LB_SCOPES[scope] for scope in balancing.routing_preference if scope in _LB_SCOPES),
        lb_allow_unhealthy=balancing.health_policy == wds.LoadBalancing.ALLOW_ALL,
        ip_families=_FAMILIES.get(message.ip_families, ""),
        canonical=message.canonical,
        namespace_only=message.visibility == wds.Service.NAMESPACE,
    )


def _strings(messages: Iterable[authz.StringMatch]) -> tuple[StringMatch, ...]:
    found = []
    for message in messages:
        match message.WhichOneof("match_type"):
            case "exact":
                found.append(StringMatch(MatchKind.EXACT, message.exact))
            case "prefix":
                found.append(StringMatch(MatchKind.PREFIX, message.prefix))
            case "suffix":
                found.append(StringMatch(MatchKind.SUFFIX, message.suffix))
            case "presence":
                found.append(StringMatch(MatchKind.PRESENCE))
            case _:
                raise ValueError("string match without a type")
    return tuple(found)


def _networks(messages: Iterable[authz.Address]) -> tuple[Network, ...]:
    return tuple(ip_network((message.address, message.length), strict=False) for message in messages)


def _accounts(messages: Iterable[authz.ServiceAccountMatch]) -> tuple[ServiceAccountMatch, ...]:
    return tuple(ServiceAccountMatch(message.namespace, message.serviceAccount) for message in messages)


def _match(message: authz.Match) -> Match:
    return Match(
        namespaces=_strings(message.namespaces),
        not_namespaces=_strings(message.not_namespaces),
        service_accounts=_accounts(message.service_accounts),
        not_service_accounts=_accounts(message.not_service_accounts),
        principals=_strings(message.principals),
        not_principals=_strings(message.not_principals),
        source_ips=_networks(message.source_ips),
        not_source_ips=_networks(message.not_source_ips),
        destination_ips=_networks(message.destination_ips),
        not_destination_ips=_networks(message.not_destination_ips),
        destination_ports=tuple(message.destination_ports),
        not_destination_ports=tuple(message.not_destination_ports),
    )


def policy(message: authz.Authorization) -> Policy:
    """A policy; raises ValueError for what cannot be understood, so that istiod hears a NACK."""
    if message.scope not in _SCOPES or message.action not in _ACTIONS:
        raise ValueError(f"unknown scope {message.scope} or action {message.action}")
    return Policy(
        name=message.name,
        namespace=message.namespace,
        scope=_SCOPES[message.scope],
        action=_ACTIONS[message.action],
        groups=tuple(
            tuple(tuple(_match(match) for match in rule.matches) for rule in group.rules) for group in message.groups
        ),
        dry_run=message.dry_run,
    )
