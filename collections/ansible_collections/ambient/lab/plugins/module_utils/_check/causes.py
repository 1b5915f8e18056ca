# Names the likely cause of a claim that does not hold: a reason of the prediction, or why the answer is another one.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from .._claims.parse import DENIALS
from .._cluster.rights import Right, missing_rights
from .._common.rounds import Reason, Retry
from .._curl.control import BLOCKED
from .._mesh.decisions import lost_in
from .._mesh.l4 import convert
from .._mesh.mesh import Mesh, Object, labels_of, name_of, namespace_of
from .._mesh.policies import action, selector, target_refs
from .._mesh.waypoints import USE_WAYPOINT
from .._witness.attribution import Attribution
from .._witness.configured import state_of
from .run import ClaimRun

_MAX_NEAR = 3


def likely_cause(run: ClaimRun, mesh: Mesh) -> Reason:
    """Why a claim does not hold, by the mesh as it is now; an empty text where it holds, or nothing is known."""
    if rights := refused_rights(run):
        lacks = f"the kubeconfig's user may not {'; '.join(map(str, rights))}"
        return Reason(f"{lacks}: give these rights, or use another kubeconfig", Retry.POINTLESS)
    if run.holds or run.target is None or run.seen.outcome == "probe_error":
        # A probe that failed says why; what it was to reach is not to blame.
        return Reason()
    # Where the client saw what it was to see, the verdict itself says what is missing.
    rules = _RULES if run.seen.outcome != run.expect.outcome else _AS_EXPECTED
    return next((cause for rule in rules for cause in [rule(run, mesh)] if cause), Reason())


def refused_rights(run: ClaimRun) -> list[Right]:
    """The rights without which nothing can be proven, whatever the cluster does."""
    if run.seen.outcome == "probe_error":
        return missing_rights(run.seen.errormsg)
    # Where something else was seen than expected, that may still change.
    is_silent = run.attribution and run.attribution.silent and run.seen.outcome == run.expect.outcome
    return missing_rights(run.verdict.reason) if is_silent and not run.holds else []


def _missing(run: ClaimRun, mesh: Mesh) -> Reason | None:
    """The policy that must have decided does not exist."""
    if not run.by or mesh.get("AuthorizationPolicy", *run.by.split("/", 1)):
        return None
    return state_of(mesh, run.path, run.by)


def _policies(run: ClaimRun, mesh: Mesh) -> Reason | None:
    """A policy that ztunnel can't match, or of which istiod says that it is not enforced."""
    converted = [(name_of(item), convert(item)) for item in run.path.ztunnel_policies]
    notes = {name: lost_in(name, policy) for name, policy in converted if policy}
    if said := [note for lines in notes.values() for note in lines]:
        # Where it only does not deny, another policy that does may still come.
        sure = run.expect.outcome == "allowed" or bool(notes.get(run.by))
        return Reason("; ".join(said), Retry.unless(sure))
    return state_of(mesh, run.path, run.by)


def _too_late(run: ClaimRun, mesh: Mesh) -> Reason | None:
    """The state without the policy was to be shown, and the policy is there."""
    named = {*run.prediction.among, (run.attribution or Attribution()).policy or ""}
    there = sorted(name for name in named - {""} if mesh.get("AuthorizationPolicy", *name.split("/", 1)))
    if run.phase != "before" or run.seen.outcome not in DENIALS or not there:
        return None
    advice = "phase before is the state without it: delete it first, or check phase after"
    return Reason(f"AuthorizationPolicy {' or '.join(there)} refuses it already; {advice}", Retry.POINTLESS)


def _unresolved(run: ClaimRun, _mesh: Mesh) -> Reason | None:
    """The name is right, and the source still does not get its address."""
    destination, message = run.path.destination, run.seen.errormsg
    stuck = run.seen.outcome == "dns" or (run.seen.outcome == "timeout" and "Resolving" in message)
    if not stuck or destination.kind not in ("service", "entry", "pods") or destination.why:
        return None
    return Reason(
        f"the source can't resolve {destination.host}, which is {destination}: the cluster's DNS does not answer"
    )


def _refused(run: ClaimRun, _mesh: Mesh) -> Reason | None:
    """Somebody refused it, and a proxy says by which policy."""
    attribution = run.attribution
    if run.seen.outcome not in DENIALS or attribution is None or run.prediction.outcome == "broken":
        return None
    if attribution.policy and not run.prediction.cause:
        why = f": {run.prediction.why}" if attribution.policy in run.prediction.among else ""
        return Reason(
            f"AuthorizationPolicy {attribution.policy} refused it, as the {attribution.decided_by} itself says{why}"
        )
    if attribution.problem and not attribution.silent:
        return Reason(attribution.problem)
    return None


