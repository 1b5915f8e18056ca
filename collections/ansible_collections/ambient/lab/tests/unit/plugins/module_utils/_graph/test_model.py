# Kiali's answer: nodes, edges, rates, codes, mTLS, and answers that are no graph.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._graph.model import Edge, Node, amount, parse_graph
from ansible_collections.ambient.lab.plugins.module_utils._graph.parse import End

# As Kiali v1.89.0 writes it: rates are text, a rate of zero is left out, a service has no workload.
ANSWER = {
    "timestamp": 1_800_000_010,
    "duration": 5,
    "graphType": "workload",
    "elements": {
        "nodes": [
            {"data": {"id": "a", "nodeType": "workload", "cluster": "c", "namespace": "layer7", "workload": "curl"}},
            {"data": {"id": "b", "nodeType": "service", "namespace": "layer7", "app": "x", "service": "sample-app"}},
            {"data": {"id": "c", "nodeType": "workload", "namespace": "layer7", "workload": "w", "isWaypoint": True}},
            {"data": {"id": "d", "nodeType": "unknown", "namespace": "unknown", "isInaccessible": True}},
            {"data": {"id": "e", "nodeType": "workload", "namespace": "x", "workload": "far", "isOutside": True}},
        ],
        "edges": [
            {
                "data": {
                    "id": "1",
                    "source": "a",
                    "target": "b",
                    "isMTLS": "100",
                    "traffic": {
                        "protocol": "http",
                        "rates": {
                            "http": "2.00",
                            "http4xx": "0.50",
                            "httpPercentErr": "25.0",
                            "httpPercentReq": "100.0",
                        },
                        "responses": {"403": {"flags": {"-": "25.0"}, "hosts": {}}, "200": {}},
                    },
                }
            },
            {
                "data": {
                    "id": "2",
                    "source": "a",
                    "target": "c",
                    "isMTLS": "50",
                    "traffic": {"protocol": "tcp", "rates": {"tcp": "92.31"}, "responses": {"-": {"flags": {}}}},
                }
            },
            {"data": {"id": "3", "source": "d", "target": "b", "traffic": {"protocol": "grpc"}}},
        ],
    },
}


def test_an_answer_of_kiali() -> None:
    graph = parse_graph(ANSWER)
    assert (graph.time, graph.duration) == (1_800_000_010, 5)
    curl, app, waypoint, unknown, far = graph.nodes
    assert (curl, app) == (Node("a", "workload", "layer7", "curl"), Node("b", "service", "layer7", "sample-app"))
    assert (waypoint.waypoint, unknown.outside, far.outside, unknown.name) == (True, True, True, "unknown")
    assert graph.edges == (
        Edge(curl, app, "http", 2.0, ("200", "403"), 25.0, 100.0),
        Edge(curl, waypoint, "tcp", 92.31, (), 0.0, 50.0),
        Edge(unknown, app, "grpc", 0.0),
    )
    assert [str(edge) for edge in graph.edges] == ["http 2/s 200 403 mTLS", "tcp 92 B/s 50% mTLS", "grpc 0/s"]


def test_between() -> None:
    graph = parse_graph(ANSWER)
    source, service = End("workload", "layer7", "curl"), End("service", "layer7", "sample-app")
    assert graph.between(source, service) == [graph.edges[0]]
    assert graph.between(End("workload", "unknown", "unknown"), service) == [graph.edges[2]]
    # The other way round, another namespace, a workload of the service's name.
    assert not graph.between(service, source)
    assert not graph.between(End("workload", "default", "curl"), service)
    assert not graph.between(source, End("workload", "layer7", "sample-app"))


def test_a_graph_without_anything() -> None:
    graph = parse_graph({"timestamp": 1, "duration": 2, "elements": {"nodes": [], "edges": None}})
    assert (graph.nodes, graph.edges) == ((), ())


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {},
        {"elements": {}},
        {"timestamp": 1, "duration": 1, "elements": {"nodes": [{"data": {}}]}},
        {"timestamp": 1, "duration": 1, "elements": {"edges": [{"data": {"source": "a", "target": "b"}}]}},
        {"timestamp": "soon", "duration": 1, "elements": {}},
    ],
)
def test_an_answer_that_is_none(answer: object) -> None:
    with pytest.raises(LabError, match="this is no graph of Kiali"):
        parse_graph(answer)


@pytest.mark.parametrize(
    ("rate", "protocol", "text"),
    [
        (92.31, "tcp", "92 B/s"),
        (0.83, "http", "0.83/s"),
        (0.8, "http", "0.8/s"),
        (1234.0, "tcp", "1.2 kB/s"),
        (56_789_000.0, "tcp", "57 MB/s"),
        (2e9, "tcp", "2 GB/s"),
        (1234.0, "http", "1234/s"),
    ],
)
def test_amount(rate: float, protocol: str, text: str) -> None:
    assert amount(rate, protocol) == text
