# Writes the report as one HTML page that needs nothing beside itself. For an action plugin: its template, styles and
# script are files beside this one, which a module sent to a host would not carry along.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import hashlib
import pathlib
import typing as t

import jinja2
import markupsafe
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._graph.graph_picture import kept_graph
from ansible_collections.ambient.lab.plugins.module_utils._graph.model import parse_graph
from ansible_collections.ambient.lab.plugins.module_utils._graph.svg import draw
from ansible_collections.ambient.lab.plugins.plugin_utils._report.chart import chart
from ansible_collections.ambient.lab.plugins.plugin_utils._report.grid import (
    claims_grid,
    entry_mark,
    mark,
    matrix_grid,
)
from ansible_collections.ambient.lab.plugins.plugin_utils._report.measured import DIRECTIONS
from ansible_collections.ambient.lab.plugins.plugin_utils._report.model import (
    PHASES,
    Given,
    Object,
    current,
)

FOLDER = pathlib.Path(__file__).parent


def page(report: Object, given: t.Sequence[Given]) -> str:
    """The page. The same results give the same text.

    Args:
        report: as report_of made it.
        given: the results themselves, for Kiali's answers in them.

    Raises:
        LabError: when an answer of Kiali that was kept is no graph.
    """
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        # Everything that a cluster says is text, whatever is in it.
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(moment=moment, said=said, seconds=seconds)
    environment.globals.update(current=current, mark=mark, entry_mark=entry_mark)
    return environment.get_template("page.html.j2").render(
        report=report,
        several=len(report["clusters"]) > 1,
        sections=[_section(number, section, given) for number, section in enumerate(report["sections"], 1)],
        style=markupsafe.Markup(style),
        script=markupsafe.Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _hash(text: str) -> str:
    """How a Content-Security-Policy names an inline style or script (W3C CSP3, section 2.3.1)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def seconds(value: float | None) -> str:
    """A time for people: three digits that count."""
    if value is None:
        return "never"
    return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"


def said(supports: bool | None) -> str:
    """What a witness's word is worth for the verdict."""
    return {True: "supports", False: "contradicts", None: "silent"}[supports]


def moment(at: str) -> str:
    """A time of the results, without what machines need; any other text as it is."""
    return at.replace("T", " ").replace("+00:00", " UTC") if at.endswith("+00:00") else at


def effects_of(claims: t.Sequence[Object]) -> dict[tuple[str, str | None], list[tuple[str, str, list[str]]]]:
    """By what the policy did, and which one: ids and names of curl's claims, and on which clusters."""
    found: dict[tuple[str, str | None], dict[tuple[str, str], list[str]]] = {}
    for claim in claims:
        for row in claim["clusters"]:
            if row["change"] and claim["kind"] == "curl":
                places = found.setdefault((row["change"], row["policy"]), {})
                places.setdefault((claim["id"], claim["name"]), []).append(row["cluster"])
    return {key: [(*place, clusters) for place, clusters in places.items()] for key, places in found.items()}


def _section(number: int, section: Object, given: t.Sequence[Given]) -> Object:
    """A section with what only the page needs: ids of claims, grids, charts, pictures."""
    ids = {(claim["kind"], claim["name"]): f"s{number}-c{place}" for place, claim in enumerate(section["claims"], 1)}
    grids = [(one["cluster"], claims_grid(section, one["cluster"], ids)) for one in section["clusters"]]
    claims = [{**claim, "id": ids[(claim["kind"], claim["name"])]} for claim in section["claims"]]
    return {
        **section,
        "id": f"s{number}",
        "claims": claims,
        "effects": effects_of(claims),
        "grids": [{"cluster": cluster, "grid": grid} for cluster, grid in grids if grid],
        "convergence": [_charted(one) for one in section["convergence"]],
        "matrix": [{**one, "grid": matrix_grid(one)} for one in section["matrix"]],
        "pictures": [picture for one in given for picture in _pictures(section["name"], one)],
    }


def _charted(measured: Object) -> Object:
    charts = [
        {
            "direction": direction,
            # Made of the report's text by an XML writer, which escapes it.
            "svg": markupsafe.Markup(chart(measured, direction)),
            "pairs": [pair for pair in measured["pairs"] if pair["direction"] == direction],
            "ready": measured["ready"].get(direction),
        }
        for direction in DIRECTIONS
    ]
    return {**measured, "charts": [one for one in charts if one["pairs"]]}


def _pictures(name: str, given: Given) -> list[Object]:
    """Kiali's graphs of a section on one cluster, before and after."""
    part = given.results.get(name) or {}
    pictures = []
    for phase in PHASES:
        try:
            kept = kept_graph(part, phase)
            svg = draw(parse_graph(kept[0]), kept[1], f"{name}, {phase} the policy") if kept else ""
        except (AttributeError, KeyError, TypeError, LabError) as error:
            message = f"{given.path} (section {name}) has a damaged graph: {error}; run kiali_graph again"
            raise LabError(message) from error
        if svg:
            pictures.append({"cluster": given.cluster, "phase": phase, "svg": markupsafe.Markup(svg)})
    return pictures
