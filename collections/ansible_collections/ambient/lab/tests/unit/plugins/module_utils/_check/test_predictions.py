# Predicted, declared and measured: what is said without traffic, and what a difference means.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._check.report import as_result, failure, kept
from ansible_collections.ambient.lab.plugins.module_utils._check.rounds import (
    CheckResult,
    Settings,
    check,
    judge_predictions,
    read,
)
from ansible_collections.ambient.lab.tests.unit.fakes.objects import (
    OK,
    RESET,
    FakeEdge,
    Object,
    claim,
    claims,
    pod,
    policy,
)

PODS = [pod("good"), pod("bad")]
BAD = [{"from": [{"source": {"principals": ["cluster.local/ns/default/sa/bad"]}}]}]
DENY = policy("p", action="DENY", rules=BAD)
GOOD_PASSES = claim("good", source={"pod": "good"})
BAD_IS_DENIED = claim("bad", source={"pod": "bad"}, expect="denied_l4", by="default/p")


def edge_of(*policies: Object, **answers: t.Any) -> FakeEdge:
    edge = FakeEdge(list(PODS), lambda name, *_: answers.get(name, OK))
    edge.authorization = list(policies)
    return edge


def predicted(edge: FakeEdge, *raw: Object) -> CheckResult:
    parsed = claims(*raw)
    return judge_predictions(parsed, Settings(), read(parsed, edge))


@pytest.mark.parametrize(
    ("policies", "verdict", "words"),
    [
        ([DENY], "pass", ""),
        ([], "fail", "predicted allowed: ztunnel of pod default/sample-app: no AuthorizationPolicy is in force here"),
        ([policy("other", action="DENY", rules=BAD)], "fail", "predicted denied_l4 by default/other, not by default/p"),
        ([policy("p", action="DENY", rules=[{"from": [{"source": {"ipBlocks": ["10.0.0.0/8"]}}]}])], "fail", "good"),
    ],
)
def test_without_traffic(policies: list[Object], verdict: str, words: str) -> None:
    edge = edge_of(*policies)
    result = predicted(edge, GOOD_PASSES, BAD_IS_DENIED)
    assert (result.verdict, edge.execs) == (verdict, 0)
    said = failure(result, Settings(), "", "kubectl")
    assert words in " ".join(said.split())


def test_what_can_not_be_predicted_is_no_pass() -> None:
    outside = claim("outside", source={"pod": "good"}, to="http://example.com/")
    result = predicted(edge_of(), outside)
    assert result.verdict == "error"
    assert "can't be predicted: example.com is outside of the mesh" in result.claims[0].verdict.reason
    assert "predicted unknown" in failure(result, Settings(), "", "kubectl")


def test_an_answer_that_nobody_predicted_is_a_finding_of_its_own() -> None:
    # The claims hold; the objects say something else, because no policy is there that denies it.
    raw = claims(GOOD_PASSES, {**BAD_IS_DENIED, "by": None})
    reported = check(raw, Settings(), edge_of(bad=RESET))
    assert reported.verdict == "pass"
    (warning,) = as_result(reported, kept(reported))["warnings"]
    assert "claim 'bad' holds, yet predicted allowed" in warning
    failed = check(raw, Settings(surprises="fail", timeout=1), edge_of(bad=RESET))
    assert failed.verdict == "fail"
    expected = check(raw, Settings(), edge_of(DENY, bad=RESET))
    assert "warnings" not in as_result(expected, kept(expected))


def test_a_policy_that_perhaps_matches_is_not_the_one_that_surely_refuses() -> None:
    perhaps = policy("p", action="DENY", rules=[{"from": [{"source": {"ipBlocks": ["10.0.0.0/8"]}}]}])
    edge = edge_of(policy("sure", action="DENY", rules=BAD), perhaps)
    # Two addresses of one family: nobody knows which of them is the source.
    edge.objects[1] = pod("bad")
    edge.objects[1]["status"]["podIPs"] = [{"ip": "10.0.0.9"}, {"ip": "10.0.0.8"}]
    result = predicted(edge, BAD_IS_DENIED)
    assert result.claims[0].verdict.verdict == "error"
    assert "nobody can know whether default/p or default/sure refuses it" in result.claims[0].verdict.reason


def test_a_source_that_is_not_running_yet_is_not_one_in_plain_text() -> None:
    edge = edge_of(policy("p", rules=[{"from": [{"source": {"principals": ["*"]}}]}]))
    edge.objects[1] = pod("bad", ready=False)
    result = predicted(edge, BAD_IS_DENIED)
    assert "can't be predicted: there is no pod yet that could send it" in result.claims[0].verdict.reason
