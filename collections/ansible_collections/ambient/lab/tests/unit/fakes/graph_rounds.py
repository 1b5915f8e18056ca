# Two claims on a fake lab, and how a check of Kiali's graph on it is run.
# SPDX-License-Identifier: GPL-3.0-or-later

import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._check.rounds import Settings
from ansible_collections.ambient.lab.plugins.module_utils._graph.rounds import GraphResult, check_graph
from ansible_collections.ambient.lab.tests.unit.fakes.graph import (
    FakeKiali,
    Flow,
    graph_claim,
    graph_claims,
    lab,
)
from ansible_collections.ambient.lab.tests.unit.fakes.objects import (
    OK,
    RESET,
    Answer,
    FakeEdge,
    Object,
    claim,
    claims,
)

ALLOWED = graph_claim("allowed", expect={"outcome": "edge", "protocol": "tcp"})
DENIED = graph_claim("denied", "curl-deny", before={"outcome": "edge", "protocol": "tcp"}, expect="no_edge")
TRAFFIC = claims(
    claim("allow", source={"pod": "curl-allow"}),
    claim("deny", source={"pod": "curl-deny"}, expect="denied_l4"),
)
FLOWS = {name: Flow(name, "sample-app-blue") for name in ("curl-allow", "curl-deny")}
SETTINGS = Settings(stable=2, timeout=30, interval=1)

Answers = t.Callable[[FakeKiali, str, int, str], Answer]


def enforced(kiali: FakeKiali, name: str, _number: int, _method: str) -> Answer:
    """What both see while the policy is in force: ztunnel counts only what it lets through."""
    if name == "curl-deny":
        return RESET
    kiali.count(FLOWS[name])
    return OK


def run(
    answers: Answers = enforced,
    graph: t.Sequence[Object] = (ALLOWED, DENIED),
    settings: Settings = SETTINGS,
    prepare: t.Callable[[FakeEdge, FakeKiali], None] = lambda _edge, _kiali: None,
    traffic: t.Any = TRAFFIC,
    scrape: float = 1.0,
) -> tuple[GraphResult, FakeKiali]:
    """Check two claims on a fake lab."""
    edge, kiali = lab(answers, scrape)
    prepare(edge, kiali)
    return check_graph(graph_claims(*graph), traffic, ["default"], settings, edge, kiali), kiali


def verdicts(result: GraphResult) -> list[str]:
    """Verdict of each claim on the graph."""
    return [item.judged.verdict.verdict for item in result.claims]
