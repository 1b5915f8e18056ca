# Reads AuthorizationPolicies the way ztunnel and istiod do.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import typing as t

Object = dict[str, t.Any]

ROOT_NAMESPACE = "istio-system"
# What ztunnel can't match (istiod, pilot/pkg/serviceregistry/ambient/authorization.go, httpOperations).
_L7_OPERATION = ("hosts", "notHosts", "methods", "notMethods", "paths", "notPaths")
_L7_SOURCE = ("remoteIpBlocks", "notRemoteIpBlocks", "requestPrincipals", "notRequestPrincipals")
# Conditions that ztunnel can match (same file, l4WhenAttributes).
_L4_WHEN = ("source.ip", "source.namespace", "source.principal", "destination.ip", "destination.port")
# What makes a rule match something at L4.
_L4_OPERATION = ("ports", "notPorts")


def name_of(item: Object) -> str:
    """namespace/name of an object."""
    return f"{item['metadata'].get('namespace', '')}/{item['metadata']['name']}"


def action(policy: Object) -> str:
    """ALLOW where the policy says nothing."""
    return str(policy.get("spec", {}).get("action") or "ALLOW")


def target_refs(policy: Object) -> list[Object]:
    """What a policy for waypoints is bound to; empty for one that ztunnel enforces."""
    spec = policy.get("spec", {})
    single = [spec["targetRef"]] if spec.get("targetRef") else []
    return list(spec.get("targetRefs") or single)


def selects(policy: Object, pod: Object) -> bool:
    """Whether ztunnel applies the policy to the pod: by selector, namespace, or the root namespace."""
    if target_refs(policy):
        return False
    namespace = policy["metadata"]["namespace"]
    if namespace not in (pod["metadata"]["namespace"], ROOT_NAMESPACE):
        return False
    labels = pod["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, value in selector(policy).items())


def selector(policy: Object) -> dict[str, str]:
    """Labels of the policy's selector; empty where it selects every pod."""
    return dict((policy.get("spec", {}).get("selector") or {}).get("matchLabels") or {})


def rules(policy: Object) -> list[Object]:
    """Rules of the policy; one may be None in YAML, which matches everything."""
    return [rule or {} for rule in policy.get("spec", {}).get("rules") or []]


def l7_attributes(rule: Object) -> list[str]:
    """Attributes of a rule that only a waypoint can match."""
    found = []
    for operation in _parts(rule, "to", "operation"):
        found += [key for key in _L7_OPERATION if operation.get(key)]
    for source in _parts(rule, "from", "source"):
        found += [key for key in _L7_SOURCE if source.get(key)]
    found += [str(when.get("key")) for when in rule.get("when") or [] if when.get("key") not in _L4_WHEN]
    return list(dict.fromkeys(found))


def only_l7(rule: Object) -> bool:
    """Whether nothing is left of the rule for ztunnel to match."""
    operations = any(operation.get(key) for operation in _parts(rule, "to", "operation") for key in _L4_OPERATION)
    sources = any(set(source) - set(_L7_SOURCE) for source in _parts(rule, "from", "source"))
    conditions = any(when.get("key") in _L4_WHEN for when in rule.get("when") or [])
    return bool(l7_attributes(rule)) and not (operations or sources or conditions)


def ports(policy: Object) -> set[int]:
    """Ports that the policy's rules name."""
    found = {
        text for rule in rules(policy) for part in _parts(rule, "to", "operation") for text in part.get("ports") or []
    }
    return {int(text) for text in found if str(text).isdecimal()}


def principals(policy: Object) -> list[str]:
    """Identities that the policy's rules name, allowed or denied."""
    found: list[str] = []
    for rule in rules(policy):
        for source in _parts(rule, "from", "source"):
            found += [*(source.get("principals") or []), *(source.get("notPrincipals") or [])]
        for when in rule.get("when") or []:
            if when.get("key") == "source.principal":
                found += [*(when.get("values") or []), *(when.get("notValues") or [])]
    return found


def _parts(rule: Object, outer: str, inner: str) -> list[Object]:
    return [(part or {}).get(inner) or {} for part in rule.get(outer) or []]
