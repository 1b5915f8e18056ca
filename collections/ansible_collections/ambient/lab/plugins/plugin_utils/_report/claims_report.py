# What the action claims_report does: read every cluster's results, write the formats asked for, lay out the table.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._common.files import diff_of, put
from ansible_collections.ambient.lab.plugins.module_utils._common.results import ADVICE, read_results
from ansible_collections.ambient.lab.plugins.module_utils._common.text import printable, table
from ansible_collections.ambient.lab.plugins.plugin_utils._report.junit import junit
from ansible_collections.ambient.lab.plugins.plugin_utils._report.model import (
    Given,
    Object,
    current,
    report_of,
)
from ansible_collections.ambient.lab.plugins.plugin_utils._report.page import page

FORMATS = ("html", "junit", "json")
SPEC: dict[str, dict[str, t.Any]] = {
    "results": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {"cluster": {"type": "str", "required": True}, "path": {"type": "path", "required": True}},
    },
    "title": {"type": "str", "default": "Who may call whom"},
    "html": {"type": "path"},
    "junit": {"type": "path"},
    "json": {"type": "path"},
    "fail_on": {"type": "str", "choices": ["never", "fail"], "default": "never"},
}


def write_report(params: t.Mapping[str, t.Any], check_mode: bool, diff: bool) -> dict[str, t.Any]:
    """Write the report in the formats asked for, if any; its table is always laid out.

    Args:
        params: of the action claims_report.
        check_mode: write nothing.
        diff: return what changes.

    Raises:
        LabError: on wrong input, results that are missing or damaged, a file that can't be read or written, and, where
            fail_on asks for it, claims that do not hold; everything is written by then.
    """
    formats = {key: params[key] for key in FORMATS if params[key]}
    if len({os.path.realpath(path) for path in formats.values()}) < len(formats):
        raise LabError("html, junit and json must be different files")
    given = [read(item["cluster"], item["path"]) for item in params["results"]]
    names = [one.cluster for one in given]
    if not given or len(set(names)) < len(names):
        raise LabError("results must name at least one cluster, and none twice" if given else "results is empty")
    report = report_of(params["title"], given)
    contents = {key: _WRITERS[key](report, given) for key in formats}
    old = {key: put(key, path, contents[key], check_mode) for key, path in formats.items()}
    result = {
        "changed": any(old[key] != contents[key] for key in formats),
        "verdict": report["verdict"],
        "counts": report["counts"],
        "table": lines(report, given),
    }
    if diff:
        result["diff"] = [
            diff_of(formats[key], old[key], contents[key]) for key in formats if old[key] != contents[key]
        ]
    if params["fail_on"] == "fail" and report["verdict"] != "pass":
        files = ", ".join(formats.values()) or "the table"
        raise LabError(f"{short(report)}: see {files}", **result)
    return result


def read(cluster: str, path: str) -> Given:
    """One cluster's results.

    Raises:
        LabError: where nothing was checked yet, and when the file is damaged.
    """
    where = f"{path} (cluster {printable(cluster)})"
    if not os.path.isfile(path):
        raise LabError(f"No results in {where}: {ADVICE}")
    results = read_results(path)
    kept = ("claims", "graph", "convergence", "matrix")
    if not any(part.get(key) for part in results.values() for key in kept):
        raise LabError(f"Nothing was checked in {where}: {ADVICE}")
    return Given(cluster, path, results)


def short(report: Object) -> str:
    """The verdict in a line."""
    counts = report["counts"]
    total = sum(counts[key] for key in ("pass", "fail", "error"))
    text = f"{total - counts['pass']} of {total} checks do not hold ({counts['fail']} fail, {counts['error']} error)"
    return text + (f", {counts['unstable']} sections were not stable" if counts["unstable"] else "")


