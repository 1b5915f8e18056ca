# Rounds: convergence, positive control, sources that come and go, policies that claims name.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._check.rounds import CheckResult, Settings, check
from ansible_collections.ambient.lab.plugins.module_utils._check.stable import PATIENCE
from ansible_collections.ambient.lab.plugins.module_utils._results.model import Phase
from ansible_collections.ambient.lab.tests.unit.fakes.mesh import SERVED, MeshEdge
from ansible_collections.ambient.lab.tests.unit.fakes.objects import (
    APP_403,
    FORBIDDEN,
    OK,
    REFUSED_UPSTREAM,
    RESET,
    Answer,
    FakeEdge,
    Object,
    claim,
    claims,
    condition,
    pod,
    policy,
)

ALLOW = claim("allow", source={"pod": "curl-allow"})
DENY = claim("deny", source={"pod": "curl-deny"}, expect="denied_l4")
PODS = [pod("curl-allow"), pod("curl-deny")]
OTHER = {"matchLabels": {"app": "gateway"}}
IDENTITY = "cluster.local/ns/default/sa/curl-allow"
API = "https://kubernetes.default.svc/version"
SLOW = "http://sample-app:8080/slow"


def verdicts(result: CheckResult) -> list[str]:
    """Verdict of each claim."""
    return [item.verdict.verdict for item in result.claims]


def steady(answers: dict[str, Answer | None]) -> t.Callable[[str, int, str, str], Answer | None]:
    """The same answer in each round, by pod or by method or by URL."""
    return lambda name, _round, method, url: answers.get(url, answers.get(name, answers.get(method)))


def test_one_exec_per_source_and_round() -> None:
    raw = [claim(f"allow {number}", source={"pod": "curl-allow"}) for number in range(20)]
    edge = FakeEdge(PODS, steady({"curl-allow": OK, "curl-deny": RESET}))
    result = check(claims(*raw, DENY), Settings(), edge)
    assert (result.verdict, result.rounds, edge.execs) == ("pass", 3, 6)
    assert result.claims[-1].control == "sample-app:8080 answered pod default/curl-allow with HTTP 200"


def test_converges() -> None:
    edge = FakeEdge(PODS, lambda name, number, *_: RESET if name == "curl-deny" and number >= 4 else OK)
    result = check(claims(ALLOW, DENY), Settings(interval=0.1), edge)
    assert (result.verdict, result.rounds) == ("pass", 7)
    assert result.converged_after is not None
    assert 0 < result.converged_after < result.elapsed
    assert [change.outcome for change in result.claims[1].history.changes] == ["allowed", "denied_l4"]
    assert not result.claims[1].history.flapped


def test_flapping_fails_with_its_history() -> None:
    edge = FakeEdge(PODS, lambda name, number, *_: RESET if name == "curl-deny" and number % 3 else OK)
    result = check(claims(ALLOW, DENY), Settings(timeout=3), edge)
    assert result.verdict == "fail"
    assert result.claims[1].history.flapped
    assert len(result.claims[1].history.changes) > 3
    assert result.converged_after is None


def test_a_good_row_that_began_in_time_is_followed_to_its_end() -> None:
    edge = FakeEdge(PODS, lambda name, number, *_: RESET if name == "curl-deny" and number >= 2 else OK)
    assert check(claims(ALLOW, DENY), Settings(timeout=0.95, stable=20), edge).verdict == "pass"


def test_timeout() -> None:
    edge = FakeEdge(PODS, steady({"curl-allow": OK, "curl-deny": OK}))
    result = check(claims(ALLOW, DENY), Settings(timeout=5), edge)
    assert (result.verdict, verdicts(result)) == ("fail", ["pass", "fail"])
    assert 5 <= result.elapsed < 6
    assert result.claims[1].verdict.reason == "expected denied_l4, saw allowed 200/0"


