# What explains a claim on the graph that does not hold, and when it is the telemetry's fault rather than the traffic's.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pathlib
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._check.rounds import Settings
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import Kube
from ansible_collections.ambient.lab.plugins.module_utils._graph.diagnose import Places
from ansible_collections.ambient.lab.plugins.module_utils._graph.http import Reply
from ansible_collections.ambient.lab.plugins.module_utils._graph.judge import NO_CONTROL, NOT_SENT
from ansible_collections.ambient.lab.plugins.module_utils._graph.kiali_graph import explain_graph
from ansible_collections.ambient.lab.plugins.module_utils._graph.rounds import GraphResult, check_graph
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi
from ansible_collections.ambient.lab.tests.unit.fakes.graph import (
    FakeKiali,
    Flow,
    graph_claim,
    graph_claims,
    lab,
)
from ansible_collections.ambient.lab.tests.unit.fakes.objects import (
    FORBIDDEN,
    OK,
    RESET,
    Answer,
    Object,
    claim,
    claims,
    pod,
)

PROMETHEUS = "/api/v1/namespaces/istio-system/services/prometheus:9090/proxy/api/v1"
METRICS = "/api/v1/namespaces/istio-system/pods/ztunnel-a:15020/proxy/metrics"
PLACES = Places(
    "kubectl",
    {"namespace": "istio-system", "service": "kiali", "port": 20001, "web_root": "/kiali"},
    {"namespace": "istio-system", "service": "prometheus", "port": 9090},
)
TCP = {"outcome": "edge", "protocol": "tcp"}
ALLOWED = graph_claim("allowed", expect=TCP)
DENIED = graph_claim("denied", "curl-deny", before=TCP, expect="no_edge")
TRAFFIC = claims(
    claim("allow", source={"pod": "curl-allow"}),
    claim("deny", source={"pod": "curl-deny"}, expect="denied_l4"),
)

Answers = t.Callable[[FakeKiali, str, int, str], Answer]


def uncounted(_kiali: FakeKiali, name: str, _number: int, _method: str) -> Answer:
    """Traffic as claimed, of which no proxy counts anything."""
    return RESET if name == "curl-deny" else OK


def checked(
    answers: Answers = uncounted, graph: t.Sequence[Object] = (ALLOWED, DENIED), problem: Reply | None = None
) -> GraphResult:
    """A result that waits for its explanation."""
    edge, kiali = lab(answers)
    for item, node in zip(edge.objects, ("n1", "n2", "n2"), strict=True):
        item["spec"]["nodeName"] = node
    kiali.problem = problem or Reply()
    settings = Settings(stable=2, timeout=3, interval=1)
    return check_graph(graph_claims(*graph), TRAFFIC, ["default"], settings, edge, kiali)


def explained(folder: pathlib.Path, result: GraphResult, **changed: t.Any) -> tuple[GraphResult, list[str]]:
    """The result with its causes, and what was asked for them."""
    ztunnel = pod("ztunnel-a", "istio-system", ip="10.0.0.1", labels={"app": "ztunnel"})
    targets = [{"scrapeUrl": "http://10.0.0.1:15020/metrics", "health": "up"}]
    objects = {
        "/api/v1/pods": {"items": [ztunnel]},
        f"{PROMETHEUS}/targets": {"data": {"activeTargets": targets}},
        f"{PROMETHEUS}/query": {"data": {"result": []}},
        METRICS: "",
    }
    with FakeApi({**objects, **changed}) as api:
        explain_graph(result, ["default"], Kube(api.kubeconfig(folder), None), PLACES)
    return result, [path for path, _headers in api.asked]


def summary(result: GraphResult) -> list[str]:
    """Verdict of each claim."""
    return [item.judged.verdict.verdict for item in result.claims]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "were answered, but ztunnel istio-system/ztunnel-a has no istio_tcp_received_bytes_total of them"),
        ({METRICS: 503}, "ztunnel istio-system/ztunnel-a does not hand out its metrics: HTTP 503"),
        ({f"{PROMETHEUS}/targets": {"data": {}}}, "Prometheus has no target for ztunnel istio-system/ztunnel-a"),
        ({f"{PROMETHEUS}/targets": 404}, "Prometheus (istio-system/prometheus) does not answer: Prometheus answered"),
        ({"/api/v1/pods": 403}, "the telemetry could not be checked: The cluster at"),
    ],
)
def test_a_missing_edge_is_an_error_where_telemetry_is_broken(
    tmp_path: pathlib.Path, changed: dict[str, t.Any], words: str
) -> None:
    result = checked()
    assert (summary(result), result.verdict) == (["fail", "error"], "error")
    after, _asked = explained(tmp_path, result, **changed)
    assert (summary(after), after.verdict) == (["error", "error"], "error")
    allowed, denied = after.claims
    assert words in allowed.cause
    assert words in allowed.judged.verdict.reason
    # The absence has no control for the same reason.
    assert denied.cause == f"{NO_CONTROL.format('ztunnel')}: 'allowed' does not hold"


