# Names the likely cause of a claim that does not hold, from the cluster's objects.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._check.rounds import ClaimResult
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import DENIALS, Expectation
from ansible_collections.ambient.lab.plugins.module_utils._claims.sources import pod_ready
from ansible_collections.ambient.lab.plugins.module_utils._cluster import policies
from ansible_collections.ambient.lab.plugins.module_utils._cluster.policies import Object, name_of
from ansible_collections.ambient.lab.plugins.module_utils._cluster.snapshot import (
    DATAPLANE_MODE,
    GATEWAY_NAME,
    USE_WAYPOINT,
    Snapshot,
    selected,
)
from ansible_collections.ambient.lab.plugins.module_utils._curl.control import Destination, destination
from ansible_collections.ambient.lab.plugins.module_utils._witness.enforcement import flaw, policy_state
from ansible_collections.ambient.lab.plugins.module_utils._witness.paths import (
    may_be_outside,
    pods_behind,
    workload_port,
)

_USE_WAYPOINT = "bind it to a waypoint with targetRefs"


class Final(str):
    """A cause that stands in what the user wrote (labels, specs), so that waiting longer can't mend it."""

    __slots__ = ()


@dataclasses.dataclass(frozen=True)
class Case:
    """A claim that does not hold, with the objects on its path."""

    result: ClaimResult
    expect: Expectation
    phase: str
    cluster: Snapshot
    destination: Destination
    service: Object | None
    pods: list[Object]

    @property
    def seen(self) -> str:
        """Outcome of the last round."""
        return self.result.observation.seen.outcome


def likely_cause(result: ClaimResult, expect: Expectation, phase: str, cluster: Snapshot) -> str:
    """The first cause that fits, "" where none is known or the claim holds.

    Args:
        result: of the last round.
        expect: of the phase.
        phase: before or after.
        cluster: objects of namespaces_of() the claims.
    """
    if result.observation.verdict.verdict == "pass" or result.target is None:
        return ""
    if result.observation.seen.outcome == "probe_error":
        # The probe failed, and says why; what it was to reach is not to blame.
        return ""
    where = destination(result.claim.request, result.claim.source.namespace)
    service = cluster.service(where.namespace, where.service)
    case = Case(result, expect, phase, cluster, where, service, pods_behind(where, cluster))
    return next((cause for rule in _RULES for cause in [rule(case)] if cause), "")


def _missing_policy(case: Case) -> str | None:
    if case.result.claim.by is None or case.phase != "after" or _declared(case):
        return None
    return policy_state(str(case.result.claim.by), None).problem


def _not_enforced(case: Case) -> str | None:
    """What istiod itself says of the policy in `by`, and of all in force."""
    found = [flaw(policy) for policy in [*_declared(case), *_enforced_by_ztunnel(case), *_bound_to_waypoint(case)]]
    return next((item.problem for item in found if item), None)


def _declared(case: Case) -> list[Object]:
    """The policy in `by`, if it exists."""
    ref = case.result.claim.by
    found = case.cluster.policies.get(ref.namespace, []) if ref else []
    return [item for item in found if ref and item["metadata"]["name"] == ref.name]


def _no_destination(case: Case) -> str | None:
    if case.destination.namespace is None and not case.destination.address:
        return None
    if case.service is None and not case.destination.address:
        if may_be_outside(case.result.claim.request, case.destination, case.cluster):
            return None
        return Final(f"there is no Service {case.destination.service} in namespace {case.destination.namespace}")
    if case.service and case.seen not in ("allowed", "denied_l7"):
        offered = [int(port["port"]) for port in case.service.get("spec", {}).get("ports") or []]
        if case.destination.port not in offered:
            ports = ", ".join(str(port) for port in offered)
            return Final(f"Service {name_of(case.service)} has no port {case.destination.port}, it has {ports}")
    if case.service and not case.service.get("spec", {}).get("selector"):
        # Whoever made its endpoints knows what is behind it.
        return None
    if case.seen not in ("allowed", "denied_l7") and not any(pod_ready(pod) for pod in case.pods):
        return f"no ready pod is behind {case.destination}"
    return None


def _unresolved(case: Case) -> str | None:
    """The name is right, and the source still does not get its address."""
    message = case.result.observation.seen.errormsg
    if case.service is None or not (case.seen == "dns" or (case.seen == "timeout" and "Resolving" in message)):
        return None
    return f"the source can't resolve {case.destination.host}, which is a Service: the cluster's DNS does not answer"


def _slow(case: Case) -> str | None:
    # lib/connect.c and lib/multi.c of curl: only the latter's words mean that there was a connection.
    if case.seen != "timeout" or not case.result.observation.seen.errormsg.startswith("Operation timed out"):
        return None
    return f"{case.destination} took the connection and did not answer within probe_timeout: it hangs, or is slow"


