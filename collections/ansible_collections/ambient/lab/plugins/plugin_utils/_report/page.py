# Writes the report as one HTML page that needs nothing beside itself. For an action plugin: its template, styles and
# script are files beside this one, which a module sent to a host would not carry along.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import dataclasses
import hashlib
import pathlib
import typing as t

import jinja2
import markupsafe
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._graph.graph_picture import proven_absent
from ansible_collections.ambient.lab.plugins.module_utils._graph.model import parse_graph
from ansible_collections.ambient.lab.plugins.module_utils._graph.svg import draw
from ansible_collections.ambient.lab.plugins.module_utils._results.model import PHASES, Report, Section
from ansible_collections.ambient.lab.plugins.plugin_utils._report.grid import (
    claim_mark,
    claims_grid,
    mark,
    matrix_grid,
)
from ansible_collections.ambient.lab.plugins.plugin_utils._report.view import (
    Claim,
    Group,
    claims_of,
    groups_of,
    is_unstable,
    phases_of,
    verdict_of,
    worst,
)

T = t.TypeVar("T")
Values = dict[str, t.Any]
FOLDER = pathlib.Path(__file__).parent
# Clusters that are named in a row, at most.
NAMED = 5


def page(report: Report) -> str:
    """The page. The same results give the same text.

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
    environment.filters.update(moment=moment, said=said, seconds=seconds, few=few)
    environment.globals.update(mark=mark, claim_mark=claim_mark, phases_of=phases_of)
    claims = claims_of({cluster.name: cluster.sections for cluster in report.clusters})
    ids = {claim.key: f"c{number}" for number, claim in enumerate(claims, 1)}
    names = dict.fromkeys(name for cluster in report.clusters for name in cluster.sections)
    return environment.get_template("page.html.j2").render(
        report=report,
        several=len(report.clusters) > 1,
        groups=[_group(group, report) for group in groups_of(report, claims)],
        ids=ids,
        sections=[_section(number, name, report, claims, ids) for number, name in enumerate(names, 1)],
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


def few(names: t.Sequence[str]) -> str:
    """Names of clusters, or how many there are."""
    return ", ".join(names) if len(names) <= NAMED else f"{len(names)} clusters"


def together(found: t.Mapping[str, T]) -> list[tuple[T, list[str]]]:
    """What is the same on several clusters once, with their names."""
    listed: list[tuple[T, list[str]]] = []
    for cluster, value in found.items():
        known = next((clusters for other, clusters in listed if other == value), None)
        if known is None:
            listed.append((value, [cluster]))
        else:
            known.append(cluster)
    return listed


def effects_of(claims: t.Sequence[Claim]) -> dict[tuple[str, str | None], list[tuple[Claim, list[str]]]]:
    """By what the policy did, and which one: curl's claims, and on which clusters."""
    found: dict[tuple[str, str | None], dict[str, tuple[Claim, list[str]]]] = {}
    for claim in claims:
        for cluster, row in claim.rows.items():
            if row.change and claim.kind == "curl":
                places = found.setdefault((row.change, row.decided[1]), {})
                places.setdefault(claim.name, (claim, []))[1].append(cluster)
    return {key: list(places.values()) for key, places in found.items()}


def _group(group: Group, report: Report) -> Values:
    """Clusters that are alike, with what only the page needs."""
    members = [cluster for cluster in report.clusters if cluster.name in group.clusters]
    proxies = {
        (proxy.proxy, proxy.kind): proxy
        for section in members[0].sections.values()
        for phases in (section, section.graph)
        for check in (phases.after or phases.before,)
        for proxy in (check.proxies if check else ())
    }
    return {
        "names": group.clusters,
        "unlike": group.unlike,
        "verdict": worst(cluster.verdict for cluster in members),
        "counts": members[0].counts,
        "at": sorted({min(cluster.at for cluster in members), max(cluster.at for cluster in members)}),
        "proxies": list(proxies.values()),
    }


def _section(number: int, name: str, report: Report, claims: t.Sequence[Claim], ids: t.Mapping[t.Any, str]) -> Values:
    """A section with what only the page needs: grids, pictures, what the policy did."""
    mine = [claim for claim in claims if claim.section == name]
    parts = {cluster.name: cluster.sections[name] for cluster in report.clusters if name in cluster.sections}
    checks = [(cluster, part, part.after or part.before) for cluster, part in parts.items()]
    rows = {cluster: [(claim, claim.on(cluster)) for claim in mine if claim.kind == "curl"] for cluster in parts}
    grids = {
        cluster: claims_grid([(claim, row) for claim, row in found if row], ids) for cluster, found in rows.items()
    }
    matrices = {cluster: part.matrix for cluster, part in parts.items() if part.matrix}
    undated = {cluster: dataclasses.replace(matrix, at="") for cluster, matrix in matrices.items()}
    return {
        "name": name,
        "id": f"s{number}",
        "verdict": worst(map(verdict_of, parts.values())),
        "claims": mine,
        "checks": [
            {
                "cluster": cluster,
                "phase": "after" if part.after else "before",
                "check": check,
                "unstable": is_unstable(part),
            }
            for cluster, part, check in checks
            if check
        ],
        "effects": effects_of(mine),
        "grids": [(grid, clusters) for grid, clusters in together(grids) if grid],
        "measured": [(cluster, part.convergence) for cluster, part in parts.items() if part.convergence],
        "matrices": [(matrices[clusters[0]], matrix_grid(matrix), clusters) for matrix, clusters in together(undated)],
        "strength": [(cluster, part) for cluster, part in parts.items() if part.mutation],
        "pictures": [picture for cluster, part in parts.items() for picture in _pictures(name, cluster, part)],
    }


def _pictures(name: str, cluster: str, section: Section) -> list[Values]:
    """Kiali's graphs of a section on one cluster, before and after."""
    pictures = []
    for phase in PHASES:
        check = getattr(section.graph, phase)
        if not check or check.graph is None:
            continue
        try:
            svg = draw(parse_graph(check.graph), proven_absent(check), f"{name}, {phase} the policy")
        except (AttributeError, KeyError, TypeError, LabError) as error:
            message = f"results of {cluster} (section {name}) have a damaged graph: {error}; run kiali_graph again"
            raise LabError(message) from error
        pictures.append({"cluster": cluster, "phase": phase, "svg": markupsafe.Markup(svg)})
    return pictures
