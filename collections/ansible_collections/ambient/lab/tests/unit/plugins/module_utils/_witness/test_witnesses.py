# Checks with witnesses in a mesh in memory: asked once per round, late lines, proxies that come and go, wrong policies.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import collections
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._check.rounds import CheckResult, Settings, check
from ansible_collections.ambient.lab.plugins.module_utils._check.run import SILENT_HINT
from ansible_collections.ambient.lab.plugins.module_utils._witness.witnesses import REQUIRED
from ansible_collections.ambient.lab.tests.unit.fakes.mesh import (
    CLOSED,
    REJECTED,
    SERVED,
    Decision,
    MeshEdge,
    denied,
    refused,
    unmatched,
)
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object, claim, claims, condition, policy

ALLOW = claim("allow", source={"pod": "curl-allow"})
DENY = claim("deny", source={"pod": "curl-deny"}, expect="denied_l4")
L7 = claim("l7", source={"pod": "curl-deny"}, expect="denied_l7")
SOURCES = ["curl-allow", "curl-deny"]
BY_POLICY = denied("default/layer4-authz")


def only(source: str, decision: Decision) -> t.Callable[[str, int, str, str], Decision]:
    """This for one pod's requests, and the others are served."""
    return lambda name, *_: decision if name == source else SERVED


def checked(edge: MeshEdge, *raw: Object, **changed: t.Any) -> CheckResult:
    """Both claims, or those given."""
    settings = Settings(**{"witnesses": REQUIRED, "timeout": 10.0, **changed})
    return check(claims(*(raw or (ALLOW, DENY))), settings, edge)


def decided(result: CheckResult) -> list[tuple[str, str | None]]:
    """By whom, and which policy."""
    attributions = [item.attribution for item in result.claims]
    return [(item.decided_by, item.policy) for item in attributions if item]


def reason(result: CheckResult) -> str:
    """Why the last claim does not hold."""
    return result.claims[-1].verdict.reason


def test_log_and_counter_bear_a_denial_out() -> None:
    result = checked(MeshEdge(SOURCES, only("curl-deny", BY_POLICY)))
    assert (result.verdict, result.rounds) == ("pass", 3)
    assert decided(result) == [("application", None), ("ztunnel", "default/layer4-authz")]
    attribution = result.claims[1].attribution
    assert attribution
    assert [(item.witness, item.where, item.supports) for item in attribution.statements] == [
        ("client", "default/curl-deny", True),
        ("ztunnel log", "istio-system/z1", True),
        ("ztunnel log", "istio-system/z2", True),
        ("ztunnel counter", "istio-system/z2", True),
    ]
    assert [(item.proxy, item.kind, item.version) for item in result.proxies] == [
        ("istio-system/z1", "ztunnel", "1.29.1"),
        ("istio-system/z2", "ztunnel", "1.29.1"),
    ]
    assert [item.wording for item in result.proxies] == ["", "as of Istio 1.24 to 1.31, which name the policy"]


def calls(edge: MeshEdge) -> dict[str, int]:
    """How often each path of the API was asked."""
    return dict(collections.Counter([*edge.asked, *(f"{path}?{query}" for path, query in edge.listed)]))


@pytest.mark.parametrize("waypoint", [False, True])
def test_the_number_of_claims_costs_nothing(waypoint: bool) -> None:
    decision = refused("default/l7") if waypoint else BY_POLICY
    expected = "denied_l7" if waypoint else "denied_l4"
    found = []
    for number in (1, 100):
        edge = MeshEdge(SOURCES, only("curl-deny", decision), waypoint=waypoint)
        raw = [
            item
            for index in range(number)
            for item in (
                claim(f"allow {index}", source={"pod": "curl-allow"}, to=f"http://sample-app:8080/{index}"),
                claim(
                    f"deny {index}", source={"pod": "curl-deny"}, expect=expected, to=f"http://sample-app:8080/{index}"
                ),
            )
        ]
        result = checked(edge, *raw)
        assert (result.verdict, result.rounds, len(result.claims)) == ("pass", 3, 2 * number)
        found.append(calls(edge))
    assert found[0] == found[1]
    # Its place and its lines, before the first round and then once per round.
    log = "/api/v1/namespaces/istio-system/pods/z2/log"
    metrics = "/api/v1/namespaces/istio-system/pods/z2:15020/proxy/metrics"
    assert (found[0][log], found[0][metrics]) == (4, 4)
    assert found[0]["/api/v1/pods?app=ztunnel"] == 3


