# The policy barrier: waits until every proxy that must enforce the policies has them as they are written now.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import concurrent.futures
import dataclasses
import typing as t

from .._claims.parse import PolicyRef
from .._common.errors import LabError
from .._common.rounds import Clock, Reason, Retry, Wait, repeat
from .._common.threads import threads
from .._loaded.dump import Loaded, waypoint_has, ztunnel_has
from .._mesh.mesh import Object, name_of
from .._mesh.policies import DRY_RUN, is_dry_run, target_refs
from .._witness.proxies import config_dump
from .enforcers import Enforcer, Plan, Reader, everybody, plan_of, plan_of_change

PARALLEL = 8
# Who must enforce a policy changes seldom: a good plan is kept so many seconds.
_PLAN_SECONDS = 1.0
# Reasons of istiod's that only another policy can change (pilot/pkg/model/policy_status.go, PolicyConditionReason).
_WRITTEN_WRONG = ("UnsupportedValue", "Invalid", "PartiallyInvalid")


@dataclasses.dataclass(frozen=True)
class Gap:
    """Who does not have a policy as it is to be, why, and whether that may change."""

    policy: str
    who: str
    why: str
    retry: Retry = Retry.USEFUL


@dataclasses.dataclass(frozen=True)
class Arrival:
    """When a proxy, or istiod's status, was first seen to be as it is to be; seconds after the barrier began."""

    policy: str
    kind: str
    proxy: str
    after: float


@dataclasses.dataclass(frozen=True)
class Passed:
    """The end of the waiting: passed where there is no gap. waited is in seconds."""

    waited: float
    arrivals: list[Arrival]
    gaps: list[Gap]

    @property
    def why_not(self) -> str:
        """Who had not got there when it ended, and why, for people."""
        return "; ".join(f"{gap.who}: {gap.why}" for gap in self.gaps[:4])


