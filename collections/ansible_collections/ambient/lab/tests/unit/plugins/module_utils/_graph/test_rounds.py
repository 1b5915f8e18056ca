# Rounds on the graph: the window, its new beginning, controls, traffic, and a Kiali that does not answer.
# SPDX-License-Identifier: GPL-3.0-or-later

import dataclasses
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._graph.judge import NO_CONTROL, NOT_SENT
from ansible_collections.ambient.lab.plugins.module_utils._graph.rounds import check_graph
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh
from ansible_collections.ambient.lab.tests.unit.fakes.graph import (
    SERVER_START,
    SERVICE,
    FakeKiali,
    Flow,
    graph_claim,
    graph_claims,
    lab,
)
from ansible_collections.ambient.lab.tests.unit.fakes.graph_rounds import (
    ALLOWED,
    DENIED,
    FLOWS,
    SETTINGS,
    TRAFFIC,
    enforced,
    run,
    verdicts,
)
from ansible_collections.ambient.lab.tests.unit.fakes.mesh import FROM_UPSTREAM
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import gateway
from ansible_collections.ambient.lab.tests.unit.fakes.objects import (
    APP_403,
    OK,
    RESET,
    Answer,
    FakeEdge,
    claim,
    claims,
    pod,
)


def test_both_hold() -> None:
    result, kiali = run()
    assert (result.verdict, verdicts(result), result.restarts) == ("pass", ["pass", "pass"], 0)
    assert result.converged_after is not None
    assert result.claims[1].judged.control == (
        f"the same window has default/curl-allow -> sample-app-blue ({result.claims[0].judged.seen})"
    )
    # The window began after the check did, and grew; its end is never in the future (the fake asserts it).
    starts = {start for start, _end, _inject in kiali.windows}
    assert len(starts) == 1
    assert min(starts) > SERVER_START
    ends = [end for _start, end, inject in kiali.windows if not inject]
    assert ends == sorted(ends)
    assert result.look.window is not None
    assert result.look.window.seconds(result.look.end) >= 5
    assert result.look.answer is not None


def test_times_are_counted_from_the_start() -> None:
    result, kiali = run(prepare=lambda edge, _kiali: setattr(edge, "clock", 5000.0))
    assert result.converged_after is not None
    assert 4 < result.converged_after < result.elapsed < 12
    assert result.claims[1].history.changes[-1].at == pytest.approx(result.converged_after, abs=0.01)
    assert min(start for start, _end, _inject in kiali.windows) > SERVER_START + 5000


def test_the_first_rounds_are_not_yet() -> None:
    result, _kiali = run()
    changes = [(change.outcome, change.verdict) for change in result.claims[0].history.changes]
    # Seen in a window that is still short, it counts only when the window is long enough.
    assert changes == [("no_edge", "error"), ("edge tcp", "error"), ("edge tcp", "pass")]
    assert result.rounds > 4


def test_traffic_from_before_is_never_in_the_window() -> None:
    def before(_edge: FakeEdge, kiali: FakeKiali) -> None:
        for tick in range(200):
            kiali.count(FLOWS["curl-deny"], SERVER_START - 20 + tick / 10)

    result, _kiali = run(prepare=before)
    assert (result.verdict, result.restarts) == ("pass", 0)
    assert "edge tcp" not in [change.outcome for change in result.claims[1].history.changes]


def test_a_late_trace_of_the_past_begins_the_window_anew() -> None:
    def late(_edge: FakeEdge, kiali: FakeKiali) -> None:
        for tick in range(40):
            kiali.count(FLOWS["curl-deny"], SERVER_START + tick / 10)

    result, kiali = run(prepare=late)
    assert (result.verdict, verdicts(result)) == ("pass", ["pass", "pass"])
    assert result.restarts == len({start for start, _end, inject in kiali.windows if not inject}) - 1 > 0
    # It is seen, and the window begun anew, long before the window could prove anything.
    first = kiali.windows[0][0]
    assert max(end - start for start, end, _inject in kiali.windows if start == first) < 3
    changes = [(change.outcome, change.verdict) for change in result.claims[1].history.changes]
    assert changes[-3:] == [("edge tcp", "fail"), ("no_edge", "error"), ("no_edge", "pass")]
    # What the old window has shown of the others still stands while the new one is too short.
    assert [change.verdict for change in result.claims[0].history.changes][-2:] == ["error", "pass"]
    assert not result.claims[0].history.flapped