def _own_refusal(case: Case) -> str | None:
    """A 403 that looks like a proxy's."""
    code = case.result.observation.seen.http_code
    return _application(case) if case.expect.outcome == "denied_l7" and code in (401, 403) else None


def _not_in_mesh(case: Case) -> str | None:
    """Traffic that ztunnel does not carry can't be denied by the mesh, nor have an identity."""
    target = case.result.target
    source = case.cluster.pod(target.namespace, target.pod) if target else None
    ends = [("source", pod) for pod in [source] if pod] + [("destination", pod) for pod in case.pods]
    for end, pod in ends:
        if case.cluster.in_mesh(pod):
            continue
        namespace = pod["metadata"]["namespace"]
        labels = (case.cluster.namespaces.get(namespace) or {}).get("metadata", {}).get("labels") or {}
        if labels.get(DATAPLANE_MODE) != "ambient":
            return Final(f"namespace {namespace} of the {end} is not in the mesh: it lacks {DATAPLANE_MODE}=ambient")
        return (
            f"the {end} pod {name_of(pod)} is not in the mesh: it has no annotation "
            "ambient.istio.io/redirection=enabled (istio-cni did not capture it)"
        )
    return None


def _l7_in_ztunnel(case: Case) -> str | None:
    """L7 attributes in a policy that ztunnel enforces (istio#61126; istiod's convertAuthorizationPolicy)."""
    for policy in _enforced_by_ztunnel(case):
        for rule in policies.rules(policy):
            attributes = ", ".join(policies.l7_attributes(rule))
            if not attributes:
                continue
            head = f"AuthorizationPolicy {name_of(policy)} has {attributes}, which ztunnel can't match"
            if policies.action(policy) == "ALLOW":
                return f"{head}: its ALLOW rule matches nothing, so all is denied; {_USE_WAYPOINT}"
            if policies.only_l7(rule):
                return f"{head}: its DENY rule is not enforced as written; {_USE_WAYPOINT}"
            return f"{head}: only the rest of its DENY rule is enforced; {_USE_WAYPOINT}"
    return None


def _spiffe(case: Case) -> str | None:
    for policy in [*_enforced_by_ztunnel(case), *_bound_to_waypoint(case)]:
        for principal in policies.principals(policy):
            if principal.startswith("spiffe://"):
                return Final(
                    f"AuthorizationPolicy {name_of(policy)} names the principal {principal}: "
                    "write it without spiffe://, as cluster.local/ns/<namespace>/sa/<account>"
                )
    return None


def _other_port(case: Case) -> str | None:
    """ztunnel matches the port of the workload, not the Service's."""
    if case.expect.outcome not in DENIALS or case.seen != "allowed":
        return None
    target = workload_port(case.destination, case.service)
    for policy in _enforced_by_ztunnel(case):
        named = policies.ports(policy)
        if target is None or not named or target in named:
            continue
        numbers = ", ".join(str(port) for port in sorted(named))
        whose = "the Service's port" if case.destination.port in named else "port"
        return Final(
            f"AuthorizationPolicy {name_of(policy)} names {whose} {numbers}; ztunnel sees the workload's port, {target}"
        )
    return None


def _selects_nothing(case: Case) -> str | None:
    if case.expect.outcome not in DENIALS or case.seen != "allowed":
        return None
    namespace = case.destination.namespace or (case.pods[0]["metadata"]["namespace"] if case.pods else "")
    for policy in case.cluster.policies.get(namespace, []):
        if policies.selector(policy) and not policies.target_refs(policy):
            pods = case.cluster.pods.get(namespace, [])
            if not any(policies.selects(policy, pod) for pod in pods):
                labels = ",".join(f"{key}={value}" for key, value in policies.selector(policy).items())
                return f"the selector of AuthorizationPolicy {name_of(policy)} ({labels}) matches no pod"
    return None


def _around_the_waypoint(case: Case) -> str | None:
    """The application answered, though a waypoint was to decide."""
    wanted = case.expect.outcome in ("denied_l7", "denied_upstream") or _bound_to_waypoint(case)
    if case.seen != "allowed" or not wanted:
        return None
    if case.destination.address:
        return Final(f"{case.destination.host} is an address: traffic to a pod's IP goes around the Service's waypoint")
    if case.service and case.cluster.waypoint(case.service) is None:
        service = name_of(case.service)
        return Final(f"Service {service} is not enrolled with a waypoint (label {USE_WAYPOINT} is missing)")
    return _broken_waypoint(case)


