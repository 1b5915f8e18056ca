# Writes an AuthorizationPolicy the way istiod hands it to ztunnel, and ztunnel's dump of it alike, to compare both.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import ipaddress
import json
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._cluster.policies import (
    ROOT_NAMESPACE,
    Object,
    action,
    l7_attributes,
    rules,
    target_refs,
)

# Scope, action and rules; of rules, clauses and matches the order means nothing.
Form = tuple[str, str, tuple[t.Any, ...]]
# Fields of a Source, and their names in ztunnel (istiod, pilot/pkg/serviceregistry/ambient/authorization.go).
_SOURCE = {
    "ipBlocks": "sourceIps",
    "namespaces": "namespaces",
    "serviceAccounts": "serviceAccounts",
    "principals": "principals",
}
_WHEN = {
    "source.ip": "sourceIps",
    "source.namespace": "namespaces",
    "source.principal": "principals",
    "destination.ip": "destinationIps",
    "destination.port": "destinationPorts",
}


def form_of_policy(policy: Object) -> Form | None:
    """What ztunnel must have of a policy; None where istiod sends ztunnel nothing of it.

    Args:
        policy: the AuthorizationPolicy as the API has it.
    """
    if target_refs(policy) or action(policy) not in ("ALLOW", "DENY"):
        return None
    namespace = str(policy["metadata"]["namespace"])
    scope = "Global" if namespace == ROOT_NAMESPACE else "Namespace"
    if policy.get("spec", {}).get("selector") is not None:
        scope = "WorkloadSelector"
    # istiod leaves out a rule of an ALLOW policy that ztunnel can't match, and only the attribute where it denies.
    kept = [rule for rule in rules(policy) if action(policy) == "DENY" or not l7_attributes(rule)]
    return scope, action(policy).capitalize(), _unordered(_clauses(rule, namespace) for rule in kept)


def form_of_dump(found: Object) -> Form:
    """The same of a policy in ztunnel's config dump (ztunnel, src/rbac.rs, Authorization)."""
    groups = (
        _unordered(_unordered(_match(match) for match in clause) for clause in group)
        for group in found.get("rules") or []
    )
    return str(found.get("scope")), str(found.get("action")), _unordered(groups)


def _clauses(rule: Object, namespace: str) -> tuple[t.Any, ...]:
    clauses = []
    if rule.get("to"):
        clauses.append([_operation((item or {}).get("operation") or {}) for item in rule["to"]])
    if rule.get("from"):
        clauses.append([_source((item or {}).get("source") or {}, namespace) for item in rule["from"]])
    clauses += [[_when(item)] for item in rule.get("when") or []]
    return _unordered(_unordered(_match(match) for match in clause) for clause in clauses)


def _operation(operation: Object) -> Object:
    return {
        "destinationPorts": _ports(operation.get("ports")),
        "notDestinationPorts": _ports(operation.get("notPorts")),
    }


def _source(source: Object, namespace: str) -> Object:
    match = {}
    for key, name in _SOURCE.items():
        for values, field in ((source.get(key), name), (source.get(_not(key)), _not(name))):
            match[field] = _values(name, values or [], namespace)
    return match


def _when(condition: Object) -> Object:
    name = _WHEN.get(str(condition.get("key")))
    if name is None:
        return {}
    given = ((condition.get("values"), name), (condition.get("notValues"), _not(name)))
    return {field: _values(name, values or [], "") for values, field in given}


def _not(name: str) -> str:
    return f"not{name[0].upper()}{name[1:]}"


def _values(name: str, values: t.Sequence[str], namespace: str) -> list[t.Any]:
    if name == "destinationPorts":
        return _ports(values)
    if name.endswith("Ips"):
        return [value for value in values if _network(value)]
    if name == "serviceAccounts":
        pairs = [value.split("/", 1) if "/" in value else [namespace, value] for value in values]
        return [{"namespace": pair[0], "serviceAccount": pair[1]} for pair in pairs]
    return [_string(value) for value in values]


def _string(value: str) -> Object:
    if value == "*":
        return {"Presence": []}
    if value.startswith("*"):
        return {"Suffix": value[1:]}
    return {"Prefix": value[:-1]} if value.endswith("*") else {"Exact": value}


def _ports(values: t.Sequence[str] | None) -> list[int]:
    return [int(value) for value in values or [] if str(value).isdecimal() and int(value) <= 65535]


def _match(match: Object) -> str:
    """One text per match, the same for the same meaning."""
    fields = {}
    for key, values in match.items():
        if not values:
            continue
        texts = [_network(str(value)) if key.lower().endswith("ips") else value for value in values]
        fields[key] = sorted(json.dumps(text, sort_keys=True) for text in texts)
    return json.dumps(fields, sort_keys=True)


def _network(text: str) -> str:
    """An address or a block in one spelling; "" where it is neither, which istiod leaves out too."""
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        return ""


def _unordered(items: t.Iterable[t.Any]) -> tuple[t.Any, ...]:
    return tuple(sorted(items))
