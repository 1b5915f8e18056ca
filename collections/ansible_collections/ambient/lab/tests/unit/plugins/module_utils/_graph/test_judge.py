# Judging edges: what holds, what the window keeps, and what an edge that is not there needs to mean something.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._graph.judge import (
    NO_CONTROL,
    NOT_SENT,
    judge_all,
)
from ansible_collections.ambient.lab.plugins.module_utils._graph.model import parse_graph
from ansible_collections.ambient.lab.plugins.module_utils._graph.parse import End, GraphClaim
from ansible_collections.ambient.lab.plugins.module_utils._graph.run import EdgesSeen, GraphRun, Judged
from ansible_collections.ambient.lab.tests.unit.fakes.graph import Flow, graph_claim, graph_claims, raw_graph


def judged(
    claims: t.Sequence[GraphClaim],
    *flows: Flow,
    phase: str = "after",
    sent: bool = True,
    waypoints: t.Mapping[str, str | None] | None = None,
) -> list[Judged]:
    """All claims on a graph of these edges; waypoints: by the destination's name, None where nobody knows."""
    graph = parse_graph(raw_graph(*flows))
    runs = [GraphRun(claim, phase) for claim in claims]
    behind = waypoints or {}

    def waypoints_of(end: End) -> frozenset[tuple[str, str]] | None:
        name = behind.get(end.name, "")
        return None if name is None else frozenset({("default", name)} if name else ())

    def seen(claim: GraphClaim) -> EdgesSeen:
        return EdgesSeen(tuple(graph.between(claim.source, claim.target)))

    judge_all(runs, seen, lambda _claim: sent, waypoints_of)
    return [run.judged for run in runs]


TCP = Flow("curl-allow", "sample-app-blue")
HTTP = Flow("curl-allow", "sample-app-blue", "http", 0.8, ("200", "403"), 100)


@pytest.mark.parametrize(
    ("expect", "flows", "verdict", "words", "sticky"),
    [
        ("edge", [TCP], "pass", "", False),
        ("edge", [HTTP], "pass", "", False),
        ("edge", [], "fail", "expected edge, saw no edge", False),
        ({"outcome": "edge", "protocol": "tcp"}, [TCP], "pass", "", False),
        ({"outcome": "edge", "protocol": "tcp"}, [HTTP], "fail", "expected edge tcp, saw http 0.8/s 200 403", False),
        ({"outcome": "edge", "protocol": "tcp", "min_rate": 92}, [TCP], "pass", "", False),
        ({"outcome": "edge", "protocol": "tcp", "min_rate": 92.1}, [TCP], "fail", "saw a rate of 92", False),
        ("edge", [Flow("curl-allow", "sample-app-blue", rate=0)], "fail", "expected edge, saw tcp 0 B/s", False),
        ({"outcome": "edge", "codes": [200, 403]}, [HTTP], "pass", "", False),
        # A code that is missing may come, a code too many stays in the window.
        ({"outcome": "edge", "codes": [200, 403, 404]}, [HTTP], "fail", "wants exactly 200, 403, 404", False),
        ({"outcome": "edge", "codes": [200]}, [HTTP], "fail", "the codes are 200, 403, the claim wants", True),
        (
            {"outcome": "edge", "codes": [200]},
            [Flow("curl-allow", "sample-app-blue", "http", 1, ("-", "200"))],
            "fail",
            "the codes are no response, 200",
            True,
        ),
        ({"outcome": "edge", "mtls": True}, [HTTP], "pass", "", False),
        ({"outcome": "edge", "mtls": True}, [TCP], "fail", "Kiali does not say whether mTLS protects", False),
        (
            {"outcome": "edge", "mtls": True},
            [Flow("curl-allow", "sample-app-blue", mtls=99)],
            "fail",
            "mTLS protects only 99% of it",
            True,
        ),
        ({"outcome": "edge", "mtls": False}, [Flow("curl-allow", "sample-app-blue", mtls=0)], "pass", "", False),
        # Of a destination that is not counted nobody knows.
        ({"outcome": "edge", "mtls": False}, [TCP], "fail", "Kiali does not say whether mTLS protects", False),
        ({"outcome": "edge", "mtls": False}, [HTTP], "fail", "mTLS protects 100% of it", True),
        # Both protocols at once: the claim is about those it names, and all of them otherwise.
        ({"outcome": "edge", "mtls": True}, [TCP, HTTP], "fail", "Kiali does not say", False),
        ({"outcome": "edge", "protocol": "http", "mtls": True}, [TCP, HTTP], "pass", "", False),
    ],
)
def test_an_edge(expect: object, flows: list[Flow], verdict: str, words: str, sticky: bool) -> None:
    (item,) = judged(graph_claims(graph_claim(expect=expect)), *flows)
    assert (item.verdict.verdict, item.sticky) == (verdict, sticky)
    assert words in item.verdict.reason
    assert item.missing == (verdict == "fail" and "expected edge" in words and "saw" in words and "rate" not in words)


CONTROL = graph_claim("control", expect={"outcome": "edge", "protocol": "tcp"})
ABSENT = graph_claim("absent", "curl-deny", before={"outcome": "edge", "protocol": "tcp"}, expect="no_edge")


def test_an_absence_with_its_control() -> None:
    control, absent = judged(graph_claims(CONTROL, ABSENT), TCP)
    assert (control.verdict.verdict, absent.verdict.verdict) == ("pass", "pass")
    assert absent.control == "the same window has default/curl-allow -> sample-app-blue (tcp 92 B/s)"
    assert not absent.sticky