def _dead_waypoint(case: Case) -> str | None:
    """Without a waypoint ztunnel has nobody to hand the request to, and cuts it off."""
    return None if case.seen in ("allowed", "denied_l7", "denied_upstream") else _broken_waypoint(case)


def _broken_waypoint(case: Case) -> str | None:
    waypoint = case.cluster.waypoint(case.service) if case.service else None
    if waypoint is None or waypoint[0] not in case.cluster.gateways:
        return None
    namespace, name = waypoint
    gateway = case.cluster.gateway(namespace, name)
    if gateway is None:
        return f"{case.destination} is enrolled with the waypoint {namespace}/{name}, which does not exist"
    conditions = gateway.get("status", {}).get("conditions") or []
    if not any(item["type"] == "Programmed" and item["status"] == "True" for item in conditions):
        return f"the waypoint {namespace}/{name} is not programmed"
    pods = [pod for pod in case.cluster.pods.get(namespace, []) if selected(pod, {GATEWAY_NAME: name})]
    if not any(pod_ready(pod) for pod in pods):
        return f"no pod of the waypoint {namespace}/{name} is ready"
    return None


def _nothing_denies(case: Case) -> str | None:
    if case.expect.outcome not in DENIALS or case.seen != "allowed" or not case.pods:
        return None
    if case.expect.outcome == "denied_l7":
        if case.service is None or _bound_to_waypoint(case):
            return None
        return f"no AuthorizationPolicy has Service {name_of(case.service)} or its waypoint in its targetRefs"
    if _enforced_by_ztunnel(case):
        return None
    return Final(f"no AuthorizationPolicy selects the pods behind {case.destination}")


def _forgotten_waypoint(case: Case) -> str | None:
    """Behind a waypoint the destination's ztunnel sees the waypoint's identity."""
    if case.seen != "denied_upstream" or case.expect.outcome == "denied_upstream":
        return None
    waypoint = case.cluster.waypoint(case.service) if case.service else None
    names = ", ".join(name_of(policy) for policy in _enforced_by_ztunnel(case)) or "a policy"
    identity = f" (cluster.local/ns/{waypoint[0]}/sa/{waypoint[1]})" if waypoint else ""
    return f"{names} of the destination does not let the waypoint's own identity{identity} pass"


def _what_denies(case: Case) -> str | None:
    found = {"denied_l4": _enforced_by_ztunnel, "denied_l7": _bound_to_waypoint}.get(case.seen)
    if found is None or case.expect.outcome == case.seen:
        return None
    testimony = case.result.observation.testimony
    if testimony and testimony.policy:
        return f"AuthorizationPolicy {testimony.policy} refused it, as the {testimony.decided_by} itself says"
    if testimony and testimony.problem and not testimony.silent:
        return testimony.problem
    names = [f"{name_of(policy)} ({policies.action(policy)})" for policy in found(case)]
    if not names:
        return "no AuthorizationPolicy explains the denial: something else cut it off"
    return f"AuthorizationPolicies in force for {case.destination}: {', '.join(names)}"


def _no_match(case: Case) -> str | None:
    """The last resort: there are policies, and none of them fits."""
    target = case.result.target
    source = case.cluster.pod(target.namespace, target.pod) if target else None
    if case.expect.outcome != "denied_l4" or case.seen != "allowed" or source is None:
        return None
    account = source.get("spec", {}).get("serviceAccountName", "default")
    identity = f"ns/{source['metadata']['namespace']}/sa/{account}"
    names = ", ".join(f"{name_of(policy)} ({policies.action(policy)})" for policy in _enforced_by_ztunnel(case))
    if not names:
        return None
    return f"no rule of the policies in force for {case.destination}, {names}, denies the source, {identity}"


def _application(case: Case) -> str | None:
    if case.seen != "allowed" or case.result.observation.seen.http_code < 300:
        return None
    return f"the application itself answered HTTP {case.result.observation.seen.http_code}, no proxy refused"


def _enforced_by_ztunnel(case: Case) -> list[Object]:
    found = {name_of(policy): policy for pod in case.pods for policy in case.cluster.ztunnel_policies(pod)}
    return list(found.values())


def _bound_to_waypoint(case: Case) -> list[Object]:
    return case.cluster.waypoint_policies(case.service) if case.service else []


# In the order of how surely each explains what was seen.
_RULES: tuple[t.Callable[[Case], str | None], ...] = (
    _missing_policy,
    _no_destination,
    _unresolved,
    _slow,
    _own_refusal,
    _dead_waypoint,
    _forgotten_waypoint,
    _l7_in_ztunnel,
    _around_the_waypoint,
    _not_enforced,
    _spiffe,
    _selects_nothing,
    _other_port,
    _nothing_denies,
    _not_in_mesh,
    _what_denies,
    _application,
    _no_match,
)
