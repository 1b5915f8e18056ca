# Judges what was seen against what a claim expects.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import DENIALS, Expectation, PolicyRef
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen
from ansible_collections.ambient.lab.plugins.module_utils._witness.enforcement import PolicyState
from ansible_collections.ambient.lab.plugins.module_utils._witness.testimony import Testimony

_NO_CONTROL = (
    "looks denied, but nothing in the same round shows the path alive: "
    "add a claim in which the destination answers somebody"
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
    by: PolicyRef | None = None,
    *,
    required: bool = True,
) -> Verdict:
    """One claim's verdict in one round.

    Args:
        expect: of the phase.
        seen: what the probe saw.
        control: how the same round shows the path alive, None where it does not.
        policy: state of the policies on the claim's path.
        testimony: what the witnesses say; None where nobody was asked.
        by: the policy that must have decided a denial.
        required: a denial counts only where some proxy bears it out.
    """
    # Traffic may be as expected for another reason, so a policy that can't have decided makes it an error.
    traffic = _traffic(expect, seen)
    if policy.problem and traffic.verdict == "pass":
        return Verdict("error", policy.problem, policy.hopeless)
    if traffic.verdict == "pass" and expect.outcome in DENIALS:
        if control is None:
            return Verdict("error", _NO_CONTROL)
        return _witnessed(testimony, by, required) if testimony else traffic
    return dataclasses.replace(traffic, hopeless=policy.hopeless)


def _witnessed(testimony: Testimony, by: PolicyRef | None, required: bool) -> Verdict:
    """A denial as expected: do the witnesses bear it out, and name the right policy?"""
    if testimony.problem and (required or not testimony.silent):
        hint = SILENT_HINT if testimony.silent else ""
        return Verdict("error", testimony.problem + hint)
    if by and testimony.among and str(by) not in testimony.among:
        return Verdict("fail", f"denied by {' or '.join(testimony.among)}, not by {by}")
    return Verdict("pass")


def _traffic(expect: Expectation, seen: Seen) -> Verdict:
    if seen.outcome == "probe_error":
        return Verdict("error", seen.errormsg)
    if seen.outcome != expect.outcome:
        return Verdict("fail", f"expected {expect}, saw {seen}")
    codes = expect.accepted_codes
    if codes is not None and seen.http_code not in codes:
        wanted = "2xx" if expect.http_codes is None and expect.outcome == "allowed" else _list(codes)
        return Verdict("fail", f"HTTP {seen.http_code}, the claim accepts {wanted}")
    if expect.exit_codes is not None and seen.exit_code not in expect.exit_codes:
        return Verdict("fail", f"curl ended with {seen.exit_code}, the claim accepts {_list(expect.exit_codes)}")
    return Verdict("pass")


def _list(codes: t.Iterable[int]) -> str:
    return ", ".join(str(code) for code in sorted(codes))
