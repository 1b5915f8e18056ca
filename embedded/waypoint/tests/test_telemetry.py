# For the embedded provider alone: where the request log goes into a Listener, and how the source's baggage travels.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Read back with Envoy's own message classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import waypoint_resources as wr
from ambient_waypoint.extensions import Extensions
from ambient_waypoint.rewrite import rewrite_listener
from ambient_waypoint.telemetry import FIELDS, SOURCE_BAGGAGE, STATS_FILTER, request_log
from envoy.config.listener.v3 import listener_pb2
from envoy.data.accesslog.v3 import accesslog_pb2 as data_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from google.protobuf.json_format import MessageToDict

PATH = Path("/etc/istio/proxy/requests")
LOG = request_log(PATH)
KNOWN = Extensions(
    http=frozenset(
        {
            "envoy.extensions.filters.http.router.v3.Router",
            "envoy.extensions.filters.http.set_filter_state.v3.Config",
        }
    ),
    network=frozenset({HttpConnectionManager.DESCRIPTOR.full_name}),
    listener=frozenset(),
    filter_state=frozenset({"envoy.string", "envoy.hashable_string"}),
)
STATS = wr.http_filter("istio.stats", wr.raw_any(STATS_FILTER, b"\x0a\x00"))
OTHER_LOG = {"access_log": [{"name": "envoy.access_loggers.stdout"}]}


def manager_after(filters: list[Any], document: dict[str, Any] | None = None) -> HttpConnectionManager:
    before = wr.listener("main_internal", {"c": [wr.manager(filters, document)]})
    after = listener_pb2.Listener.FromString(rewrite_listener(before.SerializeToString(), KNOWN, LOG)[0])
    return HttpConnectionManager.FromString(after.filter_chains[0].filters[0].typed_config.value)


@pytest.mark.parametrize("wrap", [wr.raw_any, wr.struct_any], ids=["plain", "typed struct"])
def test_the_request_log_stands_in_for_the_stats_filter_beside_other_logs(wrap: Any) -> None:
    manager = manager_after([wr.http_filter("istio.stats", wrap(STATS_FILTER)), wr.router()], OTHER_LOG)
    other, ours = manager.access_log
    assert other.name == "envoy.access_loggers.stdout"
    assert list(ours.filter.log_type_filter.types) == [data_pb2.DownstreamEnd]
    config = file_pb2.FileAccessLog()
    assert ours.typed_config.Unpack(config)
    assert config.path == str(PATH)
    assert MessageToDict(config.log_format.json_format) == FIELDS


@pytest.mark.parametrize("filters", [[], [wr.http_filter("m", wr.struct_any("io.istio.http.peer_metadata.Config"))]])
def test_a_manager_that_istiod_wants_no_metrics_of_gets_no_log(filters: list[Any]) -> None:
    assert [log.name for log in manager_after([*filters, wr.router()], OTHER_LOG).access_log] == [
        "envoy.access_loggers.stdout"
    ]


def test_each_manager_is_looked_at_on_its_own() -> None:
    chains = {"a": [wr.manager([STATS, wr.router()])], "b": [wr.manager([wr.router()])]}
    value = rewrite_listener(wr.listener("l", chains).SerializeToString(), KNOWN, LOG)[0]
    managers = [
        HttpConnectionManager.FromString(chain.filters[0].typed_config.value)
        for chain in listener_pb2.Listener.FromString(value).filter_chains
    ]
    assert [len(manager.access_log) for manager in managers] == [1, 0]


def state_after(*values: value_pb2.FilterStateValue) -> list[value_pb2.FilterStateValue]:
    manager = manager_after([wr.state_http(*values), wr.router()])
    return list(set_filter_state_pb2.Config.FromString(manager.http_filters[0].typed_config.value).on_request_headers)


@pytest.mark.parametrize("sharing", ["ONCE", "TRANSITIVE", "NONE"])
def test_the_baggage_is_shared_as_the_identity_is(sharing: str) -> None:
    identity = wr.state_value(wr.PRINCIPAL_KEY, "envoy.string", "%DOWNSTREAM_PEER_URI_SAN%")
    identity.shared_with_upstream = value_pb2.FilterStateValue.SharedWithUpstream.Value(sharing)
    expected = wr.state_value(SOURCE_BAGGAGE, "envoy.hashable_string", "%REQ(baggage)%")
    expected.shared_with_upstream = identity.shared_with_upstream
    assert state_after(wr.state_value("somebody.else"), identity)[1:] == [identity, expected]


def test_without_an_identity_no_baggage_is_kept() -> None:
    other = wr.state_value("somebody.else")
    assert state_after(other) == [other]


def test_a_text_given_as_bytes_is_not_mixed_with_ours() -> None:
    identity = wr.state_value(wr.PRINCIPAL_KEY, "envoy.string")
    identity.format_string.text_format_source.inline_bytes = b"%DOWNSTREAM_PEER_URI_SAN%"
    baggage = state_after(identity)[1]
    assert baggage.format_string.text_format_source.inline_string == "%REQ(baggage)%"
