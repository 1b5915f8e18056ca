# Claims about the graph: what is accepted, what is refused, and which claim may be another one's control.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._graph.parse import (
    EdgeExpectation,
    End,
    may_control,
    parse_graph_claims,
    parse_pairs,
)
from ansible_collections.ambient.lab.tests.unit.fakes.graph import graph_claim, graph_claims

APP = {"service": "sample-app"}
CONTROL = graph_claim("control", expect={"outcome": "edge", "protocol": "tcp"})


def test_short_and_long_forms() -> None:
    (short, long) = graph_claims(
        graph_claim("short"),
        graph_claim(
            "long",
            {"workload": "curl", "namespace": "layer7"},
            to=APP,
            expect={"outcome": "edge", "protocol": "http", "min_rate": "0.5", "codes": ["200", 403], "mtls": True},
            before={"outcome": "edge", "protocol": "tcp"},
        ),
    )
    assert (short.source, short.target) == (
        End("workload", "default", "curl-allow"),
        End("workload", "default", "sample-app-blue"),
    )
    assert (short.after, short.before) == (EdgeExpectation("edge"), EdgeExpectation("edge"))
    assert (long.source, long.target) == (End("workload", "layer7", "curl"), End("service", "default", "sample-app"))
    assert long.after == EdgeExpectation("edge", "http", 0.5, frozenset({200, 403}), True)
    assert long.expected("before") == EdgeExpectation("edge", "tcp")
    assert str(long.after) == "edge http >= 0.5/s 200 403 mTLS"
    assert long.between == "layer7/curl -> service default/sample-app"
    assert short.between == "default/curl-allow -> sample-app-blue"
    (same,) = graph_claims(graph_claim(to=APP))
    assert same.between == "default/curl-allow -> service sample-app"


@pytest.mark.parametrize(
    ("expect", "before"),
    [
        ("no_edge", EdgeExpectation("edge")),
        ({"outcome": "no_edge", "protocol": "tcp"}, EdgeExpectation("edge", "tcp")),
        ({"outcome": "edge", "codes": 200}, EdgeExpectation("edge", "http", codes=frozenset({200}))),
        ({"outcome": "edge", "mtls": False}, EdgeExpectation("edge", mtls=False)),
        ({"outcome": "edge", "protocol": "grpc", "min_rate": 0}, EdgeExpectation("edge", "grpc", 0.0)),
    ],
)
def test_what_is_expected_before(expect: object, before: EdgeExpectation) -> None:
    claims = graph_claims(graph_claim("control"), graph_claim("claim", "curl-deny", expect=expect))
    assert claims[1].before == before


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"unknown": 1}, "claim 1 ('a claim'): claim: unknown key 'unknown'"),
        ({"name": ""}, "name: must be a text that is not empty"),
        ({"to": {}}, "to: needs exactly one of workload, service"),
        ({"to": {"workload": "a", "service": "b"}}, "to: needs exactly one of workload, service"),
        ({"to": {"workload": "a", "pod": "b"}}, "to: unknown key 'pod'"),
        ({"to": "Sample_App"}, "to.workload: 'Sample_App' is not a Kubernetes name"),
        ({"to": {"workload": "a", "namespace": "B"}}, "to.namespace: 'B' is not a Kubernetes name"),
        ({"to": 3}, "to: must be a mapping"),
        ({"expect": "some_edge"}, "expect: unknown outcome 'some_edge'; allowed are edge, no_edge"),
        ({"expect": {"protocol": "tcp"}}, "expect: unknown outcome None"),
        ({"expect": {"outcome": "edge", "rate": 1}}, "expect: unknown key 'rate'"),
        ({"expect": {"outcome": "edge", "protocol": "udp"}}, "expect.protocol: unknown protocol 'udp'"),
        (
            {"expect": {"outcome": "edge", "protocol": "tcp", "min_rate": -1}},
            "expect.min_rate: must be a number from 0",
        ),
        ({"expect": {"outcome": "edge", "protocol": "tcp", "min_rate": "nan"}}, "expect.min_rate: must be a number"),
        ({"expect": {"outcome": "edge", "protocol": "tcp", "min_rate": "inf"}}, "expect.min_rate: must be a number"),
        ({"expect": {"outcome": "edge", "protocol": "tcp", "min_rate": True}}, "expect.min_rate: must be a number"),
        ({"expect": {"outcome": "edge", "protocol": "tcp", "min_rate": []}}, "expect.min_rate: must be a number"),
        ({"expect": {"outcome": "edge", "min_rate": 1}}, "expect.min_rate: needs a protocol"),
        ({"expect": {"outcome": "edge", "codes": []}}, "expect.codes: is an empty list"),
        ({"expect": {"outcome": "edge", "codes": 99}}, "expect.codes: 99 is not a number from 100 to 599"),
        ({"expect": {"outcome": "edge", "codes": 200, "protocol": "tcp"}}, "expect.codes: tcp has no HTTP status"),
        ({"expect": {"outcome": "edge", "mtls": "yes"}}, "expect.mtls: must be true or false"),
        ({"expect": {"outcome": "no_edge", "min_rate": 1}}, "expect.min_rate: an edge that is not there has none"),
        ({"expect": {"outcome": "no_edge", "codes": 200}}, "expect.codes: an edge that is not there has none"),
        ({"expect": {"outcome": "no_edge", "mtls": True}}, "expect.mtls: an edge that is not there has none"),
        ({"before": "no"}, "before: unknown outcome 'no'"),
        (
            {"from": {"workload": "x", "namespace": "one"}, "to": {"workload": "x", "namespace": "two"}},
            "to: one/x -> two/x has no end in namespaces (default), so Kiali would not draw it",
        ),
    ],
)
def test_what_is_refused(changed: dict[str, t.Any], words: str) -> None:
    with pytest.raises(LabError) as caught:
        graph_claims({**graph_claim(), **changed})
    assert caught.value.message.startswith("Invalid claims, nothing was probed:\n")
    assert words in caught.value.message


