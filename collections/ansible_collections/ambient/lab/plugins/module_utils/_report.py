# Writes a check's result down: the return values, the failure table, the results file.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import shlex
import tempfile
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._check import CheckResult, ClaimResult, Settings
from ansible_collections.ambient.lab.plugins.module_utils._control import destination
from ansible_collections.ambient.lab.plugins.module_utils._errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._testimony import Testimony
from ansible_collections.ambient.lab.plugins.module_utils._text import WIDTH, table

MAX_SHOWN = 6
# What the module kiali_graph keeps in a section: its claims, and Kiali's answers by phase.
GRAPH_KEYS = ("graph", "graphs")
# What other modules keep in a section, and a check leaves there.
OTHER_KEYS = ("convergence", "matrix")
ENTRY_KEYS = (
    "expected", "verdict", "reason", "likely_cause", "history", "decided_by", "policy", "witnesses"
)  # fmt: skip

Causes = t.Sequence[str]


@dataclasses.dataclass(frozen=True)
class Row:
    """A claim that did not hold: its line in the failure's table, why, and the command to look further."""

    claim: str
    expected: str
    seen: str
    where: str
    why: str
    look: str


def as_result(result: CheckResult, phase: str, causes: Causes) -> dict[str, t.Any]:
    """The module's return values."""
    return {
        "changed": False,
        "verdict": result.verdict,
        "rounds": result.rounds,
        "elapsed": round(result.elapsed, 2),
        "converged_after": None if result.converged_after is None else round(result.converged_after, 2),
        "claims": [claim_values(item, phase, cause) for item, cause in zip(result.claims, causes, strict=True)],
        "proxies": list(result.proxies),
    }


def claim_values(item: ClaimResult, phase: str, cause: str) -> dict[str, t.Any]:
    """One claim of the module's return values."""
    testimony = item.observation.testimony or Testimony()
    return {
        "name": item.claim.name,
        "from": str(item.target) if item.target else str(item.claim.source),
        "to": str(item.claim.request),
        "expected": str(item.claim.expected(phase)),
        "by": str(item.claim.by) if item.claim.by else None,
        "seen": item.observation.seen.as_dict(),
        "verdict": item.observation.verdict.verdict,
        "reason": item.observation.verdict.reason,
        "control": item.observation.control,
        "decided_by": testimony.decided_by,
        "policy": testimony.policy,
        "witnesses": [statement.as_dict() for statement in testimony.statements],
        "likely_cause": cause,
        "flapped": item.flapped,
        "history": item.history,
    }


def failure(result: CheckResult, settings: Settings, section: str, causes: Causes, kubectl: str) -> str:
    """One screen that says which claims failed, what was seen, why probably, and where to look further.

    Args:
        causes: likely cause per claim, "" where none is known.
        kubectl: command with which the user reaches the cluster.
    """
    bad = [pair for pair in zip(result.claims, causes, strict=True) if pair[0].observation.verdict.verdict != "pass"]
    if not result.rounds:
        # The claims that were not probed for another's sake would only hide the one that matters.
        bad = [pair for pair in bad if pair[0].observation.verdict.hopeless]
    where = f" of {section}" if section else ""
    if not bad:
        bad = [pair for pair in zip(result.claims, causes, strict=True) if pair[0].flapped] or list(
            zip(result.claims, causes, strict=True)
        )
        head = f"The claims{where} did not hold {settings.stable} rounds in a row"
    else:
        head = f"{len(bad)} of {len(result.claims)} claims{where} did not hold"
    when = f" ({settings.phase} the policy, {result.rounds} rounds in {result.elapsed:.1f} s)" if result.rounds else ""
    rows = [failed_row(item, cause, settings.phase, kubectl) for item, cause in bad]
    return screen(head + (when or ", nothing was probed"), "FROM", rows)


def failed_row(item: ClaimResult, cause: str, phase: str, kubectl: str) -> Row:
    """A claim of curl's, for the table of those that did not hold."""
    expected = str(item.claim.expected(phase))
    return Row(item.claim.name, expected, _seen(item), _caller(item), _why(item, cause), _look(item, kubectl))


