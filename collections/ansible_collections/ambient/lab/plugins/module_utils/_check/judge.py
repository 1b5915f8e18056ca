# Judges what was seen against what a claim expects.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._claims.document import misfit
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import DENIALS, Expectation
from ansible_collections.ambient.lab.plugins.module_utils._curl.control import BLOCKED
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import name_of
from ansible_collections.ambient.lab.plugins.module_utils._mesh.paths import Path
from ansible_collections.ambient.lab.plugins.module_utils._mesh.policies import decides
from ansible_collections.ambient.lab.plugins.module_utils._witness.enforcement import PolicyState
from ansible_collections.ambient.lab.plugins.module_utils._witness.testimony import Testimony

_NO_CONTROL = (
    "looks denied, but nothing in the same round shows the path alive: "
    "add a claim in which the destination answers somebody"
)
_NOBODY_BLOCKS = (
    "nothing shows who blocks it: a destination that is down or slow looks the same; "
    "add a claim in which it answers somebody else"
)
SILENT_HINT = " (witnesses: available takes the client's word alone where no proxy can be asked)"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """pass, fail or error, and why. hopeless: waiting longer can't change it."""

    verdict: str
    reason: str = ""
    hopeless: bool = False


def judge(
    expect: Expectation,
    seen: Seen,
    control: str | None,
    policy: PolicyState,
    testimony: Testimony | None = None,
    by: str = "",
    path: Path | None = None,
    *,
    required: bool = True,
) -> Verdict:
    """One claim's verdict in one round.

    Args:
        expect: of the phase.
        seen: what the probe saw.
        control: how the same round shows the path alive, None where it does not.
        policy: state of the policies on the claim's path.
        testimony: what the proxies say; None where nobody was asked.
        by: namespace/name of the policy that must have decided a denial, "" for any.
        path: of the request; with `by` needed, to tell which policies can have decided.
        required: a denial counts only where some proxy confirms it.
    """
    # Traffic may be as expected for another reason, so a policy that can't have decided makes it an error.
    traffic = Verdict("error", seen.unclear) if seen.unclear else _traffic(expect, seen)
    if traffic.verdict != "pass":
        return dataclasses.replace(traffic, hopeless=policy.hopeless)
    if policy.problem:
        return Verdict("error", policy.problem, policy.hopeless)
    if expect.outcome in BLOCKED and control is None:
        return Verdict("error", _NOBODY_BLOCKS)
    if expect.outcome in DENIALS:
        if control is None:
            return Verdict("error", _NO_CONTROL)
        return _confirmed(testimony, by, path, required) if testimony else _possible(expect.outcome, by, path)
    return traffic


def _confirmed(testimony: Testimony, by: str, path: Path | None, required: bool) -> Verdict:
    """A denial as expected: do the proxies confirm it, and name the right policy?"""
    if testimony.problem and (required or not testimony.silent):
        hint = SILENT_HINT if testimony.silent else ""
        return Verdict("error", testimony.problem + hint)
    if not by:
        return Verdict("pass")
    if testimony.among:
        if by in testimony.among:
            return Verdict("pass")
        return Verdict("fail", f"denied by {' or '.join(testimony.among)}, not by {by}")
    where = testimony.decided_by if testimony.decided_by == "waypoint" else "ztunnel"
    possible = _in_force(path, where)
    if by not in possible:
        return _not_in_force(by, where, possible)
    if required and not testimony.unnamed:
        return Verdict(
            "error", f"the {where} refused it, but no proxy names the policy: {testimony.nameless}{SILENT_HINT}"
        )
    return Verdict("pass")


def _possible(outcome: str, by: str, path: Path | None) -> Verdict:
    """Without any proxy's word: could the named policy have decided at all?"""
    where = "waypoint" if outcome == "denied_l7" else "ztunnel"
    possible = _in_force(path, where)
    return _not_in_force(by, where, possible) if by and by not in possible else Verdict("pass")


def _in_force(path: Path | None, where: str) -> list[str]:
    if path is None:
        return []
    found = path.waypoint_policies if where == "waypoint" else path.ztunnel_policies
    return [name_of(item) for item in found if decides(item, where)]


def _not_in_force(by: str, where: str, possible: t.Sequence[str]) -> Verdict:
    others = f"; in force there: {', '.join(possible)}" if possible else ""
    return Verdict("fail", f"{by} can't have denied it: it is not in force at the {where} on this way{others}")


def _traffic(expect: Expectation, seen: Seen) -> Verdict:
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