@pytest.mark.parametrize(
    ("answers", "ready", "verdict"),
    [
        # A dead destination: even the other source gets nothing.
        ({"curl-allow": RESET, "curl-deny": RESET, API: RESET}, True, ["fail", "error"]),
        ({"curl-allow": OK, "curl-deny": RESET}, False, ["pass", "pass"]),
        ({"curl-allow": APP_403, "curl-deny": RESET}, True, ["fail", "pass"]),
    ],
)
def test_control_by_another_claim(answers: dict[str, Answer | None], ready: bool, verdict: list[str]) -> None:
    edge = FakeEdge(PODS, steady(answers))
    edge.ready = ready
    assert verdicts(check(claims(ALLOW, DENY), Settings(timeout=1), edge)) == verdict


@pytest.mark.parametrize(
    ("answers", "ready", "verdict"),
    [
        ({"curl-deny": RESET, API: (401, 0, {}, "")}, True, ["pass"]),
        ({"curl-deny": RESET, API: (401, 0, {}, "")}, False, ["error"]),
        ({"curl-deny": RESET, API: RESET}, True, ["error"]),
        ({"curl-deny": RESET, API: None}, True, ["error"]),
    ],
)
def test_own_control_by_the_same_source(answers: dict[str, Answer | None], ready: bool, verdict: list[str]) -> None:
    edge = FakeEdge(PODS, steady(answers))
    edge.ready = ready
    assert verdicts(check(claims(DENY), Settings(timeout=1), edge)) == verdict


def test_own_control_by_another_source() -> None:
    other = claim("other", source={"pod": "curl-allow"}, to="http://elsewhere/", expect="dns")
    answers: dict[str, Answer | None] = {
        "http://elsewhere/": (0, 6, {}, ""),
        "curl-allow": OK,
        "curl-deny": RESET,
        API: RESET,
    }
    edge = FakeEdge(PODS, steady(answers))
    edge.ready = False
    result = check(claims(other, DENY), Settings(timeout=1), edge)
    assert result.verdict == "pass"
    assert "answered pod default/curl-allow" in str(result.claims[1].control)


def test_an_allowed_claim_to_elsewhere_needs_a_ready_endpoint() -> None:
    elsewhere = claim("elsewhere", source={"pod": "curl-deny"}, to="http://other:1/")
    edge = FakeEdge(PODS, steady({"http://other:1/": OK, "curl-deny": RESET}))
    edge.ready = False
    assert verdicts(check(claims(elsewhere, DENY), Settings(timeout=1), edge)) == ["pass", "error"]


@pytest.mark.parametrize(
    ("expect", "answer", "verdict"),
    [
        ({"outcome": "denied_l7", "http_code": 403}, FORBIDDEN, "pass"),
        ("denied_l7", FORBIDDEN, "pass"),
        ("denied_l7", APP_403, "fail"),
        ("denied_l7", RESET, "fail"),
        ("denied_l4", FORBIDDEN, "fail"),
        ("denied_upstream", REFUSED_UPSTREAM, "pass"),
        ("denied_l7", REFUSED_UPSTREAM, "fail"),
        ("allowed", APP_403, "fail"),
        ({"outcome": "allowed", "http_code": [200, 403]}, APP_403, "pass"),
        ({"outcome": "denied_l4", "exit_code": 52}, RESET, "fail"),
        ("allowed", (0, 23, {}, ""), "error"),
    ],
)
def test_judgement(expect: object, answer: Answer, verdict: str) -> None:
    get = claim("get")
    post = claim("post", to={"url": "http://sample-app:8080/", "method": "POST"}, expect=expect)
    edge = FakeEdge([pod("curl")], steady({"GET": OK, "POST": answer}))
    assert verdicts(check(claims(get, post), Settings(timeout=0), edge)) == ["pass", verdict]


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ([pod("curl-allow")], "pod default/curl-deny does not exist"),
        (
            [pod("curl-allow"), pod("curl-deny", phase="Failed")],
            "pod default/curl-deny is Failed and won't come back",
        ),
    ],
)
def test_a_source_that_is_missing_stops_before_any_traffic(objects: list[Object], words: str) -> None:
    edge = FakeEdge(objects, steady({"curl-allow": OK}))
    result = check(claims(ALLOW, DENY), Settings(), edge)
    assert (result.verdict, verdicts(result), edge.execs) == ("error", ["error", "error"], 0)
    assert result.claims[1].verdict.reason == words
    assert "not probed" in result.claims[0].verdict.reason


