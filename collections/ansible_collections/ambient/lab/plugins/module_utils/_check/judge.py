# Judges what was seen against what a claim expects.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._claims.document import misfit
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import DENIALS, Expectation
from ansible_collections.ambient.lab.plugins.module_utils._common.rounds import Reason, Retry
from ansible_collections.ambient.lab.plugins.module_utils._curl.control import BLOCKED
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import name_of
from ansible_collections.ambient.lab.plugins.module_utils._mesh.paths import Path
from ansible_collections.ambient.lab.plugins.module_utils._mesh.policies import decides
from ansible_collections.ambient.lab.plugins.module_utils._mesh.predictions import Prediction
from ansible_collections.ambient.lab.plugins.module_utils._witness.attribution import Attribution

_NO_CONTROL = (
    "looks denied, but nothing in the same round shows the path alive: "
    "add a claim in which the destination answers somebody"
)
_NOBODY_BLOCKS = (
    "nothing shows who blocks it: a destination that is down or slow looks the same; "
    "it must answer another source (for a timeout at the same path), and this one at no other path"
)
SILENT_HINT = " (witnesses: available takes the client's word alone where no proxy can be asked)"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """pass, fail or error, why, and whether looking again is of use."""

    verdict: str
    reason: str = ""
    retry: Retry = Retry.USEFUL

    @property
    def passed(self) -> bool:
        """Whether it is a pass."""
        return self.verdict == "pass"


def judge(
    expect: Expectation,
    seen: Seen,
    control: str | None,
    policy: Reason | None,
    attribution: Attribution | None = None,
    by: str = "",
    path: Path | None = None,
    prediction: Prediction | None = None,
    *,
    required: bool = True,
) -> Verdict:
    """One claim's verdict in one round.

    Args:
        expect: of the phase.
        seen: what the probe saw.
        control: how the same round shows the path alive, None where it does not.
        policy: what is wrong with the policies on the claim's path, None where nothing is.
        attribution: what the proxies say; None where nobody was asked.
        by: namespace/name of the policy that must have decided a denial, "" for any.
        path: of the request; with `by` needed, to tell which policies can have decided.
        prediction: of the request; with `by`, policies that surely do not match can't have decided either.
        required: a denial counts only where some proxy confirms it.
    """
    # Traffic may be as expected for another reason, so a policy that can't have decided makes it an error.
    traffic = Verdict("error", seen.unclear) if seen.unclear else traffic_of(expect, seen)
    if not traffic.passed:
        return dataclasses.replace(traffic, retry=policy.retry) if policy else traffic
    if policy:
        return Verdict("error", policy.text, policy.retry)
    if expect.outcome in BLOCKED and control is None:
        return Verdict("error", _NOBODY_BLOCKS)
    if expect.outcome in DENIALS:
        if control is None:
            return Verdict("error", _NO_CONTROL)
        where = "waypoint" if expect.outcome == "denied_l7" else "ztunnel"
        doubt = _not_by(by, where, path, prediction, expect.outcome) if by else None
        return _confirmed(attribution, by, doubt, required) if attribution else doubt or Verdict("pass")
    return traffic


def _confirmed(attribution: Attribution, by: str, doubt: Verdict | None, required: bool) -> Verdict:
    """A denial as expected: do the proxies confirm it, and name the right policy?

    Args:
        attribution: what the proxies say.
        by: the policy that must have decided; "" for any.
        doubt: why it can't have; None where it can. What a proxy says of this request counts more.
        required: no proxy's word is not enough.
    """
    if attribution.problem and (required or not attribution.silent):
        hint = SILENT_HINT if attribution.silent else ""
        return Verdict("error", attribution.problem + hint)
    if not by:
        return Verdict("pass")
    named = attribution.among or ((attribution.other,) if attribution.other else ())
    if named:
        return Verdict("pass") if by in named else Verdict("fail", f"denied by {' or '.join(named)}, not by {by}")
    if doubt:
        return doubt
    if required and not attribution.unnamed:
        where = attribution.decided_by
        return Verdict(
            "error", f"the {where} refused it, but no proxy names the policy: {attribution.nameless}{SILENT_HINT}"
        )
    return Verdict("pass")


def _not_by(by: str, where: str, path: Path | None, prediction: Prediction | None, outcome: str) -> Verdict | None:
    """Why a policy that no proxy names can't have decided at a kind of proxy; None where it can."""
    policies = [] if path is None else path.waypoint_policies if where == "waypoint" else path.ztunnel_policies
    possible = [name_of(item) for item in policies if decides(item, where)]
    if by not in possible:
        if path and path.doubts:
            return Verdict(
                "error", f"{by} is not known to be in force at the {where} on this way: {'; '.join(path.doubts)}"
            )
        others = f"; in force there: {', '.join(possible)}" if possible else ""
        return Verdict("fail", f"{by} can't have denied it: it is not in force at the {where} on this way{others}")
    if prediction and prediction.outcome == outcome and by not in prediction.among:
        return Verdict(
            "fail", f"{by} does not match it; by the objects it is denied by {' or '.join(prediction.among)}"
        )
    return None


def traffic_of(expect: Expectation, seen: Seen) -> Verdict:
    """Whether an answer is the expected one, whoever gave it."""
    if seen.outcome == "probe_error":
        return Verdict("error", seen.errormsg)
    if seen.outcome != expect.outcome:
        return Verdict("fail", f"expected {expect}, saw {seen}")
    codes = expect.accepted_codes
    # gRPC has its own status: Envoy refuses with HTTP 200 then.
    grpc = expect.http_codes is None and seen.outcome == "denied_l7" and "grpc-status" in seen.headers
    if codes is not None and seen.http_code not in codes and not grpc:
        wanted = "2xx" if expect.http_codes is None and expect.outcome == "allowed" else _list(codes)
        return Verdict("fail", f"HTTP {seen.http_code}, the claim accepts {wanted}")
    if expect.exit_codes is not None and seen.exit_code not in expect.exit_codes:
        return Verdict("fail", f"curl ended with {seen.exit_code}, the claim accepts {_list(expect.exit_codes)}")
    problem = misfit(expect.json, seen.document) if expect.json else ""
    return Verdict("fail", problem) if problem else Verdict("pass")


def _list(codes: t.Iterable[int]) -> str:
    return ", ".join(str(code) for code in sorted(codes))
