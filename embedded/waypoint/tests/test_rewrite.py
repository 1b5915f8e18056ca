# For the embedded provider alone: what the waypoint's relay keeps, drops, changes and refuses.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tables over real Listener messages; the expectations are Envoy's and istiod's, not this package's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import waypoint_resources as wr
from ambient_waypoint.extensions import DROPPABLE, Extensions
from ambient_waypoint.rewrite import LISTENER_TYPE, Refused, rewrite_listener, rewrite_response
from ambient_waypoint.telemetry import SOURCE_BAGGAGE, request_log
from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import base_pb2, config_source_pb2, substitution_format_string_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2 as http_state_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.set_filter_state.v3 import set_filter_state_pb2 as network_state_pb2
from envoy.service.discovery.v3 import discovery_pb2
from udpa.type.v1 import typed_struct_pb2
from waypoint_xds_pb2 import DESCRIPTOR, DeltaResponse, Node, StateResponse

KNOWN = Extensions(
    http=frozenset(
        {
            "envoy.extensions.filters.http.rbac.v3.RBAC",
            "envoy.extensions.filters.http.router.v3.Router",
            "envoy.extensions.filters.http.set_filter_state.v3.Config",
        }
    ),
    network=frozenset(
        {
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "envoy.extensions.filters.network.rbac.v3.RBAC",
            "envoy.extensions.filters.network.set_filter_state.v3.Config",
        }
    ),
    listener=frozenset({"envoy.extensions.filters.listener.original_dst.v3.OriginalDst"}),
    filter_state=frozenset({"envoy.string", "envoy.hashable_string", "envoy.filters.listener.original_dst.local_ip"}),
)
LOG = request_log(Path("/etc/istio/proxy/requests"))
PEER_METADATA = "io.istio.http.peer_metadata.Config"
METADATA_EXCHANGE = "envoy.tcp.metadataexchange.config.MetadataExchange"


def rewritten(message: listener_pb2.Listener, known: Extensions = KNOWN) -> listener_pb2.Listener:
    value, _ = rewrite_listener(message.SerializeToString(deterministic=True), known, LOG)
    return listener_pb2.Listener.FromString(value)


def http_filters(message: listener_pb2.Listener, chain: int = 0) -> list[str]:
    filters = message.filter_chains[chain].filters[-1]
    config = http_connection_manager_pb2.HttpConnectionManager.FromString(filters.typed_config.value)
    return [http_filter.name for http_filter in config.http_filters]


@pytest.mark.parametrize("wrap", [wr.raw_any, wr.struct_any], ids=["plain", "typed struct"])
@pytest.mark.parametrize("type_name", sorted(DROPPABLE))
def test_observing_http_filters_are_dropped_and_the_rest_stays_in_order(type_name: str, wrap: Any) -> None:
    gone = wr.http_filter("observer", wrap(type_name))
    message = wr.listener("main_internal", {"inbound": [wr.manager([gone, wr.rbac_http(), gone, wr.router()])]})
    value, dropped = rewrite_listener(message.SerializeToString(), KNOWN, LOG)
    assert http_filters(listener_pb2.Listener.FromString(value)) == [
        "envoy.filters.http.rbac",
        "envoy.filters.http.router",
    ]
    assert {str(place) for place in dropped} == {
        f"listener='main_internal' chain='inbound' filter='observer' type={type_name}"
    }


def test_observing_network_filters_are_dropped() -> None:
    gone = wr.network_filter("istio.metadata_exchange", wr.struct_any(METADATA_EXCHANGE))
    message = wr.listener("main_internal", {"tcp": [gone, wr.rbac_network()]})
    message.default_filter_chain.filters.extend([gone, wr.rbac_network()])
    result = rewritten(message)
    assert [f.name for f in result.filter_chains[0].filters] == ["envoy.filters.network.rbac"]
    assert [f.name for f in result.default_filter_chain.filters] == ["envoy.filters.network.rbac"]


