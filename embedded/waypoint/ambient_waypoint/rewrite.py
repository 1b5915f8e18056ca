# For the embedded provider alone: changes Listeners so that upstream Envoy can run them (pure functions).
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A filter that this Envoy lacks is dropped if it only observes, and otherwise the whole Listener is refused.

Dropping an authorization filter would open what a policy closes, and nobody could tell from outside. So what
may be dropped is a short, explicit list, and everything else that is unknown counts as authorization.
In the place of Istio's stats filter comes an access log (telemetry.py).
"""

from __future__ import annotations

from collections.abc import MutableSequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from waypoint_xds_pb2 import (
    AccessLog,
    DeltaResponse,
    Filter,
    FilterChain,
    HttpConnectionManager,
    Listener,
    ListenerFilter,
    SetFilterState,
    StateResponse,
    TypedStruct,
)

from ambient_waypoint.extensions import DROPPABLE, Extensions
from ambient_waypoint.telemetry import STATS_FILTER, baggage_value

LISTENER_TYPE: Final = "type.googleapis.com/envoy.config.listener.v3.Listener"
CONNECTION_MANAGER: Final = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
SET_FILTER_STATE: Final = frozenset(
    {
        "envoy.extensions.filters.http.set_filter_state.v3.Config",
        "envoy.extensions.filters.network.set_filter_state.v3.Config",
    }
)
_Filter = TypeVar("_Filter", Filter, ListenerFilter)
TYPED_STRUCTS: Final = frozenset({"udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"})


class Place(NamedTuple):
    """One filter of one Listener."""

    listener: str
    chain: str
    filter: str
    types: tuple[str, ...]

    def __str__(self) -> str:
        types = ",".join(self.types) or "(none)"
        return f"listener={self.listener!r} chain={self.chain!r} filter={self.filter!r} type={types}"


class Refused(Exception):
    """A Listener needs something that this Envoy lacks and that may guard traffic, or it cannot be read."""

    @classmethod
    def at(cls, places: list[Place]) -> Refused:
        """Name every filter in the way."""
        return cls("; ".join(f"this Envoy lacks a filter that may guard traffic: {place}" for place in places))


@dataclass
class _Rewriting:
    """The way through one Listener and what was found on it."""

    known: Extensions
    listener: str
    request_log: AccessLog
    dropped: list[Place] = field(default_factory=list)
    refused: list[Place] = field(default_factory=list)

    def chain(self, chain: FilterChain) -> bool:
        changed = self.drop(chain.filters, self.known.network, chain.name)
        for network_filter in chain.filters:
            own_type = _short(network_filter.typed_config.type_url)
            if own_type == CONNECTION_MANAGER:
                changed |= self.connection_manager(network_filter.typed_config, chain.name)
            elif own_type in SET_FILTER_STATE:
                changed |= self.filter_state(network_filter.typed_config)
        return changed

    def connection_manager(self, config: AnyMessage, chain: str) -> bool:
        manager = HttpConnectionManager.FromString(config.value)
        before = len(self.dropped)
        changed = self.drop(manager.http_filters, self.known.http, chain)
        if any(STATS_FILTER in place.types for place in self.dropped[before:]):
            manager.access_log.append(self.request_log)
        for http_filter in manager.http_filters:
            if _short(http_filter.typed_config.type_url) in SET_FILTER_STATE:
                changed |= self.filter_state(http_filter.typed_config, requests=True)
        if changed:
            config.value = manager.SerializeToString()
        return changed

    def filter_state(self, config: AnyMessage, *, requests: bool = False) -> bool:
        state = SetFilterState.FromString(config.value)
        changed = False
        baggage = baggage_value(state, self.known.string_factory()) if requests else None
        for value in state.values:
            factory = self.known.factory_for(value.object_key, value.factory_key)
            if factory != value.factory_key:
                value.factory_key = factory
                changed = True
        if baggage is not None:
            state.values.append(baggage)
            changed = True
        if changed:
            config.value = state.SerializeToString()
        return changed

    def drop(self, filters: MutableSequence[_Filter], known: frozenset[str], chain: str) -> bool:
        before = len(filters)
        for index in reversed(range(before)):
            types = _types(filters[index])
            if types and known.issuperset(types):
                continue
            place = Place(self.listener, chain, filters[index].name, types)
            if types and DROPPABLE.issuperset(types):
                self.dropped.append(place)
                del filters[index]
            else:
                self.refused.append(place)
        return len(filters) != before


def rewrite_listener(value: bytes, known: Extensions, request_log: AccessLog) -> tuple[bytes, list[Place]]:
    """Return the Listener for this Envoy and what was dropped from it; raises Refused.

    `request_log` is what a connection manager gets for a dropped stats filter.
    The bytes are the given ones if nothing had to change.
    """
    try:
        listener = Listener.FromString(value)
        way = _Rewriting(known, listener.name, request_log)
        changed = way.drop(listener.listener_filters, known.listener, "(listener filters)")
        for chain in listener.filter_chains:
            changed |= way.chain(chain)
        if listener.HasField("default_filter_chain"):
            changed |= way.chain(listener.default_filter_chain)
    except DecodeError as error:
        raise Refused(f"a Listener cannot be read: {error}") from error
    if way.refused:
        raise Refused.at(way.refused)
    return (listener.SerializeToString() if changed else value), way.dropped


def rewrite_response(
    response: DeltaResponse | StateResponse, known: Extensions, request_log: AccessLog
) -> tuple[bool, list[Place]]:
    """Change the Listeners of a response in place as rewrite_listener does; raises Refused.

    Returns whether any changed, and what was dropped.
    """
    changed = False
    dropped: list[Place] = []
    for resource in _resources(response):
        if resource.type_url != LISTENER_TYPE:
            continue
        value, gone = rewrite_listener(resource.value, known, request_log)
        dropped += gone
        if value != resource.value:
            resource.value = value
            changed = True
    return changed, dropped


def _resources(response: DeltaResponse | StateResponse) -> list[AnyMessage]:
    if isinstance(response, DeltaResponse):
        return [resource.resource for resource in response.resources]
    return list(response.resources)


def _types(item: Filter | ListenerFilter) -> tuple[str, ...]:
    """Return every type the filter may have: its own, or those it may get by extension config discovery."""
    if item.HasField("config_discovery"):
        discovery = item.config_discovery
        default = (_type(discovery.default_config),) if discovery.HasField("default_config") else ()
        return (*map(_short, discovery.type_urls), *default)
    return (_type(item.typed_config),) if item.HasField("typed_config") else ()


def _type(config: AnyMessage) -> str:
    name = _short(config.type_url)
    if name in TYPED_STRUCTS:
        return _short(TypedStruct.FromString(config.value).type_url)
    return name


def _short(type_url: str) -> str:
    return type_url.rpartition("/")[2]
