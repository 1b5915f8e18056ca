# Reads what istiod says of the policies on the claims' paths: one not enforced as written is no proof.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Claim
from ansible_collections.ambient.lab.plugins.module_utils._cluster.policies import Object, name_of
from ansible_collections.ambient.lab.plugins.module_utils._cluster.snapshot import Snapshot
from ansible_collections.ambient.lab.plugins.module_utils._curl.control import destination

# Set by istiod (pilot/pkg/model/service.go) for what ztunnel and waypoints enforce.
_CONDITIONS = ("ZtunnelAccepted", "WaypointAccepted")


@dataclasses.dataclass(frozen=True)
class PolicyState:
    """What is wrong with the policies on a claim's path, "" where nothing is. hopeless: waiting won't mend it."""

    problem: str = ""
    hopeless: bool = False


def policy_states(claims: t.Sequence[Claim], phase: str, cluster: Snapshot) -> list[PolicyState]:
    """State of the policies on each claim's path: the one it names in `by`, and all that concern its destination.

    Args:
        claims: of the check.
        phase: before or after; before, the policy in `by` is not there yet.
        cluster: objects on the claims' paths.
    """
    by_name = {name_of(policy): policy for items in cluster.policies.values() for policy in items}
    flawed = any(flaw(policy) for policy in by_name.values())
    states = []
    for claim in claims:
        state = PolicyState()
        if claim.by and phase == "after":
            state = policy_state(str(claim.by), by_name.get(str(claim.by)))
        if not state.problem and flawed:
            found = [flaw(policy) for policy in _concerning(claim, cluster)]
            state = next((item for item in found if item), state)
        states.append(state)
    return states


def _concerning(claim: Claim, cluster: Snapshot) -> list[Object]:
    """Policies that select the destination's pods, or that name its Service or waypoint.

    Not those of other pods: istiod says UnsupportedValue of a policy for a sidecar or an ingress gateway too,
    which ztunnel never enforces (istio#58316).
    """
    where = destination(claim.request, claim.source.namespace)
    if where.address:
        return [policy for pod in cluster.at_address(where.host) for policy in cluster.ztunnel_policies(pod)]
    service = cluster.service(where.namespace, where.service)
    if service is None:
        return []
    selecting = [policy for pod in cluster.backends(service) for policy in cluster.ztunnel_policies(pod)]
    return [*selecting, *cluster.waypoint_policies(service)]


def policy_state(name: str, policy: Object | None) -> PolicyState:
    """What istiod says of an AuthorizationPolicy: missing, not fully enforceable, or nothing against it.

    A condition that is True with a reason other than Accepted (UnsupportedValue, PartiallyInvalid) is only partly
    enforced.
    """
    if policy is None:
        return PolicyState(f"AuthorizationPolicy {name} (the claim's `by`) does not exist", hopeless=True)
    for condition in (policy.get("status") or {}).get("conditions") or []:
        if condition.get("type") not in _CONDITIONS:
            continue
        if condition.get("status") == "True" and condition.get("reason") == "Accepted":
            continue
        said = f"{condition['type']}={condition.get('status')}, {condition.get('reason')}"
        return PolicyState(
            f"AuthorizationPolicy {name} is not fully enforced ({said}): {condition.get('message')}",
            _is_current(condition, policy) and condition.get("reason") == "UnsupportedValue",
        )
    return PolicyState()


def flaw(policy: Object) -> PolicyState | None:
    """As policy_state, but None where nothing is known against the policy as it is now."""
    conditions = (policy.get("status") or {}).get("conditions") or []
    current = {**policy, "status": {"conditions": [item for item in conditions if _is_current(item, policy)]}}
    state = policy_state(name_of(policy), current)
    return state if state.problem else None


def _is_current(condition: Object, policy: Object) -> bool:
    """A status of an older generation says nothing of this policy; istiod is about to write the next one."""
    observed = condition.get("observedGeneration")
    return observed is not None and int(observed) == policy["metadata"].get("generation")
