# What AuthorizationPolicies say, and logic with a third value: None means that nobody can know.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .mesh import Mesh, Object, is_true, namespace_of

DRY_RUN = "istio.io/dry-run"
# API groups of what a policy for waypoints may name (istio/istio pkg/config/validation, allowedTargetRefs).
GROUPS = {
    "Service": ("", "core"),
    "ServiceEntry": ("networking.istio.io",),
    "Gateway": ("gateway.networking.k8s.io",),
    "GatewayClass": ("gateway.networking.k8s.io",),
}
# Fields of a rule's operations and sources, and what they mean, named like the keys of `when`.
_OPERATION = {"methods": "method", "paths": "path", "hosts": "host", "ports": "destination.port"}
SOURCE = {
    "principals": "source.principal",
    "namespaces": "source.namespace",
    "serviceAccounts": "source.serviceAccount",
    "trustDomains": "source.trustDomain",
    "ipBlocks": "source.ip",
    "remoteIpBlocks": "remote.ip",
    "requestPrincipals": "request.auth.principal",
}


@dataclasses.dataclass(frozen=True)
class Condition:
    """An attribute, with the values that must match and must not. key: as the policy writes it."""

    key: str
    attribute: str
    wanted: tuple[str, ...]
    unwanted: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule: one of the operations, one of the sources, and all of `when`; no operations, or sources, are any."""

    operations: list[list[Condition]]
    sources: list[list[Condition]]
    when: list[Condition]


def action(policy: Object) -> str:
    """ALLOW where the policy says nothing."""
    return str(policy.get("spec", {}).get("action") or "ALLOW")


def target_refs(policy: Object) -> list[Object]:
    """What a policy for waypoints and gateways is bound to; empty for one that ztunnel enforces."""
    spec = policy.get("spec", {})
    single = [spec["targetRef"]] if spec.get("targetRef") else []
    return list(spec.get("targetRefs") or single)


def targets(policy: Object) -> list[tuple[str, str]]:
    """Kind and name of what a policy is bound to; without kinds of another group, and Gateways of another namespace.

    Source: istio/istio pilot/pkg/model/policyattachment.go (ShouldAttachPolicy, matchesGroupKind).
    """
    own = (None, "", namespace_of(policy))
    return [
        (str(ref.get("kind")), str(ref.get("name")))
        for ref in target_refs(policy)
        if (ref.get("group") or "") in GROUPS.get(str(ref.get("kind")), ())
        and (ref.get("kind") != "Gateway" or ref.get("namespace") in own)
    ]


def selector(policy: Object) -> dict[str, str]:
    """Labels of the policy's selector; empty where it selects every pod."""
    return dict((policy.get("spec", {}).get("selector") or {}).get("matchLabels") or {})


def not_(field: str) -> str:
    """The negative twin of a field: `ports` -> `notPorts`."""
    return f"not{field[0].upper()}{field[1:]}"


def rules(policy: Object) -> list[Rule]:
    """Rules of the policy; one may be None in YAML, which matches everything."""
    return [_rule(rule) for rule in written_rules(policy)]


def written_rules(policy: Object) -> list[Object]:
    """The same as the user wrote them."""
    return [rule or {} for rule in policy.get("spec", {}).get("rules") or []]


def _rule(rule: Object) -> Rule:
    return Rule(
        [_conditions((item or {}).get("operation") or {}, _OPERATION) for item in rule.get("to") or []],
        [_conditions((item or {}).get("source") or {}, SOURCE) for item in rule.get("from") or []],
        [_condition(str(item.get("key")), str(item.get("key")), item, "values") for item in rule.get("when") or []],
    )


def _conditions(given: Object, names: t.Mapping[str, str]) -> list[Condition]:
    found = [_condition(key, attribute, given, key) for key, attribute in names.items()]
    return [item for item in found if item.wanted or item.unwanted]


def _condition(key: str, attribute: str, given: Object, values: str) -> Condition:
    wanted, unwanted = (tuple(map(str, given.get(name) or ())) for name in (values, not_(values)))
    return Condition(key, attribute, wanted, unwanted)


def provider(policy: Object) -> str:
    """Name of the external authorizer of a CUSTOM policy; "" where it names none."""
    return str((policy.get("spec", {}).get("provider") or {}).get("name") or "")


def is_dry_run(policy: Object) -> bool:
    """Whether the policy is only to be tried, so that it decides nothing (istiod, ParseBool of the annotation)."""
    return is_true(policy, DRY_RUN)


def policies_near(mesh: Mesh, pod: Object) -> list[Object]:
    """AuthorizationPolicies that ztunnel may enforce for a pod: of its namespace and the root namespace."""
    spaces = dict.fromkeys([namespace_of(pod), mesh.config.root])
    return [policy for space in spaces for policy in mesh.items("AuthorizationPolicy", space)]


def decides(policy: Object, proxy: str) -> bool:
    """Whether a kind of proxy (ztunnel, waypoint) can refuse anything because of a policy that is in force there."""
    kinds = ("ALLOW", "DENY") if proxy == "ztunnel" else ("ALLOW", "DENY", "CUSTOM")
    return action(policy) in kinds and not is_dry_run(policy)


Truth: t.TypeAlias = "bool | None"


def every(values: t.Iterable[Truth]) -> Truth:
    """False where one is false, else None where one is unknown."""
    known = list(values)
    return False if False in known else None if None in known else True


def some(values: t.Iterable[Truth]) -> Truth:
    """True where one is true, else None where one is unknown."""
    known = list(values)
    return True if True in known else None if None in known else False


def negated(value: Truth) -> Truth:
    """The opposite; unknown stays unknown."""
    return None if value is None else not value


def holds(wanted: t.Sequence[str], unwanted: t.Sequence[str], fits: t.Callable[[str], Truth]) -> Truth:
    """Whether one of the values that are wanted fits, if there are any, and none of those that are not."""
    return every((some(map(fits, wanted)) if wanted else True, negated(some(map(fits, unwanted)))))


def match_of(results: t.Sequence[Truth], why_not: t.Callable[[], str]) -> Match:
    """Whether any of a policy's rules matches; why_not: says it of the first one."""
    if True in results:
        return Match(True, results.index(True))
    return Match(some(results), why_not=why_not() if results else "it has no rule")


@dataclasses.dataclass(frozen=True)
class Match:
    """Whether a policy matches; truth: None where nobody can know.

    rule: number of the first rule that does, -1 where none surely does. why_not: what of its first rule does not fit;
    "" where it matches, or has no rule.
    """

    truth: Truth
    rule: int = -1
    why_not: str = ""
