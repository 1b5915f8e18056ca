# The results file, which several modules write: whole at once, nothing of another's is lost, nothing void stays.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import pathlib

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._results.codec import load, plain
from ansible_collections.ambient.lab.plugins.module_utils._results.measured import Mutation
from ansible_collections.ambient.lab.plugins.module_utils._results.model import (
    PHASES,
    Check,
    GraphCheck,
    GraphPhases,
    Section,
)
from ansible_collections.ambient.lab.plugins.module_utils._results.store import checked, drawn, keep, read_results
from ansible_collections.ambient.lab.tests.unit.fakes import report as fakes

STRENGTH = Mutation(at="", min_score=0, score=1, counts={}, summary=[], missing_claims=[])


def check(at: str) -> Check:
    """A check of no claims."""
    return Check(at=at, verdict="pass", rounds=1, elapsed=0.0, converged_after=0.0, claims=[])


def drawing(at: str) -> GraphCheck:
    """A check of Kiali's graph."""
    return GraphCheck(**vars(check(at)), window=1, restarts=0, graph=None)


def test_results_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "results.json"
    assert read_results(str(path)) == {}
    keep(str(path), "a", lambda old: checked(old, "after", check("now")))
    assert read_results(str(path)) == {"a": Section(after=check("now"))}
    assert path.stat().st_mode & 0o777 == 0o600
    assert [item.name for item in tmp_path.iterdir()] == ["results.json"]


def test_a_file_of_the_current_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    keep("results.json", "a", lambda old: old)
    assert read_results("results.json") == {"a": Section()}


def test_who_writes_at_the_same_time_loses_nothing(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "results.json")
    names = [f"s{number}" for number in range(40)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: keep(path, name, lambda old: old), names))
    assert set(read_results(path)) == set(names)


def test_all_that_is_kept_is_read_back() -> None:
    whole = {**fakes.lab(True), "model": fakes.strength()}
    assert plain(load(dict[str, Section], json.loads(json.dumps(plain(load(dict[str, Section], whole)))))) == plain(
        load(dict[str, Section], whole)
    )


def test_a_check_before_the_policy_begins_anew_and_what_others_found_stays() -> None:
    section = Section(mutation=STRENGTH)
    for phase in PHASES:
        section = drawn(checked(section, phase, check(phase)), phase, drawing(f"graph {phase}"))
    assert section == Section(
        before=check("before"),
        after=check("after"),
        graph=GraphPhases(before=drawing("graph before"), after=drawing("graph after")),
        mutation=STRENGTH,
    )
    anew = checked(section, "before", check("anew"))
    assert (anew.before, anew.after, anew.graph.after, anew.mutation) == (check("anew"), None, None, STRENGTH)


def test_what_the_graph_showed_before_a_check_is_void() -> None:
    """The policy may have gone since: its claims fail, and the graph of before would still say that it closed them."""
    graph = GraphPhases(before=drawing("graph before"), after=drawing("graph after"))
    section = Section(after=check("old"), graph=graph)
    again = checked(section, "after", check("new"))
    assert again.graph == GraphPhases(before=drawing("graph before"))
    assert dataclasses.replace(again, graph=GraphPhases()) == Section(after=check("new"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "can't be read .*; remove it and run again"),
        ("\udcff", "can't be read .*; remove it and run again"),
        ("[]", "is no results file: it is no .*; remove it and check the claims again"),
        ('{"s": []}', r"is no results file: it\.s is no Section; remove"),
        ('{"s": {"claims": []}}', r"is no results file: it\.s has an unknown claims; remove"),
        ('{"s": {"after": {"at": ""}}}', r"is no results file: it\.s\.after has no "),
        ('{"s": {"lint": {"at": "", "policies": true, "findings": []}}}', r"it\.s\.lint\.policies is no int"),
    ],
)
def test_a_results_file_that_is_none(tmp_path: pathlib.Path, content: str, words: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content, errors="surrogateescape")
    with pytest.raises(LabError, match=words):
        keep(str(path), "other", lambda old: old)
    assert path.read_text(errors="surrogateescape") == content


def test_a_results_file_without_a_folder(tmp_path: pathlib.Path) -> None:
    with pytest.raises(LabError, match="does not exist: create it first"):
        read_results(str(tmp_path / "no" / "results.json"))
