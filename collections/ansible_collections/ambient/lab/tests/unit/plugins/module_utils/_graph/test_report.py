# What is told of the graph: the failure on one screen, the results file beside curl's, the closing table.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import json
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._check.report import merge
from ansible_collections.ambient.lab.plugins.module_utils._check.rounds import CheckResult, Settings, check
from ansible_collections.ambient.lab.plugins.module_utils._graph.http import Reply
from ansible_collections.ambient.lab.plugins.module_utils._graph.model import Edge, Node
from ansible_collections.ambient.lab.plugins.module_utils._graph.report import (
    as_graph_result,
    graph_failure,
    merge_graph,
)
from ansible_collections.ambient.lab.plugins.module_utils._graph.rounds import GraphResult, check_graph
from ansible_collections.ambient.lab.plugins.module_utils._graph.run import EdgesSeen, GraphRun
from ansible_collections.ambient.lab.plugins.plugin_utils._report.claims_report import results_table
from ansible_collections.ambient.lab.tests.unit.fakes.graph import (
    FakeKiali,
    Flow,
    graph_claim,
    graph_claims,
    lab,
)
from ansible_collections.ambient.lab.tests.unit.fakes.objects import OK, RESET, Answer, FakeEdge, claim, claims, pod

TCP = {"outcome": "edge", "protocol": "tcp"}
CLAIMS = graph_claims(
    graph_claim("curl-allow's bytes reach sample-app", expect=TCP),
    graph_claim("no byte of curl-deny's reaches sample-app", "curl-deny", before=TCP, expect="no_edge"),
)
TRAFFIC = claims(
    claim("curl-allow reaches sample-app", source={"pod": "curl-allow"}),
    claim("curl-deny is cut off by ztunnel", source={"pod": "curl-deny"}, expect="denied_l4"),
)


def run(phase: str, denied: bool, settings: t.Mapping[str, t.Any] | None = None) -> GraphResult:
    """Two claims on the graph; whether curl-deny is cut off."""

    def answer(kiali: FakeKiali, name: str, _number: int, _method: str) -> Answer:
        if denied and name == "curl-deny":
            return RESET
        kiali.count(Flow(name, "sample-app-blue"))
        return OK

    edge, kiali = lab(answer)
    return check_graph(
        CLAIMS, TRAFFIC, ["default"], Settings(phase=phase, stable=2, timeout=10, **(settings or {})), edge, kiali
    )


def curl(phase: str, denied: bool) -> CheckResult:
    """The same claims as curl sees them."""
    answer = {"curl-allow": OK, "curl-deny": RESET if denied else OK}
    edge = FakeEdge([pod("curl-allow"), pod("curl-deny")], lambda name, *_: answer[name])
    return check(TRAFFIC, Settings(phase=phase, timeout=2), edge)


def test_the_failure_fits_a_screen_and_begins_with_the_traffic() -> None:
    result = run("after", denied=False)
    result.traffic[1].cause = "no policy selects it"
    lines = graph_failure(result, "after", "l4_authz", "kubectl").splitlines()
    assert lines[0].startswith("2 of 4 claims of l4_authz did not hold on Kiali's graph (after the policy, ")
    assert " s, window of " in lines[0]
    assert lines[2].split() == ["CLAIM", "EXPECTED", "SEEN", "BETWEEN"]
    assert lines[4].startswith("curl-deny is cut off by ztunnel")
    assert any(line.startswith("no byte of curl-deny's") for line in lines[5:8])
    assert "why:  curl-deny is cut off by ztunnel: no policy selects it" in lines
    assert any(
        line.startswith("why:  no byte of curl-deny's reaches sample-app: expected no_edge, saw") for line in lines
    )
    assert len(lines) < 20


def test_the_failure_of_a_kiali_that_never_answered() -> None:
    edge, kiali = lab(lambda *_: OK)
    kiali.config = lambda: kiali.problem  # type: ignore[method-assign]
    kiali.problem = Reply(problem="no endpoints")
    result = check_graph(CLAIMS[:1], (), ["default"], Settings(timeout=1), edge, kiali)
    text = graph_failure(result, "after", "", "kubectl")
    assert text.startswith("1 of 1 claims did not hold on Kiali's graph")
    assert "no answer of Kiali)" in text
    assert "edge tcp  no answer  default/curl-allow -> " in text
    assert "why:  no endpoints" in text
    assert as_graph_result(result, verbose=True)["window"] is None


def test_what_was_seen_as_expected_but_proves_nothing_says_so() -> None:
    edge, kiali = lab(lambda _kiali, name, *_: RESET if name == "curl-deny" else OK)
    result = check_graph(CLAIMS, TRAFFIC, ["default"], Settings(timeout=3, interval=1), edge, kiali)
    lines = graph_failure(result, "after", "", "kubectl").splitlines()
    assert "edge tcp  no edge             default/curl-allow" in lines[4]
    assert any("no_edge   no edge (no proof)  default/curl-deny" in line for line in lines)


