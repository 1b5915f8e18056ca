# Writes a check's result down: the return values, the failure table, its part of the results file.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import shlex
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._check.rounds import CheckResult, ClaimResult, Settings
from ansible_collections.ambient.lab.plugins.module_utils._common.results import now
from ansible_collections.ambient.lab.plugins.module_utils._common.text import Row, screen, shorten
from ansible_collections.ambient.lab.plugins.module_utils._curl.control import destination
from ansible_collections.ambient.lab.plugins.module_utils._witness.testimony import Testimony

# What the module kiali_graph keeps in a section: its claims, and Kiali's answers by phase.
GRAPH_KEYS = ("graph", "graphs")
# What other modules keep in a section, and a check leaves there.
OTHER_KEYS = ("convergence", "matrix")
ENTRY_KEYS = (
    "expected", "verdict", "reason", "likely_cause", "history", "decided_by", "policy", "witnesses"
)  # fmt: skip

Causes = t.Sequence[str]


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
    pairs = list(zip(result.claims, causes, strict=True))
    bad = [pair for pair in pairs if pair[0].observation.verdict.verdict != "pass"]
    if not result.rounds:
        # The claims that were not probed for another's sake would only hide the one that matters.
        bad = [pair for pair in bad if pair[0].observation.verdict.hopeless]
    where = f" of {section}" if section else ""
    if not bad:
        bad = [pair for pair in pairs if pair[0].flapped] or pairs
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
