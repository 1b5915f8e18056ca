# What is told of the graph: the failure on one screen, the results file beside curl's, the closing table.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import json
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._check.report import kept
from ansible_collections.ambient.lab.plugins.module_utils._check.rounds import CheckResult, Settings, check
from ansible_collections.ambient.lab.plugins.module_utils._graph.graph_picture import proven_absent
from ansible_collections.ambient.lab.plugins.module_utils._graph.http import Reply
from ansible_collections.ambient.lab.plugins.module_utils._graph.model import Edge, Node
from ansible_collections.ambient.lab.plugins.module_utils._graph.report import (
    as_graph_result,
    graph_failure,
    kept_graph,
)
from ansible_collections.ambient.lab.plugins.module_utils._graph.rounds import GraphResult, check_graph
from ansible_collections.ambient.lab.plugins.module_utils._graph.run import EdgesSeen, GraphRun
from ansible_collections.ambient.lab.plugins.module_utils._results.model import GraphPhases, Phase, Section
from ansible_collections.ambient.lab.plugins.module_utils._results.store import checked, drawn
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

PHASES: tuple[tuple[Phase, bool], ...] = (("before", False), ("after", True))


def run(phase: Phase, denied: bool, settings: t.Mapping[str, t.Any] | None = None) -> GraphResult:
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


def curl(phase: Phase, denied: bool) -> CheckResult:
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
    assert as_graph_result(result, kept_graph(result), verbose=True)["window"] is None


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
    values = as_graph_result(result, kept_graph(result), verbose=False)
    json.dumps(values)
    assert (values["verdict"], values["graph"], values["restarts"]) == ("pass", {"nodes": 2, "edges": 1}, 0)
    assert values["window"] >= 3
    whole = as_graph_result(result, kept_graph(result), verbose=True)["graph"]
    assert whole["elements"]["edges"][0]["data"]["traffic"]["protocol"] == "tcp"


def test_a_check_of_the_graph_as_results_have_it() -> None:
    check = kept_graph(run("after", denied=True))
    assert (check.verdict, len((check.graph or {})["elements"]["edges"])) == ("pass", 1)
    allowed, denied = check.claims
    assert (denied.from_, denied.to, denied.decided_by) == ("default/curl-deny", "default/sample-app-blue", "kiali")
    assert (denied.seen.outcome, denied.seen.text, allowed.seen.edges[0].protocol) == ("no_edge", "no edge", "tcp")
    assert proven_absent(check) == [(CLAIMS[1].source, CLAIMS[1].target)]


@pytest.mark.parametrize(("protocol", "shown"), [("http", "http 1/s 200"), ("grpc", "http 1/s 200, tcp 50 B/s")])
def test_the_table_shows_the_edges_of_the_protocol_that_is_claimed(protocol: str, shown: str) -> None:
    ends = Node("a", "workload", "default", "a"), Node("b", "workload", "default", "b")
    edges = (Edge(*ends, "http", 1.0, codes=("200",)), Edge(*ends, "tcp", 50.0))
    result = run("after", denied=True)
    (claim,) = graph_claims(graph_claim("a", expect={"outcome": "edge", "protocol": protocol}))
    result.claims = [GraphRun(claim, "after", dataclasses.replace(result.claims[0].judged, seen=EdgesSeen(edges)))]
    assert kept_graph(result).claims[0].seen.text == shown


def test_the_closing_table() -> None:
    section = Section()
    for phase, denied in PHASES:
        section = checked(section, phase, kept(curl(phase, denied)))
        section = drawn(section, phase, kept_graph(run(phase, denied)))
    only = Section(graph=GraphPhases(after=kept_graph(run("after", denied=False))))
    lines = results_table({"s": section, "graph only": only})
    assert max(len(line) for line in lines) <= 100
    text = "\n".join(lines)
    row = next(line for line in lines if line.startswith("no byte of curl-deny's")).split()
    assert "B/s" in row
    assert row[-5:-2] == ["no", "edge", "kiali"]
    assert row[-1] == "s"
    assert "ztunnel" in text
    assert "FAIL" in text