def test_what_envoy_has_is_never_dropped() -> None:
    known = Extensions(
        http=KNOWN.http | DROPPABLE,
        network=KNOWN.network | DROPPABLE,
        listener=KNOWN.listener,
        filter_state=KNOWN.filter_state,
    )
    message = wr.listener("l", {"c": [wr.manager([wr.http_filter("m", wr.struct_any(PEER_METADATA)), wr.router()])]})
    assert rewrite_listener(message.SerializeToString(), known, LOG) == (message.SerializeToString(), [])


UNKNOWN_FILTERS = {
    "http": {"c": [wr.manager([wr.http_filter("future", wr.raw_any("io.istio.Future")), wr.router()])]},
    "http, optional": {"c": [wr.manager([wr.http_filter("future", wr.raw_any("io.istio.Future"), is_optional=True)])]},
    "http, disabled": {"c": [wr.manager([wr.http_filter("future", wr.raw_any("io.istio.Future"), disabled=True)])]},
    "http, typed struct": {"c": [wr.manager([wr.http_filter("future", wr.struct_any("io.istio.Future"))])]},
    "http, named like an observer": {"c": [wr.manager([wr.http_filter("istio.stats", wr.raw_any("io.istio.Future"))])]},
    "http, no type": {"c": [wr.manager([http_connection_manager_pb2.HttpFilter(name="future")])]},
    "http, a network filter's type": {"c": [wr.manager([wr.http_filter("future", wr.rbac_network().typed_config)])]},
    "network": {"c": [wr.network_filter("future", wr.raw_any("io.istio.Future"))]},
    "second chain": {
        "a": [wr.rbac_network()],
        "c": [wr.network_filter("future", wr.raw_any("io.istio.Future"))],
    },
    "istio_authn": {
        "c": [
            wr.manager(
                [wr.http_filter("future", wr.raw_any("istio.envoy.config.filter.http.authn.v2alpha2.FilterConfig"))]
            )
        ]
    },
}


@pytest.mark.parametrize("chains", UNKNOWN_FILTERS.values(), ids=UNKNOWN_FILTERS.keys())
def test_any_other_unknown_filter_refuses_the_listener_by_name(chains: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=r"listener='main_internal' chain='c' filter='(future|istio\.stats)'"):
        rewrite_listener(wr.listener("main_internal", chains).SerializeToString(), KNOWN, LOG)


def test_every_filter_in_the_way_is_named() -> None:
    unknown = [wr.http_filter(name, wr.raw_any(f"io.istio.{name}")) for name in ("One", "Two")]
    with pytest.raises(Refused) as caught:
        rewrite_listener(wr.listener("l", {"c": [wr.manager(unknown)]}).SerializeToString(), KNOWN, LOG)
    assert "filter='One' type=io.istio.One" in str(caught.value)
    assert "filter='Two' type=io.istio.Two" in str(caught.value)


AUTHORIZATION = [
    "envoy.extensions.filters.http.rbac.v3.RBAC",
    "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
    "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
    "envoy.extensions.filters.http.oauth2.v3.OAuth2",
    "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
    "envoy.extensions.filters.http.wasm.v3.Wasm",
    "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
    "envoy.extensions.filters.network.rbac.v3.RBAC",
    "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz",
    "istio.envoy.config.filter.http.authn.v2alpha2.FilterConfig",
]


@pytest.mark.parametrize("type_name", AUTHORIZATION)
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("layer", ["http", "network"])
def test_a_filter_that_guards_is_kept_or_refused_but_never_dropped(type_name: str, layer: str, known: bool) -> None:
    assert type_name not in DROPPABLE
    types = frozenset({type_name}) if known else frozenset[str]()
    extensions = Extensions(
        http=KNOWN.http - {type_name} | types,
        network=KNOWN.network - {type_name} | types,
        listener=KNOWN.listener,
        filter_state=KNOWN.filter_state,
    )
    guard = wr.raw_any(type_name, b"\x0a\x05guard")
    if layer == "http":
        message = wr.listener("l", {"c": [wr.manager([wr.http_filter("guard", guard), wr.router()])]})
    else:
        message = wr.listener("l", {"c": [wr.network_filter("guard", guard)]})
    if not known:
        with pytest.raises(Refused, match=type_name):
            rewrite_listener(message.SerializeToString(), extensions, LOG)
        return
    assert rewritten(message, extensions) == message


