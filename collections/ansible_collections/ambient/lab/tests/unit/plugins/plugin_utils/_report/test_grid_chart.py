# The grid and the chart of the report's page.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t
import xml.etree.ElementTree as ET

import pytest
from ansible_collections.ambient.lab.plugins.plugin_utils._report.chart import MAX_PAIRS, chart, place, ticks
from ansible_collections.ambient.lab.plugins.plugin_utils._report.grid import (
    LETTERS,
    Grid,
    Label,
    claims_grid,
    mark,
    matrix_grid,
)
from ansible_collections.ambient.lab.plugins.plugin_utils._report.measured import convergence_of, matrix_of
from ansible_collections.ambient.lab.tests.unit.fakes import report as fakes
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object
from ansible_collections.ambient.lab.tests.unit.fakes.reported import report, section


def grid(*claims: Object) -> Grid:
    """The grid of these claims."""
    found = section(report(a={"s": fakes.section(*claims)}))
    ids = {(claim["kind"], claim["name"]): claim["name"] for claim in found["claims"]}
    laid = claims_grid(found, "a", ids)
    assert laid
    return laid


def to(name: str, source: str, place: str, after: Object | None = None) -> Object:
    """A claim without a before."""
    return fakes.claim(name, None, after or fakes.entry("allowed"), source=source, to=place)


@pytest.mark.parametrize(
    ("outcome", "seen", "kind", "letters", "detail"),
    [
        ("allowed", "allowed 200/0", "allowed", "A", "200/0"),
        ("denied_l4", "denied_l4 000/56", "denied", "D4", "000/56"),
        ("denied_upstream", "denied_upstream 503/0", "denied", "DU", "503/0"),
        ("timeout", "timeout 000/28", "broken", "T", "000/28"),
        ("probe_error", "probe_error", "broken", "E", ""),
        ("edge", "tcp 118 B/s mTLS", "allowed", "ED", "tcp 118 B/s mTLS"),
        ("no_edge", "no edge", "denied", "NO", ""),
        ("something new", "", "broken", "SO", ""),
    ],
)
def test_marks(outcome: str, seen: str, kind: str, letters: str, detail: str) -> None:
    made = mark(outcome, seen)
    assert (made.kind, made.letters, made.detail) == (kind, letters, detail)


def test_letters_are_told_apart() -> None:
    assert len(set(LETTERS.values())) == len(LETTERS)


def test_sources_run_down_where_there_are_more_of_them() -> None:
    url = "GET http://app:8080/"
    laid = grid(to("one", "ns/a", url), to("two", "ns/b", url, fakes.denial()), to("again", "ns/b", url))
    assert (laid.turned, laid.compact) == (False, False)
    assert laid.columns == [Label("GET", "http://app:8080/")]
    assert [(row.place, [[cell.name for cell in cells] for cells in found]) for row, found in laid.rows] == [
        ("ns/a", [["one"]]),
        ("ns/b", [["two", "again"]]),
    ]
    assert laid.letters == {"A": "allowed", "D4": "denied_l4"}


def test_destinations_run_down_where_there_are_more_of_them() -> None:
    laid = grid(
        to("get", "ns/a", "GET http://app/"), to("post", "ns/a", "POST http://app/"), to("b", "ns/b", "GET http://app/")
    )
    assert grid(to("get", "ns/a", "GET http://app/"), to("post", "ns/a", "POST http://app/")).turned
    assert not laid.turned, "a square stays as it is"
    assert [[len(cells) for cells in found] for _row, found in laid.rows] == [[1, 1], [1, 0]]


@pytest.mark.parametrize(("sources", "compact"), [(5, False), (6, True)])
def test_many_columns_have_letters(sources: int, compact: bool) -> None:
    claims = [to(f"{one} {other}", f"ns/{one}", f"GET http://{other}/") for one in range(sources) for other in range(9)]
    assert grid(*claims).compact == compact


def test_the_graphs_claims_and_other_clusters_are_not_in_it() -> None:
    found = section(report(a=fakes.old(), b={"l4_authz": fakes.section()}), "l4_authz")
    ids = {(claim["kind"], claim["name"]): "x" for claim in found["claims"]}
    laid = claims_grid(found, "a", ids)
    assert laid
    assert sum(len(cells) for _row, found in laid.rows for cells in found) == 2
    assert claims_grid(found, "b", ids) is None


