# Says whether a proxy has this very version of an AuthorizationPolicy, from the proxy's own config dump.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import json
import typing as t

from .._mesh.l4 import Match, convert, network_of
from .._mesh.mesh import Object, name_of, namespace_of
from .._mesh.policies import is_dry_run, not_
from .envoy import compared, difference, filters

State = t.Literal["current", "old", "absent"]
# Scope, action, whether it is only tried, and rules; of rules, clauses and matches the order means nothing.
_Form = tuple[str, str, bool, list[t.Any]]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What a proxy has of a policy: this version (current), another one (old), or nothing (absent); and why not."""

    state: State
    why: str = ""


def ztunnel_has(
    dump: Object, policy: Object, pods: t.Iterable[Object], root: str, left: t.Iterable[Object] = ()
) -> Loaded:
    """Whether a ztunnel enforces the policy as it is written now.

    Args:
        dump: ztunnel's /config_dump (port 15000; the keys that `istioctl ztunnel-config` reads,
            istioctl/pkg/writer/ztunnel/configdump/api.go).
        policy: the AuthorizationPolicy; only its metadata where the question is whether it is gone.
        pods: those on ztunnel's node that it selects. A policy with a selector counts for a pod only when the pod's
            workload names it; one of a namespace or of the mesh counts by itself.
        root: the mesh's root namespace.
        left: pods on its node that it selected before; none of their workloads may name it.
    """
    name = name_of(policy)
    found = next((item for item in _values(dump, "policies") if _name(item) == name), None)
    if found is None:
        return Loaded("absent", "it has not been given the policy")
    wanted, loaded = _form_of_policy(policy, root), _form_of_dump(found)
    if wanted is None:
        return Loaded("old", "it has a policy of this name that is not for ztunnel any more")
    tried = "it only tries the policy (dry run)" if loaded[2] else "it enforces what is only to be tried"
    differences = ("it has a version with another scope", "it has a version with another action", tried)
    for here, there, why in zip(wanted, loaded, (*differences, "it has other rules"), strict=True):
        if here != there:
            return Loaded("old", why)
    if loaded[0] != "WorkloadSelector":
        return Loaded("current")
    workloads = {_name(item): item for item in _values(dump, "workloads")}
    for pod in pods:
        workload = workloads.get(name_of(pod))
        if workload is None:
            return Loaded("old", f"it has the policy, but does not know pod {name_of(pod)}")
        if name not in (workload.get("authorizationPolicies") or []):
            return Loaded("old", f"it has the policy, but not for pod {name_of(pod)}")
    for pod in left:
        if name in (workloads.get(name_of(pod), {}).get("authorizationPolicies") or []):
            return Loaded("old", f"it still has the policy for pod {name_of(pod)}")
    return Loaded("current")


def waypoint_has(dump: Object, policy: Object) -> Loaded:
    """Whether a waypoint's Envoy enforces the policy as it is written now.

    Compared are the action, the number of rules, and in each rule methods, paths, hosts, ports, addresses, request
    headers, principals, namespaces and ServiceAccounts, with what is excluded of them. Not compared are trust domains,
    to which istiod adds the mesh's aliases, and attributes of JWTs, SNI and Envoy's metadata: a change of these
    alone is not noticed. Of a filter for TCP the HTTP attributes are not compared, because it can't have them.

    Args:
        dump: /config_dump of Envoy's admin port 15000, or its part with the listeners.
        policy: the AuthorizationPolicy; only its metadata where the question is whether it is gone.
    """
    found = filters(dump, str(policy["metadata"].get("namespace", "")), str(policy["metadata"]["name"]))
    if not found:
        return Loaded("absent", "no listener has the policy")
    for item in found:
        if said := difference(policy, item):
            return Loaded("old", f"a listener has another version: {said}")
    return Loaded("current")


def tells_apart(old: Object, new: Object | None, root: str) -> bool:
    """Whether ztunnel_has or waypoint_has can say which of two versions of a policy a proxy enforces.

    Args:
        old: AuthorizationPolicy.
        new: it, changed; None: removed.
        root: the mesh's root namespace.
    """
    places = [{**item.get("spec", {}), "action": "", "rules": []} for item in (old, new) if item]
    if len(places) < 2 or places[0] != places[1]:
        return True
    forms = [_form_of_policy(item, root) for item in (old, new) if item]
    seen = [compared(item) for item in (old, new) if item] if forms == [None, None] else forms
    return seen[0] != seen[1]


def _values(dump: Object, key: str) -> list[Object]:
    """A list of the dump; older ztunnels wrote some of them as maps."""
    found = dump.get(key) or []
    return list(found.values() if isinstance(found, dict) else found)


def _name(item: Object) -> str:
    return f"{item.get('namespace', '')}/{item.get('name', '')}"


def _form_of_policy(policy: Object, root: str) -> _Form | None:
    """What ztunnel must have of a policy; None where istiod sends ztunnel nothing of it."""
    converted = convert(policy)
    if converted is None:
        return None
    scope = "Global" if namespace_of(policy) == root else "Namespace"
    if policy.get("spec", {}).get("selector") is not None:
        scope = "WorkloadSelector"
    rules = [[[_fields(match) for match in clause] for clause in rule] for rule in converted.rules]
    return scope, converted.action.capitalize(), is_dry_run(policy), _unordered(rules)


def _form_of_dump(found: Object) -> _Form:
    """The same of a policy in ztunnel's config dump (ztunnel, src/rbac.rs, Authorization)."""
    rules = _unordered(found.get("rules") or [])
    return str(found.get("scope")), str(found.get("action")), bool(found.get("dryRun")), rules


def _unordered(rules: t.Any) -> list[t.Any]:
    return sorted(sorted(sorted(map(_text, clause)) for clause in rule) for rule in rules)


def _fields(match: Match) -> Object:
    """A match as ztunnel's dump writes it."""
    fields = {}
    for field, (wanted, unwanted) in match.items():
        fields[field] = [_value(field, value) for value in wanted]
        fields[not_(field)] = [_value(field, value) for value in unwanted]
    return fields


def _value(field: str, value: str) -> t.Any:
    if field == "destinationPorts":
        return int(value)
    if field.endswith("Ips"):
        return value
    if field == "serviceAccounts":
        namespace, _slash, account = value.partition("/")
        return {"namespace": namespace, "serviceAccount": account}
    if value == "*":
        return {"Presence": []}
    if value.startswith("*"):
        return {"Suffix": value[1:]}
    return {"Prefix": value[:-1]} if value.endswith("*") else {"Exact": value}


def _text(match: Object) -> str:
    """One text per match, the same for the same meaning."""
    fields = {}
    for key, values in match.items():
        if values:
            texts = [network_of(str(value)) if key.lower().endswith("ips") else value for value in values]
            fields[key] = sorted(json.dumps(text, sort_keys=True) for text in texts)
    return json.dumps(fields, sort_keys=True)