def lines(report: Object, given: t.Sequence[Given]) -> list[str]:
    """The table for a terminal: with one cluster before and after, with several a column for each."""
    if len(given) == 1:
        return results_table(given[0].results) + _measured(report)
    names = [cluster["name"] for cluster in report["clusters"]]
    rows = []
    for section in report["sections"]:
        for claim in section["claims"]:
            columns = {row["cluster"]: _short(row) for row in claim["clusters"]}
            differs = "yes" if claim["differs"] else "no"
            rows.append([claim["name"], *(columns.get(name, "not checked") for name in names), differs])
    return table(["CLAIM", *names, "DIFFER"], rows) + _measured(report)


def _short(row: Object) -> str:
    entry = current(row)
    failed = "" if row["verdict"] == "pass" else f" {row['verdict'].upper()}"
    return f"{entry['seen'] if entry else '-'}{failed}"


def _measured(report: Object) -> list[str]:
    """How fast each policy took hold, a row per pair; nothing where it was not measured."""
    rows = []
    for section in report["sections"]:
        for measured in section["convergence"]:
            policy = (
                measured["policy"] if len(report["clusters"]) == 1 else f"{measured['cluster']} {measured['policy']}"
            )
            for pair in measured["pairs"]:
                times = [_times(pair[key]) for key in ("first_new", "last_old")]
                stale = f"{pair['stale_after_accepted']}/{pair['stale_after_ready']}"
                failed = "" if pair["verdict"] == "pass" else f" {pair['verdict'].upper()}"
                rows.append([f"{policy} {pair['direction']}: {pair['name']}", *times, stale + failed])
    # Old answers after the API accepted the change, and after every proxy had it.
    return ["", *table(["POLICY", "FIRST NEW", "LAST OLD", "OLD ANSWERS"], rows)] if rows else []


def _times(measured: Object | None) -> str:
    if not measured or measured["p50"] is None:
        return "never"
    return f"{measured['p50']:.3g} s, max {measured['max']:.3g} s"


# The column is narrow.
_NODE = {"same node": "same", "cross node": "cross", "same or cross node": "either"}


def results_table(results: dict[str, t.Any]) -> list[str]:
    """Lines of the closing table: claim, node, before, after, who decided by which policy, converged after."""
    rows = []
    for section in results.values():
        for part, short in ((section, _short_curl), (section.get("graph") or {}, _short_graph)):
            after = part.get("converged_after") if part.get("phase") == "after" else None
            for claim in part.get("claims") or []:
                rows.append(
                    [
                        claim["name"],
                        _NODE.get(claim.get("path"), "-"),
                        short(claim["before"]),
                        short(claim["after"]),
                        _decided(claim),
                        "-" if after is None else f"{after:.1f} s",
                    ]
                )
    return table(["CLAIM", "NODE", "BEFORE", "AFTER", "DECIDED BY", "CONVERGED"], rows)


def _decided(claim: dict[str, t.Any]) -> str:
    """Who decided, and the policy's name; its namespace is in the results file."""
    policy = claim.get("policy")
    return f"{claim['decided_by']} {policy.partition('/')[2]}" if policy else str(claim["decided_by"])


def _short_curl(entry: dict[str, t.Any] | None) -> str:
    if entry is None:
        return "-"
    code = "" if entry["exit_code"] is None else f" {entry['http_code']:03d}/{entry['exit_code']}"
    return f"{entry['outcome']}{code}{_unless_passed(entry)}"


def _short_graph(entry: dict[str, t.Any] | None) -> str:
    return "-" if entry is None else f"{entry['seen']}{_unless_passed(entry)}"


def _unless_passed(entry: dict[str, t.Any]) -> str:
    return "" if entry["verdict"] == "pass" else f" {entry['verdict'].upper()}"


_WRITERS: dict[str, t.Callable[[Object, t.Sequence[Given]], str]] = {
    "html": page,
    "junit": lambda report, _given: junit(report),
    "json": lambda report, _given: json.dumps(report, indent=1) + "\n",
}