def test_a_missing_edge_is_a_failure_where_nothing_was_answered(tmp_path: pathlib.Path) -> None:
    after, _asked = explained(tmp_path, checked(lambda *_: RESET, [ALLOWED]))
    assert summary(after) == ["fail"]
    assert after.claims[0].cause.startswith(
        "no request from default/curl-allow to default/sample-app-blue was answered"
    )


def target(pod_ip: str, health: str) -> Object:
    """Of a ztunnel, as Prometheus tells it."""
    return {"scrapeUrl": f"http://{pod_ip}:15020/metrics", "health": health}


@pytest.mark.parametrize(
    ("targets", "verdict"),
    [
        ([target("10.0.0.1", "up"), target("10.0.0.2", "up")], "pass"),
        # The control's node is scraped, and the one on which the edge would have been counted is not.
        ([target("10.0.0.1", "up"), target("10.0.0.2", "down")], "error"),
        ([target("10.0.0.1", "up")], "error"),
        # Some other Prometheus must have it all.
        ([], "pass"),
        (None, "pass"),
    ],
)
def test_a_control_on_another_node(tmp_path: pathlib.Path, targets: list[Object] | None, verdict: str) -> None:
    def counted(kiali: FakeKiali, name: str, number: int, method: str) -> Answer:
        if name == "curl-allow":
            kiali.count(Flow(name, "sample-app-blue"))
        return uncounted(kiali, name, number, method)

    result = checked(counted)
    assert result.verdict == "pass"
    ztunnels = [pod(f"ztunnel-{n}", "istio-system", ip=f"10.0.0.{n}", labels={"app": "ztunnel"}) for n in (1, 2)]
    for number, item in enumerate(ztunnels, 1):
        item["spec"]["nodeName"] = f"n{number}"
    answer = 403 if targets is None else {"data": {"activeTargets": targets}}
    changed = {"/api/v1/pods": {"items": ztunnels}, f"{PROMETHEUS}/targets": answer}
    after, _asked = explained(tmp_path, result, **changed)
    assert (after.verdict, summary(after)) == (verdict, ["pass", verdict])
    if verdict == "error":
        assert "not those of its pods' nodes (istio-system/ztunnel-2)" in after.claims[1].judged.verdict.reason


def test_a_waypoint_counts_what_it_refuses(tmp_path: pathlib.Path) -> None:
    http = graph_claim("http", to={"service": "sample-app"}, expect={"outcome": "edge", "protocol": "http"})
    waypoint = pod("waypoint-a", ip="10.0.0.1")
    proxies = {
        "/api/v1/namespaces/default/pods": {"items": [waypoint]},
        "/api/v1/namespaces/default/pods/waypoint-a:15020/proxy/stats/prometheus": "",
    }
    after, _asked = explained(tmp_path, checked(lambda *_: FORBIDDEN, [http]), **proxies)
    assert (summary(after), "did they go through the waypoint?" in after.claims[0].cause) == (["error"], True)
    # To ztunnel the same answer says nothing of the application.
    after, _asked = explained(tmp_path, checked(lambda *_: FORBIDDEN, [ALLOWED]))
    assert summary(after) == ["fail"]


def test_a_kiali_that_does_not_answer(tmp_path: pathlib.Path) -> None:
    after, _asked = explained(tmp_path, checked(problem=Reply(problem="no endpoints")))
    assert [item.cause for item in after.claims] == ["Kiali (istio-system/kiali) does not answer: no endpoints"] * 2
    assert after.claims[0].look == "kubectl -n istio-system describe service kiali"


def test_what_was_seen_and_should_not_be_is_shown_by_kiali_itself(tmp_path: pathlib.Path) -> None:
    def counted(kiali: FakeKiali, name: str, number: int, method: str) -> Answer:
        kiali.count(Flow(name, "sample-app-blue"))
        return uncounted(kiali, name, number, method)

    after, asked = explained(tmp_path, checked(counted))
    assert summary(after) == ["pass", "fail"]
    assert (after.claims[0].look, after.claims[1].cause, asked) == ("", "", [])
    assert "/kiali/api/namespaces/graph?namespaces=default&duration=" in after.claims[1].look


def test_requests_that_were_not_sent_are_explained_by_the_traffic(tmp_path: pathlib.Path) -> None:
    def unsent(kiali: FakeKiali, name: str, _number: int, _method: str) -> Answer:
        kiali.count(Flow("curl-allow", "sample-app-blue"))
        return (0, 6, {}, "") if name == "curl-deny" else OK

    after, asked = explained(tmp_path, checked(unsent))
    assert [item.judged.verdict.reason for item in after.claims] == ["", NOT_SENT]
    assert (after.claims[1].cause, asked) == ("", [])
