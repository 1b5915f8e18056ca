# Lays out who called whom as a grid of sources and destinations, for the report's page.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._results.measured import Matrix
from ansible_collections.ambient.lab.plugins.module_utils._results.model import ClaimResult
from ansible_collections.ambient.lab.plugins.plugin_utils._report.view import OPEN, SHUT, Claim, Row

# What may stand in a cell of a matrix.
CHANGES = ("opened", "closed", "changed")
# A grid with more columns shows letters in place of words.
WORDY = 5
LETTERS = {
    "allowed": "A",
    "denied_l4": "D4",
    "denied_l7": "D7",
    "denied_upstream": "DU",
    "refused": "R",
    "timeout": "T",
    "dns": "N",
    "unroutable": "U",
    "tls": "S",
    "probe_error": "E",
}


@dataclasses.dataclass(frozen=True)
class Mark:
    """An outcome as it is shown. kind: allowed, denied, or broken for what is neither. detail: curl's two codes."""

    outcome: str
    kind: str
    letters: str
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One request of a grid. before: None where nothing was seen before, or where it was the same.

    target: id of the claim on the page, "" where the cell is no claim.
    """

    name: str
    before: Mark | None
    after: Mark | None
    verdict: str = "pass"
    change: str | None = None
    target: str = ""


@dataclasses.dataclass(frozen=True)
class Label:
    """Head of a row or a column. method: of a destination, "" for a source."""

    method: str
    place: str


@dataclasses.dataclass
class Grid:
    """A grid whose longer side runs down the page. turned: its rows are the destinations."""

    turned: bool
    columns: list[Label]
    rows: list[tuple[Label, list[list[Cell]]]]
    compact: bool
    letters: dict[str, str]
    """What the letters in it stand for."""


def mark(outcome: str, seen: str = "") -> Mark:
    """How an outcome is shown.

    Args:
        seen: the outcome with its codes.
    """
    kind = "allowed" if outcome in OPEN else "denied" if outcome in SHUT else "broken"
    # The graph says of a missing edge nothing but its name again.
    detail = "" if seen == outcome.replace("_", " ") else seen.removeprefix(outcome).strip()
    return Mark(outcome, kind, LETTERS.get(outcome, outcome[:2].upper()), detail)


def claim_mark(claim: ClaimResult | None) -> Mark | None:
    """How what was seen in a phase is shown."""
    return mark(claim.seen.outcome, claim.seen.text) if claim else None


def claims_grid(claims: t.Iterable[tuple[Claim, Row]], ids: t.Mapping[t.Any, str]) -> Grid | None:
    """Claims on one cluster; None where there are none.

    Args:
        ids: of the claims on the page, by their keys.
    """
    found = []
    for claim, row in claims:
        marks = claim_mark(row.before), claim_mark(row.after)
        cell = Cell(claim.name, *marks, row.verdict, row.change, ids[claim.key])
        found.append((Label("", row.current.from_), _destination(row.current.to), cell))
    return _grid(found)


def matrix_grid(matrix: Matrix) -> Grid | None:
    """A generated matrix; None where nothing could be probed. A cell that changed shows what was there before."""
    changed = {one.name: (word, one.was) for word in CHANGES for one in getattr(matrix, word)}
    found = []
    for cell in matrix.cells:
        codes = f"{cell.http_code or 0:03d}/{cell.exit_code}" if cell.exit_code is not None else ""
        word, was = changed.get(cell.name, (None, None))
        before = mark(was.split()[0]) if was else None
        destination = _destination(cell.to)
        if not destination.method:
            destination = Label(cell.method, cell.to)
        shown = Cell(cell.name, before, mark(cell.outcome, f"{cell.outcome} {codes}"), change=word)
        found.append((Label("", cell.from_), destination, shown))
    return _grid(found)


def _destination(text: str) -> Label:
    method, space, url = text.partition(" ")
    return Label(method, url) if space and method.isupper() else Label("", text)


def _grid(found: t.Sequence[tuple[Label, Label, Cell]]) -> Grid | None:
    if not found:
        return None
    sources = list(dict.fromkeys(source for source, _destination, _cell in found))
    destinations = list(dict.fromkeys(destination for _source, destination, _cell in found))
    turned = len(destinations) > len(sources)
    down, across = (destinations, sources) if turned else (sources, destinations)
    cells: dict[tuple[Label, Label], list[Cell]] = {}
    for source, destination, cell in found:
        cells.setdefault((destination, source) if turned else (source, destination), []).append(cell)
    rows = [(row, [cells.get((row, column), []) for column in across]) for row in down]
    marks = [one for _source, _destination, cell in found for one in (cell.before, cell.after) if one]
    used = {one.letters: one.outcome for one in marks}
    return Grid(turned, across, rows, len(across) > WORDY, used)
