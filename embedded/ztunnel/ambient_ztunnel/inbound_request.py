"""What an inbound CONNECT asks for, and whether this pod may be asked (embedded provider alone)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address

from .context import ILLEGAL_PORTS, SELF_CALL
from .model import IP, HostAddress, NetworkAddress, Service, Workload
from .state import State, best_service


class Refused(Exception):
    """A request that is answered with `status` and goes nowhere."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """A request that this pod may serve."""

    authority: str
    port: int
    services: list[Service]
    asked: str = ""  # the service's hostname, as the client names it in `forwarded`
    # Where the client wanted to go, for an application that reads PROXY headers.
    proxy_target: tuple[IP, int] | None = None


def parse_authority(text: str) -> tuple[IP | str, int]:
    """`ip:port`, `[ip]:port` or `hostname:port`; raises ValueError."""
    host, _, port_text = text.rpartition(":")
    port = int(port_text) if re.fullmatch("[0-9]{1,5}", port_text) else 0
    if not host or not 0 < port < 65536:
        raise ValueError(f"invalid CONNECT address {text}")
    if host.startswith("["):
        if not host.endswith("]") or "%" in host:  # a scope may be any text, and would get into the log
            raise ValueError(f"invalid CONNECT address {text}")
        return ip_address(host[1:-1]), port
    try:
        return ip_address(host if "%" not in host else ""), port
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", host):
            raise ValueError(f"invalid CONNECT address {text}") from None
        return host, port


def resolve(state: State, workload: Workload, local_ip: IP, headers: dict[str, str]) -> Request:
    """The port of this pod that a request is for. Raises Refused."""
    authority = headers.get(":authority", "")
    try:
        host, port = parse_authority(authority)
    except ValueError as error:
        raise Refused(400, str(error)) from error
    if isinstance(host, str):
        service = _service_by_host(state, workload, host)
        services = [service]
        target = workload.services.get(service.key, {}).get(port) or service.ports.get(port, 0)
        if not target:
            raise Refused(503, f"requested service {host}:{port} found, but cannot resolve port")
    else:
        if host != local_ip and workload.app_tunnel is None and not _is_waypoint_of(state, workload, local_ip, host):
            raise Refused(400, f"ip mismatch: {local_ip} != {host}")
        services = state.services_of(workload)
        target = port
    if target in ILLEGAL_PORTS:
        raise Refused(503, SELF_CALL)
    proxy_target = None
    if workload.app_tunnel is not None:
        if workload.app_tunnel.proxy_protocol:
            proxy_target = (_service_address(services[0], state) if isinstance(host, str) else host, port)
        target = workload.app_tunnel.port or target
    asked = re.search(r"host=\"?([^\";,]+)", headers.get("forwarded", ""))
    return Request(authority, target, services, asked[1] if asked else "", proxy_target)


def _service_by_host(state: State, workload: Workload, hostname: str) -> Service:
    """The service of that name, preferring the pod's own namespace."""
    found = best_service(state.services_by_host(hostname), workload.namespace)
    if found is None:
        raise Refused(503, f"no service or workload for hostname: {hostname}")
    return found


def _service_address(service: Service, state: State) -> IP:
    """One of the service's addresses, in this network and IPv4 if there is a choice."""
    if not service.vips:
        raise Refused(503, f"requested service {service.hostname} found, but has no IP addresses")
    return max(service.vips, key=lambda vip: (vip.network == state.network, vip.address.version == 4)).address


def _is_waypoint_of(state: State, workload: Workload, local_ip: IP, asked: IP) -> bool:
    """True if this pod is a waypoint of whatever has the address `asked`."""
    found = state.find(NetworkAddress(state.network, asked))
    if isinstance(found, Service):
        gateways = [gateway for gateway, _ in found.waypoints]
    else:
        gateways = [found.waypoint] if found and found.waypoint else []
    for gateway in gateways:
        waypoint = state.find(gateway.destination)
        if isinstance(waypoint, Service) and waypoint.key in workload.services:
            return True
        if isinstance(waypoint, Workload) and local_ip in waypoint.addresses:
            return True
    return False


def guess_service(workload: Workload, services: list[Service], port: int, asked: str) -> Service | None:
    """The service a connection was for: the one the client names, else one with this target port."""
    for service in services:
        if service.hostname == asked:
            return service
    for service in services:
        own = workload.services.get(HostAddress(service.namespace, service.hostname), {})
        if any(own.get(front, target) == port or target == port for front, target in service.ports.items()):
            return service
    return None


def baggage(workload: Workload) -> str:
    """Who a workload is, as a `baggage` header (upstream's src/baggage.rs)."""
    members = (
        ("k8s.cluster.name", workload.cluster_id),
        ("k8s.namespace.name", workload.namespace),
        (f"k8s.{workload.workload_type}.name", workload.workload_name),
        ("service.name", workload.canonical_name),
        ("service.version", workload.canonical_revision),
        ("cloud.region", workload.locality.region),
        ("cloud.availability_zone", workload.locality.zone),
    )
    return ",".join(f"{key}={value}" for key, value in members if value)


def parse_baggage(text: str) -> dict[str, str]:
    """The members of a `baggage` header; the name of the owning workload also under `workload`."""
    found: dict[str, str] = {}
    for member in text.split(","):
        key, _, value = member.partition("=")
        key = key.strip()
        if key and value:
            found[key] = value.strip()
            if re.fullmatch(r"k8s\.(deployment|cronjob|pod|job)\.name", key):
                found["workload"] = value.strip()
    return found
