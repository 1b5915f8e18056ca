# Reads what istiod says of the policies on the claims' paths: one not enforced as written is no proof.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

from ansible_collections.ambient.lab.plugins.module_utils._common.rounds import Reason, Retry
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh, Object, name_of
from ansible_collections.ambient.lab.plugins.module_utils._mesh.paths import Path
from ansible_collections.ambient.lab.plugins.module_utils._mesh.policies import action

# Set by istiod (pilot/pkg/model/service.go) for what ztunnel and waypoints enforce.
_CONDITIONS = ("ZtunnelAccepted", "WaypointAccepted")


def state_of(mesh: Mesh, path: Path, by: str) -> Reason | None:
    """What is wrong with the policies on a path; None where nothing is.

    They are the one that must have decided (by: its namespace/name, "" for any), those in force, and those bound to
    its Service. Not those of other pods: istiod says UnsupportedValue of a policy for a sidecar or an ingress gateway
    too, which ztunnel never enforces (istio#58316). A policy that only logs (AUDIT) decides nothing.
    """
    state = policy_state(by, mesh.get("AuthorizationPolicy", *by.split("/", 1))) if by else None
    if state:
        return state
    found = (flaw(policy) for policy in [*path.policies, *path.declared] if action(policy) != "AUDIT")
    return next((item for item in found if item), None)


def policy_state(name: str, policy: Object | None) -> Reason | None:
    """What istiod says against an AuthorizationPolicy: missing, or not fully enforceable; None for nothing.

    A condition that is True with a reason other than Accepted (UnsupportedValue, PartiallyInvalid) is only partly
    enforced.
    """
    if policy is None:
        return Reason(f"AuthorizationPolicy {name} (the claim's `by`) does not exist")
    for condition in (policy.get("status") or {}).get("conditions") or []:
        if condition.get("type") not in _CONDITIONS:
            continue
        if condition.get("status") == "True" and condition.get("reason") == "Accepted":
            continue
        said = f"{condition['type']}={condition.get('status')}, {condition.get('reason')}"
        return Reason(
            f"AuthorizationPolicy {name} is not fully enforced ({said}): {condition.get('message')}",
            Retry.unless(_is_current(condition, policy) and condition.get("reason") == "UnsupportedValue"),
        )
    return None


def flaw(policy: Object) -> Reason | None:
    """As policy_state, but None where nothing is known against the policy as it is now."""
    conditions = (policy.get("status") or {}).get("conditions") or []
    current = {**policy, "status": {"conditions": [item for item in conditions if _is_current(item, policy)]}}
    return policy_state(name_of(policy), current)


def _is_current(condition: Object, policy: Object) -> bool:
    """A status of an older generation says nothing of this policy; istiod is about to write the next one."""
    observed = condition.get("observedGeneration")
    return observed is not None and int(observed) == policy["metadata"].get("generation")
