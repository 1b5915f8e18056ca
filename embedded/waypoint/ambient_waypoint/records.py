# For the embedded provider alone: turns a record of the request log into Istio's labels (pure functions).
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Labels as the real waypoint's: istio.io "Istio Standard Metrics", Envoy's contrib filter istio_stats (ServerGateway).

Istio's Envoy asks istiod who has an address; here ztunnel's baggage names the source and istiod's endpoint metadata
the destination. Neither holds the destination's identity, so `destination_principal` stays unknown.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final, TypeAlias

from ambient_waypoint.telemetry import FIELDS

UNKNOWN: Final = "unknown"
LATEST: Final = "latest"  # the revision of a workload that names none
LABELS: Final = (
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
)
# Envoy, Grpc::Common::hasGrpcContentType: the type alone or with a "+" after it.
GRPC_TYPE: Final = re.compile(r"application/grpc(\+|$)")
WORKLOAD_KEY: Final = re.compile(r"k8s\.(deployment|cronjob|pod|job)\.name")
NAMESPACE_IN_PRINCIPAL: Final = re.compile(r"/ns/([^/]+)")
# pilot/pkg/networking/util, AppendLbEndpointMetadata: workload;namespace;canonical name;revision;cluster.
ENDPOINT_PARTS: Final = 5
Record: TypeAlias = dict[str, object]


class Malformed(ValueError):
    """A line that Envoy's request log cannot have written."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request: its labels in the order of LABELS, its duration (None if unknown) and its bytes on the wire."""

    labels: tuple[str, ...]
    milliseconds: int | None
    request_bytes: int
    response_bytes: int


def parse(line: bytes) -> Request:
    """Read one line of the request log; raises Malformed."""
    try:
        record = json.loads(line)
    except ValueError as error:
        raise Malformed(str(error)) from error
    if not isinstance(record, dict) or record.keys() != FIELDS.keys():
        raise Malformed("other fields than the request log has")
    labels = {"reporter": "waypoint", **_source(record), **_destination(record), **_service(record), **_answer(record)}
    return Request(
        tuple(labels[name] or UNKNOWN if name != "grpc_response_status" else labels[name] for name in LABELS),
        _number(record, "milliseconds"),
        _number(record, "request_bytes") or 0,
        _number(record, "response_bytes") or 0,
    )


def _source(record: Record) -> dict[str, str]:
    baggage = _baggage(_text(record, "baggage"))
    principal = _text(record, "peer_principal")
    namespace = NAMESPACE_IN_PRINCIPAL.search(principal)
    service, version = baggage.get("service.name", ""), baggage.get("service.version", "")
    return {
        "source_workload": baggage.get("workload", ""),
        "source_canonical_service": service,
        "source_canonical_revision": version or LATEST,
        # The certificate says it; the header only claims it.
        "source_workload_namespace": namespace[1] if namespace else baggage.get("k8s.namespace.name", ""),
        "source_principal": principal,
        "source_app": baggage.get("app.name", service),
        "source_version": baggage.get("app.version", version),
        "source_cluster": baggage.get("k8s.cluster.name", ""),
        "connection_security_policy": "mutual_tls" if principal and _text(record, "local_principal") else "none",
    }


def _destination(record: Record) -> dict[str, str]:
    """The endpoint that was chosen; a request that was answered before (denied, no healthy endpoint) has none."""
    parts = _text(record, "endpoint").split(";")
    if len(parts) < ENDPOINT_PARTS:
        parts = [""] * ENDPOINT_PARTS
    workload, namespace, service, revision, cluster = parts[:ENDPOINT_PARTS]
    revision = revision or (LATEST if workload else "")  # istiod leaves "latest" out
    return {
        "destination_workload": workload,
        "destination_workload_namespace": namespace,
        "destination_principal": "",
        "destination_app": service,
        "destination_version": revision,
        "destination_canonical_service": service,
        "destination_canonical_revision": revision,
        "destination_cluster": cluster,
    }


def _service(record: Record) -> dict[str, str]:
    """The service of the route's cluster, known for denied requests too (cluster metadata, buildServiceMetadata)."""
    services = record["services"]
    if services is not None and not isinstance(services, list):
        raise Malformed("services is not a list")
    service = services[0] if services else {}
    if not isinstance(service, dict):
        raise Malformed("a service is not an object")
    host = _text(service, "host")
    return {
        "destination_service": host,
        "destination_service_name": _text(service, "name") or host.partition(".")[0],
        "destination_service_namespace": _text(service, "namespace"),
    }


def _answer(record: Record) -> dict[str, str]:
    grpc = GRPC_TYPE.match(_text(record, "content_type")) is not None
    status = _number(record, "grpc_status") if grpc else None
    return {
        "request_protocol": "grpc" if grpc else "http",
        "response_code": str(_number(record, "response_code") or 0),  # 0: the client was gone before an answer
        "grpc_response_status": "" if status is None else str(status),
        "response_flags": _text(record, "response_flags") or "-",
    }


def _text(record: Record, key: str) -> str:
    """A text; what is not there is null, or "-" in a filter state that a header filled."""
    value = record.get(key)
    if value is None or value == "-":
        return ""
    if not isinstance(value, str):
        raise Malformed(f"{key} is not a text")
    return value


def _number(record: Record, key: str) -> int | None:
    value = record[key]
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise Malformed(f"{key} is not a number")


def _baggage(text: str) -> dict[str, str]:
    """The members of a `baggage` header (W3C Baggage) as ztunnel writes them; the workload's name as `workload`."""
    found: dict[str, str] = {}
    for member in text.split(","):
        key, _, value = (part.strip() for part in member.partition("="))
        if value:
            found["workload" if WORKLOAD_KEY.fullmatch(key) else key] = value
    return found
