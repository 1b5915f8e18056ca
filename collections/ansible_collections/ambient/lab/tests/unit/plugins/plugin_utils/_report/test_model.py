# The report as data: what is counted, what the policy did, where clusters differ, old files, the published schema.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import copy
import json
import pathlib
import typing as t

import jsonschema
import pytest
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.plugin_utils._report.model import change, seen, worst
from ansible_collections.ambient.lab.tests.unit.fakes import report as fakes
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object
from ansible_collections.ambient.lab.tests.unit.fakes.reported import report, section

SCHEMA = json.loads((pathlib.Path(__file__).parents[5] / "docs" / "report.schema.json").read_text())


def without(results: Object, *path: str) -> Object:
    """The same results without one key."""
    results = copy.deepcopy(results)
    place: t.Any = results
    for key in path[:-1]:
        place = place[int(key) if isinstance(place, list) else key]
    del place[path[-1]]
    return results


@pytest.mark.parametrize(
    "clusters",
    [
        {"a": fakes.lab()},
        {"a": fakes.lab(True), "b": fakes.lab(), "c": fakes.old()},
        {"a": {"s": fakes.section(fakes.claim("c", fakes.entry("probe_error", "allowed", "error"), None))}},
        {"a": {"s": {"convergence": fakes.convergence(fakes.pair("p", 0.4, (3, 2), first_new=None))}}},
        {"a": {"s": {"convergence": fakes.convergence(directions={"apply": None})}}},
        {"a": {"s": {"matrix": fakes.matrix(1, 1)}}},
        {"a": {"s": {**fakes.l4(), **fakes.strength(fakes.HOSTILE)}}, "b": {"s": fakes.strength(score=None)}},
        {fakes.HOSTILE: {fakes.HOSTILE: fakes.section(fakes.claim(fakes.HOSTILE, None, fakes.denial(fakes.HOSTILE)))}},
    ],
)
def test_reports_are_as_the_schema_says(clusters: dict[str, Object]) -> None:
    found = json.loads(json.dumps(report(**clusters)))
    validator = jsonschema.Draft202012Validator(SCHEMA)
    assert [f"{list(error.path)}: {error.message}" for error in validator.iter_errors(found)] == []


@pytest.mark.parametrize(
    "path",
    [
        ("verdict",),
        ("clusters", "0", "counts"),
        ("sections", "0", "claims", "1", "clusters", "0", "after", "witnesses"),
    ],
)
def test_the_schema_wants_all_of_it(path: tuple[str, ...]) -> None:
    whole = report(a=fakes.lab())
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert list(jsonschema.Draft202012Validator(SCHEMA).iter_errors(without(whole, *path)))
    whole["sections"][0]["claims"][0]["surprise"] = 1
    assert list(jsonschema.Draft202012Validator(SCHEMA).iter_errors(whole))


def test_what_the_model_says_stands_beside_the_claims() -> None:
    found = report(a={"s": {**fakes.l4(), **fakes.strength()}}, b={"s": fakes.l4()})["sections"][0]["strength"]
    summary = ["score 50 %", "survives: shop/get: removed"]
    findings = ["warning: shop/get: shop/get: removed [dry-run]"]
    said = {"at": "2026-11-27T10:00:00+00:00", "score": 50, "summary": summary, "findings": findings}
    assert found == [{"cluster": "a", **said}]


def test_everything_is_counted_once_per_cluster() -> None:
    found = report(a=fakes.lab(), b=fakes.lab(broken=True))
    # Two claims and one of the graph, four pairs, five claims of layer 7.
    assert found["clusters"][0]["counts"] == {"pass": 12, "fail": 0, "error": 0, "unstable": 0, "unchecked": 0}
    assert found["clusters"][1]["counts"] == {"pass": 10, "fail": 1, "error": 1, "unstable": 0, "unchecked": 0}
    assert found["counts"]["pass"] == 22
    assert (found["verdict"], [one["verdict"] for one in found["clusters"]]) == ("error", ["pass", "error"])
    assert [(one["name"], one["verdict"]) for one in found["sections"]] == [
        ("l4_authz", "pass"),
        ("l7_waypoint", "error"),
        ("everything", "pass"),
    ]
    assert found["clusters"][0]["proxies"][0]["wording"] == "1.24"


def test_a_failure_before_the_policy_counts_too() -> None:
    bad = fakes.entry("timeout", "allowed")
    found = report(a={"s": fakes.section(fakes.claim("c", bad, fakes.denial()))})
    assert found["verdict"] == "fail"
    assert section(found)["claims"][0]["verdict"] == "fail"


def test_claims_that_did_not_hold_long_enough_are_no_pass() -> None:
    part = fakes.section(fakes.claim("c", None, fakes.entry("allowed")), verdict="fail", converged_after=None)
    found = report(a={"s": part})
    assert (found["verdict"], found["counts"]["pass"], found["counts"]["unstable"]) == ("fail", 1, 1)
    assert section(found)["clusters"][0]["unstable"]


