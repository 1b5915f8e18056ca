"""Plain data: workloads, services and policies as ztunnel needs them (embedded provider alone).

Source of every field: pkg/workloadapi/workload.proto and pkg/workloadapi/security/authorization.proto of
istio.io/istio.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from .identity import Identity

IP = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
DEFAULT_TRUST_DOMAIN = "cluster.local"
HBONE_PORT = 15008


class Tunnel(enum.Enum):
    """How a workload wants to be reached."""

    TCP = "TCP"
    HBONE = "HBONE"


class LbMode(enum.Enum):
    """What the routing preferences of a service mean."""

    STANDARD = "Standard"
    STRICT = "Strict"
    FAILOVER = "Failover"
    PASSTHROUGH = "Passthrough"


class LbScope(enum.Enum):
    """What an endpoint can share with the client."""

    REGION = "Region"
    ZONE = "Zone"
    SUBZONE = "Subzone"
    NODE = "Node"
    CLUSTER = "Cluster"
    NETWORK = "Network"


@dataclass(frozen=True, slots=True)
class NetworkAddress:
    """An IP address inside a named network."""

    network: str
    address: IP

    def __str__(self) -> str:
        return f"{self.network}/{self.address}"


@dataclass(frozen=True, slots=True)
class CidrAddress:
    """A range of addresses inside a named network."""

    network: str
    cidr: Network


@dataclass(frozen=True, slots=True)
class HostAddress:
    """A hostname inside a namespace: the primary key of a service."""

    namespace: str
    hostname: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.hostname}"


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where a waypoint or a network gateway is."""

    destination: NetworkAddress | HostAddress
    port: int = HBONE_PORT


@dataclass(frozen=True, slots=True)
class Locality:
    """Region, zone and subzone of a workload."""

    region: str = ""
    zone: str = ""
    subzone: str = ""


@dataclass(frozen=True, slots=True)
class AppTunnel:
    """What a workload wants to hear before the bytes: nothing, or a PROXY header, perhaps on another port."""

    proxy_protocol: bool
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """One endpoint: a pod, or whatever has the same role."""

    uid: str
    name: str = ""
    namespace: str = ""
    addresses: tuple[IP, ...] = ()
    hostname: str = ""
    network: str = ""
    protocol: Tunnel = Tunnel.TCP
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    service_account: str = "default"
    waypoint: Gateway | None = None
    network_gateway: Gateway | None = None
    node: str = ""
    canonical_name: str = ""
    canonical_revision: str = ""
    workload_type: str = "pod"
    workload_name: str = ""
    native_tunnel: bool = False
    app_tunnel: AppTunnel | None = None
    # service key -> service port -> target port of this workload
    services: Mapping[HostAddress, Mapping[int, int]] = field(default_factory=dict)
    policies: tuple[str, ...] = ()
    healthy: bool = True
    cluster_id: str = ""
    locality: Locality = Locality()
    host_network: bool = False
    capacity: int = 1

    @property
    def identity(self) -> Identity:
        """The identity this workload's certificate carries."""
        return Identity(self.trust_domain, self.namespace, self.service_account)


@dataclass(frozen=True, slots=True)
class Service:
    """A name (and mostly a virtual IP) for a group of workloads."""

    name: str
    namespace: str
    hostname: str
    vips: tuple[NetworkAddress, ...] = ()
    cidr_vips: tuple[CidrAddress, ...] = ()
    ports: Mapping[int, int] = field(default_factory=dict)
    sans: tuple[str, ...] = ()
    # (waypoint, weight); the single waypoint of most services has weight 1
    waypoints: tuple[tuple[Gateway, int], ...] = ()
    lb_mode: LbMode = LbMode.STANDARD
    lb_scopes: tuple[LbScope, ...] = ()
    lb_allow_unhealthy: bool = False
    ip_families: str = ""
    canonical: bool = False
    namespace_only: bool = False

    @property
    def key(self) -> HostAddress:
        """The xDS primary key."""
        return HostAddress(self.namespace, self.hostname)


class Scope(enum.Enum):
    """For whom a policy holds."""

    GLOBAL = "Global"
    NAMESPACE = "Namespace"
    WORKLOAD = "WorkloadSelector"


class Action(enum.Enum):
    """What a matching policy does."""

    ALLOW = "Allow"
    DENY = "Deny"


class MatchKind(enum.Enum):
    """The four kinds of a string match."""

    EXACT = "Exact"
    PREFIX = "Prefix"
    SUFFIX = "Suffix"
    PRESENCE = "Presence"


@dataclass(frozen=True, slots=True)
class StringMatch:
    """One string pattern."""

    kind: MatchKind
    value: str = ""


@dataclass(frozen=True, slots=True)
class ServiceAccountMatch:
    """One service account, in any trust domain."""

    namespace: str
    service_account: str


@dataclass(frozen=True, slots=True)
class Match:
    """Values of one field are ORed, fields are ANDed."""

    namespaces: tuple[StringMatch, ...] = ()
    not_namespaces: tuple[StringMatch, ...] = ()
    service_accounts: tuple[ServiceAccountMatch, ...] = ()
    not_service_accounts: tuple[ServiceAccountMatch, ...] = ()
    principals: tuple[StringMatch, ...] = ()
    not_principals: tuple[StringMatch, ...] = ()
    source_ips: tuple[Network, ...] = ()
    not_source_ips: tuple[Network, ...] = ()
    destination_ips: tuple[Network, ...] = ()
    not_destination_ips: tuple[Network, ...] = ()
    destination_ports: tuple[int, ...] = ()
    not_destination_ports: tuple[int, ...] = ()


EMPTY_MATCH = Match()


@dataclass(frozen=True, slots=True)
class Policy:
    """An authorization policy: groups are ORed, the rules of a group ANDed, the matches of a rule ORed."""

    name: str
    namespace: str
    scope: Scope
    action: Action
    groups: tuple[tuple[tuple[Match, ...], ...], ...] = ()
    dry_run: bool = False

    @property
    def key(self) -> str:
        """`namespace/name`, as workloads refer to it."""
        return f"{self.namespace}/{self.name}"
