# The report as a whole: files written once, what is refused, the table, the plugin and its documentation.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import datetime
import json
import os
import pathlib
import typing as t
import xml.etree.ElementTree as ET

import pytest
import yaml
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._results.codec import load
from ansible_collections.ambient.lab.plugins.module_utils._results.model import Section
from ansible_collections.ambient.lab.plugins.modules import claims_report
from ansible_collections.ambient.lab.plugins.plugin_utils._report.claims_report import SPEC, ages, write_report
from ansible_collections.ambient.lab.tests.unit.fakes import report as fakes
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object

FILES = {"html": "report.html", "junit": "junit.xml", "json": "report.json", "schema": "schema.json"}


def params(folder: pathlib.Path, clusters: dict[str, Object], **changed: t.Any) -> dict[str, t.Any]:
    """Parameters of claims_report with their defaults, the results in files."""
    defaults = {name: option.get("default") for name, option in SPEC.items()}
    given = []
    for name, results in clusters.items():
        path = folder / f"{name}.results.json"
        path.write_text(json.dumps(results))
        given.append({"cluster": name, "path": str(path)})
    paths = {key: str(folder / name) for key, name in FILES.items()}
    return {**defaults, "results": given, **paths, **changed}


def test_the_documentation_agrees_with_what_it_returns(tmp_path: pathlib.Path) -> None:
    returned = write_report(params(tmp_path, {"lab": fakes.lab()}), check_mode=True, diff=False)
    assert set(returned) == {"changed", *yaml.safe_load(claims_report.RETURN)}


def test_check_mode_foresees_a_folder_that_an_earlier_task_makes(tmp_path: pathlib.Path) -> None:
    arguments = params(tmp_path, {"lab": fakes.lab()}, html=str(tmp_path / "report" / "a.html"))
    assert write_report(arguments, check_mode=True, diff=False)["changed"]


def test_everything_is_written_once(tmp_path: pathlib.Path) -> None:
    arguments = params(tmp_path, {"lab": fakes.lab()})
    planned = write_report(arguments, check_mode=True, diff=True)
    assert (planned["changed"], len(planned["diff"])) == (True, 4)
    assert not any((tmp_path / name).exists() for name in FILES.values())
    first = write_report(arguments, check_mode=False, diff=False)
    assert (first["changed"], first["verdict"], first["counts"]["pass"]) == (True, "pass", 12)
    assert [diff["after"] for diff in planned["diff"]] == [(tmp_path / name).read_text() for name in FILES.values()]
    files = [(tmp_path / name).stat().st_ino for name in FILES.values()]
    again = write_report(arguments, check_mode=False, diff=True)
    assert [(tmp_path / name).stat().st_ino for name in FILES.values()] == files, "what does not differ is not touched"
    assert (again["changed"], again["diff"]) == (False, [])
    (tmp_path / "report.json").unlink()
    part = write_report(arguments, check_mode=False, diff=True)
    assert (part["changed"], [diff["after_header"] for diff in part["diff"]]) == (True, [arguments["json"]])
    assert json.loads((tmp_path / "report.json").read_text())["clusters"][0]["name"] == "lab"
    assert ET.parse(tmp_path / "junit.xml").getroot().tag == "testsuites"
    left = {*FILES.values(), "lab.results.json"}
    assert {item.name for item in tmp_path.iterdir()} == left


def test_without_files_the_table_is_all(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = write_report(params(tmp_path, {"lab": fakes.lab(True)}, **dict.fromkeys(FILES)), False, diff=True)
    assert (told["changed"], told["diff"], told["table"][0].split()[0]) == (False, [], "CLAIM")
    assert [item.name for item in tmp_path.iterdir()] == ["lab.results.json"]
    relative = [{"cluster": "lab", "path": "lab.results.json"}]
    assert (
        write_report(params(tmp_path, {}, results=relative, **dict.fromkeys(FILES)), False, False) | {"diff": []}
        == told
    )
    with pytest.raises(LabError, match=r"do not hold .*: see the table$"):
        write_report(params(tmp_path, {"lab": fakes.lab(True)}, fail_on="fail", **dict.fromkeys(FILES)), False, False)


@pytest.mark.parametrize("key", FILES)
def test_each_format_alone(tmp_path: pathlib.Path, key: str) -> None:
    changed = dict.fromkeys(FILES) | {key: str(tmp_path / "out")}
    write_report(params(tmp_path, {"lab": fakes.lab()}, **changed), check_mode=False, diff=False)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o644


def test_a_report_of_failures_is_a_success_unless_asked_otherwise(tmp_path: pathlib.Path) -> None:
    arguments = params(tmp_path, {"lab": fakes.lab(True)})
    assert write_report(arguments, check_mode=False, diff=False)["verdict"] == "error"
    for name in FILES.values():
        (tmp_path / name).unlink()
    with pytest.raises(LabError) as caught:
        write_report({**arguments, "fail_on": "fail"}, check_mode=False, diff=False)
    assert caught.value.message.startswith("2 of 12 checks do not hold (1 fail, 1 error): see ")
    assert "\n" not in caught.value.message
    assert all((tmp_path / name).exists() for name in FILES.values())
    assert caught.value.result["table"]
    passing = params(tmp_path, {"lab": fakes.lab()}, fail_on="fail")
    assert write_report(passing, check_mode=False, diff=False)["verdict"] == "pass"


def test_a_section_that_was_not_stable_is_named(tmp_path: pathlib.Path) -> None:
    part = fakes.section(fakes.claim("c", None, fakes.entry("allowed")), checks={"verdict": "fail"})
    words = r"^0 of 1 checks do not hold \(0 fail, 0 error\), 1 sections were not stable: see"
    with pytest.raises(LabError, match=words):
        write_report(params(tmp_path, {"lab": {"s": part}}, fail_on="fail"), check_mode=False, diff=False)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, r"^No results in .*lab\.json \(cluster lab\): check claims with ambient\.lab\.curl_outcomes first$"),
        ("", "can't be read .*; remove it and run again"),
        ("{", "can't be read .*; remove it and run again"),
        ("[]", r"lab\.json \(cluster lab\) is no results file: .*; remove it and check the claims again"),
        ("{}", r"^Nothing was checked in .*lab\.json \(cluster lab\): check claims with"),
        ('{"s": {}}', "^Nothing was checked in"),
    ],
)
def test_results_that_are_missing_or_damaged(tmp_path: pathlib.Path, content: str | None, words: str) -> None:
    path = tmp_path / "lab.json"
    if content is not None:
        path.write_text(content)
    arguments = params(tmp_path, {}, results=[{"cluster": "lab", "path": str(path)}])
    with pytest.raises(LabError, match=words) as caught:
        write_report(arguments, check_mode=False, diff=False)
    assert "\n" not in caught.value.message
    assert not any((tmp_path / name).exists() for name in FILES.values())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"html": "/nowhere/same", "json": "/nowhere/same"}, "html, junit, json and schema must be different files"),
        ({"results": []}, "results is empty"),
        ({"html": "/nowhere/a.html"}, "html: the folder of /nowhere/a.html does not exist"),
        ({"junit": "/"}, "junit: / can't be read"),
    ],
)
def test_what_is_refused(tmp_path: pathlib.Path, changed: dict[str, t.Any], words: str) -> None:
    with pytest.raises(LabError) as caught:
        write_report(params(tmp_path, {"lab": fakes.lab()}, **changed), check_mode=False, diff=False)
    assert words in caught.value.message


