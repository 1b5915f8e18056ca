# For the embedded provider alone: waypoint-like Listeners and Clusters for the tests.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Written as dictionaries in protobuf's JSON form; types that no class exists for are added as raw Any."""

from __future__ import annotations

from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain, ListenerFilter
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2 as http_state_pb2
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from envoy.extensions.filters.network.set_filter_state.v3 import set_filter_state_pb2 as network_state_pb2
from envoy.extensions.transport_sockets.internal_upstream.v3 import internal_upstream_pb2
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from udpa.type.v1.typed_struct_pb2 import TypedStruct

PREFIX = "type.googleapis.com/"
PRINCIPAL_KEY = "io.istio.peer_principal"
# The classes that only a JSON "@type" names; importing their modules registers them.
REGISTERED = (
    http_rbac_pb2.RBAC,
    router_pb2.Router,
    original_dst_pb2.OriginalDst,
    internal_upstream_pb2.InternalUpstreamTransport,
    raw_buffer_pb2.RawBuffer,
    tls_pb2.DownstreamTlsContext,
    http_protocol_options_pb2.HttpProtocolOptions,
)


def any_of(message: Message) -> AnyMessage:
    """Pack a message as Envoy wants it."""
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def raw_any(type_name: str, value: bytes = b"") -> AnyMessage:
    """Return an Any of a type that has no class here."""
    return AnyMessage(type_url=PREFIX + type_name, value=value)


def struct_any(type_name: str) -> AnyMessage:
    """Return an Any in a TypedStruct, the way istiod sends the filters of Istio's own Envoy."""
    return any_of(TypedStruct(type_url=PREFIX + type_name))


def http_filter(name: str, config: AnyMessage, **fields: Any) -> HttpFilter:
    """Return one filter of a connection manager."""
    return HttpFilter(name=name, typed_config=config, **fields)


def network_filter(name: str, config: AnyMessage) -> Filter:
    """Return one filter of a filter chain."""
    return Filter(name=name, typed_config=config)


def listener_filter(name: str, config: AnyMessage) -> ListenerFilter:
    """Return one filter of a Listener."""
    return ListenerFilter(name=name, typed_config=config)


def router() -> HttpFilter:
    """Return the filter that ends every chain."""
    return http_filter("envoy.filters.http.router", any_of(router_pb2.Router()))


def rbac_http(rule: dict[str, Any] | None = None, **fields: Any) -> HttpFilter:
    """Return an authorization filter; the rule is config.rbac.v3.RBAC."""
    config = ParseDict({"rules": rule or {"action": "DENY"}}, http_rbac_pb2.RBAC())
    return http_filter("envoy.filters.http.rbac", any_of(config), **fields)


def rbac_network() -> Filter:
    """Return an authorization filter for TCP."""
    config = ParseDict({"rules": {"action": "DENY"}, "stat_prefix": "tcp."}, network_rbac_pb2.RBAC())
    return network_filter("envoy.filters.network.rbac", any_of(config))


def state_value(key: str, factory: str = "", text: str = "x") -> value_pb2.FilterStateValue:
    """Return one value that a set_filter_state filter shares with the next hop."""
    document = {
        "object_key": key,
        "factory_key": factory,
        "shared_with_upstream": "ONCE",
        "format_string": {"text_format_source": {"inline_string": text}},
    }
    return ParseDict(document, value_pb2.FilterStateValue())


def state_http(*values: value_pb2.FilterStateValue) -> HttpFilter:
    """Return a set_filter_state filter for requests."""
    return http_filter("connect_authority", any_of(http_state_pb2.Config(on_request_headers=values)))


def state_network(*values: value_pb2.FilterStateValue) -> Filter:
    """Return a set_filter_state filter for connections."""
    return network_filter("connect_authority", any_of(network_state_pb2.Config(on_new_connection=values)))


def manager(filters: list[HttpFilter], document: dict[str, Any] | None = None) -> Filter:
    """Return a connection manager with these filters; the document holds its other fields."""
    config = ParseDict({"stat_prefix": "test", **(document or {})}, HttpConnectionManager())
    config.http_filters.extend(filters)
    return network_filter("envoy.filters.network.http_connection_manager", any_of(config))


def listener(name: str, chains: dict[str, list[Filter]], document: dict[str, Any] | None = None) -> Listener:
    """Return a Listener with these filter chains; the document holds its other fields."""
    message = ParseDict({"name": name, **(document or {})}, Listener())
    message.filter_chains.extend(FilterChain(name=chain, filters=filters) for chain, filters in chains.items())
    return message


def cluster(document: dict[str, Any]) -> Cluster:
    """Return a Cluster from its JSON form."""
    return ParseDict(document, Cluster())