@pytest.mark.parametrize("raw", [[], None, {}, "edge"])
def test_a_list_that_checks_nothing(raw: object) -> None:
    with pytest.raises(LabError, match="claims is empty"):
        parse_graph_claims(raw, "default", ["default"])


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(LabError) as caught:
        graph_claims(graph_claim("x"), graph_claim("x"), {"name": "y"}, "z")  # type: ignore[arg-type]
    assert "claim 2 ('x'): name: 'x' is used twice" in caught.value.message
    assert "claim 3 ('y'): from: is missing" in caught.value.message
    assert "claim 4: claim: must be a mapping" in caught.value.message


@pytest.mark.parametrize(
    ("claim", "controlled"),
    [
        # The same destination, the same source, neither, another kind of telemetry, none at all.
        ({"from": "curl-deny"}, True),
        ({"from": "curl-allow", "to": "other"}, True),
        ({"from": "curl-deny", "to": "other"}, False),
        # Without a protocol it says that nothing at all is drawn.
        ({"from": "curl-deny", "before": "edge"}, True),
        ({"from": "curl-deny", "to": APP}, False),
        ({"from": "curl-deny", "before": {"outcome": "edge", "protocol": "http"}}, False),
        ({"from": "curl-deny", "expect": {"outcome": "no_edge", "protocol": "http"}}, False),
        ({"from": "curl-deny", "expect": {"outcome": "no_edge", "protocol": "tcp"}}, True),
    ],
)
def test_an_absence_needs_a_claim_that_can_be_its_control(claim: dict[str, t.Any], controlled: bool) -> None:
    absent = {**graph_claim("absent", expect="no_edge"), **claim}
    if controlled:
        assert len(graph_claims(CONTROL, absent)) == 2
        return
    with pytest.raises(LabError) as caught:
        graph_claims(CONTROL, absent)
    assert "claim 2 ('absent'): expect: an edge may also be missing because nothing is counted" in caught.value.message
    assert "add a claim whose expect is an edge of" in caught.value.message


def test_an_http_edge_alone_does_not_show_that_ztunnel_counts() -> None:
    http = graph_claim("control", expect={"outcome": "edge", "protocol": "http"})
    with pytest.raises(LabError, match="add a claim whose expect is an edge of tcp, which ztunnel counts"):
        graph_claims(http, graph_claim("absent", "curl-deny", expect="no_edge"))


def test_an_absence_before_the_policy_needs_one_too() -> None:
    closed = graph_claim("control", before="no_edge")
    with pytest.raises(LabError, match="claim 1 \\('control'\\): before: an edge may also be missing"):
        graph_claims(closed, graph_claim("absent", "curl-deny", expect="edge", before="no_edge"))


def test_a_waypoint_of_another_namespace_says_nothing() -> None:
    http = {"outcome": "edge", "protocol": "http"}
    here = {"service": "sample-app"}
    there = {"service": "other", "namespace": "layer7"}
    claims = graph_claims(
        graph_claim("absent", "curl", to=here, expect={"outcome": "no_edge", "protocol": "http"}),
        graph_claim("there", "curl", to=there, expect=http),
        graph_claim("here", "curl", to={"service": "second"}, expect=http),
    )
    assert [may_control(claims[0], other, "after", "waypoint") for other in claims] == [False, False, True]
    # A source's own ztunnel counts all that it sends, wherever it goes.
    claims = graph_claims(
        graph_claim("absent", "curl", to=here, expect={"outcome": "no_edge", "protocol": "tcp"}),
        graph_claim("there", "curl", to=there, expect={"outcome": "edge", "protocol": "tcp"}),
    )
    assert may_control(claims[0], claims[1], "after", "ztunnel")


def test_pairs() -> None:
    assert parse_pairs([{"from": "a", "to": {"service": "b", "namespace": "c"}}], "default") == [
        (End("workload", "default", "a"), End("service", "c", "b"))
    ]
    for wrong in (["a"], [{"from": "a"}], [{"from": "a", "to": "b", "via": "c"}]):
        with pytest.raises(LabError, match="absent 1: "):
            parse_pairs(wrong, "default")