def test_a_matrix_shows_what_was_there_only_where_it_changed() -> None:
    laid = matrix_grid(matrix_of(fakes.matrix()))
    assert laid
    cells = [cell for _row, found in laid.rows for cells in found for cell in cells]
    assert [(cell.before.outcome, cell.change) for cell in cells if cell.before] == [("allowed", "closed")]
    assert {column.method for column in laid.columns} == {"GET"}
    assert matrix_grid({**matrix_of(fakes.matrix()), "cells": []}) is None


def drawn(measured: Object, direction: str = "apply") -> ET.Element:
    """The chart, read back."""
    return ET.fromstring(chart(convergence_of(measured), direction))


def of(svg: ET.Element, kind: str) -> list[ET.Element]:
    """The elements of a class."""
    return [element for element in svg.iter() if kind in element.get("class", "").split()]


@pytest.mark.parametrize(
    ("largest", "step", "last"),
    [(0.31, 0.1, 0.4), (1.0, 0.2, 1.0), (0.001, 0.0002, 0.001), (6, 1, 6), (59.0, 10, 60), (7.1, 2, 8)],
)
def test_the_axis_is_round_and_holds_the_largest(largest: float, step: float, last: float) -> None:
    assert ticks(largest) == pytest.approx((step, last))


@pytest.mark.parametrize("largest", [0.0011 * 1.37**power for power in range(40)])
def test_every_axis_has_few_marks(largest: float) -> None:
    step, last = ticks(largest)
    assert largest <= last * 1.000001
    assert 2 <= last / step <= 6.000001


def test_runs_and_medians_stand_where_they_belong() -> None:
    svg = drawn(fakes.convergence(fakes.pair("p", 0.5)))
    runs = sorted(float(dot.attrib["cx"]) for dot in of(svg, "first_new") if dot.tag == "circle")
    assert runs == pytest.approx([place(at, 0.6) for at in (0.31, 0.41, 0.51)], abs=0.1)
    assert len([dot for dot in of(svg, "last_old") if dot.tag == "polygon"]) == 3
    assert [float(line.attrib["x1"]) for line in of(svg, "p50")] == pytest.approx(
        [place(0.41, 0.6), place(0.4, 0.6)], abs=0.1
    )
    assert float(of(svg, "ready")[0].attrib["x1"]) == pytest.approx(place(0.18, 0.6), abs=0.1)
    assert [text.text for text in of(svg, "count")] == ["4 leaks", "0 after ready"]


def test_what_never_happened_is_not_drawn() -> None:
    svg = drawn(fakes.convergence(fakes.pair("p", first_new=None, runs=[])), "apply")
    assert [dot.tag for dot in svg.iter() if dot.get("class") == "first_new"] == []
    assert len([dot for dot in of(svg, "last_old") if dot.tag == "polygon"]) == 3, (
        "its quantiles where no runs are known"
    )
    assert of(drawn(fakes.convergence(), "remove"), "band") == []
    assert chart(convergence_of(fakes.convergence(directions={})), "apply") == ""


def test_only_the_slowest_of_many_are_drawn() -> None:
    svg = drawn(fakes.convergence(*[fakes.pair(f"p{number}", 0.01 * (number + 1)) for number in range(30)]))
    names = [text.text for text in of(svg, "name")]
    assert (len(names), names[0]) == (MAX_PAIRS, "p29")


def test_a_chart_of_zero_seconds() -> None:
    flat: t.Any = {"p50": 0.0, "p99": 0.0, "max": 0.0}
    assert drawn(fakes.convergence(fakes.pair("p", first_new=flat, last_old=flat, runs=[])))


def test_names_are_escaped_and_cut() -> None:
    text = chart(convergence_of(fakes.convergence(fakes.pair("<b>" + "x" * 60))), "apply")
    assert "<b>" not in text
    assert of(ET.fromstring(text), "name")[0].text == "<b>" + "x" * 28 + "\u2026"
