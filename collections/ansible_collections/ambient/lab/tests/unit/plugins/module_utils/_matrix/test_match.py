# Which claims of a file are still there, which pairs are new, and what is gone.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._check.rounds import Settings
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Source
from ansible_collections.ambient.lab.plugins.module_utils._claims.sources import Target, find_target
from ansible_collections.ambient.lab.plugins.module_utils._matrix.engine import Engine, Unavailable, lacking, visible
from ansible_collections.ambient.lab.plugins.module_utils._matrix.match import match, widened, within
from ansible_collections.ambient.lab.plugins.module_utils._matrix.plan import Wanted, lay_out
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh
from ansible_collections.ambient.lab.tests.unit.fakes.matrix import (
    APP,
    cluster,
    laid_out,
    service,
)
from ansible_collections.ambient.lab.tests.unit.fakes.objects import OK, Answer, FakeEdge, Object, claim, claims, pod

CURL = {"service_account": "curl", "namespace": "default"}
MESH = cluster(APP, [service("app"), service("far", "shop", type="ExternalName"), service("none", clusterIP="None")])
PAIRS = laid_out(MESH).pairs


def matched(*raw: Object) -> tuple[list[str], list[str], dict[str, str]]:
    """Names of known and new pairs, and what is gone."""
    found = match(claims(*raw), PAIRS, MESH)
    return [pair.claim.name for pair in found.known], [pair.claim.name for pair in found.new], found.gone


def test_a_claim_is_found_by_what_it_asks_and_keeps_its_own_name_and_expectation() -> None:
    (renamed,) = claims(claim("mine", source=CURL, to="http://app.default:8080/", expect="denied_l4"))
    found = match([renamed], PAIRS, MESH)
    assert [pair.claim for pair in found.known] == [renamed]
    assert found.known[0].goal == "app.default:8080"
    assert [pair.claim.name for pair in found.new] == ["default/app -> app.default:8080 GET"]
    assert found.gone == {}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"source": {"service_account": "gone", "namespace": "default"}}, "ServiceAccount default/gone does not exist"),
        ({"source": {"pod": "gone"}}, "pod default/gone does not exist"),
        ({"to": "http://gone.default:8080/"}, "there is no Service gone in namespace default"),
        ({"name": "default/curl -> a.b:80 GET", "to": "http://a.b:80/"}, "namespace b does not exist"),
        ({"to": "http://app:81/"}, "Service default/app has no port 81"),
        ({"name": "default/curl -> pod of app.default:8080 GET", "to": "http://10.9.9.9/"}, "its pod is not there"),
        ({"to": "http://10.9.9.9/"}, None),
        ({"to": "http://example.org/"}, None),
        ({"to": "http://far.shop:81/"}, None),
        ({"to": "http://none:81/"}, None),
        ({"to": {"url": "http://app:8080/", "method": "PUT"}}, None),
    ],
)
def test_what_is_gone(fields: dict[str, t.Any], reason: str | None) -> None:
    raw = {**claim("mine", source=CURL), **fields}
    raw["from"] = raw.pop("source", raw["from"])
    known, new, gone = matched(raw)
    assert len(new) == 2
    if reason is None:
        assert (known, gone) == ([raw["name"]], {})
    else:
        assert (known, list(gone)) == ([], [raw["name"]])
        assert reason in gone[raw["name"]]


def test_what_may_not_be_read_is_not_gone() -> None:
    unread = Mesh([item for item in MESH.objects() if item["kind"] != "Service"], unread={("Service", ""): "HTTP 403"})
    found = match(claims(claim(source=CURL, to="http://app:8080/")), PAIRS, unread)
    assert (len(found.known), found.gone) == (1, {})


def test_a_pods_row_is_found_by_its_name_at_its_new_address() -> None:
    mesh = cluster([pod("app", ip="10.0.0.7")], [service("app")])
    pairs = laid_out(mesh, pod_ip=True).pairs
    name = "default/app -> pod of app.default:8080 GET"
    source = {"service_account": "app", "namespace": "default"}
    found = match(claims(claim(name, source=source, to="http://10.0.0.1:8080/", expect="denied_l4")), pairs, mesh)
    (pair,) = found.known
    assert pair.claim.request.url == "http://10.0.0.7:8080/"
    assert pair.claim.after.outcome == "denied_l4"
    assert found.gone == {}
    assert [item.claim.name for item in found.new] == ["default/app -> app.default:8080 GET"]


def test_rows_to_pods_are_looked_for_whatever_was_asked_for() -> None:
    wanted = Wanted(("default",), ("default",))
    (plain, row) = claims(
        claim("a -> b.c:1 GET"), claim("a -> pod of b.c:1 PUT /x", to={"url": "http://10.0.0.1/x?y", "method": "PUT"})
    )
    assert widened(wanted, [plain]) == wanted
    wide = widened(wanted, [plain, row])
    assert (wide.pod_ip, wide.methods, wide.paths) == (True, ("GET", "PUT"), ("/", "/x?y"))
    pairs = lay_out(wide, cluster([pod("app", ip="10.0.0.7")], [service("app")])).pairs
    assert len(pairs) == 8
    assert [pair.claim.name for pair in pairs if within(pair, wanted)] == ["default/app -> app.default:8080 GET"]
    assert all(within(pair, wide) for pair in pairs)


