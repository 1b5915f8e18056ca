# The report as data: what is counted, what the policy did, where clusters differ, what its schema says.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import copy
import json
import typing as t

import jsonschema
import pytest
from ansible_collections.ambient.lab.plugins.module_utils._results.codec import plain, schema
from ansible_collections.ambient.lab.plugins.module_utils._results.model import Counts, Report
from ansible_collections.ambient.lab.plugins.plugin_utils._report.view import groups_of, worst
from ansible_collections.ambient.lab.tests.unit.fakes import report as fakes
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object
from ansible_collections.ambient.lab.tests.unit.fakes.reported import claims, report

SCHEMA = jsonschema.Draft202012Validator(schema(Report))


@pytest.mark.parametrize(
    "clusters",
    [
        {"a": fakes.lab()},
        {"a": fakes.lab(True), "b": fakes.lab(), "c": {"l4_authz": fakes.l4()}},
        {"a": {"s": fakes.section(fakes.claim("c", fakes.entry("probe_error", "allowed", "error"), None))}},
        {"a": {"s": {"convergence": fakes.convergence(fakes.pair("p", 0.4, (3, 2), first_new=None))}}},
        {"a": {"s": {**fakes.l4(), **fakes.strength(fakes.HOSTILE)}}, "b": {"s": fakes.strength(score=None)}},
        {fakes.HOSTILE: {fakes.HOSTILE: fakes.section(fakes.claim(fakes.HOSTILE, None, fakes.denial(fakes.HOSTILE)))}},
    ],
)
def test_reports_are_as_the_schema_says(clusters: dict[str, Object]) -> None:
    found = json.loads(json.dumps(plain(report(**clusters))))
    assert [f"{list(error.path)}: {error.message}" for error in SCHEMA.iter_errors(found)] == []


@pytest.mark.parametrize(
    "path",
    [
        ("verdict",),
        ("clusters", 0, "counts", "pass"),
        ("clusters", 0, "sections", "l4_authz", "after", "claims", 1, "witnesses"),
    ],
)
def test_the_schema_wants_all_of_it_and_nothing_else(path: tuple[t.Any, ...]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(Report))
    whole = plain(report(a=fakes.lab()))
    less, more = copy.deepcopy(whole), copy.deepcopy(whole)
    place: t.Any = less
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    more["clusters"][0]["sections"]["l4_authz"]["after"]["claims"][0]["colour"] = 1
    assert [bool(list(SCHEMA.iter_errors(one))) for one in (whole, less, more)] == [False, True, True]


def test_the_schema_explains_its_words() -> None:
    claim = schema(Report)["$defs"]["ClaimResult"]
    assert claim["properties"]["from"]["description"] == "who calls."
    assert "null where nobody knows" in claim["properties"]["path"]["description"]


def test_everything_is_counted_once_per_cluster() -> None:
    found = report(a=fakes.lab(), b=fakes.lab(broken=True))
    # Two claims and one of the graph, four pairs, five claims of layer 7.
    assert found.clusters[0].counts == Counts(pass_=12)
    assert found.clusters[1].counts == Counts(pass_=10, fail=1, error=1)
    assert found.counts.pass_ == 22
    assert (found.verdict, [one.verdict for one in found.clusters]) == ("error", ["pass", "error"])


def test_a_failure_before_the_policy_counts_too() -> None:
    bad = fakes.entry("timeout", "allowed")
    found = report(a={"s": fakes.section(fakes.claim("c", bad, fakes.denial()))})
    assert found.verdict == claims(found)[0].verdict == "fail"


def test_claims_that_did_not_hold_long_enough_are_no_pass() -> None:
    checks = {"verdict": "fail", "converged_after": None}
    found = report(a={"s": fakes.section(fakes.claim("c", None, fakes.entry("allowed")), checks=checks)})
    assert (found.verdict, found.counts) == ("fail", Counts(pass_=1, unstable=1))


