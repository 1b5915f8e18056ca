# Writes an AuthorizationPolicy the way istiod hands it to ztunnel, and ztunnel's dump of it alike, to compare both.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import json
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._mesh.l4 import Match, convert, network_of, not_
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Object
from ansible_collections.ambient.lab.plugins.module_utils._mesh.policies import is_dry_run

# Scope, action, whether it is only tried, and rules; of rules, clauses and matches the order means nothing.
Form = tuple[str, str, bool, tuple[t.Any, ...]]
TITLES = ("scope", "action", "dry run", "rules")


def form_of_policy(policy: Object, root: str) -> Form | None:
    """What ztunnel must have of a policy; None where istiod sends ztunnel nothing of it.

    Args:
        policy: the AuthorizationPolicy as the API has it.
        root: the mesh's root namespace.
    """
    converted = convert(policy)
    if converted is None:
        return None
    scope = "Global" if policy["metadata"]["namespace"] == root else "Namespace"
    if policy.get("spec", {}).get("selector") is not None:
        scope = "WorkloadSelector"
    rules = _unordered(
        _unordered(_unordered(_text(_fields(match)) for match in clause) for clause in rule) for rule in converted.rules
    )
    return scope, converted.action.capitalize(), is_dry_run(policy), rules


def form_of_dump(found: Object) -> Form:
    """The same of a policy in ztunnel's config dump (ztunnel, src/rbac.rs, Authorization)."""
    rules = _unordered(
        _unordered(_unordered(_text(match) for match in clause) for clause in group)
        for group in found.get("rules") or []
    )
    return str(found.get("scope")), str(found.get("action")), bool(found.get("dryRun")), rules


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


def _unordered(items: t.Iterable[t.Any]) -> tuple[t.Any, ...]:
    return tuple(sorted(items))