def test_claims_that_hold_now_and_then() -> None:
    def flaky(kiali: FakeKiali, name: str, number: int, _method: str) -> Answer:
        kiali.count(Flow(name, "sample-app-blue"))
        kiali.problem = Reply(problem="no endpoints" if number % 2 else "")
        return OK

    edge, kiali = lab(flaky)
    settings = Settings(stable=2, timeout=20, interval=1)
    result = check_graph(CLAIMS[:1], TRAFFIC[:1], ["default"], settings, edge, kiali)
    assert (result.verdict, result.claims[0].history.flapped) == ("error", True)
    text = graph_failure(result, "after", "", "kubectl")
    assert "; it flapped: edge tcp at " in text
    assert "(flapping)" in text


def test_values_are_plain_data() -> None:
    result = run("after", denied=True)
    values = as_graph_result(result, verbose=False)
    json.dumps(values)
    assert (values["verdict"], values["graph"], values["restarts"]) == ("pass", {"nodes": 2, "edges": 1}, 0)
    assert values["window"] >= 3
    whole = as_graph_result(result, verbose=True)["graph"]
    assert whole["elements"]["edges"][0]["data"]["traffic"]["protocol"] == "tcp"


def test_before_and_after_stand_side_by_side() -> None:
    results = merge_graph({"other": {"kept": True}}, "l4_authz", "before", run("before", denied=False))
    results = merge_graph(results, "l4_authz", "after", run("after", denied=True))
    assert results["other"] == {"kept": True}
    graph = results["l4_authz"]["graph"]
    assert (graph["verdict"], graph["phase"]) == ("pass", "after")
    allowed, denied = graph["claims"]
    assert (denied["before"]["outcome"], denied["after"]["outcome"]) == ("edge", "no_edge")
    assert denied["before"]["edges"][0]["protocol"] == "tcp"
    assert denied["after"]["seen"] == "no edge"
    assert (denied["from"], denied["decided_by"]) == ({"workload": "curl-deny", "namespace": "default"}, "kiali")
    assert allowed["after"]["edges"]
    graphs = results["l4_authz"]["graphs"]
    assert [len(graphs[phase]["elements"]["edges"]) for phase in ("before", "after")] == [2, 1]
    anew = merge_graph(results, "l4_authz", "before", run("before", denied=False))["l4_authz"]
    assert (anew["graph"]["claims"][1]["after"], anew["graphs"]["after"]) == (None, None)


@pytest.mark.parametrize(("protocol", "shown"), [("http", "http 1/s 200"), ("grpc", "http 1/s 200, tcp 50 B/s")])
def test_the_table_shows_the_edges_of_the_protocol_that_is_claimed(protocol: str, shown: str) -> None:
    ends = Node("a", "workload", "default", "a"), Node("b", "workload", "default", "b")
    edges = (Edge(*ends, "http", 1.0, codes=("200",)), Edge(*ends, "tcp", 50.0))
    result = run("after", denied=True)
    (claim,) = graph_claims(graph_claim("a", expect={"outcome": "edge", "protocol": protocol}))
    result.claims = [GraphRun(claim, "after", dataclasses.replace(result.claims[0].judged, seen=EdgesSeen(edges)))]
    results = merge_graph({}, "s", "after", result)
    assert results["s"]["graph"]["claims"][0]["after"]["seen"] == shown


@pytest.mark.parametrize("graph_first", [True, False])
def test_curl_and_kiali_share_a_section(graph_first: bool) -> None:
    results: dict[str, t.Any] = {}
    for phase, denied in (("before", False), ("after", True)):
        for kind in (graph_first, not graph_first):
            if kind:
                results = merge_graph(results, "s", phase, run(phase, denied))
            else:
                results = merge(results, "s", phase, curl(phase, denied))
    section = results["s"]
    assert [item["decided_by"] for item in section["claims"]] == ["-", "-"]
    assert [item["before"]["outcome"] for item in section["graph"]["claims"]] == ["edge", "edge"]
    assert all(section["graphs"].values())
    # curl's look before a new policy does not let Kiali's look after the old one stand.
    anew = merge(results, "s", "before", curl("before", False))["s"]
    assert [item["after"] for item in anew["graph"]["claims"]] == [None, None]
    assert [item["before"]["outcome"] for item in anew["graph"]["claims"]] == ["edge", "edge"]
    assert (anew["graph"]["phase"], anew["graphs"]["after"]) == ("before", None)


def test_the_closing_table() -> None:
    results = merge({}, "s", "before", curl("before", False))
    results = merge_graph(results, "s", "before", run("before", denied=False))
    results = merge(results, "s", "after", curl("after", True))
    results = merge_graph(results, "s", "after", run("after", denied=True))
    results = merge_graph(results, "graph only", "after", run("after", denied=False))
    lines = results_table(results)
    assert max(len(line) for line in lines) <= 100
    text = "\n".join(lines)
    row = next(line for line in lines if line.startswith("no byte of curl-deny's")).split()
    assert "B/s" in row
    assert row[-5:-2] == ["no", "edge", "kiali"]
    assert row[-1] == "s"
    assert "ztunnel" in text
    assert "FAIL" in text
