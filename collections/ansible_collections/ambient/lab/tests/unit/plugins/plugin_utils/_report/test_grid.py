# The grid of the report's page.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._results.codec import load
from ansible_collections.ambient.lab.plugins.module_utils._results.measured import Matrix
from ansible_collections.ambient.lab.plugins.plugin_utils._report.grid import (
    LETTERS,
    Grid,
    Label,
    claims_grid,
    mark,
    matrix_grid,
)
from ansible_collections.ambient.lab.tests.unit.fakes import report as fakes
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object
from ansible_collections.ambient.lab.tests.unit.fakes.reported import claims, report


def grid(*rows: t.Any) -> Grid:
    """The grid of these claims."""
    found = [(claim, row) for claim in claims(report(a={"s": fakes.section(*rows)})) if (row := claim.on("a"))]
    laid = claims_grid(found, {claim.key: claim.name for claim, _row in found})
    assert laid
    return laid


def to(name: str, source: str, place: str, after: Object | None = None) -> t.Any:
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
    rows = [to(f"{one} {other}", f"ns/{one}", f"GET http://{other}/") for one in range(sources) for other in range(9)]
    assert grid(*rows).compact == compact


def test_a_matrix_shows_what_was_there_only_where_it_changed() -> None:
    laid = matrix_grid(load(Matrix, fakes.matrix()))
    assert laid
    cells = [cell for _row, found in laid.rows for cells in found for cell in cells]
    assert [(cell.before.outcome, cell.change) for cell in cells if cell.before] == [("allowed", "closed")]
    assert {column.method for column in laid.columns} == {"GET"}
    assert matrix_grid(load(Matrix, {**fakes.matrix(), "cells": []})) is None
