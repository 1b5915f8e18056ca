# Judges what was seen against what a claim expects.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._claims import DENIALS, Expectation
from ansible_collections.ambient.lab.plugins.module_utils._outcomes import Seen

_NO_CONTROL = (
    "looks denied, but nothing in the same round shows the path alive: "
    "add a claim in which the destination answers somebody"
)
_STATUS_CONDITIONS = ("ZtunnelAccepted", "WaypointAccepted")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """pass, fail or error, and why. hopeless: waiting longer can't change it."""

    verdict: str
    reason: str = ""
    hopeless: bool = False


@dataclasses.dataclass(frozen=True)
class PolicyState:
    """What the API says of the policy that a claim names in `by`."""

    problem: str = ""
    hopeless: bool = False


def judge(expect: Expectation, seen: Seen, control: str | None, policy: PolicyState) -> Verdict:
    """One claim's verdict in one round.

    Args:
        expect: of the phase.
        seen: what the probe saw.
        control: how the same round shows the path alive, None where it does not.
        policy: state of the policy in `by`; empty where the claim names none.
    """
    # Traffic may be as expected for another reason, so a policy that can't have decided makes it an error.
    traffic = _traffic(expect, seen)
    if traffic.verdict == "pass" and expect.outcome in DENIALS and control is None:
        return Verdict("error", _NO_CONTROL)
    if policy.problem and traffic.verdict == "pass":
        return Verdict("error", policy.problem, policy.hopeless)
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


def policy_state(name: str, policy: dict[str, t.Any] | None) -> PolicyState:
    """What istiod says of an AuthorizationPolicy: missing, not fully enforceable, or nothing against it.

    The conditions are ZtunnelAccepted and WaypointAccepted (istiod, pilot/pkg/model/service.go). One that is
    True with a reason other than Accepted (UnsupportedValue, PartiallyInvalid) is only partly enforced.
    """
    if policy is None:
        return PolicyState(f"AuthorizationPolicy {name} (the claim's `by`) does not exist", hopeless=True)
    generation = policy["metadata"].get("generation")
    for condition in (policy.get("status") or {}).get("conditions") or []:
        if condition.get("type") not in _STATUS_CONDITIONS:
            continue
        if condition.get("status") == "True" and condition.get("reason") == "Accepted":
            continue
        # A status of an older generation says nothing of this policy; istiod is about to write the next one.
        observed = condition.get("observedGeneration")
        hopeless = observed is not None and int(observed) == generation
        said = f"{condition['type']}={condition.get('status')}, {condition.get('reason')}"
        return PolicyState(
            f"AuthorizationPolicy {name} is not fully enforced ({said}): {condition.get('message')}",
            hopeless and condition.get("reason") == "UnsupportedValue",
        )
    return PolicyState()