def test_unknown_listener_filters_are_refused() -> None:
    message = wr.listener("l", {"c": [wr.rbac_network()]})
    message.listener_filters.append(wr.listener_filter("future", wr.raw_any("io.istio.Future")))
    with pytest.raises(Refused, match=r"filter='future' type=io\.istio\.Future"):
        rewrite_listener(message.SerializeToString(), KNOWN, LOG)


def discovered(*types: str) -> http_connection_manager_pb2.HttpFilter:
    source = config_source_pb2.ExtensionConfigSource(type_urls=[wr.PREFIX + name for name in types])
    return http_connection_manager_pb2.HttpFilter(name="discovered", config_discovery=source)


@pytest.mark.parametrize(
    ("types", "outcome"),
    [
        (["envoy.extensions.filters.http.rbac.v3.RBAC"], "kept"),
        ([PEER_METADATA], "dropped"),
        (["io.istio.Future"], "refused"),
        (["envoy.extensions.filters.http.rbac.v3.RBAC", "io.istio.Future"], "refused"),
        ([PEER_METADATA, "io.istio.Future"], "refused"),
        ([], "refused"),
    ],
)
def test_filters_whose_configuration_comes_later(types: list[str], outcome: str) -> None:
    message = wr.listener("l", {"c": [wr.manager([discovered(*types), wr.router()])]})
    if outcome == "refused":
        with pytest.raises(Refused, match="discovered"):
            rewritten(message)
        return
    assert ("discovered" in http_filters(rewritten(message))) is (outcome == "kept")


@pytest.mark.parametrize(
    ("key", "factory", "expected"),
    [
        ("io.istio.peer_principal", "", "envoy.hashable_string"),
        ("io.istio.peer_principal", "istio.hashable_string", "envoy.hashable_string"),
        ("io.istio.peer_principal", "envoy.string", "envoy.string"),
        ("istio.double_hbone.hbone_target_address", "istio.hashable_string", "envoy.hashable_string"),
        ("envoy.filters.listener.original_dst.local_ip", "", ""),
        ("somebody.else", "", ""),
        ("somebody.else", "unknown.factory", "unknown.factory"),
    ],
)
def test_filter_state_of_istio_gets_a_factory_that_envoy_has(key: str, factory: str, expected: str) -> None:
    value = wr.state_value(key, factory)
    message = wr.listener("l", {"c": [wr.state_network(value), wr.manager([wr.state_http(value), wr.router()])]})
    result = rewritten(message).filter_chains[0]
    wanted = value_pb2.FilterStateValue.FromString(value.SerializeToString())
    wanted.factory_key = expected
    network = network_state_pb2.Config.FromString(result.filters[0].typed_config.value)
    assert list(network.on_new_connection) == [wanted]
    config = http_connection_manager_pb2.HttpConnectionManager.FromString(result.filters[1].typed_config.value)
    http = http_state_pb2.Config.FromString(config.http_filters[0].typed_config.value)
    assert [value for value in http.on_request_headers if value.object_key != SOURCE_BAGGAGE] == [wanted]


def test_without_the_hashable_factory_the_plain_one_is_taken() -> None:
    known = Extensions(KNOWN.http, KNOWN.network, KNOWN.listener, frozenset({"envoy.string"}))
    assert known.factory_for("io.istio.peer_principal", "istio.hashable_string") == "envoy.string"