def test_a_cluster_is_named_once(tmp_path: pathlib.Path) -> None:
    arguments = params(tmp_path, {"lab": fakes.lab()})
    arguments["results"] *= 2
    with pytest.raises(LabError, match="none twice"):
        write_report(arguments, check_mode=False, diff=False)


def test_a_fleet_has_its_usual_answers_once_and_then_what_differs(tmp_path: pathlib.Path) -> None:
    many = {f"c{number:02}": fakes.lab() for number in range(30)}
    clusters = {**many, "c07": fakes.lab(True), "c09": {"l4_authz": fakes.l4()}}
    lines = write_report(params(tmp_path, clusters), check_mode=True, diff=False)["table"]
    table = lines[: lines.index("")]
    assert len(table) < 26, "not a line per cluster"
    assert table[0].split() == ["CLUSTERS", "CLAIM", "SEEN"]
    assert [" ".join(line.split()) for line in table if "POST is refused" in line] == [
        "POST is refused by the waypoint denied_l7 403/0",
        "c07 POST is refused by the waypoint allowed 200/0 FAIL",
        "POST is refused by the waypoint not checked",
    ]
    assert "20 more" in " ".join(" ".join(line[:28] for line in table).split())
    assert [line.split()[0] for line in table if "curl may GET" in line] == ["curl", "c09"]
    assert max(len(line) for line in lines) <= 100


def test_what_an_earlier_run_has_seen_is_dated() -> None:
    at = datetime.datetime.fromisoformat(fakes.AT)
    results = load(dict[str, Section], {"old": fakes.l7(), "nothing": {}})
    after = {minutes: ages(results, at + datetime.timedelta(minutes=minutes)) for minutes in (1, 40, 200)}
    assert after == {1: [], 40: ["", "old was checked 40 minutes ago."], 200: ["", "old was checked 3 hours ago."]}


def test_what_was_not_looked_at_again_is_not_checked(tmp_path: pathlib.Path) -> None:
    part = fakes.l4()
    part["graph"]["after"] = None
    lines = write_report(params(tmp_path, {"lab": {"s": part}}), check_mode=True, diff=False)["table"]
    (row,) = [line for line in lines if "tcp 118 B/s mTLS" in line]
    assert row.split()[-4:] == ["not", "checked", "-", "-"]


def test_the_table_of_one_cluster_has_before_and_after_and_how_fast(tmp_path: pathlib.Path) -> None:
    measured = fakes.convergence(fakes.pair("p", 0.4, (12, 3)))
    results = {"s": fakes.section(fakes.claim("c", fakes.entry("allowed"), fakes.denial()), convergence=measured)}
    lines = write_report(params(tmp_path, {"lab": results}), check_mode=True, diff=False)["table"]
    assert lines[0].split()[:4] == ["CLAIM", "NODE", "BEFORE", "AFTER"]
    (row,) = [line for line in lines if line.startswith("default/layer4-authz apply: p")]
    assert row.split("  ")[-1] == "12/3 FAIL"
    assert "0.33 s, max 0.41 s" in row


def test_nothing_of_a_cluster_drives_the_terminal(tmp_path: pathlib.Path) -> None:
    hostile = {
        fakes.HOSTILE: fakes.section(fakes.claim(fakes.HOSTILE, None, fakes.denial(fakes.HOSTILE, fakes.HOSTILE)))
    }
    for clusters in ({"a": hostile}, {"a": hostile, "b": fakes.lab()}):
        lines = write_report(params(tmp_path, clusters), check_mode=False, diff=False)["table"]
        assert all(line.isprintable() for line in lines)


def test_writing_is_atomic(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = params(tmp_path, {"lab": fakes.lab()})
    (tmp_path / "report.html").write_text("old")

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(LabError, match=r"html: .*report\.html can't be written \(no space left"):
        write_report(arguments, check_mode=False, diff=False)
    assert (tmp_path / "report.html").read_text() == "old"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["lab.results.json", "report.html"]
