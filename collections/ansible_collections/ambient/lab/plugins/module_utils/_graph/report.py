# Writes down what Kiali's graph showed: the return values, the failure on one screen, the results file.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .._check.report import claim_values, failed_row
from .._common.results import now
from .._common.text import Row, screen, shorten
from .parse import End
from .rounds import GraphResult
from .run import GraphRun


def as_graph_result(result: GraphResult, verbose: bool) -> dict[str, t.Any]:
    """The module's return values.

    Args:
        result: of the check.
        verbose: hand over Kiali's whole answer.
    """
    answer = result.look.answer
    elements = (answer or {}).get("elements") or {}
    counts = answer and {key: len(elements.get(key) or []) for key in ("nodes", "edges")}
    return {
        "changed": False,
        **result.summary(),
        "window": _seconds(result),
        "restarts": result.restarts,
        "claims": [_values(run) for run in result.claims],
        "traffic": [claim_values(run) for run in result.traffic],
        "graph": answer if verbose else counts,
    }


def _seconds(result: GraphResult) -> int | None:
    """Length of the window of Kiali's last answer; None where there is none."""
    asked = result.look.asked
    return asked[1] - asked[0] if asked else None


def _values(run: GraphRun) -> dict[str, t.Any]:
    return {
        "name": run.claim.name,
        "from": str(run.claim.source),
        "to": str(run.claim.target),
        "expected": str(run.expect),
        "seen": run.judged.seen.as_dict(),
        "verdict": run.verdict.verdict,
        "reason": run.verdict.reason,
        "control": run.judged.control,
        "likely_cause": run.cause,
        "flapped": run.history.flapped,
        "history": run.history.changes,
    }


def graph_failure(result: GraphResult, phase: str, section: str, kubectl: str) -> str:
    """One screen that says which claims failed, what was seen, why probably, and where to look further.

    Requests that did not behave as claimed come first, because the graph can't be right without them.

    Args:
        result: of the check.
        phase: before or after.
        section: of the results; "" for none.
        kubectl: command with which the user reaches the cluster.
    """
    rows = [failed_row(run, kubectl) for run in result.traffic if not run.holds]
    rows += [_row(run) for run in result.claims if not run.holds]
    total = len(result.claims) + len(result.traffic)
    where = f" of {section}" if section else ""
    seconds = _seconds(result)
    window = "no answer of Kiali" if seconds is None else f"window of {seconds} s"
    when = f"{phase} the policy, {result.rounds} rounds in {result.elapsed:.1f} s, {window}"
    head = f"{len(rows)} of {total} claims{where} did not hold on Kiali's graph ({when})"
    return screen(head, "BETWEEN", rows)


def _row(run: GraphRun) -> Row:
    seen, flapped = str(run.judged.seen), run.history.flapped
    if run.verdict.verdict == "error" and not run.judged.seen.problem:
        # What was seen may even be as expected.
        seen += " (no proof)"
    if flapped:
        seen += " (flapping)"
    why = shorten(run.cause or run.verdict.reason, run.history.changes if flapped else [])
    return Row(run.claim.name, str(run.expect), seen, run.claim.between, why, run.look)


def merge_graph(results: dict[str, t.Any], section: str, phase: str, result: GraphResult) -> dict[str, t.Any]:
    """Put what the graph showed into the results, by the claims' names, beside what curl saw.

    A check before the policy starts it anew: what an older policy did says nothing of the next.
    """
    kept = results.get(section) or {}
    old = {claim["name"]: claim for claim in (kept.get("graph") or {}).get("claims") or []}
    rows = []
    for run in result.claims:
        claim = _values(run)
        entry = {key: claim[key] for key in ("expected", "verdict", "reason", "likely_cause", "history")}
        entry |= {"outcome": claim["seen"]["outcome"], "edges": claim["seen"]["edges"], "seen": _asked_for(run)}
        rows.append(
            {
                "name": claim["name"],
                "from": _end(run.claim.source),
                "to": _end(run.claim.target),
                "expected": str(run.claim.after),
                "decided_by": "kiali" if claim["verdict"] == "pass" else "-",
                "before": entry if phase == "before" else old.get(claim["name"], {}).get("before"),
                "after": entry if phase == "after" else None,
            }
        )
    summary = {**result.summary(), "window": _seconds(result), "restarts": result.restarts}
    graphs = {"before": (kept.get("graphs") or {}).get("before"), "after": None, phase: result.look.answer}
    graph = {"claims": rows, "phase": phase, **summary, "at": now()}
    return {**results, section: {**kept, "graph": graph, "graphs": graphs}}


def _asked_for(run: GraphRun) -> str:
    """What was seen, for a table: where the claim names a protocol, the edges of that protocol if there are any."""
    seen = run.judged.seen
    edges = tuple(edge for edge in seen.edges if edge.protocol == run.expect.protocol)
    return str(dataclasses.replace(seen, edges=edges) if edges else seen)


def _end(end: End) -> dict[str, str]:
    return {end.kind: end.name, "namespace": end.namespace}