def test_a_source_that_is_starting_is_waited_for() -> None:
    starting = pod("curl-deny", ready=False, waiting="ContainerCreating")
    edge = FakeEdge([pod("curl-allow"), starting], steady({"curl-allow": OK, "curl-deny": RESET}))
    sleep = edge.sleep

    def wake(seconds: float) -> None:
        sleep(seconds)
        if edge.clock > 2:
            edge.objects = PODS

    edge.sleep = wake  # type: ignore[method-assign]
    result = check(claims(ALLOW, DENY), Settings(), edge)
    assert result.verdict == "pass"
    assert [change.outcome for change in result.claims[1].history.changes] == ["probe_error", "denied_l4"]


def test_a_source_that_never_gets_ready_is_an_error_not_a_denial() -> None:
    waiting = pod("curl-deny", ready=False, waiting="ImagePullBackOff")
    edge = FakeEdge([pod("curl-allow"), waiting], steady({"curl-allow": OK, "curl-deny": RESET}))
    result = check(claims(ALLOW, DENY), Settings(timeout=2), edge)
    assert verdicts(result) == ["pass", "error"]
    assert "container main is waiting, ImagePullBackOff" in result.claims[1].verdict.reason


def test_a_failed_exec_names_the_pod() -> None:
    edge = FakeEdge(PODS, steady({}))
    edge.problem = "Handshake status 500 Internal Server Error"
    result = check(claims(ALLOW, DENY), Settings(timeout=1), edge)
    assert verdicts(result) == ["error", "error"]
    assert result.claims[0].verdict.reason == f"exec in default/curl-allow failed: {edge.problem}"


@pytest.mark.parametrize(
    ("policies", "verdict", "words", "rounds"),
    [
        ([policy("p", action="DENY", conditions=[condition()])], "pass", "", 3),
        ([policy("p", action="DENY")], "pass", "", 3),
        # It may still come.
        ([], "error", "AuthorizationPolicy default/p (the claim's `by`) does not exist", None),
        (
            [policy("p", selector=OTHER, conditions=[condition("UnsupportedValue")])],
            "error",
            "because UnsupportedValue",
            PATIENCE,
        ),
        # An older generation's status, or a reason that may go away, is waited out.
        (
            [policy("p", selector=OTHER, conditions=[condition("UnsupportedValue", seen=1)])],
            "error",
            "because UnsupportedValue",
            None,
        ),
        (
            [policy("p", selector=OTHER, conditions=[condition("TargetNotFound", status="False")])],
            "error",
            "TargetNotFound",
            None,
        ),
        (
            [policy("p", selector=OTHER, conditions=[condition("PartiallyInvalid", kind="WaypointAccepted")])],
            "error",
            "WaypointAccepted=True, PartiallyInvalid",
            None,
        ),
    ],
)
def test_the_policy_that_must_have_decided(
    policies: list[Object], verdict: str, words: str, rounds: int | None
) -> None:
    edge = FakeEdge(PODS, steady({"curl-allow": OK, "curl-deny": RESET}))
    edge.authorization = policies
    result = check(claims(ALLOW, {**DENY, "by": "default/p"}), Settings(timeout=4), edge)
    assert (result.verdict, verdicts(result)) == (verdict, ["pass", verdict])
    assert words in result.claims[1].verdict.reason
    assert result.rounds == rounds if rounds else result.elapsed >= 4


def test_a_policy_that_comes_late_is_waited_for() -> None:
    """GitOps may apply it long after the check began."""
    edge = FakeEdge(PODS, lambda name, number, *_: RESET if name == "curl-deny" and edge.authorization else OK)
    sleep = edge.sleep

    def apply(seconds: float) -> None:
        sleep(seconds)
        if edge.clock > 20:
            edge.authorization = [policy("p", action="DENY", rules=[{}])]

    edge.sleep = apply  # type: ignore[method-assign]
    for by in ({}, {"by": "default/p"}):
        edge.authorization, edge.clock = [], 0.0
        result = check(claims(ALLOW, {**DENY, **by}), Settings(), edge)
        assert (result.verdict, result.elapsed > 20) == ("pass", True)


