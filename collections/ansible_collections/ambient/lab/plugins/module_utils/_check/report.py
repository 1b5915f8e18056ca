# Writes a check's result down: the return values, the failure table, its part of the results file.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import shlex
import typing as t

from .._common.rounds import Retry
from .._common.text import Row, printable, screen, shorten
from .._results.codec import plain
from .._results.model import Check, ClaimResult
from .._results.store import now
from .._witness.attribution import Attribution
from .causes import refused_rights
from .rounds import CheckResult, Settings
from .run import ClaimRun


def kept(result: CheckResult) -> Check:
    """A check as results have it."""
    claims = [claim_result(run) for run in result.claims]
    return Check(at=now(), claims=claims, proxies=list(result.proxies), **result.summary())


def as_result(result: CheckResult, check: Check) -> dict[str, t.Any]:
    """The module's return values.

    Args:
        check: the same, as results have it.
    """
    surprising = [run for run in result.claims if run.holds and run.surprise]
    surprises = [f"claim {run.claim.name!r} holds, yet {run.surprise}" for run in surprising]
    claims = [with_answer(run, claim) for run, claim in zip(result.claims, check.claims, strict=True)]
    values = {**plain(check), "claims": claims}
    return {"changed": False, **values, **({"warnings": surprises} if surprises else {})}


def with_answer(run: ClaimRun, claim: ClaimResult | None = None) -> dict[str, t.Any]:
    """A claim, with the answer's headers and the begin of its body, which are returned, and never kept."""
    values: dict[str, t.Any] = plain(claim or claim_result(run))
    values["seen"] |= run.seen.answer()
    return values


def claim_result(run: ClaimRun) -> ClaimResult:
    """One claim as results have it."""
    attribution = run.attribution or Attribution()
    return ClaimResult(
        name=run.claim.name,
        from_=_caller(run),
        source=str(run.claim.source),
        to=str(run.claim.request),
        path=run.span,
        expected=str(run.expect),
        predicted=run.prediction.outcome,
        prediction=run.prediction.why,
        surprise=run.surprise,
        by=str(run.claim.by) if run.claim.by else None,
        seen=run.seen.kept(),
        verdict=run.verdict.verdict,
        reason=run.verdict.reason,
        control=run.control,
        decided_by=attribution.decided_by,
        policy=attribution.policy,
        witnesses=list(attribution.statements),
        likely_cause=run.cause,
        flapped=run.history.flapped,
        history=run.history.changes,
    )


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