def test_what_the_graph_showed_before_the_last_check_is_not_checked() -> None:
    part = fakes.l4()
    part["graph"]["after"] = None
    found = report(a={"s": part})
    assert (found.counts.unchecked, claims(found)[2].name) == (1, "curl-deny is not in the graph")
    assert report(a={"s": fakes.l4()}).counts.unchecked == 0


def test_a_measurement_that_came_to_nothing_is_no_pass() -> None:
    measured = fakes.convergence(verdict="error", reason="no pod", directions={})
    assert report(a={"s": {"convergence": measured}}).counts == Counts(error=1)
    stuck = fakes.convergence(verdict="error", reason="apply: the barrier was not reached")
    assert report(a={"s": {"convergence": stuck}}).counts == Counts(pass_=4, error=1)


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
    entry = fakes.entry("allowed")
    sides = [{**entry, "seen": {"outcome": one, "text": one}} if one else None for one in (before, after)]
    row = claims(report(a={"s": fakes.section(fakes.claim("c", *sides), checks={"proxies": []})}))[0].on("a")
    assert row
    assert row.change == expected


def test_what_was_claimed_before_of_another_request_says_nothing() -> None:
    part = fakes.section(fakes.claim("c", fakes.entry("allowed"), fakes.denial()))
    part["before"]["claims"][0]["to"] = "GET http://other/"
    row = claims(report(a={"s": part}))[0].on("a")
    assert row
    assert (row.before, row.change) == (None, None)


def test_the_worst_verdict_counts() -> None:
    assert [worst([]), worst(["fail", "pass"]), worst(["fail", "error", "pass"])] == ["pass", "fail", "error"]


def test_clusters_that_differ() -> None:
    same, other = fakes.claim("same", None, fakes.entry("allowed")), fakes.claim("other", None, fakes.denial())
    open_, gone = fakes.claim("other", None, fakes.entry("allowed")), fakes.claim("gone", None, fakes.denial())
    usual, unlike = {"s": fakes.section(same, other, gone)}, {"s": fakes.section(same, open_)}
    found = report(odd=unlike, a=usual, empty={"t": fakes.section()}, b=usual)
    every = claims(found)
    assert [[one.clusters for one in claim.alike] for claim in every] == [
        [("odd", "a", "b"), ("empty",)],
        [("odd",), ("a", "b"), ("empty",)],
        [("odd", "empty"), ("a", "b")],
    ]
    assert [one.counts.unchecked for one in found.clusters] == [1, 0, 3, 0]
    groups = [(group.clusters, [claim.name for claim in group.unlike]) for group in groups_of(found, every)]
    assert groups == [
        (("a", "b"), []),
        (("odd",), ["other", "gone"]),
        (("empty",), ["same", "other", "gone"]),
    ]
    assert [claim.differs for claim in claims(report(a=usual, b=usual))] == [False] * 3


def test_source_and_policy_may_have_other_names_on_another_cluster() -> None:
    rows = [fakes.claim("c", None, fakes.denial(policy=f"{one}/p"), source=f"default/curl-{one}") for one in "xy"]
    assert not claims(report(a={"s": fakes.section(rows[0])}, b={"s": fakes.section(rows[1])}))[0].differs


def test_a_convergence_knows_its_leaks() -> None:
    found = report(a={"s": {"convergence": fakes.convergence(fakes.pair("p", 0.4, (12, 3)))}})
    measured = found.clusters[0].sections["s"].convergence
    assert measured
    assert [(pair.leaks, pair.stale_after_ready) for pair in measured.pairs] == [(True, 3), (False, 0)]
    assert found.verdict == "fail"


def test_no_text_of_a_cluster_has_control_characters() -> None:
    hostile = fakes.claim(fakes.HOSTILE, None, fakes.denial(fakes.HOSTILE, reason=fakes.HOSTILE), source=fakes.HOSTILE)
    found = plain(report(**{fakes.HOSTILE: {fakes.HOSTILE: fakes.section(hostile)}}))
    assert not set(json.dumps(found, ensure_ascii=False)) & set("\x00\x07\x1b\u202e\ufffe\ud800")
