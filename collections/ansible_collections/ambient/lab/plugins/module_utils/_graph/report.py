# Writes down what Kiali's graph showed: the return values, the failure on one screen, the results file.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from .._check.report import failed_row, with_answer
from .._common.text import Row, screen, shorten
from .._results.codec import plain
from .._results.model import ClaimResult, GraphCheck
from .._results.store import now
from .rounds import GraphResult
from .run import GraphRun


def kept_graph(result: GraphResult) -> GraphCheck:
    """A check as results have it, with Kiali's answer."""
    return GraphCheck(
        at=now(),
        claims=[_claim_result(run) for run in result.claims],
        window=_seconds(result),
        restarts=result.restarts,
        graph=result.look.answer,
        **result.summary(),
    )


def as_graph_result(result: GraphResult, check: GraphCheck, verbose: bool) -> dict[str, t.Any]:
    """The module's return values.

    Args:
        result: of the check.
        check: the same, as results have it.
        verbose: hand over Kiali's whole answer.
    """
    elements = (check.graph or {}).get("elements") or {}
    counts = check.graph and {key: len(elements.get(key) or []) for key in ("nodes", "edges")}
    graph = check.graph if verbose else counts
    traffic = [with_answer(run) for run in result.traffic]
    values = {key: value for key, value in plain(check).items() if key != "proxies"}
    return {"changed": False, **values, "graph": graph, "traffic": traffic}


def _seconds(result: GraphResult) -> int | None:
    """Length of the window of Kiali's last answer; None where there is none."""
    asked = result.look.asked
    return asked[1] - asked[0] if asked else None


def _claim_result(run: GraphRun) -> ClaimResult:
    return ClaimResult(
        name=run.claim.name,
        from_=str(run.claim.source),
        source=str(run.claim.source),
        to=str(run.claim.target),
        expected=str(run.expect),
        seen=run.judged.seen.kept(run.expect.protocol),
        verdict=run.verdict.verdict,
        reason=run.verdict.reason,
        control=run.judged.control,
        decided_by="kiali" if run.holds else "-",
        likely_cause=run.cause,
        flapped=run.history.flapped,
        history=run.history.changes,
    )


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