def test_a_name_that_was_given_to_another_claim_stays_unique() -> None:
    name = "default/curl -> app.default:8080 GET"
    known, new, _gone = matched(claim(name, source=CURL, to="http://app:8080/other"))
    assert known == [name]
    assert new == ["default/app -> app.default:8080 GET", f"{name} (not in the file)"]


def test_stand_ins_of_other_runs_are_not_there() -> None:
    labels = {"app.kubernetes.io/managed-by": "ambient-lab"}
    pods = [pod("ambient-lab-probe-a", labels=labels), pod("ambient-lab-probe-b", labels=labels), pod("z")]
    pods[2]["spec"]["ephemeralContainers"] = [{"name": "ambient-lab-probe-1"}]
    mesh = visible(cluster(pods, []), {"default/ambient-lab-probe-b"})
    assert [item["metadata"]["name"] for item in mesh.items("Pod")] == ["ambient-lab-probe-b", "z"]
    for container, expected in (("ambient-lab-probe-1", "ambient-lab-probe-1"), (None, "main")):
        target = find_target(Source("default", pod="z", container=container), mesh.items("Pod"))
        assert isinstance(target, Target)
        assert target.container == expected


def test_a_source_that_goes_away_takes_no_other_with_it() -> None:
    edge = FakeEdge([pod("stays")], lambda name, number, method, url: OK)
    cells = [claim(name, source={"pod": name}, to="http://app/") for name in ("goes", "stays")]
    engine = Engine(claims(*cells), {}, Settings(witnesses="none"), edge)
    lost, proven = engine.prove(claims(*cells))
    assert (lost.problem, proven.problem) == ("pod default/goes does not exist", "")
    assert [proof.seen.outcome for proof in (lost, proven) if proof.seen] == ["probe_error", "allowed"]
    assert [seen.outcome for seen in engine.ask()] == ["probe_error", "allowed"]


def test_a_block_is_a_claim_only_where_a_check_can_prove_it() -> None:
    """Without another source nothing shows who blocks it, which the check of claims calls an error."""
    edge = FakeEdge([pod("curl")], lambda name, number, method, url: (0, 28, {}, ""))
    (cell,) = claims(claim(source=CURL, to="http://sample-app:8080/", expect="timeout"))
    (proof,) = Engine([cell], {}, Settings(witnesses="none"), edge).prove([cell])
    assert proof.seen
    assert (proof.seen.outcome, proof.problem.partition(":")[0]) == ("timeout", "nothing shows who blocks it")
    other = FakeEdge([pod("curl"), pod("other")], lambda name, *_: (0, 28, {}, "") if name == "curl" else OK)
    cells = claims(claim("cut", source=CURL, expect="timeout"), claim("open", source={"pod": "other"}))
    assert [item.problem for item in Engine(cells, {}, Settings(witnesses="none"), other).prove(cells)] == ["", ""]


def test_a_stand_in_is_asked_in_the_sources_place() -> None:
    asked = []

    def answer(name: str, number: int, method: str, url: str) -> Answer:
        asked.append(name)
        return OK

    (cell,) = claims(claim(source=CURL, to="http://app/"))
    places = {cell.source: Source("default", pod="other", container="main")}
    Engine([cell], places, Settings(witnesses="none"), FakeEdge([pod("curl"), pod("other")], answer)).ask()
    assert asked == ["other"]


@pytest.mark.parametrize(
    ("stdout", "problem", "reason"),
    [
        ("curl 8.5.0 (x86_64)\n", "", ""),
        ("curl 7.83.0\n", "", ""),
        ("curl 7.82.1\n", "", "its container main has curl 7.82, 7.83 or newer is needed"),
        ("", "sh: 1: curl: not found", "its container main has no curl"),
        ("", "sh: line 1: curl: command not found", "its container main has no curl"),
        ("", 'exec: "sh": executable file not found in $PATH', "its container main has no sh"),
        ("", "HTTP 403: pods is forbidden", "curl can't be run in its container main: HTTP 403: pods is forbidden"),
        ("hello", "", "curl can't be run in its container main: it printed nothing"),
    ],
)
def test_what_a_container_lacks(stdout: str, problem: str, reason: str) -> None:
    assert lacking("main", stdout, problem) == reason


@pytest.mark.parametrize(
    ("unavailable", "lasting"),
    [
        (
            Unavailable("its container main has no curl", True, "pod default/x is gone"),
            "its container main has no curl",
        ),
        (
            Unavailable("curl can't be run in its container main: pods x is busy", True),
            "curl can't be run in its container main",
        ),
        (Unavailable("pod default/x is Pending", False), "none of its pods is ready"),
    ],
)
def test_what_is_written_of_a_source_does_not_change_with_its_pod(unavailable: Unavailable, lasting: str) -> None:
    assert unavailable.lasting == lasting
