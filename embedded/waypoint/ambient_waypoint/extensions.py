# For the embedded provider alone: what the running Envoy has, and what may be left out of its Listeners.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Envoy lists its extensions in the first request of an xDS stream (config.core.v3.Node, `extensions`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from waypoint_xds_pb2 import Node

# Observation only: they label metrics and decide nothing about a request. Nothing else is ever left out.
# Sources: istio.io/istio pilot/pkg/xds/filters/filters.go, pilot/pkg/model/telemetry.go.
DROPPABLE: Final = frozenset(
    {
        "envoy.extensions.network_filters.peer_metadata.Config",
        "envoy.tcp.metadataexchange.config.MetadataExchange",
        "io.istio.http.peer_metadata.Config",
        "stats.PluginConfig",
    }
)
# The hashable one does what Istio's own does: connections of different identities are not pooled together.
STRING_FACTORIES: Final = ("envoy.hashable_string", "envoy.string")
ISTIO_KEYS: Final = ("io.istio.", "istio.")


@dataclass(frozen=True)
class Extensions:
    """Type names (without `type.googleapis.com/`) by kind of filter, and names of filter state factories."""

    http: frozenset[str]
    network: frozenset[str]
    listener: frozenset[str]
    filter_state: frozenset[str]

    @classmethod
    def of(cls, node: Node) -> Extensions:
        """Read them from the node of a stream's first request."""
        enabled = [extension for extension in node.extensions if not extension.disabled]

        def types(category: str) -> frozenset[str]:
            return frozenset(name for e in enabled if e.category == category for name in e.type_urls)

        return cls(
            http=types("envoy.filters.http"),
            network=types("envoy.filters.network"),
            listener=types("envoy.filters.listener"),
            filter_state=frozenset(e.name for e in enabled if e.category == "filter_state.object"),
        )

    @classmethod
    def none(cls) -> Extensions:
        """Return those of an Envoy that has said nothing yet; with them every Listener is refused."""
        return cls(*[frozenset[str]()] * 4)

    def factory_for(self, object_key: str, factory_key: str) -> str:
        """Return the factory for a filter state: as configured, or that of strings for Istio's own keys."""
        if (factory_key or object_key) in self.filter_state or not object_key.startswith(ISTIO_KEYS):
            return factory_key
        return self.string_factory() or factory_key

    def string_factory(self) -> str:
        """Return the best factory for strings; empty without one, and Envoy then rejects what needs it."""
        return next((name for name in STRING_FACTORIES if name in self.filter_state), "")