def _around(run: ClaimRun, _mesh: Mesh) -> Reason | None:
    """A waypoint was to decide, and the request does not lead through it."""
    bound = run.expect.outcome in ("denied_l7", "denied_upstream") or run.path.declared
    if not bound or run.seen.outcome != "allowed" or run.path.at_waypoint:
        return None
    destination, waypoint = run.path.destination, run.path.waypoint
    if waypoint and waypoint.problem:
        return Reason(f"{waypoint.problem}, so the request goes around it", Retry.unless(waypoint.programmed))
    if destination.kind == "pods":
        how = "the name of a headless Service" if destination.service else "a pod's address"
        return Reason(f"{destination.host} is {how}: such traffic goes around the Service's waypoint", Retry.POINTLESS)
    if destination.kind in ("service", "entry") and destination.service and run.path.waypoint is None:
        item = destination.service
        label = f"label {USE_WAYPOINT} is missing"
        return Reason(f"{item['kind']} {name_of(item)} is not enrolled with a waypoint ({label})")
    return None


def _own_refusal(run: ClaimRun, _mesh: Mesh) -> Reason | None:
    """A refusal of the application's own."""
    if run.seen.outcome != "allowed" or run.seen.http_code < 300 or run.expect.outcome == "denied_l4":
        return None
    if run.expect.outcome == "denied_l7" and run.seen.http_code not in (401, 403):
        return None
    return Reason(f"the application itself answered HTTP {run.seen.http_code}, no proxy refused")


def _predicted(run: ClaimRun, mesh: Mesh) -> Reason | None:
    """The objects say what was seen, so the objects are the cause; or they say something else."""
    prediction, seen = run.prediction, run.seen.outcome
    if not prediction.sure:
        return None
    as_said = prediction.outcome == seen or (prediction.outcome == "broken" and seen not in ("allowed", "denied_l7"))
    if as_said:
        # What keeps a path shut may stand in no object that is read here, so it may still come.
        known = run.expect.outcome not in BLOCKED and prediction.reasons
        pointless = bool(known) and all(reason.retry is Retry.POINTLESS for reason in prediction.reasons)
        texts = [reason.text for reason in prediction.reasons]
        near = _near(run, mesh) if run.expect.outcome in DENIALS and seen == "allowed" else []
        return Reason("; ".join([*texts, *near]), Retry.unless(pointless))
    if prediction.outcome in DENIALS and seen == "allowed":
        why = "not in force yet?"
        if prediction.outcome == "denied_upstream":
            # ztunnel src/proxy/connection_manager.rs: a live connection is held against the policies its pod had then.
            why = f"the waypoint {run.path.waypoint} may use a connection that is older than the policy"
        return Reason(f"by the cluster's objects it must be {prediction.outcome} ({prediction.why}): {why}")
    if seen in DENIALS:
        return Reason("no AuthorizationPolicy explains the denial: something else cut it off")
    return None


def _near(run: ClaimRun, mesh: Mesh) -> list[str]:
    """Policies of the destination's namespace that are not in force for it, and why."""
    force = {name_of(policy) for policy in run.path.policies}
    service = run.path.destination.service
    pods = [end.pod for end in run.path.endpoints if end.pod]
    spaces = {namespace_of(pod) for pod in pods} | ({namespace_of(service)} if service else set())
    found = []
    for policy in (item for space in sorted(spaces) for item in mesh.items("AuthorizationPolicy", space)):
        if name_of(policy) in force or action(policy) == "AUDIT":
            continue
        found.append(f"AuthorizationPolicy {name_of(policy)} is not for it: {_not_for(policy, pods)}")
    return found[:_MAX_NEAR]


def _not_for(policy: Object, pods: t.Sequence[Object]) -> str:
    refs = target_refs(policy)
    if refs:
        return "it is bound to " + ", ".join(f"{ref.get('kind')} {ref.get('name')}" for ref in refs)
    wanted = selector(policy)
    labels = ",".join(f"{key}={value}" for key, value in wanted.items())
    missing = sorted({key for pod in pods for key in wanted if labels_of(pod).get(key) != wanted[key]})
    return f"its selector is {labels or 'empty'}, and the pod differs in {', '.join(missing) or 'nothing'}"


def _slow(run: ClaimRun, _mesh: Mesh) -> Reason | None:
    # lib/connect.c and lib/multi.c of curl: only the latter's words mean that there was a connection.
    if run.seen.outcome != "timeout" or not run.seen.errormsg.startswith("Operation timed out"):
        return None
    where = run.path.destination
    return Reason(f"{where} took the connection and did not answer within probe_timeout: it hangs, or is slow")


def _unknown(run: ClaimRun, _mesh: Mesh) -> Reason | None:
    """The last resort: what keeps anybody from knowing."""
    if run.prediction.sure or run.path.destination.kind == "outside":
        return None
    names = [f"{name_of(policy)} ({action(policy)})" for policy in run.path.policies]
    force = f"; in force on the way: {', '.join(names)}" if names else ""
    return Reason(f"{run.prediction.why}{force}")


_AS_EXPECTED = (_missing, _around, _policies, _own_refusal)
_RULES = (_too_late, _missing, _own_refusal, _around, _policies, _unresolved, _refused, _predicted, _slow, _unknown)
