# A Kiali in memory: counters that requests raise, samples of them, and the graph that Prometheus' rate() would give.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._graph.http import Kiali, Reply
from ansible_collections.ambient.lab.plugins.module_utils._graph.parse import GraphClaim, parse_graph_claims
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Answer, FakeEdge, Object, pod

# What the server's clock shows when the edge's shows 0: nobody may mix them up.
SERVER_START = 1_800_000_000.4
SERVICE: Object = {
    "kind": "Service",
    "metadata": {"name": "sample-app", "namespace": "default"},
    "spec": {"selector": {"app": "sample-app"}, "ports": [{"port": 8080}]},
}


@dataclasses.dataclass(frozen=True)
class Flow:
    """An edge as a test writes it; a name with `service:` before it is a Service, one with a slash has a namespace."""

    source: str
    target: str
    protocol: str = "tcp"
    rate: float = 92.0
    codes: tuple[str, ...] = ()
    mtls: int | None = None


def graph_claim(name: str = "a claim", source: object = "curl-allow", **fields: t.Any) -> Object:
    """A claim as a user writes it; `source` stands for `from`."""
    return {"name": name, "from": source, "to": "sample-app-blue", "expect": "edge", **fields}


def graph_claims(*raw: Object, namespaces: t.Sequence[str] = ("default",)) -> tuple[GraphClaim, ...]:
    """Parsed claims in namespace default."""
    return parse_graph_claims(list(raw), "default", namespaces)


def raw_graph(*flows: Flow, time: int = 1_800_000_010, duration: int = 5) -> Object:
    """Kiali's answer (v1.89.0, graph/config/cytoscape/cytoscape.go) with these edges."""
    nodes: dict[str, Object] = {}
    edges = []
    for number, flow in enumerate(flows):
        ends = [_node(nodes, name) for name in (flow.source, flow.target)]
        rates = {flow.protocol: f"{flow.rate:.2f}"} if flow.rate else {}
        traffic: Object = {"protocol": flow.protocol, "rates": rates}
        if flow.codes:
            traffic["responses"] = {code: {"flags": {"-": "50.0"}, "hosts": {}} for code in flow.codes}
        bad = [code for code in flow.codes if code >= "400"]
        if bad:
            rates[f"{flow.protocol}PercentErr"] = f"{100 * len(bad) / len(flow.codes):.1f}"
        data: Object = {"id": f"e{number}", "source": ends[0], "target": ends[1], "traffic": traffic}
        if flow.mtls is not None:
            # A share of zero is left out; both ends are known from the same series.
            data |= {"sourcePrincipal": "unknown", "destPrincipal": "spiffe://cluster.local/ns/default/sa/sample-app"}
            data |= {"isMTLS": str(flow.mtls)} if flow.mtls else {}
        edges.append({"data": data})
    elements = {"nodes": [{"data": data} for data in nodes.values()], "edges": edges}
    return {"timestamp": time, "duration": duration, "graphType": "workload", "elements": elements}


def _node(nodes: dict[str, Object], text: str) -> str:
    kind, _colon, name = text.rpartition(":")
    namespace, _slash, name = name.rpartition("/")
    if text not in nodes:
        data: Object = {"id": f"n{len(nodes)}", "nodeType": kind or "workload", "namespace": namespace or "default"}
        data["service" if kind == "service" else "workload"] = name
        if name == "waypoint":
            data["isWaypoint"] = True
        nodes[text] = data
    return str(nodes[text]["id"])


class FakeKiali(Kiali):
    """Draws what Prometheus would have sampled of the counted requests, each `scrape` seconds on the server's clock.

    Args:
        edge: whose clock goes on with each look at it.
    """

    def __init__(self, edge: FakeEdge, scrape: float = 1.0) -> None:
        self.edge, self.scrape = edge, scrape
        self.problem = Reply()
        self.windows: list[tuple[int, int, bool]] = []
        self._counted: list[tuple[float, Flow]] = []

    @property
    def time(self) -> float:
        """The server's time now."""
        return SERVER_START + self.edge.clock

    def count(self, flow: Flow, at: float | None = None) -> None:
        """A request that a proxy counts, now or at some time of the server."""
        self._counted.append((self.time if at is None else at, flow))

    def config(self) -> Reply:
        """How often Prometheus samples."""
        return self._reply({"prometheus": {"globalScrapeInterval": self.scrape}})

    def graph(self, namespaces: t.Sequence[str], start: int, end: int, inject: bool) -> Reply:
        """Edges whose counter rises between two samples in the window."""
        assert start < end <= self.time
        self.windows.append((start, end, inject))
        samples = [number * self.scrape for number in range(int(start / self.scrape), int(end / self.scrape) + 1)]
        samples = [at for at in samples if start < at <= end]
        seen = {
            flow: sum(samples[0] < at <= samples[-1] for at, other in self._counted if other == flow) if samples else 0
            for flow in dict.fromkeys(flow for _at, flow in self._counted)
        }
        flows = [
            dataclasses.replace(flow, rate=increase / (end - start))
            for flow, increase in seen.items()
            if increase and (inject or "service:" not in flow.source + flow.target)
        ]
        return self._reply(raw_graph(*flows, time=end, duration=end - start))

    def _reply(self, body: Object) -> Reply:
        return self.problem if self.problem.problem else Reply(body, date=float(int(self.time)), reached=True)


def lab(
    answers: t.Callable[[FakeKiali, str, int, str], Answer | None], scrape: float = 1.0
) -> tuple[FakeEdge, FakeKiali]:
    """A cluster with curl-allow, curl-deny and one workload behind the Service sample-app, and its Kiali.

    Args:
        answers: what a request gets, by pod, round and method; it counts what a proxy would.
    """
    edge = FakeEdge([], lambda name, number, method, _url: answers(kiali, name, number, method))
    kiali = FakeKiali(edge, scrape)
    app = pod("sample-app-blue-7c-x", labels={"app": "sample-app", "pod-template-hash": "7c"})
    app["metadata"] |= {
        "generateName": "sample-app-blue-7c-",
        "ownerReferences": [{"kind": "ReplicaSet", "name": "sample-app-blue-7c", "controller": True}],
    }
    edge.objects = [pod("curl-allow"), pod("curl-deny"), app]
    edge.services = [SERVICE]
    return edge, kiali