def test_a_measurement_that_came_to_nothing_is_no_pass() -> None:
    measured = fakes.convergence(verdict="error", reason="no pod", directions={})
    found = report(a={"s": {"convergence": measured}})
    assert (found["verdict"], found["counts"]["error"]) == ("error", 1)
    stuck = report(
        a={"s": {"convergence": fakes.convergence(verdict="error", reason="apply: the barrier was not reached")}}
    )
    assert (stuck["verdict"], stuck["counts"]["pass"], stuck["counts"]["error"]) == ("error", 4, 1)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("allowed", "denied_l4", "closed"),
        ("allowed", "denied_upstream", "closed"),
        ("denied_l7", "allowed", "opened"),
        ("edge", "no_edge", "closed"),
        ("no_edge", "edge", "opened"),
        ("allowed", "timeout", "changed"),
        ("timeout", "allowed", "changed"),
        ("denied_l4", "denied_l7", "changed"),
        ("allowed", "allowed", None),
        (None, "allowed", None),
        ("allowed", None, None),
    ],
)
def test_what_the_policy_did(before: str | None, after: str | None, expected: str | None) -> None:
    sides = [{"outcome": outcome} if outcome else None for outcome in (before, after)]
    assert change(*sides) == expected


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"outcome": "allowed", "http_code": 200, "exit_code": 0}, "allowed 200/0"),
        ({"outcome": "denied_l4", "http_code": 0, "exit_code": 56}, "denied_l4 000/56"),
        ({"outcome": "denied_l4", "http_code": None, "exit_code": 56}, "denied_l4 000/56"),
        ({"outcome": "probe_error", "http_code": 0, "exit_code": None}, "probe_error"),
        ({"outcome": "edge"}, "edge"),
    ],
)
def test_what_was_seen_in_a_word(entry: Object, text: str) -> None:
    assert seen(entry) == text


def test_the_worst_verdict_counts() -> None:
    assert [worst([]), worst(["fail", "pass"]), worst(["fail", "error", "pass"])] == ["pass", "fail", "error"]


def test_clusters_that_differ() -> None:
    same, other = fakes.claim("same", None, fakes.entry("allowed")), fakes.claim("other", None, fakes.denial())
    open_, gone = fakes.claim("other", None, fakes.entry("allowed")), fakes.claim("gone", None, fakes.denial())
    found = report(
        a={"s": fakes.section(same, other, gone)}, b={"s": fakes.section(same, open_)}, c={"t": fakes.section()}
    )
    claims = section(found)["claims"]
    assert [claim["differs"] for claim in claims] == [True, True, True], "c has not checked them"
    assert [one["counts"]["unchecked"] for one in found["clusters"]] == [0, 1, 3]
    two = report(a={"s": fakes.section(same, other, gone)}, b={"s": fakes.section(same, open_)})
    assert [claim["differs"] for claim in section(two)["claims"]] == [False, True, True]
    assert [[row["cluster"] for row in claim["clusters"]] for claim in section(two)["claims"]] == [["a", "b"]] * 2 + [
        ["a"]
    ]


def test_the_source_may_have_another_name_on_another_cluster() -> None:
    rows = [fakes.claim("c", None, fakes.entry("allowed"), source=f"default/curl-{one}") for one in "xy"]
    found = report(a={"s": fakes.section(rows[0])}, b={"s": fakes.section(rows[1])})
    assert not section(found)["claims"][0]["differs"]


def test_old_results_have_no_witnesses() -> None:
    found = report(a=fakes.old())
    row = section(found, "l4_authz")["claims"][1]["clusters"][0]
    assert (row["decided_by"], row["policy"], row["change"]) == ("ztunnel", None, "closed")
    assert (row["before"]["decided_by"], row["after"]["decided_by"]) == ("-", "ztunnel")
    assert row["after"]["witnesses"] == []
    assert found["clusters"][0]["proxies"] == []


def test_a_convergence_knows_its_leaks() -> None:
    found = report(a={"s": {"convergence": fakes.convergence(fakes.pair("p", 0.4, (12, 3)))}})
    measured = section(found)["convergence"][0]
    assert [(pair["direction"], pair["leaks"], pair["stale_after_ready"]) for pair in measured["pairs"]] == [
        ("apply", True, 3),
        ("remove", False, 0),
    ]
    pairs = [fakes.pair("opened by it", old="allowed", new="denied_l4"), fakes.pair("denied", old="denied_l4")]
    directions = {"remove": {"ready": None, "pairs": pairs}}
    removed = section(report(a={"s": {"convergence": fakes.convergence(directions=directions)}}))["convergence"][0]
    assert [pair["leaks"] for pair in removed["pairs"]] == [True, False], (
        "a policy that allowed it can leak when it goes"
    )
    assert measured["ready"] == {"apply": fakes.quantiles(0.18, 0.25), "remove": None}
    assert found["verdict"] == "fail"


def test_a_matrix_knows_what_changed() -> None:
    matrix = section(report(a={"s": {"matrix": fakes.matrix()}}))["matrix"][0]
    changed = [(cell["name"], cell["change"], cell["was"]) for cell in matrix["cells"] if cell["change"]]
    assert changed == [("client-1 GET service-0", "closed", "allowed")]


def test_no_text_of_a_cluster_has_control_characters() -> None:
    hostile = fakes.claim(fakes.HOSTILE, None, fakes.denial(fakes.HOSTILE, reason=fakes.HOSTILE), source=fakes.HOSTILE)
    text = json.dumps(report(**{fakes.HOSTILE: {fakes.HOSTILE: fakes.section(hostile)}}), ensure_ascii=False)
    assert not set(text) & set("\x00\x07\x1b\u202e\ufffe\ud800")


@pytest.mark.parametrize(
    "part",
    [
        {"claims": [{"name": "c"}]},
        {"claims": [{**fakes.claim("c", None, fakes.entry("allowed")), "after": {"outcome": "allowed"}}]},
        {"claims": "many"},
        {"claims": [fakes.claim("c", None, fakes.entry("allowed", verdict="maybe"))]},
        {"convergence": {"policy": "p"}},
        {"matrix": {"at": "now"}},
    ],
)
def test_results_that_are_none(part: Object) -> None:
    with pytest.raises(LabError, match=r"^a\.json \(cluster a\) is no results file: .*; remove it and check"):
        report(a={"s": part})
