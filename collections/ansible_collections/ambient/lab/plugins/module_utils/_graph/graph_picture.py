# What the module graph_picture does: find Kiali's answer, draw it, and write the file if it differs.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from .._common.errors import LabError
from .._common.files import diff_of, put
from .._results.model import GraphCheck, Section
from .._results.store import read_results, require_section
from .model import parse_graph
from .parse import End, parse_pairs
from .svg import draw


def picture(params: t.Mapping[str, t.Any], check_mode: bool, diff: bool) -> dict[str, t.Any]:
    """Draw the graph in the module's parameters.

    Args:
        params: of the module graph_picture.
        check_mode: draw, but write nothing.
        diff: return what changes.

    Raises:
        LabError: on wrong input, an answer that is no graph, and a file that can't be read or written.
    """
    answer, absent = _source(params)
    absent += parse_pairs(params["absent"], params["namespace"])
    graph = parse_graph(answer)
    content = draw(graph, absent, params["title"])
    old = put("path", params["path"], content, check_mode)
    result = {
        "changed": old != content,
        "path": params["path"],
        "nodes": len(graph.nodes),
        "edges": len(graph.edges),
    }
    if diff:
        result["diff"] = diff_of(params["path"], old, content)
    return result


def _source(params: t.Mapping[str, t.Any]) -> tuple[t.Any, list[tuple[End, End]]]:
    """Kiali's answer, and the pairs of which a claim has proven that there is no edge."""
    path, section, phase = params["results_file"], params["section"], params["phase"]
    if (path is None) == (params["answer"] is None):
        raise LabError("exactly one of results_file and answer says what to draw")
    if path is None:
        return params["answer"], []
    require_section(section)
    check = getattr(read_results(path).get(section or "", Section()).graph, phase)
    if check is None or check.graph is None:
        raise LabError(f"{path} has no graph of {section} {phase} the policy: run kiali_graph with results_file first")
    return check.graph, proven_absent(check)


def proven_absent(check: GraphCheck) -> list[tuple[End, End]]:
    """The pairs of which a check has proven that there is no edge."""
    proven = [one for one in check.claims if (one.seen.outcome, one.verdict) == ("no_edge", "pass")]
    return [(End.read(claim.from_), End.read(claim.to)) for claim in proven]
