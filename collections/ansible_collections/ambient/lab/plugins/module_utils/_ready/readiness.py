# Says of a Kubernetes object whether it is ready, and if not, why: one pure predicate per kind.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._cluster.finder import Object, Wanted
from ansible_collections.ambient.lab.plugins.module_utils._common.rounds import Reason, Retry


def problem_of(wanted: Wanted, item: Object) -> Reason | None:
    """None where the object is ready; one of a kind that has no readiness is ready when it exists.

    Args:
        wanted: its kind.
        item: the object as the API gives it.
    """
    if "deletionTimestamp" in item["metadata"]:
        return Reason("is being deleted")
    predicate = _PREDICATES.get((wanted.group, wanted.kind))
    return predicate(item) if predicate else None


def counts(wanted: Wanted, item: Object) -> bool:
    """Whether an object of a list is to be waited for: a pod that has ended or is about to go is not."""
    ended = wanted.kind == "Pod" and item.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return bool(wanted.name) or not (ended or "deletionTimestamp" in item["metadata"])


def condition(item: Object, kind: str) -> Object | None:
    """A condition of the status by its type; None where it is missing or of an older generation."""
    for found in item.get("status", {}).get("conditions") or []:
        if found.get("type") == kind:
            observed = found.get("observedGeneration")
            stale = observed is not None and int(observed) < int(item["metadata"].get("generation") or 0)
            return None if stale else t.cast("Object", found)
    return None


def _holds(kind: str) -> t.Callable[[Object], Reason | None]:
    def predicate(item: Object) -> Reason | None:
        found = condition(item, kind)
        if found is None:
            return Reason(f"nobody has said yet whether it is {kind}")
        if found.get("status") == "True":
            return None
        return Reason(_sentence(f"is not {kind}", found))

    return predicate


def _sentence(head: str, found: Object) -> str:
    said = [str(found[key]) for key in ("reason", "message") if found.get(key)]
    return f"{head} ({': '.join(said)})" if said else head


def _pod(item: Object) -> Reason | None:
    phase = item.get("status", {}).get("phase")
    if phase in ("Succeeded", "Failed"):
        return Reason(f"has ended ({phase}) and won't come back", Retry.POINTLESS)
    return _holds("Ready")(item) and Reason(f"is {phase or 'Unknown'}, not ready")


def _job(item: Object) -> Reason | None:
    failed = condition(item, "Failed")
    if failed and failed.get("status") == "True":
        return Reason(_sentence("has failed", failed), Retry.POINTLESS)
    done = condition(item, "Complete")
    return None if done and done.get("status") == "True" else Reason("is not complete")


def _deployment(item: Object) -> Reason | None:
    """As `kubectl rollout status` sees it (kubectl, pkg/polymorphichelpers/rollout_status.go)."""
    wanted = _replicas(item)
    status = item.get("status", {})
    updated, available = int(status.get("updatedReplicas") or 0), int(status.get("availableReplicas") or 0)
    if problem := _not_rolled_out(item, wanted, updated):
        failure = condition(item, "ReplicaFailure")
        return Reason(_sentence(problem.text, failure)) if failure else problem
    if int(status.get("replicas") or 0) > updated:
        return Reason("pods of its older version are still there")
    return None if available >= wanted else Reason(f"{available} of {wanted} pods are ready")


def _daemon_set(item: Object) -> Reason | None:
    status = item.get("status", {})
    wanted, available = int(status.get("desiredNumberScheduled") or 0), int(status.get("numberAvailable") or 0)
    updated = wanted if _on_delete(item) else int(status.get("updatedNumberScheduled") or 0)
    if _observed(item) and not wanted:
        return Reason("no node takes its pods")
    if problem := _not_rolled_out(item, wanted, updated):
        return problem
    return None if available >= wanted else Reason(f"{available} of {wanted} pods are ready")


def _stateful_set(item: Object) -> Reason | None:
    wanted = _replicas(item)
    status = item.get("status", {})
    update = (item["spec"].get("updateStrategy") or {}).get("rollingUpdate") or {}
    # Pods below the partition keep the older version on purpose.
    kept = wanted if _on_delete(item) else int(update.get("partition") or 0)
    if problem := _not_rolled_out(item, wanted, int(status.get("updatedReplicas") or 0) + kept):
        return problem
    available = int(status.get("readyReplicas") or 0)
    return None if available >= wanted else Reason(f"{available} of {wanted} pods are ready")


def _not_rolled_out(item: Object, wanted: int, updated: int) -> Reason | None:
    if not _observed(item):
        return Reason("its controller has not seen its latest version yet")
    if not wanted:
        return Reason("is scaled to 0")
    return None if updated >= wanted else Reason(f"{updated} of {wanted} pods have its latest version")


def _observed(item: Object) -> bool:
    observed = int(item.get("status", {}).get("observedGeneration") or 0)
    return observed >= int(item["metadata"].get("generation") or 0)


def _replicas(item: Object) -> int:
    replicas = item["spec"].get("replicas")
    return 1 if replicas is None else int(replicas)


def _on_delete(item: Object) -> bool:
    return (item["spec"].get("updateStrategy") or {}).get("type") == "OnDelete"


_PREDICATES: dict[tuple[str, str], t.Callable[[Object], Reason | None]] = {
    ("", "Node"): _holds("Ready"),
    ("", "Pod"): _pod,
    ("apps", "DaemonSet"): _daemon_set,
    ("apps", "Deployment"): _deployment,
    ("apps", "StatefulSet"): _stateful_set,
    ("batch", "Job"): _job,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _holds("Established"),
    ("gateway.networking.k8s.io", "Gateway"): _holds("Programmed"),
    ("gateway.networking.k8s.io", "GatewayClass"): _holds("Accepted"),
}