def field(number: int, value: bytes) -> bytes:
    """Encode a length-delimited field of a message that nobody knows."""
    tag = number << 3 | 2
    return bytes([tag & 0x7F | 0x80, tag >> 7]) + bytes([len(value)]) + value


def test_nothing_but_the_dropped_filter_changes() -> None:
    gone = wr.http_filter("observer", wr.struct_any(PEER_METADATA))
    document = {
        "server_name": "istio-envoy",
        "route_config": {"name": "default"},
        "use_remote_address": False,
    }
    fields = {"internal_listener": {}, "traffic_direction": "INBOUND"}
    kept = [wr.rbac_http(), wr.router()]
    result = rewritten(wr.listener("l", {"c": [wr.manager([gone, *kept], document)]}, fields))
    config = result.filter_chains[0].filters[0].typed_config
    # The fields this package does not know come after those it does: the same message in another order.
    config.CopyFrom(wr.any_of(http_connection_manager_pb2.HttpConnectionManager.FromString(config.value)))
    assert result == wr.listener("l", {"c": [wr.manager(kept, document)]}, fields)


def test_fields_of_a_future_envoy_survive_byte_for_byte() -> None:
    gone = wr.http_filter("observer", wr.struct_any(PEER_METADATA)).SerializeToString()
    router = wr.router().SerializeToString() + field(200, b"router")
    manager = b"\x2a" + bytes([len(gone)]) + gone + b"\x2a" + bytes([len(router)]) + router + field(201, b"manager")
    config = wr.raw_any("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", manager)
    chain = listener_components_pb2.FilterChain(filters=[wr.network_filter("hcm", config)]).SerializeToString()
    chain += field(202, b"chain")
    message = (
        b"\x0a\x01l" + b"\x1a" + bytes([len(chain) & 0x7F | 0x80, len(chain) >> 7]) + chain + field(203, b"listener")
    )
    value, dropped = rewrite_listener(message, KNOWN, LOG)
    assert len(dropped) == 1
    for number, name in ((200, b"router"), (201, b"manager"), (202, b"chain"), (203, b"listener")):
        assert value.count(field(number, name)) == 1
    assert router in value
    assert gone not in value


def test_an_untouched_listener_keeps_its_bytes() -> None:
    # Fields in an order that no serializer would choose: equal bytes can only be the same bytes.
    message = wr.listener("l", {"c": [wr.rbac_network()]}).SerializeToString()
    odd = field(203, b"first") + message
    assert rewrite_listener(odd, KNOWN, LOG) == (odd, [])


@pytest.mark.parametrize("value", [b"\xff", b"\x0a\x05ab"])
def test_what_cannot_be_read_is_refused(value: bytes) -> None:
    with pytest.raises(Refused, match="cannot be read"):
        rewrite_listener(value, KNOWN, LOG)


def listener_resource() -> tuple[bytes, bytes]:
    gone = wr.http_filter("observer", wr.struct_any(PEER_METADATA))
    before = wr.listener("l", {"c": [wr.manager([gone, wr.router()])]}).SerializeToString()
    return before, rewrite_listener(before, KNOWN, LOG)[0]


def test_delta_and_state_of_the_world_responses_are_rewritten() -> None:
    before, after = listener_resource()
    resource = wr.raw_any("envoy.config.listener.v3.Listener", before)
    removed = ["gone"]
    official = discovery_pb2.DeltaDiscoveryResponse(
        system_version_info="v1",
        type_url=LISTENER_TYPE,
        nonce="n",
        removed_resources=removed,
        resources=[
            discovery_pb2.Resource(name="l", version="7", resource=resource),
            discovery_pb2.Resource(name="ttl"),
        ],
    )
    delta = DeltaResponse.FromString(official.SerializeToString())
    changed, dropped = rewrite_response(delta, KNOWN, LOG)
    assert (changed, len(dropped)) == (True, 1)
    official.resources[0].resource.value = after
    assert discovery_pb2.DeltaDiscoveryResponse.FromString(delta.SerializeToString()) == official

    whole = discovery_pb2.DiscoveryResponse(version_info="v1", type_url=LISTENER_TYPE, nonce="n", resources=[resource])
    state = StateResponse.FromString(whole.SerializeToString())
    assert rewrite_response(state, KNOWN, LOG)[0]
    whole.resources[0].value = after
    assert discovery_pb2.DiscoveryResponse.FromString(state.SerializeToString()) == whole


