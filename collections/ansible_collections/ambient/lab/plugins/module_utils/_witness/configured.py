# Asks the proxies' own configuration and istiod's status about the policies that decided: two more witnesses.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import concurrent.futures
import dataclasses
import typing as t

from .._cluster.api import Forwarder
from .._common.errors import LabError
from .._common.rounds import Reason, Retry
from .._loaded.dump import waypoint_has, ztunnel_has
from .._mesh.mesh import Mesh, Object, name_of, namespace_of
from .._mesh.paths import Path, selects
from .._mesh.policies import action, target_refs
from .._results.model import Statement
from .attribution import Attribution, Query
from .proxies import Proxy, config_dump

# Set by istiod (pilot/pkg/model/service.go) for what ztunnel and waypoints enforce.
_CONDITIONS = ("ZtunnelAccepted", "WaypointAccepted")


class Configurations:
    """The config dumps of proxies, each read once, and what they say of policies; pool: for reads side by side."""

    def __init__(self, forwarder: Forwarder, pool: concurrent.futures.Executor) -> None:
        self._forwarder, self._pool = forwarder, pool
        self._dumps: dict[str, Object | str] = {}

    def read(self, proxies: t.Iterable[Proxy]) -> None:
        """Read the dumps that are not known yet, side by side."""
        new = {str(proxy): proxy for proxy in proxies if str(proxy) not in self._dumps}
        self._dumps |= dict(zip(new, self._pool.map(self._read, new.values()), strict=True))

    def writes_access_log(self, proxy: Proxy) -> bool:
        """Whether a waypoint writes requests down where its pod's log is read; so too where nobody can tell."""
        self.read([proxy])
        dump = self._dumps[str(proxy)]
        return isinstance(dump, str) or any(path in ("/dev/stdout", "/dev/stderr") for path in _log_paths(dump))

    def statement(self, proxy: Proxy, policy: Object, mesh: Mesh) -> Statement:
        """Whether a proxy has a policy as it is written now."""
        witness, dump = f"{proxy.kind} config", self._dumps[str(proxy)]
        if isinstance(dump, str):
            return Statement(witness, str(proxy), f"could not be read: {dump}", None)
        if proxy.kind == "waypoint":
            loaded = waypoint_has(dump, policy)
        else:
            space, root = namespace_of(policy), mesh.config.root
            pods = [pod for pod in mesh.items("Pod", None if space == root else space) if selects(policy, pod)]
            here = [pod for pod in pods if pod.get("spec", {}).get("nodeName") == proxy.node]
            loaded = ztunnel_has(dump, policy, [pod for pod in here if mesh.membership(pod).captured], root)
        if loaded.state == "current":
            return Statement(witness, str(proxy), f"has {name_of(policy)} as it is now", True)
        return Statement(witness, str(proxy), f"{name_of(policy)}: {loaded.why}", False)

    def confirm(
        self, attribution: Attribution, query: Query, named: str, proxies: t.Sequence[Proxy], mesh: Mesh
    ) -> Attribution:
        """A denial's attribution with what istiod and the proxies' dumps, read before, say of the policy that decided.

        named: the policy that the claim names in this phase; "" where it names none.
        """
        name = attribution.policy or named
        policy = mesh.get("AuthorizationPolicy", *name.split("/", 1)) if name else None
        # A policy that istiod made of a PeerAuthentication is no object of the API.
        if policy is None or attribution.problem:
            return attribution
        deciders = deciding(attribution, query, policy, proxies)
        statements = [_status(policy), *(self.statement(proxy, policy, mesh) for proxy in deciders)]
        bad = [str(item) for item in statements if item.supports is False]
        problem = f"refused by {name}, yet {'; '.join(bad)}" if bad else ""
        return dataclasses.replace(attribution, statements=(*attribution.statements, *statements), problem=problem)

    def _read(self, proxy: Proxy) -> Object | str:
        try:
            return config_dump(self._forwarder, proxy)
        except LabError as error:
            return error.message


def _log_paths(node: object) -> t.Iterator[str]:
    """Files that access logs of a configuration are written to."""
    if isinstance(node, dict):
        for log in node.get("access_log") or []:
            yield str((log.get("typed_config") or {}).get("path", ""))
        for value in node.values():
            yield from _log_paths(value)
    elif isinstance(node, list):
        for value in node:
            yield from _log_paths(value)


def deciding(attribution: Attribution, query: Query, policy: Object, proxies: t.Sequence[Proxy]) -> list[Proxy]:
    """The proxies that must have the policy for this attribution to be true."""
    if attribution.decided_by == "waypoint":
        return [proxy for proxy in proxies if proxy.kind == "waypoint" and proxy.address in query.waypoint_addresses]
    if target_refs(policy):
        return []
    return [proxy for proxy in proxies if proxy.kind == "ztunnel" and proxy.node in query.nodes]


def _status(policy: Object) -> Statement:
    state = policy_state(name_of(policy), policy)
    kind = "WaypointAccepted" if target_refs(policy) else "ZtunnelAccepted"
    conditions = (policy.get("status") or {}).get("conditions") or []
    if state:
        return Statement("istiod", "", state.text, False)
    if not any(item.get("type") == kind for item in conditions):
        return Statement("istiod", "", f"says nothing of {name_of(policy)}", None)
    return Statement("istiod", "", f"{name_of(policy)}: {kind}", True)


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