def test_an_edge_that_stays_fails_with_what_was_seen() -> None:
    def open_to_all(kiali: FakeKiali, name: str, _number: int, _method: str) -> Answer:
        kiali.count(FLOWS[name])
        return RESET if name == "curl-deny" else OK

    for timeout in (10, 11, 12, 13):
        result, _kiali = run(open_to_all, settings=dataclasses.replace(SETTINGS, timeout=timeout))
        assert (result.verdict, verdicts(result)) == ("fail", ["pass", "fail"])
        assert result.claims[1].judged.verdict.reason.startswith("expected no_edge, saw tcp ")
        assert result.restarts > 1
        assert not result.claims[0].history.flapped
        # The answer that is shown is the one with the edge, not that of a window too short for any.
        assert result.look.answer is not None
        assert len(result.look.answer["elements"]["edges"]) == 2
        assert result.look.window is not None
        assert result.look.end > result.look.window.start


def test_a_control_that_is_missing_is_an_error_not_a_pass() -> None:
    result, _kiali = run(lambda _kiali, name, *_: RESET if name == "curl-deny" else OK)
    assert (result.verdict, verdicts(result)) == ("error", ["fail", "error"])
    assert result.claims[0].judged.missing
    assert result.claims[1].judged.verdict.reason == NO_CONTROL.format("ztunnel")


def test_requests_that_were_not_sent_prove_nothing() -> None:
    def broken(kiali: FakeKiali, name: str, number: int, method: str) -> Answer:
        return (0, 6, {}, "") if name == "curl-deny" else enforced(kiali, name, number, method)

    result, _kiali = run(broken)
    assert (result.verdict, verdicts(result)) == ("error", ["pass", "error"])
    assert result.claims[1].judged.verdict.reason == NOT_SENT
    assert [item.verdict.verdict for item in result.traffic] == ["pass", "fail"]


def test_a_round_whose_traffic_is_not_as_claimed_is_not_good() -> None:
    def flaky(kiali: FakeKiali, name: str, number: int, method: str) -> Answer:
        if name == "curl-allow" and number % 2:
            return APP_403
        return enforced(kiali, name, number, method)

    result, _kiali = run(flaky)
    assert (result.verdict, verdicts(result), result.converged_after) == ("fail", ["pass", "pass"], None)
    assert result.traffic[0].history.flapped


def test_the_graph_alone_without_traffic_of_its_own() -> None:
    def elsewhere(_edge: FakeEdge, kiali: FakeKiali) -> None:
        for tick in range(600):
            kiali.count(FLOWS["curl-allow"], SERVER_START + tick / 10)

    result, kiali = run(graph=[ALLOWED], traffic=(), prepare=elsewhere)
    assert (result.verdict, result.traffic) == ("pass", [])
    assert kiali.windows[-1][2]


@pytest.mark.parametrize(
    ("traffic", "prepare", "words"),
    [
        ((), lambda edge: None, "denied: nothing in traffic surely goes default/curl-deny -> sample-app-blue"),
        (TRAFFIC[:1], lambda edge: None, "denied: nothing in traffic surely goes"),
        (
            claims(claim(source={"pod": "curl-deny"}, to="http://other/")),
            lambda edge: None,
            "nothing in traffic surely",
        ),
        (
            (*TRAFFIC, *claims(claim("deny again", source={"pod": "curl-deny"}, expect="denied_l4"))),
            lambda edge: edge.objects.pop(1),
            "The traffic can't be sent, nothing was asked:\n  pod default/curl",
        ),
    ],
)
def test_what_could_prove_nothing_is_refused_before_any_traffic(
    traffic: t.Any, prepare: t.Callable[[FakeEdge], object], words: str
) -> None:
    edge, kiali = lab(enforced)
    prepare(edge)
    with pytest.raises(LabError) as caught:
        check_graph(graph_claims(ALLOWED, DENIED), traffic, ["default"], SETTINGS, edge, kiali)
    assert words in caught.value.message
    lines = caught.value.message.splitlines()
    assert len(lines) == len(set(lines))
    assert (edge.execs, kiali.windows) == (0, [])