def test_before_the_policy_its_absence_is_no_error() -> None:
    edge = FakeEdge(PODS, steady({"curl-allow": OK, "curl-deny": OK}))
    result = check(claims(ALLOW, {**DENY, "by": "default/p"}), Settings(phase="before"), edge)
    assert result.verdict == "pass"


SERVICE = {"metadata": {"name": "sample-app", "namespace": "default"}, "spec": {"selector": {"app": "sample-app"}}}
ON_APP = {"matchLabels": {"app": "sample-app"}}
TO_SERVICE = [{"kind": "Service", "name": "sample-app"}]
UNSUPPORTED = [condition("UnsupportedValue")]


@pytest.mark.parametrize(
    ("other", "verdict"),
    [
        (policy("other", selector=ON_APP, conditions=UNSUPPORTED), "error"),
        (policy("other", conditions=UNSUPPORTED), "error"),
        (policy("other", "istio-system", conditions=UNSUPPORTED), "error"),
        (policy("other", targetRefs=TO_SERVICE, conditions=[condition("Invalid", kind="WaypointAccepted")]), "error"),
        (policy("other", selector=ON_APP, conditions=[condition()]), "pass"),
        # Of other pods (istio#58316), of another Service, of another namespace, and of an older generation.
        (policy("other", selector={"matchLabels": {"app": "gateway"}}, conditions=UNSUPPORTED), "pass"),
        (policy("other", targetRefs=[{"kind": "Service", "name": "x"}], conditions=UNSUPPORTED), "pass"),
        (policy("other", "elsewhere", conditions=UNSUPPORTED), "pass"),
        (policy("other", selector=ON_APP, conditions=[condition("UnsupportedValue", seen=1)]), "pass"),
    ],
)
@pytest.mark.parametrize("phase", ["before", "after"])
def test_a_policy_on_the_path_that_is_not_enforced(other: Object, verdict: str, phase: Phase) -> None:
    edge = FakeEdge([*PODS, pod("sample-app")], steady({"curl-allow": OK}))
    edge.authorization = [other]
    result = check(claims(ALLOW), Settings(phase=phase, timeout=2), edge)
    assert result.verdict == verdict
    reason = result.claims[0].verdict.reason
    assert ("AuthorizationPolicy" in reason and "/other is not fully enforced" in reason) == (verdict == "error")


def test_the_cluster_is_read_once_per_round() -> None:
    edge = FakeEdge(PODS, steady({"curl-allow": OK, "curl-deny": RESET}))
    edge.authorization = [policy("p", action="DENY")]
    result = check(claims(ALLOW, {**DENY, "by": "default/p"}), Settings(), edge)
    assert (result.verdict, edge.reads) == ("pass", 3)


def test_nobody_waits_for_what_is_written_to_change() -> None:
    """A policy that is there denies what must be allowed."""
    edge = FakeEdge(PODS, lambda name, number, *_: RESET if name == "curl-deny" else OK)
    edge.authorization = [policy("p", action="DENY", rules=[{"from": [{"source": {"notPrincipals": [IDENTITY]}}]}])]
    result = check(claims(ALLOW, {**DENY, "expect": "allowed"}), Settings(), edge)
    assert (result.verdict, verdicts(result), result.rounds) == ("fail", ["pass", "fail"], PATIENCE)
    assert "rule 0 of AuthorizationPolicy default/p (DENY) matches" in result.claims[1].cause


