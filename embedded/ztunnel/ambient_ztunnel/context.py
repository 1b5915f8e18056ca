"""What every pod's proxy shares (embedded provider alone)."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from .certs import CertificateManager
from .config import Config
from .connections import ConnectionManager
from .metrics import Metrics
from .model import IP
from .netns import Netns
from .state import State, WorkloadInfo

OUTBOUND_PORT = 15001
PLAINTEXT_PORT = 15006
DNS_PORT = 15053
# Ports of the proxy itself in a pod; a request for one of them would come back for ever.
ILLEGAL_PORTS = frozenset({OUTBOUND_PORT, PLAINTEXT_PORT, 15008})
SELF_CALL = "attempted recursive call to ourselves"
WORKLOAD_TIMEOUT = 5.0  # seconds to wait for istiod to announce a pod that istio-cni has announced already
HANDSHAKE_TIMEOUT = 10.0
LOOPBACK: dict[int, IP] = {4: IPv4Address("127.0.0.1"), 6: IPv6Address("::1")}
ANY_ADDRESS: tuple[IP, ...] = (IPv4Address("0.0.0.0"), IPv6Address("::"))


@dataclass(frozen=True)
class Context:
    """The process-wide parts."""

    config: Config
    state: State
    certs: CertificateManager
    metrics: Metrics
    connections: ConnectionManager


@dataclass(frozen=True)
class Pod:
    """One pod of this node, as istio-cni handed it over."""

    uid: str
    info: WorkloadInfo
    netns: Netns