@pytest.mark.parametrize(("late", "verdict"), [(0.25, "pass"), (0.45, "pass"), (60.0, "")])
def test_lines_that_come_late(late: float, verdict: str) -> None:
    edge = MeshEdge(SOURCES, only("curl-deny", BY_POLICY), late=late)
    result = checked(edge, interval=0.0)
    # The counter says so at once, and who has logged nothing of anybody does not contradict it.
    name = "default/layer4-authz" if verdict else None
    assert (result.verdict, result.rounds, decided(result)[1]) == ("pass", 3, ("ztunnel", name))


@pytest.mark.parametrize("late", [0.0, 0.7, 1.4])
def test_the_waypoints_log_is_late_by_rounds(late: float) -> None:
    edge = MeshEdge(SOURCES, only("curl-deny", refused("default/layer7-authz")), waypoint=True, waypoint_late=late)
    result = checked(edge, ALLOW, L7, interval=0.1)
    assert (result.verdict, result.rounds) == ("pass", 3)
    assert decided(result)[1] == ("waypoint", "default/layer7-authz")


def test_an_earlier_rounds_line_names_the_policy_too() -> None:
    # The last round's own line comes after all waiting has ended.
    edge = MeshEdge(SOURCES, only("curl-deny", refused("default/layer7-authz")), waypoint=True, waypoint_late=2.5)
    result = checked(edge, ALLOW, L7, interval=1.0)
    assert (result.verdict, decided(result)[1]) == ("pass", ("waypoint", "default/layer7-authz"))


def test_a_waypoint_without_a_log_is_believed_by_its_counter() -> None:
    edge = MeshEdge(SOURCES, only("curl-deny", refused("default/layer7-authz")), waypoint=True, waypoint_late=1e6)
    result = checked(edge, ALLOW, L7)
    assert (result.verdict, decided(result)[1]) == ("pass", ("waypoint", None))


def test_a_late_line_that_names_another_policy_fails_what_had_passed() -> None:
    edge = MeshEdge(SOURCES, only("curl-deny", refused("default/other")), waypoint=True, waypoint_late=1.2)
    edge.authorization = [policy("l7", action="DENY")]
    result = checked(edge, ALLOW, {**L7, "by": "default/l7"}, interval=0.0)
    assert (result.verdict, result.converged_after) == ("fail", None)
    assert reason(result) == "denied by default/other, not by default/l7"


def test_a_waypoints_allow_policy() -> None:
    edge = MeshEdge(SOURCES, only("curl-deny", refused("none")), waypoint=True)
    edge.authorization = [policy("l7", targetRefs=[{"kind": "Service", "name": "sample-app"}])]
    result = checked(edge, ALLOW, {**L7, "by": "default/l7"})
    assert (result.verdict, decided(result)[1]) == ("pass", ("waypoint", "default/l7"))


def test_the_destinations_ztunnel_refuses_the_waypoint() -> None:
    edge = MeshEdge(SOURCES, only("curl-deny", unmatched()), waypoint=True)
    edge.authorization = [policy("only-curl", selector={"matchLabels": {"app": "sample-app"}})]
    result = checked(edge, ALLOW, {**DENY, "expect": "denied_upstream"})
    assert (result.verdict, decided(result)[1]) == ("pass", ("ztunnel", "default/only-curl"))


def test_by_another_policy_fails() -> None:
    edge = MeshEdge(SOURCES, only("curl-deny", denied("default/mine")))
    edge.authorization = [policy("other", action="DENY"), policy("mine", action="DENY")]
    result = checked(edge, ALLOW, {**DENY, "by": "default/other"}, timeout=2.0)
    assert (result.verdict, reason(result)) == ("fail", "denied by default/mine, not by default/other")
    assert checked(edge, ALLOW, {**DENY, "by": "default/mine"}).verdict == "pass"


def test_a_destination_that_closes_without_answering_is_no_denial() -> None:
    result = checked(MeshEdge(SOURCES, only("curl-deny", CLOSED)), timeout=2.0)
    assert (result.verdict, decided(result)[1]) == ("error", ("application", None))
    assert "no proxy says that it refused this" in reason(result)


