# Reads Kiali's graph: nodes, and edges with protocol, rate, response codes and mTLS.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .._common.errors import LabError
from .._results.model import EdgeSeen
from .parse import End

NO_RESPONSE = "-"


@dataclasses.dataclass(frozen=True)
class Node:
    """A node of the graph. kind: Kiali's nodeType, workload, service or unknown among others."""

    id: str
    kind: str
    namespace: str
    name: str
    waypoint: bool = False
    outside: bool = False

    def is_end(self, end: End) -> bool:
        """Whether a claim means this node. Traffic from outside of the mesh comes from the workload unknown."""
        kind = "service" if self.kind == "service" else "workload"
        return (kind, self.namespace, self.name) == (end.kind, end.namespace, end.name)


@dataclasses.dataclass(frozen=True)
class Edge:
    """Traffic of one protocol between two nodes. rate: bytes per second of tcp, else requests per second.

    codes: HTTP statuses as Kiali writes them, "-" for no response. errors and mtls: percent of the traffic;
    mtls is None where Kiali does not know, because the destination's proxy has counted nothing of it.
    """

    source: Node
    target: Node
    protocol: str
    rate: float
    codes: tuple[str, ...] = ()
    errors: float = 0.0
    mtls: float | None = None

    def __str__(self) -> str:
        parts = [self.protocol or "no protocol", amount(self.rate, self.protocol), *self.codes]
        if self.mtls is not None:
            parts.append("mTLS" if self.mtls == 100 else f"{self.mtls:.0f}% mTLS")
        return " ".join(parts)

    def kept(self) -> EdgeSeen:
        """As results have it."""
        values = {key: getattr(self, key) for key in ("protocol", "rate", "errors", "mtls")}
        return EdgeSeen(**values, codes=list(self.codes))


@dataclasses.dataclass(frozen=True)
class Graph:
    """One answer of Kiali. time: Unix time of the window's end, duration: its length, both in seconds."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    time: int
    duration: int

    def between(self, source: End, target: End) -> list[Edge]:
        """The edges between two ends, one for each protocol (and cluster)."""
        return [edge for edge in self.edges if edge.source.is_end(source) and edge.target.is_end(target)]


def parse_graph(answer: object) -> Graph:
    """Read an answer of Kiali's api/namespaces/graph.

    Source of the format: Kiali v1.89.0, graph/config/cytoscape/cytoscape.go; later versions add fields.

    Raises:
        LabError: when it is no graph.
    """
    try:
        raw: t.Any = answer
        elements = raw["elements"]
        nodes = {item["data"]["id"]: _node(item["data"]) for item in elements.get("nodes") or []}
        edges = tuple(_edge(item["data"], nodes) for item in elements.get("edges") or [])
        return Graph(tuple(nodes.values()), edges, int(raw["timestamp"]), int(raw["duration"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}; it must be what its api/namespaces/graph answers"
        raise LabError(f"this is no graph of Kiali: {why}") from error


def amount(rate: float, protocol: str) -> str:
    """A rate with its unit."""
    unit = "/s"
    if protocol == "tcp":
        unit = " B/s"
        for larger in (" kB/s", " MB/s", " GB/s"):
            if rate < 1000:
                break
            rate, unit = rate / 1000, larger
    return (f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}") + unit


def _node(data: dict[str, t.Any]) -> Node:
    kind = str(data["nodeType"])
    names = [data.get("service")] if kind == "service" else [data.get("workload"), data.get("app"), data.get("service")]
    return Node(
        id=str(data["id"]),
        kind=kind,
        namespace=str(data.get("namespace") or ""),
        name=next((str(name) for name in names if name), kind),
        waypoint=bool(data.get("isWaypoint")),
        outside=bool(data.get("isOutside") or data.get("isInaccessible")),
    )


def _edge(data: dict[str, t.Any], nodes: t.Mapping[str, Node]) -> Edge:
    traffic = data.get("traffic") or {}
    protocol = str(traffic.get("protocol") or "")
    rates = traffic.get("rates") or {}
    codes = () if protocol == "tcp" else tuple(sorted(traffic.get("responses") or {}))
    return Edge(
        source=nodes[data["source"]],
        target=nodes[data["target"]],
        protocol=protocol,
        # Kiali leaves out a rate of zero.
        rate=float(rates.get(protocol) or 0),
        codes=codes,
        errors=float(rates.get(f"{protocol}PercentErr") or 0),
        mtls=_mtls(data),
    )


def _mtls(data: dict[str, t.Any]) -> float | None:
    """Kiali leaves out a share of zero, too; the principals it has from the same series (security_policy.go)."""
    if data.get("isMTLS"):
        return float(data["isMTLS"])
    return 0.0 if data.get("sourcePrincipal") or data.get("destPrincipal") else None