def test_what_could_not_be_read_is_said_where_no_request_surely_goes() -> None:
    edge, kiali = lab(enforced)
    whole = edge.mesh([], [])
    edge.mesh = lambda *_: Mesh(  # type: ignore[method-assign]
        [item for item in whole.objects() if item["kind"] != "Service"], unread={("Service", "default"): "HTTP 403"}
    )
    with pytest.raises(LabError, match="HTTP 403"):
        check_graph(graph_claims(ALLOWED, DENIED), TRAFFIC, ["default"], SETTINGS, edge, kiali)


def test_a_waypoint_that_is_starting_is_waited_for() -> None:
    """Until it serves, no request surely goes through it."""
    absent = graph_claim("absent", "curl-deny", to="waypoint", expect={"outcome": "no_edge", "protocol": "tcp"})
    control = graph_claim("control", to="waypoint", expect={"outcome": "edge", "protocol": "tcp"})
    edge, kiali = lab(enforced)
    answers, sleep = edge.answers, edge.sleep
    edge.answers = lambda *asked: FROM_UPSTREAM if answers(*asked) == OK else answers(*asked)
    started = gateway("waypoint", "default")[0]
    edge.gateways = [{**started, "status": {}}]
    edge.services = [{**SERVICE, "metadata": {**SERVICE["metadata"], "labels": {"istio.io/use-waypoint": "waypoint"}}}]

    def start(seconds: float) -> None:
        sleep(seconds)
        kiali.count(Flow("curl-allow", "waypoint"))
        if edge.clock > 5:
            edge.gateways = [started]

    edge.sleep = start  # type: ignore[method-assign]
    result = check_graph(graph_claims(control, absent), TRAFFIC, ["default"], SETTINGS, edge, kiali)
    assert (result.verdict, result.claims[1].history.changes[-2].verdict) == ("pass", "error")


def test_a_source_that_is_starting_is_waited_for() -> None:
    edge, kiali = lab(enforced)
    ready, edge.objects[1] = edge.objects[1], pod("curl-deny", ready=False)
    sleep = edge.sleep

    def wake(seconds: float) -> None:
        sleep(seconds)
        if edge.clock > 5:
            edge.objects[1] = ready

    edge.sleep = wake  # type: ignore[method-assign]
    result = check_graph(graph_claims(ALLOWED, DENIED), TRAFFIC, ["default"], SETTINGS, edge, kiali)
    assert result.verdict == "pass"
    assert result.claims[1].history.changes[-2].verdict == "error"


def test_behind_a_waypoint_no_edge_at_all_has_two_controls() -> None:
    """What the cluster says of a Service's waypoint is known before any traffic."""
    to = {"service": "sample-app"}
    tcp = graph_claim("tcp", to=to, expect={"outcome": "edge", "protocol": "tcp"})
    http = graph_claim("http", to=to, expect={"outcome": "edge", "protocol": "http"})
    absent = graph_claim("absent", "curl-deny", to=to, expect="no_edge")
    flows = [Flow("curl-allow", "service:sample-app", protocol) for protocol in ("tcp", "http")]

    def counted(kiali: FakeKiali, name: str, _number: int, _method: str) -> Answer:
        for flow in flows if name == "curl-allow" else []:
            kiali.count(flow)
        return OK if name == "curl-allow" else RESET

    def enroll(edge: FakeEdge, _kiali: FakeKiali) -> None:
        labels = {"istio.io/use-waypoint": "wp"}
        edge.services = [{**item, "metadata": {**item["metadata"], "labels": labels}} for item in edge.services]

    assert run(counted, [tcp, absent])[0].verdict == "pass"
    with pytest.raises(LabError, match="an edge of http or grpc, which waypoint counts"):
        run(counted, [tcp, absent], prepare=enroll)
    assert run(counted, [tcp, http, absent], prepare=enroll)[0].verdict == "pass"
