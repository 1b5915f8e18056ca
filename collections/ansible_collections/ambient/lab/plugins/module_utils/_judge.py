# Judges what was seen against what a claim expects.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._claims import DENIALS, Expectation
from ansible_collections.ambient.lab.plugins.module_utils._enforcement import PolicyState
from ansible_collections.ambient.lab.plugins.module_utils._outcomes import Seen

_NO_CONTROL = (
    "looks denied, but nothing in the same round shows the path alive: "
    "add a claim in which the destination answers somebody"
)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """pass, fail or error, and why. hopeless: waiting longer can't change it."""

    verdict: str
    reason: str = ""
    hopeless: bool = False


def judge(expect: Expectation, seen: Seen, control: str | None, policy: PolicyState) -> Verdict:
    """One claim's verdict in one round.

    Args:
        expect: of the phase.
        seen: what the probe saw.
        control: how the same round shows the path alive, None where it does not.
        policy: state of the policies on the claim's path.
    """
    # Traffic may be as expected for another reason, so a policy that can't have decided makes it an error.
    traffic = _traffic(expect, seen)
    if policy.problem and traffic.verdict == "pass":
        return Verdict("error", policy.problem, policy.hopeless)
    if traffic.verdict == "pass" and expect.outcome in DENIALS and control is None:
        return Verdict("error", _NO_CONTROL)
    return dataclasses.replace(traffic, hopeless=policy.hopeless)


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
