"""ztunnel's metrics, under its own names and labels (embedded provider alone).

Names and labels: istio.io "Istio Standard Metrics", and ztunnel 1.31's src/proxy/metrics.rs, src/dns/metrics.rs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from .identity import Identity
from .model import Service, Workload

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

TRAFFIC_LABELS = (
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
    "source_region",
    "source_zone",
    "destination_region",
    "destination_zone",
)
UNKNOWN = "unknown"


class Flag:
    """Values of the label `response_flags`."""

    NONE = "-"
    DENY = "DENY"
    CONNECT = "CONNECT"
    H2 = "H2_HANDSHAKE_FAILURE"
    IDENTITY = "IDENTITY_ERROR"
    NETWORK_POLICY = "NETWORK_POLICY"


@dataclass(frozen=True, slots=True)
class DerivedSource:
    """What the client's ztunnel says of the source in the `baggage` header, and the identity it proved."""

    identity: Identity | None = None
    fields: dict[str, str] = field(default_factory=dict)


def traffic_labels(
    *,
    reporter: str,
    mutual_tls: bool,
    source: Workload | None,
    derived: DerivedSource | None,
    destination: Workload | None,
    service: Service | None,
) -> dict[str, str]:
    """The labels of one connection; what is not known is "unknown"."""
    labels = dict.fromkeys(TRAFFIC_LABELS, UNKNOWN)
    found: dict[str, str] = {
        "reporter": reporter,
        "request_protocol": "tcp",
        "response_flags": Flag.NONE,
        "connection_security_policy": "mutual_tls" if mutual_tls else UNKNOWN,
    }
    if derived is not None:
        found |= {
            "source_principal": str(derived.identity or ""),
            "source_workload": derived.fields.get("workload", ""),
            "source_canonical_service": derived.fields.get("service.name", ""),
            "source_canonical_revision": derived.fields.get("service.version", ""),
            "source_workload_namespace": derived.fields.get("k8s.namespace.name", ""),
            "source_app": derived.fields.get("workload", ""),
            "source_version": derived.fields.get("service.version", ""),
            "source_cluster": derived.fields.get("k8s.cluster.name", ""),
            "source_region": derived.fields.get("cloud.region", ""),
            "source_zone": derived.fields.get("cloud.availability_zone", ""),
        }
    if source is not None:
        found |= _side("source", source)
    if destination is not None:
        found |= _side("destination", destination)
        found["destination_principal"] = str(destination.identity)
    if service is not None:
        found |= {
            "destination_service": service.hostname,
            "destination_service_name": service.name,
            "destination_service_namespace": service.namespace,
        }
    labels.update({name: value for name, value in found.items() if value})
    return labels


def _side(side: str, workload: Workload) -> dict[str, str]:
    return {
        f"{side}_workload": workload.workload_name,
        f"{side}_canonical_service": workload.canonical_name,
        f"{side}_canonical_revision": workload.canonical_revision,
        f"{side}_workload_namespace": workload.namespace,
        f"{side}_app": workload.canonical_name,
        f"{side}_version": workload.canonical_revision,
        f"{side}_cluster": workload.cluster_id,
        f"{side}_region": workload.locality.region,
        f"{side}_zone": workload.locality.zone,
    }


class Metrics:
    """The metrics of the process, in a registry of their own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._children: dict[tuple[str, ...], Counter] = {}

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"istio_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(name, text, labels, registry=self.registry)

        self.opened = counter("tcp_connections_opened", "The total number of TCP connections opened", TRAFFIC_LABELS)
        self.closed = counter("tcp_connections_closed", "The total number of TCP connections closed", TRAFFIC_LABELS)
        self.failed = counter(
            "tcp_connections_failed",
            "The total number of TCP connections that failed to establish (unstable)",
            TRAFFIC_LABELS,
        )
        self.received = counter(
            "tcp_received_bytes",
            "The size of total bytes received during request in case of a TCP connection",
            TRAFFIC_LABELS,
        )
        self.sent = counter(
            "tcp_sent_bytes",
            "The size of total bytes sent during response in case of a TCP connection",
            TRAFFIC_LABELS,
        )
        self.xds_terminations = counter(
            "xds_connection_terminations",
            "The total number of completed connections to xds server",
            ("reason",),
        )
        self.xds_messages = counter("xds_message", "Total number of messages received", ("url",))
        self.xds_bytes = counter("xds_message_bytes", "Total number of bytes received", ("url",))
        dns_labels = (
            "request_query_type",
            "request_protocol",
            "source_canonical_service",
            "source_canonical_revision",
        )
        self.dns_requests = counter("dns_requests", "Total number of DNS requests (unstable)", dns_labels)
        self.dns_upstream = counter(
            "dns_upstream_requests",
            "Total number of DNS requests forwarded to upstream (unstable)",
            dns_labels,
        )
        self.dns_failures = counter(
            "dns_upstream_failures",
            "Total number of DNS requests that failed to forward upstream (unstable)",
            dns_labels,
        )
        self.dns_duration = Histogram(
            "istio_dns_upstream_request_duration_seconds",
            "Total time in seconds Istio takes to get DNS response from upstream (unstable)",
            dns_labels,
            registry=self.registry,
            buckets=(0.0005, 0.001, 0.01, 0.1, 1.0, 5.0),
        )
        self.active_proxies = gauge(
            "workload_manager_active_proxy_count",
            "The total number current workloads with active proxies (unstable)",
        )
        self.pending_proxies = gauge(
            "workload_manager_pending_proxy_count",
            "The total number current workloads with pending proxies (unstable)",
        )
        self.proxies_started = Counter(
            "workload_manager_proxies_started",
            "The total number of proxies that were started (unstable)",
            registry=self.registry,
        )
        self.proxies_stopped = Counter(
            "workload_manager_proxies_stopped",
            "The total number of proxies that were stopped (unstable)",
            registry=self.registry,
        )
        gauge("istio_build", "Istio component build info", ("component", "tag")).labels("ztunnel", "embedded").set(1)

    def traffic(self, name: str, labels: dict[str, str], flag: str = Flag.NONE) -> Counter:
        """One of the counters of connections, by its attribute and what traffic_labels returned.

        Kept by the values in their order: prometheus_client checks and sorts all the names for each look.
        """
        key = (name, flag, *labels.values())
        child = self._children.get(key)
        if child is None:
            child = getattr(self, name).labels(**{**labels, "response_flags": flag})
            self._children[key] = child
        return child

    def render(self) -> bytes:
        """The text exposition."""
        return generate_latest(self.registry)