@pytest.mark.parametrize(("outcome", "answer"), [("refused", (0, 7, {}, "")), ("timeout", (0, 28, {}, ""))])
def test_a_block_that_no_proxy_makes_needs_somebody_who_gets_through(outcome: str, answer: Answer) -> None:
    blocked = claim("blocked", source={"pod": "curl-deny"}, expect=outcome)
    both = steady({"curl-allow": OK, "curl-deny": answer})
    assert verdicts(check(claims(ALLOW, blocked), Settings(timeout=0), FakeEdge(PODS, both))) == ["pass", "pass"]
    # A Service that is down refuses as well, and nobody blocks anything.
    alone = check(claims(blocked), Settings(timeout=0), FakeEdge([PODS[1]], both))
    assert verdicts(alone) == ["error"]
    assert "nothing shows who blocks it" in alone.claims[0].verdict.reason


@pytest.mark.parametrize(
    ("outcome", "source", "url", "verdict"),
    [
        ("timeout", "curl-allow", "http://sample-app:8080/quick", "error"),
        ("timeout", "curl-allow", "http://sample-app:8080/slow", "pass"),
        ("timeout", "curl-deny", "http://sample-app:8080/quick", "error"),
        ("refused", "curl-allow", "http://sample-app:8080/quick", "pass"),
        ("refused", "curl-deny", "http://sample-app:8080/quick", "error"),
        ("unroutable", "curl-allow", "http://sample-app:8080/quick", "pass"),
    ],
)
def test_a_slow_page_is_no_block_though_the_destination_answers(
    outcome: str, source: str, url: str, verdict: str
) -> None:
    """Neither where another page answers, nor where the very source gets through to the same port."""
    ends: dict[str, Answer] = {"timeout": (0, 28, {}, ""), "refused": (0, 7, {}, "")}
    stopped = ends.get(outcome, (404, 0, {"server": "envoy"}, ""))

    def answers(name: str, _round: int, _method: str, asked: str) -> Answer:
        return OK if (name, asked) == (source, url) else stopped

    blocked = claim("blocked", source={"pod": "curl-deny"}, to=SLOW, expect=outcome)
    passes = claim("passes", source={"pod": source}, to=url)
    found = verdicts(check(claims(passes, blocked), Settings(timeout=0), FakeEdge(PODS, answers)))
    assert found == ["pass", verdict]


@pytest.mark.parametrize(
    ("others", "verdict"),
    [
        ({"source": {"pod": "curl-allow"}, "to": {"url": SLOW, "method": "POST"}}, "pass"),
        # Another method, another Host: other requests.
        ({"source": {"pod": "curl-allow"}, "to": SLOW}, "error"),
        ({"source": {"pod": "curl-allow"}, "to": {"url": SLOW, "method": "POST", "headers": {"Host": "x"}}}, "error"),
        # The same pod by another name.
        ({"source": {"labels": {"app": "curl-deny"}}, "to": {"url": SLOW, "method": "POST"}}, "error"),
    ],
)
def test_a_timeout_needs_another_pod_with_the_same_request(others: dict[str, t.Any], verdict: str) -> None:
    """And a request that changes something is not sent from elsewhere to find out."""
    asked: list[tuple[str, str]] = []
    quick = iter([OK] if "labels" in others["source"] else [])

    def answers(name: str, _round: int, method: str, _url: str) -> Answer:
        asked.append((name, method))
        return OK if name == "curl-allow" else next(quick, (0, 28, {}, ""))

    blocked = claim("blocked", source={"pod": "curl-deny"}, to={"url": SLOW, "method": "POST"}, expect="timeout")
    both = claims(claim("passes", **others), blocked)
    assert verdicts(check(both, Settings(stable=1, timeout=0), FakeEdge(PODS, answers))) == ["pass", verdict]
    assert len(asked) == 2


def test_an_answer_that_a_proxy_may_have_written_is_no_control() -> None:
    """Behind a waypoint whose headers are hidden nobody can tell, so it does not show the application alive."""
    edge = MeshEdge(["curl-allow", "curl-deny"], lambda *_: SERVED, waypoint=True)
    edge.answers = steady({"curl-allow": (200, 0, {}, "?"), "curl-deny": RESET})
    edge.objects[-1]["status"]["conditions"] = []
    assert verdicts(check(claims(ALLOW, DENY), Settings(timeout=0), edge)) == ["error", "error"]
