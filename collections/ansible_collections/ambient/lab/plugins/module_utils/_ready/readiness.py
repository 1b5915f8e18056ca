# Says of a Kubernetes object whether it is ready, and if not, why: one pure predicate per kind.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from .._cluster.finder import Object, Wanted
from .._common.rounds import Reason, Retry


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
    updated, older = _count(item, "updatedReplicas"), _count(item, "replicas")
    available = _count(item, "availableReplicas")
    problem = _rolled_out(item, _replicas(item), updated, available, older=older > updated)
    failure = condition(item, "ReplicaFailure")
    return Reason(_sentence(problem.text, failure)) if problem and failure else problem


def _daemon_set(item: Object) -> Reason | None:
    wanted = _count(item, "desiredNumberScheduled")
    updated = wanted if _on_delete(item) else _count(item, "updatedNumberScheduled")
    return _rolled_out(item, wanted, updated, _count(item, "numberAvailable"), none="no node takes its pods")


def _stateful_set(item: Object) -> Reason | None:
    update = (item["spec"].get("updateStrategy") or {}).get("rollingUpdate") or {}
    # Pods below the partition keep the older version on purpose.
    kept = _replicas(item) if _on_delete(item) else int(update.get("partition") or 0)
    return _rolled_out(item, _replicas(item), _count(item, "updatedReplicas") + kept, _count(item, "readyReplicas"))


def _rolled_out(
    item: Object, wanted: int, updated: int, available: int, *, older: bool = False, none: str = "is scaled to 0"
) -> Reason | None:
    """What is wrong with a rollout. older: pods of the older version are there; none: what it means to want no pod."""
    if _count(item, "observedGeneration") < int(item["metadata"].get("generation") or 0):
        return Reason("its controller has not seen its latest version yet")
    if not wanted:
        return Reason(none)
    if updated < wanted:
        return Reason(f"{updated} of {wanted} pods have its latest version")
    if older:
        return Reason("pods of its older version are still there")
    return None if available >= wanted else Reason(f"{available} of {wanted} pods are ready")


def _count(item: Object, key: str) -> int:
    return int(item.get("status", {}).get(key) or 0)


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
