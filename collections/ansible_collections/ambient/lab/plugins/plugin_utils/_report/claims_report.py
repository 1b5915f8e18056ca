# What the action claims_report does: read every cluster's results, write the formats asked for, lay out the table.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import datetime
import json
import os
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._common.files import diff_of, put
from ansible_collections.ambient.lab.plugins.module_utils._common.text import printable, table
from ansible_collections.ambient.lab.plugins.module_utils._results.codec import plain, schema
from ansible_collections.ambient.lab.plugins.module_utils._results.measured import Quantiles
from ansible_collections.ambient.lab.plugins.module_utils._results.model import ClaimResult, Report, Section
from ansible_collections.ambient.lab.plugins.module_utils._results.store import ADVICE, read_results
from ansible_collections.ambient.lab.plugins.plugin_utils._report.junit import junit
from ansible_collections.ambient.lab.plugins.plugin_utils._report.page import page
from ansible_collections.ambient.lab.plugins.plugin_utils._report.view import (
    Row,
    checks,
    claims_of,
    groups_of,
    report_of,
    rows,
)

FORMATS = ("html", "junit", "json", "schema")
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
    "schema": {"type": "path"},
    "fail_on": {"type": "str", "choices": ["never", "fail"], "default": "never"},
}
# Clusters that are named in a table, until there are too many.
_NAMED = 8


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
        raise LabError("html, junit, json and schema must be different files")
    names = [printable(item["cluster"]) for item in params["results"]]
    if not names or len(set(names)) < len(names):
        raise LabError("results must name at least one cluster, and none twice" if names else "results is empty")
    report = report_of(params["title"], {item["cluster"]: read(**item) for item in params["results"]})
    contents = {key: _WRITERS[key](report) for key in formats}
    old = {key: put(key, path, contents[key], check_mode) for key, path in formats.items()}
    result = {
        "changed": any(old[key] != contents[key] for key in formats),
        "verdict": report.verdict,
        "counts": plain(report.counts),
        "table": lines(report),
    }
    if diff:
        result["diff"] = [
            diff_of(formats[key], old[key], contents[key]) for key in formats if old[key] != contents[key]
        ]
    if params["fail_on"] == "fail" and report.verdict != "pass":
        files = ", ".join(formats.values()) or "the table"
        raise LabError(f"{short(report)}: see {files}", **result)
    return result


def read(cluster: str, path: str) -> dict[str, Section]:
    """One cluster's results.

    Raises:
        LabError: where nothing was checked yet, and when the file is damaged.
    """
    where = f"{path} (cluster {printable(cluster)})"
    if not os.path.isfile(path):
        raise LabError(f"No results in {where}: {ADVICE}")
    results = read_results(path, where)
    if not any(checks(part) or part.convergence or part.matrix for part in results.values()):
        raise LabError(f"Nothing was checked in {where}: {ADVICE}")
    return results


def short(report: Report) -> str:
    """The verdict in a line."""
    counts = report.counts
    bad = counts.fail + counts.error
    text = f"{bad} of {bad + counts.pass_} checks do not hold ({counts.fail} fail, {counts.error} error)"
    return text + (f", {counts.unstable} sections were not stable" if counts.unstable else "")


def lines(report: Report) -> list[str]:
    """The table for a terminal: with one cluster before and after, with several those that are alike together."""
    if len(report.clusters) > 1:
        return [*_fleet(report), *_measured(report)]
    sections = report.clusters[0].sections
    return [*results_table(sections), *ages(sections), *_measured(report)]


