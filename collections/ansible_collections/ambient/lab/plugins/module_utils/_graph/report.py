# Writes down what Kiali's graph showed: the return values, the failure on one screen, the results file.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._check.report import Causes, claim_values, failed_row
from ansible_collections.ambient.lab.plugins.module_utils._common.results import now
from ansible_collections.ambient.lab.plugins.module_utils._common.text import Row, screen, shorten
from ansible_collections.ambient.lab.plugins.module_utils._graph.rounds import GraphClaimResult, GraphResult


def as_graph_result(result: GraphResult, phase: str, causes: Causes, verbose: bool) -> dict[str, t.Any]:
    """The module's return values.

    Args:
        causes: likely cause per claim of the traffic.
        verbose: hand over Kiali's whole answer.
    """
    return {
        "changed": False,
        "verdict": result.verdict,
        "rounds": result.rounds,
        "elapsed": round(result.elapsed, 2),
        "converged_after": None if result.converged_after is None else round(result.converged_after, 2),
        "window": window_seconds(result),
        "restarts": result.restarts,
        "claims": [_values(item, phase) for item in result.claims],
        "traffic": [claim_values(item, phase, cause) for item, cause in zip(result.traffic, causes, strict=True)],
        "graph": result.look.answer if verbose else _counts(result),
    }


def window_seconds(result: GraphResult) -> int | None:
    """Length of the window of Kiali's last answer; None where there is none."""
    look = result.look
    return None if look.window is None or look.answer is None else look.window.seconds(look.end)


def _counts(result: GraphResult) -> dict[str, int] | None:
    if result.look.answer is None:
        return None
    elements = result.look.answer["elements"]
    return {key: len(elements.get(key) or []) for key in ("nodes", "edges")}


def _values(item: GraphClaimResult, phase: str) -> dict[str, t.Any]:
    return {
        "name": item.claim.name,
        "from": str(item.claim.source),
        "to": str(item.claim.target),
        "expected": str(item.claim.expected(phase)),
        "seen": item.judged.seen.as_dict(),
        "verdict": item.judged.verdict.verdict,
        "reason": item.judged.verdict.reason,
        "control": item.judged.control,
        "likely_cause": item.cause,
        "flapped": item.flapped,
        "history": item.history,
    }


def graph_failure(result: GraphResult, phase: str, section: str, causes: Causes, kubectl: str) -> str:
    """One screen that says which claims failed, what was seen, why probably, and where to look further.

    Requests that did not behave as claimed come first, because the graph can't be right without them.
    """
    traffic = [
        failed_row(item, cause, phase, kubectl)
        for item, cause in zip(result.traffic, causes, strict=True)
        if item.observation.verdict.verdict != "pass"
    ]
    rows = traffic + [_row(item, phase) for item in result.claims if item.judged.verdict.verdict != "pass"]
    total = len(result.claims) + len(result.traffic)
    where = f" of {section}" if section else ""
    seconds = window_seconds(result)
    window = "no answer of Kiali" if seconds is None else f"window of {seconds} s"
    when = f"{phase} the policy, {result.rounds} rounds in {result.elapsed:.1f} s, {window}"
    head = f"{len(rows)} of {total} claims{where} did not hold on Kiali's graph ({when})"
    return screen(head, "BETWEEN", rows)


def _row(item: GraphClaimResult, phase: str) -> Row:
    verdict = item.judged.verdict
    seen = str(item.judged.seen)
    if verdict.verdict == "error" and not item.judged.seen.problem:
        # What was seen may even be as expected.
        seen += " (no proof)"
    if item.flapped:
        seen += " (flapping)"
    why = shorten(item.cause or verdict.reason, item.history if item.flapped else [])
    return Row(item.claim.name, str(item.claim.expected(phase)), seen, item.claim.between, why, item.look)


def merge_graph(results: dict[str, t.Any], section: str, phase: str, result: GraphResult) -> dict[str, t.Any]:
    """Put what the graph showed into the results, by the claims' names, beside what curl saw.

    A check before the policy starts it anew: what an older policy did says nothing of the next.
    """
    kept = results.get(section) or {}
    old = {claim["name"]: claim for claim in (kept.get("graph") or {}).get("claims") or []}
    returned = as_graph_result(result, phase, [""] * len(result.traffic), verbose=False)
    rows = []
    for item, claim in zip(result.claims, returned["claims"], strict=True):
        entry = {key: claim[key] for key in ("expected", "verdict", "reason", "likely_cause", "history")}
        entry |= {"outcome": claim["seen"]["outcome"], "edges": claim["seen"]["edges"], "seen": _asked_for(item, phase)}
        rows.append(
            {
                "name": claim["name"],
                "from": _end(item.claim.source),
                "to": _end(item.claim.target),
                "expected": str(item.claim.after),
                "decided_by": "kiali" if claim["verdict"] == "pass" else "-",
                "before": entry if phase == "before" else old.get(claim["name"], {}).get("before"),
                "after": entry if phase == "after" else None,
            }
        )
    summary = {key: returned[key] for key in ("verdict", "converged_after", "rounds", "elapsed", "window", "restarts")}
    graphs = {"before": (kept.get("graphs") or {}).get("before"), "after": None, phase: result.look.answer}
    graph = {"claims": rows, "phase": phase, **summary, "at": now()}
    return {**results, section: {**kept, "graph": graph, "graphs": graphs}}


def _asked_for(item: GraphClaimResult, phase: str) -> str:
    """What was seen, for a table: where the claim names a protocol, the edges of that protocol if there are any."""
    seen, protocol = item.judged.seen, item.claim.expected(phase).protocol
    edges = tuple(edge for edge in seen.edges if edge.protocol == protocol)
    return str(dataclasses.replace(seen, edges=edges) if edges else seen)


def _end(end: t.Any) -> dict[str, str]:
    return {end.kind: end.name, "namespace": end.namespace}