class Barrier:
    """Waits for policies to be in force, or to be gone.

    Args:
        reader: of the cluster.
        policies: their names.
        state: present (in force as written now) or absent.
        clock: of the waiting.
        known: what the policies said before they were deleted, by name; without it every ztunnel of the mesh and
            every one of istiod's gateways is asked. Of those to be present, what they said before they were changed:
            then whoever enforced one before is asked, too, and it need not be of any use.
    """

    def __init__(
        self,
        reader: Reader,
        policies: t.Sequence[PolicyRef],
        state: str,
        clock: Clock,
        known: t.Mapping[str, Object] | None = None,
    ) -> None:
        self._reader = reader
        self._policies = policies
        self._state = state
        self._clock = clock
        self._known = known or {}
        self._plans: dict[str, tuple[float, Plan]] = {}
        self._arrived: dict[tuple[str, str, str], Arrival] = {}
        self._start = clock.now()

    def wait(self, timeout: float, interval: float) -> Passed:
        """Look until it passes, can't pass any more, or `timeout` seconds are over.

        Raises:
            LabError: when the API does not answer, or refuses a read.
        """
        with threads(PARALLEL) as pool:
            ended = repeat(
                lambda: [gap for policy in self._policies for gap in self._look(policy, pool)],
                Wait(timeout, lambda gaps: [Reason(f"{gap.policy}: {gap.who}: {gap.why}", gap.retry) for gap in gaps]),
                self._clock,
                interval,
            )
        return Passed(ended.elapsed, list(self._arrived.values()), ended.last)

    def _look(self, ref: PolicyRef, pool: concurrent.futures.Executor) -> list[Gap]:
        name = str(ref)
        policy = self._reader.get(
            f"/apis/security.istio.io/v1/namespaces/{ref.namespace}/authorizationpolicies/{ref.name}"
        )
        if self._state == "absent":
            if policy is not None:
                return [Gap(name, "the cluster", "AuthorizationPolicy still exists")]
            policy = self._known.get(name, {"metadata": {"namespace": ref.namespace, "name": ref.name}})
        elif policy is None:
            return [Gap(name, "the cluster", "AuthorizationPolicy does not exist")]
        if self._state == "present" and is_dry_run(policy) and name not in self._known:
            why = f"it is only tried (annotation {DRY_RUN}): it decides nothing"
            return [Gap(name, "its author", why, Retry.POINTLESS)]
        gaps = self._status(policy) if self._state == "present" else []
        plan = self._plan(policy)
        gaps += [Gap(name, "its path", text) for text in plan.gaps]
        # Another version of the policy must arrive anew.
        version = _version(policy)
        missing = [item for item in plan.enforcers if (name, version, str(item.proxy)) not in self._arrived]
        for item, loaded in zip(
            missing, pool.map(lambda item: self._ask(item, policy, plan.root), missing), strict=True
        ):
            if isinstance(loaded, Gap):
                gaps.append(loaded)
            elif loaded.state == ("current" if self._state == "present" and item.has_it else "absent"):
                self._arrive(name, version, item.proxy.kind, str(item.proxy))
            else:
                why = loaded.why if self._state == "present" and item.has_it else "it still has the policy"
                gaps.append(Gap(name, f"{item.proxy.kind} {item.proxy}", why))
        return gaps

    def _plan(self, policy: Object) -> Plan:
        name, now = name_of(policy), self._clock.now()
        made, plan = self._plans.get(name, (0.0, None))
        if plan is None or plan.gaps or now - made > _PLAN_SECONDS:
            old = self._known.get(name)
            if self._state == "present":
                plan = plan_of_change(old, policy, self._reader) if old else plan_of(policy, self._reader)
            else:
                plan = plan_of(policy, self._reader) if old else everybody(self._reader)
                # What is not there, selects nothing, or serves nobody can't enforce the policy any more.
                plan = Plan(tuple(item for item in plan.enforcers if item.proxy.ready), root=plan.root)
            self._plans[name] = now, plan
        return plan

    def _ask(self, enforcer: Enforcer, policy: Object, root: str) -> Loaded | Gap:
        try:
            dump = config_dump(self._reader, enforcer.proxy)
        except LabError as error:
            who, space = f"{enforcer.proxy.kind} {enforcer.proxy}", enforcer.proxy.namespace
            if "HTTP 403" not in error.message:
                return Gap(name_of(policy), who, f"its configuration can't be read: {error.message}")
            right = f"the user lacks the right to create pods/portforward in namespace {space}"
            why = f"{right}, so its configuration can't be read ({error.message})"
            return Gap(name_of(policy), who, why, Retry.POINTLESS)
        if enforcer.proxy.kind == "ztunnel":
            return ztunnel_has(dump, policy, enforcer.pods, root, enforcer.left)
        return waypoint_has(dump, policy)

    def _status(self, policy: Object) -> list[Gap]:
        """What istiod says of this version of the policy.

        Its condition is ZtunnelAccepted, or WaypointAccepted where the policy has targetRefs (istiod,
        pilot/pkg/model/service.go); another one says nothing of who must enforce it (istio#58316).
        """
        kind = "WaypointAccepted" if target_refs(policy) else "ZtunnelAccepted"
        generation = str(policy["metadata"].get("generation"))
        for condition in (policy.get("status") or {}).get("conditions") or []:
            if condition.get("type") == kind and str(condition.get("observedGeneration")) == generation:
                reason = str(condition.get("reason"))
                if (condition.get("status") == "True" and reason == "Accepted") or name_of(policy) in self._known:
                    self._arrive(name_of(policy), _version(policy), "istiod", "istiod")
                    return []
                said = f"{kind}={condition.get('status')}, {reason}: {condition.get('message')}"
                return [Gap(name_of(policy), "istiod", said, Retry.unless(reason in _WRITTEN_WRONG))]
        return [Gap(name_of(policy), "istiod", f"it has not written {kind} for this version of the policy yet")]

    def _arrive(self, policy: str, version: str, kind: str, proxy: str) -> None:
        after = self._clock.now() - self._start
        self._arrived.setdefault((policy, version, proxy), Arrival(policy, kind, proxy, after))


def _version(policy: Object) -> str:
    """What tells a policy from what it was before; an annotation does not raise its generation."""
    meta = policy["metadata"]
    return f"{meta.get('uid')} {meta.get('generation')} {is_dry_run(policy)}"