def test_an_edge_that_must_not_be_there() -> None:
    _control, absent = judged(graph_claims(CONTROL, ABSENT), TCP, Flow("curl-deny", "sample-app-blue", rate=0))
    assert (absent.verdict.verdict, absent.sticky) == ("fail", True)
    assert absent.verdict.reason == "expected no_edge, saw tcp 0 B/s"
    # Of another protocol than the claim names, it is none of its business.
    tcp = {**ABSENT, "expect": {"outcome": "no_edge", "protocol": "tcp"}}
    http = Flow("curl-deny", "sample-app-blue", "http", 1, ("200",))
    assert judged(graph_claims(CONTROL, tcp), TCP, http)[1].verdict.verdict == "pass"
    assert judged(graph_claims(CONTROL, ABSENT), TCP, http)[1].verdict.verdict == "fail"


@pytest.mark.parametrize(
    ("control", "flows", "sent", "reason"),
    [
        (CONTROL, [], True, NO_CONTROL.format("ztunnel")),
        (CONTROL, [TCP], False, NOT_SENT),
        # The control's edge is there, but it does not hold, or another kind of proxy has reported it.
        (
            graph_claim("c", expect={"outcome": "edge", "protocol": "tcp", "min_rate": 100}),
            [TCP],
            True,
            NO_CONTROL.format("ztunnel"),
        ),
        (graph_claim("c"), [HTTP], True, NO_CONTROL.format("ztunnel")),
    ],
)
def test_an_absence_that_proves_nothing(control: dict[str, t.Any], flows: list[Flow], sent: bool, reason: str) -> None:
    absent = judged(graph_claims(control, ABSENT), *flows, sent=sent)[1]
    assert (absent.verdict.verdict, absent.verdict.reason, absent.sticky) == ("error", reason, False)


def test_no_edge_at_all_needs_the_counters_of_every_proxy_that_would_have_made_one() -> None:
    """The waypoint is scraped, and ztunnel is not: of what bypasses the waypoint nothing is drawn."""
    claims = graph_claims(graph_claim("good"), graph_claim("bad", "curl-deny", expect="no_edge"))
    behind = {"sample-app-blue": "wp"}
    for waypoints in (behind, {}):
        _good, bad = judged(claims, HTTP, waypoints=waypoints)
        assert (bad.verdict.verdict, bad.uncontrolled) == ("error", "ztunnel")
    # And the other way round: what the waypoint counts is an edge, too.
    _good, bad = judged(claims, TCP, waypoints=behind)
    assert (bad.verdict.verdict, bad.uncontrolled) == ("error", "waypoint")
    assert judged(claims, TCP)[1].verdict.verdict == "pass"
    _good, bad = judged(claims, TCP, HTTP, waypoints=behind)
    assert (bad.verdict.verdict, bad.uncontrolled) == ("pass", "")
    assert bad.control == (
        "the same window has default/curl-allow -> sample-app-blue (tcp 92 B/s), "
        "default/curl-allow -> sample-app-blue (http 0.8/s 200 403 mTLS)"
    )


@pytest.mark.parametrize(
    ("protocol", "absent", "control", "verdict"),
    [
        # Each waypoint is a proxy of its own, in whatever namespace its Services are.
        ("http", "wp", "wp", "pass"),
        ("http", "wp", "other", "error"),
        ("http", "wp", "", "error"),
        ("http", "wp", None, "error"),
        ("http", "", "", "error"),
        # A waypoint counts connections, too; where there is none, ztunnel does.
        ("tcp", "", "", "pass"),
        ("tcp", "wp", "", "pass"),
        ("tcp", "", "wp", "error"),
        ("tcp", "", None, "error"),
    ],
)
def test_a_control_to_another_destination_has_the_same_counters(
    protocol: str, absent: str, control: str | None, verdict: str
) -> None:
    expect = {"protocol": protocol}
    claims = graph_claims(
        graph_claim("control", to="second", expect={**expect, "outcome": "edge"}),
        graph_claim("absent", to="first", expect={**expect, "outcome": "no_edge"}),
    )
    flow = Flow("curl-allow", "second", protocol, 1)
    found = judged(claims, flow, waypoints={"first": absent, "second": control})
    assert found[1].verdict.verdict == verdict


def test_an_absence_is_controlled_by_the_phases_own_edges() -> None:
    late = graph_claim("late", before="no_edge", expect={"outcome": "edge", "protocol": "tcp"})
    other = graph_claim("other", "third", expect={"outcome": "edge", "protocol": "tcp"})
    third = Flow("third", "sample-app-blue")
    claims = graph_claims(late, other)
    assert [item.verdict.verdict for item in judged(claims, third, phase="before")] == ["pass", "pass"]
    assert [item.verdict.verdict for item in judged(claims, TCP, third, phase="before")] == ["fail", "pass"]
    assert [item.verdict.verdict for item in judged(claims, TCP, third)] == ["pass", "pass"]


def test_no_answer() -> None:
    runs = [GraphRun(claim, "after") for claim in graph_claims(CONTROL, ABSENT)]
    judge_all(runs, lambda _claim: EdgesSeen(problem="HTTP 500"), lambda _claim: True, lambda _end: frozenset())
    assert [(run.verdict.verdict, run.verdict.reason) for run in runs] == [("error", "HTTP 500")] * 2
    assert runs[1].judged.seen.outcome == "no_answer"


def test_what_is_remembered_is_not_the_rate() -> None:
    kinds = [judged(graph_claims(graph_claim()), flow)[0].seen.kind for flow in (TCP, HTTP)]
    assert kinds == ["edge tcp", "edge http 200 403"]
    assert EdgesSeen().kind == "no_edge"
