# Writes a check's result down: the return values, the failure table, its part of the results file.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import shlex
import typing as t

from .._common.results import now
from .._common.rounds import Retry
from .._common.text import Row, printable, screen, shorten
from .._witness.attribution import Attribution
from .causes import refused_rights
from .rounds import CheckResult, Settings
from .run import ClaimRun

# What the module kiali_graph keeps in a section: its claims, and Kiali's answers by phase.
GRAPH_KEYS = ("graph", "graphs")
# What other modules keep in a section, and a check leaves there.
OTHER_KEYS = ("convergence", "matrix", "mutation", "lint")
ENTRY_KEYS = (
    "expected", "predicted", "prediction", "surprise", "verdict", "reason",
    "likely_cause", "history", "decided_by", "policy", "witnesses"
)  # fmt: skip


def as_result(result: CheckResult) -> dict[str, t.Any]:
    """The module's return values."""
    surprising = [run for run in result.claims if run.holds and run.surprise]
    surprises = [f"claim {run.claim.name!r} holds, yet {run.surprise}" for run in surprising]
    return {
        "changed": False,
        **result.summary(),
        "claims": [claim_values(run) for run in result.claims],
        "proxies": list(result.proxies),
        **({"warnings": surprises} if surprises else {}),
    }


def claim_values(run: ClaimRun) -> dict[str, t.Any]:
    """One claim of the module's return values."""
    attribution = run.attribution or Attribution()
    return {
        "name": run.claim.name,
        "from": _caller(run),
        "to": str(run.claim.request),
        "path": run.span,
        "expected": str(run.expect),
        "predicted": run.prediction.outcome,
        "prediction": run.prediction.why,
        "surprise": run.surprise,
        "by": str(run.claim.by) if run.claim.by else None,
        "seen": run.seen.as_dict(),
        "verdict": run.verdict.verdict,
        "reason": run.verdict.reason,
        "control": run.control,
        "decided_by": attribution.decided_by,
        "policy": attribution.policy,
        "witnesses": [dataclasses.asdict(statement) for statement in attribution.statements],
        "likely_cause": run.cause,
        "flapped": run.history.flapped,
        "history": run.history.changes,
    }


def failure(result: CheckResult, settings: Settings, section: str, kubectl: str) -> str:
    """One screen that says which claims failed, what was seen, why probably, and where to look further by kubectl."""
    bad = [run for run in result.claims if not run.holds]
    if not result.rounds:
        # The claims that were not probed for another's sake would only hide the one that matters.
        bad = [run for run in bad if run.verdict.retry is Retry.POINTLESS]
    where = f" of {section}" if section else ""
    if not bad:
        bad = [run for run in result.claims if run.history.flapped] or result.claims
        head = f"The claims{where} did not hold {settings.stable} rounds in a row"
    else:
        head = f"{len(bad)} of {len(result.claims)} claims{where} did not hold"
    when = f" ({settings.phase} the policy, {result.rounds} rounds in {result.elapsed:.1f} s)" if result.rounds else ""
    rows = [failed_row(run, kubectl) for run in bad]
    return screen(head + (when or ", nothing was probed"), "FROM", rows)


def failed_row(run: ClaimRun, kubectl: str) -> Row:
    """A claim of curl's, for the table of those that did not hold."""
    # An exec's own words are the pod's, and must not drive the terminal.
    text = printable(run.cause or run.verdict.reason)
    why = shorten(text, run.history.changes if run.history.flapped else [])
    return Row(run.claim.name, str(run.expect), _seen(run), _caller(run), why, _look(run, kubectl))


def _seen(run: ClaimRun) -> str:
    seen = run.seen
    if not run.history.changes and run.target:
        return f"predicted {run.prediction.outcome}"
    if seen.outcome == "probe_error" and seen.exit_code is None:
        text = "probe_error"
    elif seen.outcome == "probe_error":
        text = f"probe_error {seen.http_code:03d}/{seen.exit_code}"
    else:
        text = str(seen)
        if run.verdict.verdict == "error":
            # What was seen may even be as expected.
            text += " (no proof)"
    return f"{text} (flapping)" if run.history.flapped else text


def _caller(run: ClaimRun) -> str:
    return str(run.target) if run.target else str(run.claim.source)


def _look(run: ClaimRun, kubectl: str) -> str:
    claim, target = run.claim, run.target
    if rights := refused_rights(run):
        return f"{kubectl} {rights[0].question}"
    if target is None and claim.source.pod and run.verdict.retry is Retry.USEFUL:
        return f"{kubectl} -n {claim.source.namespace} describe pod {claim.source.pod}"
    if target is None:
        return f"{kubectl} -n {claim.source.namespace} get pods -o wide --show-labels"
    named = str(claim.by or "") or (run.attribution or Attribution()).policy
    if named:
        namespace, _slash, name = named.partition("/")
        return f"{kubectl} -n {namespace} get authorizationpolicy {name} -o yaml"
    spaces = {str(policy["metadata"]["namespace"]) for policy in run.path.policies}
    if run.verdict.verdict == "error" and spaces:
        return f"{kubectl} -n {sorted(spaces)[0]} get authorizationpolicies -o yaml"
    request = claim.request
    curl = ["curl", "-sv", "-X", request.method, request.url]
    # What they say may be a secret.
    more = [f"-H '{name}: <as in the claim>'" for name, _value in request.headers]
    more += ["--data-raw '<as in the claim>'"] if request.body is not None else []
    where = f"-n {target.namespace} exec {target.pod} -c {target.container}"
    return " ".join([kubectl, where, "--", shlex.join(curl), *more])


def merge(results: dict[str, t.Any], section: str, phase: str, result: CheckResult) -> dict[str, t.Any]:
    """Put a check's outcome into the results, by the claims' names.

    A check before the policy starts the section anew: what an older policy did says nothing of the next.
    What Kiali's graph showed is kept beside it.
    """
    kept = results.get(section) or {}
    old = {claim["name"]: claim for claim in kept.get("claims") or []}
    rows = []
    for run in result.claims:
        claim = claim_values(run)
        # What was claimed before of another source or request says nothing; a pod's name may be a new one.
        earlier, source = old.get(claim["name"], {}), str(run.claim.source)
        is_same = earlier.get("to") == claim["to"] and earlier.get("source", source) == source
        before = earlier.get("before") if is_same else None
        entry = {key: claim[key] for key in ENTRY_KEYS}
        entry.update({key: claim["seen"][key] for key in ("outcome", "http_code", "exit_code", "errormsg")})
        rows.append(
            {
                "name": claim["name"],
                "from": claim["from"],
                "source": source,
                "to": claim["to"],
                "path": claim["path"],
                "expected": str(run.claim.after),
                "by": claim["by"],
                "decided_by": claim["decided_by"] if phase == "after" else "-",
                "policy": claim["policy"] if phase == "after" else None,
                "before": entry if phase == "before" else before,
                "after": entry if phase == "after" else None,
            }
        )
    graph = {key: kept[key] for key in GRAPH_KEYS if key in kept}
    if phase == "before" and graph:
        before = [{**claim, "after": None} for claim in graph["graph"]["claims"]]
        graph = {
            "graph": {**graph["graph"], "claims": before, "phase": "before"},
            "graphs": {**graph["graphs"], "after": None},
        }
    other = {key: kept[key] for key in OTHER_KEYS if key in kept}
    head = {"claims": rows, "phase": phase, **result.summary(), "at": now(), "proxies": list(result.proxies)}
    return {**results, section: {**head, **graph, **other}}