def test_an_envoy_that_has_said_nothing_gets_no_listener() -> None:
    with pytest.raises(Refused):
        rewrite_listener(wr.listener("l", {"c": [wr.rbac_network()]}).SerializeToString(), Extensions.none(), LOG)


def test_extensions_come_from_the_node_and_disabled_ones_do_not_count() -> None:
    node = base_pb2.Node(id="waypoint")
    node.extensions.add(name="a", category="envoy.filters.http", type_urls=["a.Old", "a.New"])
    node.extensions.add(name="b", category="envoy.filters.http", type_urls=["b.B"], disabled=True)
    node.extensions.add(name="c", category="envoy.filters.network", type_urls=["c.C"])
    node.extensions.add(name="d", category="envoy.filters.listener", type_urls=["d.D"])
    node.extensions.add(name="envoy.string", category="filter_state.object")
    assert Extensions.of(Node.FromString(node.SerializeToString())) == Extensions(
        http=frozenset({"a.Old", "a.New"}),
        network=frozenset({"c.C"}),
        listener=frozenset({"d.D"}),
        filter_state=frozenset({"envoy.string"}),
    )


OFFICIAL = {
    "Extension": [base_pb2.Extension],
    "Node": [base_pb2.Node],
    "DeltaRequest": [discovery_pb2.DeltaDiscoveryRequest],
    "DeltaResource": [discovery_pb2.Resource],
    "DeltaResponse": [discovery_pb2.DeltaDiscoveryResponse],
    "StateRequest": [discovery_pb2.DiscoveryRequest],
    "StateResponse": [discovery_pb2.DiscoveryResponse],
    "ExtensionConfigSource": [config_source_pb2.ExtensionConfigSource],
    "Filter": [listener_components_pb2.Filter, http_connection_manager_pb2.HttpFilter],
    "ListenerFilter": [listener_components_pb2.ListenerFilter],
    "FilterChain": [listener_components_pb2.FilterChain],
    "Listener": [listener_pb2.Listener],
    "HttpConnectionManager": [http_connection_manager_pb2.HttpConnectionManager],
    "TypedStruct": [typed_struct_pb2.TypedStruct],
    "FilterStateValue": [value_pb2.FilterStateValue],
    "DataSource": [base_pb2.DataSource],
    "SubstitutionFormatString": [substitution_format_string_pb2.SubstitutionFormatString],
    "FileAccessLog": [file_pb2.FileAccessLog],
    "LogTypeFilter": [accesslog_pb2.LogTypeFilter],
    "AccessLogFilter": [accesslog_pb2.AccessLogFilter],
    "AccessLog": [accesslog_pb2.AccessLog],
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_our_messages_are_a_subset_of_envoys(name: str) -> None:
    for ours in DESCRIPTOR.message_types_by_name[name].fields:
        for official in OFFICIAL[name]:
            theirs = official.DESCRIPTOR.fields_by_name[ours.name]
            assert (theirs.number, theirs.type, theirs.is_repeated) == (
                ours.number,
                ours.type,
                ours.is_repeated,
            )


@pytest.mark.parametrize("official", [http_state_pb2.Config, network_state_pb2.Config])
def test_both_kinds_of_set_filter_state_hold_their_values_in_field_1(official: Any) -> None:
    (theirs,) = [f for f in official.DESCRIPTOR.fields if f.message_type is value_pb2.FilterStateValue.DESCRIPTOR]
    assert theirs.number == DESCRIPTOR.message_types_by_name["SetFilterState"].fields_by_name["values"].number