class Crowd(MeshEdge):
    """A mesh in which another source is refused all the time."""

    def items(self, path: str, **query: str) -> list[Object]:
        for number in range(100):
            self.access(
                "z2", f"10.0.0.200:{30000 + number}", "inbound", f'error="{REJECTED}: explicitly denied by: a/b"'
            )
            self.count("z2", "crowd")
        return super().items(path, **query)


def test_refusals_of_another_source_are_not_ours() -> None:
    result = checked(Crowd(SOURCES, only("curl-deny", CLOSED)), timeout=2.0)
    assert (result.verdict, decided(result)[1]) == ("error", ("application", None))
    result = checked(Crowd(SOURCES, only("curl-deny", BY_POLICY)))
    assert (result.verdict, decided(result)[1]) == ("pass", ("ztunnel", "default/layer4-authz"))


def test_denials_of_the_past_are_no_evidence() -> None:
    # Denied in the first rounds, and then the application closes.
    edge = MeshEdge(
        SOURCES, lambda name, number, *_: SERVED if name == "curl-allow" else BY_POLICY if number < 2 else CLOSED
    )
    result = checked(edge, timeout=3.0)
    assert (result.verdict, decided(result)[1]) == ("error", ("application", None))
    # Denied before the check began.
    checked(edge := MeshEdge(SOURCES, only("curl-deny", BY_POLICY)))
    edge.decide = only("curl-deny", CLOSED)
    assert checked(edge, timeout=2.0).verdict == "error"


class Failing(MeshEdge):
    """A mesh whose destination's ztunnel can't be asked until its log or its counters were asked so often."""

    fails = 0

    def ask(self, path: str, **query: str) -> t.Any:
        if "/z2" in path:
            self.logs["z2"].status = self.logs["z2"].counts_status = 500 if self.fails > 0 else 200
            self.fails -= 1
        return super().ask(path, **query)


def test_what_could_not_be_asked_at_first_is_no_evidence_later() -> None:
    edge = Failing(SOURCES, only("curl-deny", BY_POLICY))
    checked(edge)
    # The past is full of our denials, and can't be told from the first round's.
    edge.decide, edge.fails = only("curl-deny", CLOSED), 2
    result = checked(edge, timeout=0.0)
    assert (result.rounds, result.verdict, decided(result)[1]) == (1, "error", ("application", None))
    edge.decide, edge.fails = only("curl-deny", BY_POLICY), 2
    assert checked(edge).verdict == "pass"


class Replaced(MeshEdge):
    """A mesh in which the destination's ztunnel is another pod in each round."""

    number = 2

    def items(self, path: str, **query: str) -> list[Object]:
        if query["labelSelector"] == "app=ztunnel":
            self.replace(f"z{self.number}", f"z{self.number + 1}")
            self.number += 1
        return super().items(path, **query)


def test_a_ztunnel_is_replaced_between_rounds() -> None:
    edge = Replaced(SOURCES, only("curl-deny", BY_POLICY))
    result = checked(edge)
    assert (result.verdict, decided(result)[1]) == ("pass", ("ztunnel", "default/layer4-authz"))
    assert [item.proxy for item in result.proxies] == ["istio-system/z1", "istio-system/z5"]


class Starting(MeshEdge):
    """A mesh whose waypoint has no address yet when the first round looks for it."""

    def items(self, path: str, **query: str) -> list[Object]:
        found = super().items(path, **query)
        if "gateway" not in query["labelSelector"] or self.clock > 0.5:
            return found
        return [{**item, "status": {**item["status"], "podIP": ""}} for item in found]


def test_a_waypoint_that_was_still_starting_is_heard_later() -> None:
    edge = Starting(SOURCES, only("curl-deny", refused("default/layer7-authz")), waypoint=True)
    result = checked(edge, ALLOW, L7, interval=0.3)
    assert (result.verdict, decided(result)[1]) == ("pass", ("waypoint", "default/layer7-authz"))


class Rotated(MeshEdge):
    """A mesh in which the destination's log is rotated after the requests of each round."""

    def run(self, *args: t.Any) -> tuple[str, str]:
        output = super().run(*args)
        self.logs["z2"].lines = []
        return output


def test_the_log_is_rotated_in_each_round() -> None:
    result = checked(Rotated(SOURCES, only("curl-deny", BY_POLICY)))
    # What remains: the counter, and the source's side.
    assert (result.verdict, decided(result)[1]) == ("pass", ("ztunnel", None))


