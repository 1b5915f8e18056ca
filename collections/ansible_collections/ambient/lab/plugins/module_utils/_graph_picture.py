# What the module graph_picture does: find Kiali's answer, draw it, and write the file if it differs.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import os
import stat
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._graph_claims import End, parse_pairs
from ansible_collections.ambient.lab.plugins.module_utils._graph_model import parse_graph
from ansible_collections.ambient.lab.plugins.module_utils._graph_svg import draw
from ansible_collections.ambient.lab.plugins.module_utils._report import read_results, replace_file, require_section

MODE = 0o644


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
    # A link stays a link, and what it leads to is replaced.
    path = os.path.realpath(params["path"])
    old = _read(path)
    if old != content and not check_mode:
        _write(path, content)
    result = {
        "changed": old != content,
        "path": params["path"],
        "nodes": len(graph.nodes),
        "edges": len(graph.edges),
    }
    if diff:
        header = params["path"]
        result["diff"] = {"before": old or "", "after": content, "before_header": header, "after_header": header}
    return result


def _source(params: t.Mapping[str, t.Any]) -> tuple[t.Any, list[tuple[End, End]]]:
    """Kiali's answer, and the pairs of which a claim has proven that there is no edge."""
    path, section, phase = params["results_file"], params["section"], params["phase"]
    if (path is None) == (params["answer"] is None):
        raise LabError("exactly one of results_file and answer says what to draw")
    if path is None:
        return params["answer"], []
    require_section(section)
    kept = read_results(path).get(section) or {}
    answer = (kept.get("graphs") or {}).get(phase)
    if answer is None:
        raise LabError(f"{path} has no graph of {section} {phase} the policy: run kiali_graph with results_file first")
    claims = (kept.get("graph") or {}).get("claims") or []
    proven = [
        {"from": claim["from"], "to": claim["to"]}
        for claim in claims
        if claim[phase] and (claim[phase]["outcome"], claim[phase]["verdict"]) == ("no_edge", "pass")
    ]
    return answer, parse_pairs(proven, params["namespace"])


def _read(path: str) -> str | None:
    if not os.path.isdir(os.path.dirname(path)):
        raise LabError(f"path: the folder of {path} does not exist")
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LabError(f"path: {path} can't be read ({error})") from error


def _write(path: str, content: str) -> None:
    """Replace the file at once; its mode stays."""
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode) if os.path.exists(path) else MODE
        replace_file(path, content, mode)
    except OSError as error:
        raise LabError(f"path: {path} can't be written ({error})") from error
