# For the embedded provider alone: what Envoy writes of each request, where Istio's Envoy would count it itself.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The access log in the place of Istio's stats filter, and who asks: ztunnel's baggage (pure functions).

Envoy's file logger drops nothing: while the FIFO is full, the lines wait in Envoy's memory, and requests go on.
(Its gRPC logger drops entries when the receiver is slow.) A manager that istiod gave no stats filter gets no log.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from google.protobuf.any_pb2 import Any as AnyMessage
from waypoint_xds_pb2 import (
    AccessLog,
    AccessLogFilter,
    DownstreamEnd,
    FileAccessLog,
    FilterStateValue,
    LogTypeFilter,
    SetFilterState,
    SubstitutionFormatString,
)

FILE_ACCESS_LOG: Final = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
STATS_FILTER: Final = "stats.PluginConfig"
# pilot/pkg/xds/filters/filters.go, ConnectAuthorityFilter: both SPIFFE identities of the HBONE connection.
PEER_PRINCIPAL: Final = "io.istio.peer_principal"
LOCAL_PRINCIPAL: Final = "io.istio.local_principal"
SOURCE_BAGGAGE: Final = "ambient.lab.source_baggage"

# One record: what Istio's stats filter reads, by Envoy's command operators (Envoy, "Access logging: usage").
# Only the content type is the client's own words; it needs no more than "application/grpc+".
FIELDS: Final = {
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
    "milliseconds": "%DURATION%",
    "request_bytes": "%DOWNSTREAM_WIRE_BYTES_RECEIVED%",
    "response_bytes": "%DOWNSTREAM_WIRE_BYTES_SENT%",
    "content_type": "%REQ(CONTENT-TYPE):17%",
    "grpc_status": "%GRPC_STATUS_NUMBER%",
    "peer_principal": f"%FILTER_STATE({PEER_PRINCIPAL}:PLAIN)%",
    "local_principal": f"%FILTER_STATE({LOCAL_PRINCIPAL}:PLAIN)%",
    "baggage": f"%FILTER_STATE({SOURCE_BAGGAGE}:PLAIN)%",
    "services": "%METADATA(CLUSTER:istio:services)%",
    "endpoint": "%METADATA(UPSTREAM_HOST:istio:workload)%",
}


def request_log(path: Path) -> AccessLog:
    """Return the access log that writes one line of JSON to `path` when a request has ended."""
    form = SubstitutionFormatString()
    form.json_format.update(FIELDS)
    config = FileAccessLog(path=str(path), log_format=form).SerializeToString()
    return AccessLog(
        name="envoy.access_loggers.file",
        # A manager may be told to log a request at its start and periodically too; it is counted once.
        filter=AccessLogFilter(log_type_filter=LogTypeFilter(types=[DownstreamEnd])),
        typed_config=AnyMessage(type_url=FILE_ACCESS_LOG, value=config),
    )


def baggage_value(state: SetFilterState, factory: str) -> FilterStateValue | None:
    """Return the value that hands ztunnel's baggage on like the peer's identity; None where there is no identity.

    `factory` should be that of hashable strings: connections for different sources are then not pooled together.
    """
    principal = next((value for value in state.values if value.object_key == PEER_PRINCIPAL), None)
    if principal is None:
        return None
    baggage = FilterStateValue()
    baggage.CopyFrom(principal)  # the same sharing with the inner listener
    baggage.object_key = SOURCE_BAGGAGE
    baggage.factory_key = factory
    baggage.format_string.Clear()
    baggage.format_string.text_format_source.inline_string = "%REQ(baggage)%"
    return baggage
