# A Kiali that is late, silent, broken or slow, and what its answers do to the window.
# SPDX-License-Identifier: GPL-3.0-or-later

import dataclasses

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._check.stable import PATIENCE
from ansible_collections.ambient.lab.plugins.module_utils._common.rounds import Retry
from ansible_collections.ambient.lab.plugins.module_utils._graph.http import Reply
from ansible_collections.ambient.lab.plugins.module_utils._graph.rounds import NO_DATE, check_graph
from ansible_collections.ambient.lab.tests.unit.fakes.graph import (
    SERVER_START,
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
from ansible_collections.ambient.lab.tests.unit.fakes.objects import (
    OK,
    RESET,
    Answer,
)

SILENT = Reply(problem="the Kubernetes API could not reach Kiali, HTTP 503: no endpoints available")
LOGIN = Reply(date=SERVER_START, problem="Kiali asks for a login", reached=True, retry=Retry.POINTLESS)
BROKEN = Reply(date=SERVER_START, problem="Kiali answered HTTP 503: no Prometheus", reached=True)


def test_a_kiali_that_comes_late() -> None:
    edge, kiali = lab(enforced)
    kiali.problem = SILENT
    sleep = edge.sleep

    def start(seconds: float) -> None:
        sleep(seconds)
        if edge.clock > 5:
            kiali.problem = Reply()

    edge.sleep = start  # type: ignore[method-assign]
    result = check_graph(graph_claims(ALLOWED, DENIED), TRAFFIC, ["default"], SETTINGS, edge, kiali)
    assert result.verdict == "pass"
    outcomes = dict.fromkeys(change.outcome for change in result.claims[0].history.changes)
    assert list(outcomes) == ["no_answer", "no_edge", "edge tcp"]


@pytest.mark.parametrize(("problem", "early"), [(SILENT, False), (BROKEN, False), (LOGIN, True)])
def test_a_kiali_that_never_answers(problem: Reply, early: bool) -> None:
    result, kiali = run(prepare=lambda _edge, kiali: setattr(kiali, "problem", problem))
    assert (result.verdict, verdicts(result)) == ("error", ["error", "error"])
    assert result.claims[0].judged.verdict.reason == problem.problem
    assert result.claims[0].judged.seen.outcome == "no_answer"
    assert (result.look.window, result.look.answer, kiali.windows) == (None, None, [])
    # Nobody waits for a login to be switched off.
    assert (result.rounds == PATIENCE) == early


def test_a_kiali_that_goes_away_keeps_its_last_answer() -> None:
    edge, kiali = lab(lambda kiali, name, *_: OK)
    sleep = edge.sleep

    def stop(seconds: float) -> None:
        sleep(seconds)
        if edge.clock > 20:
            kiali.problem = BROKEN

    edge.sleep = stop  # type: ignore[method-assign]
    result = check_graph(graph_claims(ALLOWED, DENIED), TRAFFIC, ["default"], SETTINGS, edge, kiali)
    assert verdicts(result) == ["error", "error"]
    assert result.look.answer is not None
    assert result.look.reply == BROKEN


def test_an_answer_that_is_no_graph() -> None:
    edge, kiali = lab(enforced)
    kiali.graph = lambda *_: Reply({"title": "x"}, date=SERVER_START, reached=True)  # type: ignore[method-assign]
    result = check_graph(graph_claims(ALLOWED), TRAFFIC, ["default"], SETTINGS, edge, kiali)
    assert result.claims[0].judged.verdict.reason.startswith("Kiali answered, but this is no graph of Kiali")


def test_an_answer_without_a_date() -> None:
    edge, kiali = lab(enforced)
    kiali.config = lambda: Reply({"prometheus": {}}, reached=True)  # type: ignore[method-assign]
    result = check_graph(graph_claims(ALLOWED), TRAFFIC, ["default"], SETTINGS, edge, kiali)
    assert (result.verdict, result.claims[0].judged.verdict.reason) == ("error", NO_DATE)


@pytest.mark.parametrize(("scrape", "needed"), [(1, 6), (15, 34)])
def test_time_is_up_when_samples_could_have_shown_it(scrape: int, needed: int) -> None:
    settings = dataclasses.replace(SETTINGS, timeout=5)
    result, _kiali = run(
        lambda _kiali, name, *_: RESET if name == "curl-deny" else OK, settings=settings, scrape=scrape
    )
    assert result.verdict == "error"
    assert 5 + needed <= result.elapsed < 5 + needed + 3
    assert result.claims[0].judged.missing


def test_a_graph_that_never_comes_is_not_waited_for_any_longer() -> None:
    """A stopped Prometheus: Kiali still tells an interval, its own default, and has no graph."""
    edge, kiali = lab(enforced, scrape=15)
    kiali.graph = lambda *_: BROKEN  # type: ignore[method-assign]
    settings = dataclasses.replace(SETTINGS, timeout=5)
    result = check_graph(graph_claims(ALLOWED, DENIED), TRAFFIC, ["default"], settings, edge, kiali)
    assert verdicts(result) == ["error", "error"]
    assert 5 <= result.elapsed < 5 + 3


def test_slow_samples() -> None:
    result, _kiali = run(settings=dataclasses.replace(SETTINGS, timeout=5), scrape=15)
    assert result.verdict == "pass"
    assert result.look.window is not None
    assert result.look.window.seconds(result.look.end) >= 31


def test_services_are_asked_for_where_claims_name_one() -> None:
    through = Flow("curl-allow", "service:sample-app")

    def counted(kiali: FakeKiali, name: str, _number: int, _method: str) -> Answer:
        if name == "curl-deny":
            return RESET
        kiali.count(FLOWS[name])
        kiali.count(through)
        return OK

    service = {**ALLOWED, "name": "service", "to": {"service": "sample-app"}}
    result, kiali = run(counted, graph=[ALLOWED, service, DENIED])
    assert result.verdict == "pass"
    asked = [inject for _start, _end, inject in kiali.windows]
    assert asked == [False, True] * (len(asked) // 2)
    assert result.look.answer is not None
    assert "service" in [item["data"]["nodeType"] for item in result.look.answer["elements"]["nodes"]]


def test_codes_too_many_begin_the_window_anew() -> None:
    wanted = graph_claim("codes", to={"service": "sample-app"}, expect={"outcome": "edge", "codes": [200]})
    good = Flow("curl-allow", "service:sample-app", "http", codes=("200",))

    def counted(kiali: FakeKiali, name: str, number: int, _method: str) -> Answer:
        if name == "curl-allow":
            kiali.count(dataclasses.replace(good, codes=("200", "503")) if number < 5 else good)
        return OK if name == "curl-allow" else RESET

    result, _kiali = run(counted, graph=[wanted])
    assert result.verdict == "pass"
    assert result.restarts > 0
    assert "edge http 200 503" in str(result.claims[0].history.changes)