def screen(head: str, where: str, rows: t.Sequence[Row]) -> str:
    """A head line, a table of the first rows, each reason once, and at most two commands.

    Args:
        where: title of the last column.
    """
    shown = rows[:MAX_SHOWN]
    cells = [[row.claim, row.expected, row.seen, row.where] for row in shown]
    lines = [head, "", *table(["CLAIM", "EXPECTED", "SEEN", where], cells), ""]
    reasons: dict[str, str] = {}
    for row in shown:
        reasons.setdefault(row.why, row.claim)
    for reason, name in reasons.items():
        lines.append(f"why:  {name}: {reason}" if len(reasons) > 1 else f"why:  {reason}")
    for command in [look for look in dict.fromkeys(row.look for row in shown) if look][:2]:
        lines.append(f"look: {command}")
    if len(rows) > len(shown):
        lines.append(f"({len(rows) - len(shown)} more: run again with -v)")
    return "\n".join(lines)


def _seen(item: ClaimResult) -> str:
    seen = item.observation.seen
    if seen.outcome == "probe_error" and seen.exit_code is None:
        text = "probe_error"
    elif seen.outcome == "probe_error":
        text = f"probe_error {seen.http_code:03d}/{seen.exit_code}"
    else:
        text = str(seen)
        if item.observation.verdict.verdict == "error":
            # What was seen may even be as expected.
            text += " (no proof)"
    return f"{text} (flapping)" if item.flapped else text


def _caller(item: ClaimResult) -> str:
    return str(item.target) if item.target else str(item.claim.source)


def _why(item: ClaimResult, cause: str) -> str:
    return shorten(cause or item.observation.verdict.reason, item.history if item.flapped else [])


def shorten(reason: str, flapped: t.Sequence[dict[str, t.Any]]) -> str:
    """A reason of a few lines at most; flapped: how the answer changed, where it did."""
    text = reason or "the answer changed before it was stable"
    if flapped:
        changes = [f"{change['outcome']} at {change['at']:g} s" for change in flapped[-4:]]
        text += f"; it flapped: {', '.join(changes)}"
    return text if len(text) <= 4 * WIDTH else text[: 4 * WIDTH] + "..."


def _look(item: ClaimResult, kubectl: str) -> str:
    claim = item.claim
    if item.target is None and claim.source.pod and not item.observation.verdict.hopeless:
        return f"{kubectl} -n {claim.source.namespace} describe pod {claim.source.pod}"
    if item.target is None:
        return f"{kubectl} -n {claim.source.namespace} get pods -o wide --show-labels"
    if claim.by:
        return f"{kubectl} -n {claim.by.namespace} get authorizationpolicy {claim.by.name} -o yaml"
    request = claim.request
    namespace = destination(request, item.target.namespace).namespace
    if item.observation.verdict.verdict == "error" and namespace:
        return f"{kubectl} -n {namespace} get authorizationpolicies -o yaml"
    curl = ["curl", "-sv", "-X", request.method, request.url]
    where = f"-n {item.target.namespace} exec {item.target.pod} -c {item.target.container}"
    return f"{kubectl} {where} -- {shlex.join(curl)}"


def require_section(section: str | None) -> None:
    """Raises LabError where a results file was given without the name of its part."""
    if not section:
        raise LabError("results_file needs section, the name under which the results are kept")


def read_results(path: str) -> dict[str, t.Any]:
    """What earlier checks wrote; empty where the file does not exist yet.

    Raises:
        LabError: when it is there but no results file, or its folder is missing.
    """
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise LabError(f"results_file: the folder of {path} does not exist")
    try:
        with open(path, encoding="utf-8") as file:
            results = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise LabError(f"results_file: {path} can't be read ({error}); remove it and run again") from error
    if not isinstance(results, dict):
        raise LabError(f"results_file: {path} is no results file; remove it and run again")
    return results