def test_a_version_without_the_counter() -> None:
    edge = MeshEdge(SOURCES, only("curl-deny", BY_POLICY))
    edge.counts = "1.28.3"
    result = checked(edge)
    assert (result.verdict, decided(result)[1]) == ("pass", ("ztunnel", "default/layer4-authz"))
    assert result.proxies[1].version == "1.28.3"


def test_a_version_that_names_no_policy() -> None:
    edge = MeshEdge(SOURCES, only("curl-deny", Decision("ztunnel")))
    edge.counts = "1.23.3"
    result = checked(edge)
    assert (result.verdict, decided(result)[1]) == ("pass", ("ztunnel", None))
    assert "1.22 and 1.23" in result.proxies[1].wording


class Ancient(MeshEdge):
    """A mesh of Istio 1.21, which had no access lines."""

    def access(self, proxy: str, source: str, direction: str, error: str = "") -> None:
        if REJECTED in error:
            line = f"  INFO inbound{{id=1}}: ztunnel::proxy::inbound: RBAC rejected conn={source}(x)->10.0.1.5:80"
            self.logs[proxy].lines.append((self.clock, self._stamped(line)))


def test_a_version_that_is_too_old() -> None:
    edge = Ancient(SOURCES, only("curl-deny", BY_POLICY))
    edge.counts = "1.21.0"
    result = checked(edge, timeout=2.0)
    assert (result.verdict, decided(result)[1]) == ("error", ("-", None))
    assert "1.21 or older, which is not understood" in reason(result)
    assert reason(result).endswith(SILENT_HINT)
    assert "1.21" in result.proxies[1].wording


@pytest.mark.parametrize(("witnesses", "verdict"), [(REQUIRED, "error"), ("available", "pass")])
@pytest.mark.parametrize("how", ["lists", "reads"])
def test_nobody_can_be_asked(witnesses: str, verdict: str, how: str) -> None:
    edge = MeshEdge(SOURCES, only("curl-deny", BY_POLICY))
    edge.no_lists = how == "lists"
    for log in edge.logs.values():
        log.status = log.counts_status = 403 if how == "reads" else 200
    result = checked(edge, timeout=2.0, witnesses=witnesses)
    assert result.verdict == verdict
    if verdict == "error":
        assert "forbidden" in reason(result) or "HTTP 403" in reason(result)
        assert reason(result).endswith(SILENT_HINT)


@pytest.mark.parametrize("witnesses", [REQUIRED, "available"])
def test_witnesses_who_disagree_are_never_passed_over(witnesses: str) -> None:
    edge = MeshEdge(SOURCES, only("curl-deny", BY_POLICY), late=1e6)
    # It does log: a connection of somebody else's.
    edge.late, late = 0.0, edge.late
    edge.access("z2", "10.0.0.99:5", "inbound")
    edge.logs["z2"].lines.insert(0, edge.logs["z2"].lines.pop())
    edge.late = late
    result = checked(edge, timeout=2.0, witnesses=witnesses)
    assert (result.verdict, decided(result)[1]) == ("error", ("-", None))


def test_nobody_is_asked_without_need() -> None:
    edge = MeshEdge(SOURCES, only("curl-deny", BY_POLICY))
    result = checked(edge, witnesses="none")
    assert (result.verdict, edge.asked, edge.listed, result.proxies) == ("pass", [], [], [])
    assert result.claims[1].attribution is None


def test_before_the_policy_no_proxy_need_have_it() -> None:
    edge = MeshEdge(["good", "bad"], lambda name, *_: unmatched() if name == "bad" else SERVED)
    two = [policy(name, conditions=[condition()]) for name in ("one", "two")]
    # Of this one istiod has not taken the newest version yet.
    elsewhere = {"matchLabels": {"app": "elsewhere"}}
    edge.authorization = [
        *two,
        policy("later", action="DENY", selector=elsewhere, conditions=[condition("No", status="False")]),
    ]
    bad = claim("bad", source={"pod": "bad"}, before="denied_l4", expect="denied_l4", by="default/later")
    settings = Settings(witnesses="required", phase="before", timeout=2)
    result = check(claims(claim("good", source={"pod": "good"}), bad), settings, edge)
    assert result.verdict == "pass", result.claims[1].verdict