def _fleet(report: Report) -> list[str]:
    """The claims of the largest group of clusters that are alike, and of the others only what differs from it."""
    claims = claims_of({cluster.name: cluster.sections for cluster in report.clusters})
    found = []
    for number, group in enumerate(groups_of(report, claims)):
        more = len(group.clusters) - _NAMED
        names = ", ".join(group.clusters[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        for place, claim in enumerate(group.unlike if number else claims):
            found.append(["" if place else names, claim.name, _seen(claim.on(group.clusters[0]))])
    return table(["CLUSTERS", "CLAIM", "SEEN"], found)


def _seen(row: Row | None) -> str:
    if row is None or row.unchecked:
        return "not checked"
    failed = "" if row.verdict == "pass" else f" {row.verdict.upper()}"
    return f"{row.current.seen.text}{failed}"


def _measured(report: Report) -> list[str]:
    """How fast each policy took hold, a row per pair; nothing where it was not measured."""
    found = []
    for cluster in report.clusters:
        for section in cluster.sections.values():
            measured = section.convergence
            for direction, pair in _pairs(section):
                policy = f"{cluster.name} " * (len(report.clusters) > 1) + (measured.policy if measured else "")
                stale = f"{pair.stale_after_accepted}/{pair.stale_after_ready}"
                failed = "" if pair.verdict == "pass" else f" {pair.verdict.upper()}"
                times = [_times(pair.first_new), _times(pair.last_old)]
                found.append([f"{policy} {direction}: {pair.name}", *times, stale + failed])
    legend = "OLD ANSWERS: to requests that began after the API accepted the change / after every proxy had it."
    return ["", *table(["POLICY", "FIRST NEW", "LAST OLD", "OLD ANSWERS"], found), legend] if found else []


def _pairs(section: Section) -> list[tuple[str, t.Any]]:
    directions = section.convergence.directions if section.convergence else {}
    return [(name, pair) for name, direction in directions.items() for pair in direction.pairs]


def _times(measured: Quantiles | None) -> str:
    return f"{measured.p50:.3g} s, max {measured.max:.3g} s" if measured else "never"


# The column is narrow.
_NODE = {"same node": "same", "cross node": "cross", "same or cross node": "either"}


def results_table(results: t.Mapping[str, Section]) -> list[str]:
    """Lines of the closing table: claim, node, before, after, who decided by which policy, converged after."""
    found = []
    for section in results.values():
        for (kind, name), row in rows(section).items():
            check = (section if kind == "curl" else section.graph).after
            held = check.converged_after if check else None
            decided_by, policy = row.decided
            found.append(
                [
                    name,
                    _NODE.get(row.current.path or "", "-"),
                    _short(row.before),
                    "not checked" if row.unchecked else _short(row.after),
                    # The policy's namespace is in the results file.
                    f"{decided_by} {policy.partition('/')[2]}" if policy else decided_by,
                    "-" if held is None else f"{held:.1f} s",
                ]
            )
    return table(["CLAIM", "NODE", "BEFORE", "AFTER", "DECIDED BY", "CONVERGED"], found)


def _short(claim: ClaimResult | None) -> str:
    if claim is None:
        return "-"
    return claim.seen.text + ("" if claim.verdict == "pass" else f" {claim.verdict.upper()}")


def ages(results: t.Mapping[str, Section], now: datetime.datetime | None = None) -> list[str]:
    """How long ago a section was checked, where an earlier run has done that.

    Args:
        now: the time; None for that of the clock.
    """
    found = []
    for name, section in results.items():
        at = max((check.at for check in checks(section)), default="")
        with contextlib.suppress(TypeError, ValueError):
            past = (now or datetime.datetime.now(datetime.UTC)) - datetime.datetime.fromisoformat(at)
            minutes = int(past.total_seconds() // 60)
            if minutes >= _OLD:
                age = f"{minutes} minutes" if minutes < 120 else f"{minutes // 60} hours"
                found.append(f"{name} was checked {age} ago.")
    return ["", *found] if found else []


# Minutes that a run may need from a check to the table.
_OLD = 5
_WRITERS: dict[str, t.Callable[[Report], str]] = {
    "html": page,
    "junit": junit,
    "json": lambda report: json.dumps(plain(report), indent=1) + "\n",
    "schema": lambda _report: json.dumps(schema(Report), indent=1) + "\n",
}