def merge(results: dict[str, t.Any], section: str, phase: str, result: CheckResult, causes: Causes) -> dict[str, t.Any]:
    """Put a check's outcome into the results, by the claims' names.

    A check before the policy starts the section anew: what an older policy did says nothing of the next.
    What Kiali's graph showed is kept beside it.
    """
    kept = results.get(section) or {}
    old = {claim["name"]: claim for claim in kept.get("claims") or []}
    checked = as_result(result, phase, causes)
    rows = []
    for item, claim in zip(result.claims, checked["claims"], strict=True):
        entry = {key: claim[key] for key in ENTRY_KEYS}
        entry.update({key: claim["seen"][key] for key in ("outcome", "http_code", "exit_code", "errormsg")})
        rows.append(
            {
                "name": claim["name"],
                "from": claim["from"],
                "to": claim["to"],
                "expected": str(item.claim.after),
                "by": claim["by"],
                "decided_by": claim["decided_by"] if phase == "after" else "-",
                "policy": claim["policy"] if phase == "after" else None,
                "before": entry if phase == "before" else old.get(claim["name"], {}).get("before"),
                "after": entry if phase == "after" else None,
            }
        )
    summary = {key: checked[key] for key in ("verdict", "converged_after", "rounds", "elapsed")}
    graph = {key: kept[key] for key in GRAPH_KEYS if key in kept}
    if phase == "before" and graph:
        before = [{**claim, "after": None} for claim in graph["graph"]["claims"]]
        graph = {
            "graph": {**graph["graph"], "claims": before, "phase": "before"},
            "graphs": {**graph["graphs"], "after": None},
        }
    other = {key: kept[key] for key in OTHER_KEYS if key in kept}
    proxies = {"proxies": checked["proxies"]}
    return {**results, section: {"claims": rows, "phase": phase, **summary, "at": now(), **proxies, **graph, **other}}


def now() -> str:
    """When a result was written, for whoever reads the file."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def write_results(path: str, results: dict[str, t.Any]) -> None:
    """Replace the results file at once, readable by its owner only.

    Raises:
        LabError: when it can't be written.
    """
    try:
        replace_file(path, json.dumps(results, indent=2) + "\n", 0o600)
    except OSError as error:
        raise LabError(f"results_file: {path} can't be written ({error})") from error


def replace_file(path: str, content: str, mode: int) -> None:
    """Put a text in the place of a file: whoever reads it finds the old one or the new one, never a part.

    Raises:
        OSError: when it can't be written; the old file is still there then.
    """
    handle, temporary = tempfile.mkstemp(prefix=".ambient-lab-", dir=os.path.dirname(path) or ".")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def results_table(results: dict[str, t.Any]) -> list[str]:
    """Lines of the closing table: claim, before, after, who decided by which policy, converged after."""
    rows = []
    for section in results.values():
        for part, short in ((section, _short), (section.get("graph") or {}, _short_graph)):
            after = part.get("converged_after") if part.get("phase") == "after" else None
            for claim in part.get("claims") or []:
                rows.append(
                    [
                        claim["name"],
                        short(claim["before"]),
                        short(claim["after"]),
                        _decided(claim),
                        "-" if after is None else f"{after:.1f} s",
                    ]
                )
    return table(["CLAIM", "BEFORE", "AFTER", "DECIDED BY", "CONVERGED"], rows)


def _decided(claim: dict[str, t.Any]) -> str:
    """Who decided, and the policy's name; its namespace is in the results file."""
    policy = claim.get("policy")
    return f"{claim['decided_by']} {policy.partition('/')[2]}" if policy else str(claim["decided_by"])


def _short(entry: dict[str, t.Any] | None) -> str:
    if entry is None:
        return "-"
    code = "" if entry["exit_code"] is None else f" {entry['http_code']:03d}/{entry['exit_code']}"
    return f"{entry['outcome']}{code}{_unless_passed(entry)}"


def _short_graph(entry: dict[str, t.Any] | None) -> str:
    return "-" if entry is None else f"{entry['seen']}{_unless_passed(entry)}"


def _unless_passed(entry: dict[str, t.Any]) -> str:
    return "" if entry["verdict"] == "pass" else f" {entry['verdict'].upper()}"
