# AuthorizationPolicies as ztunnel has them: istiod's conversion, and ztunnel's evaluation of a connection.
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Sources: istio/istio pilot/pkg/serviceregistry/ambient/authorization.go (conversion),
# istio/ztunnel src/rbac.rs (evaluation).

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import typing as t

from . import policies
from .mesh import Object, namespace_of
from .policies import Match as Matched
from .policies import Truth, every, holds, match_of, some

# Fields of operations and sources, and conditions, by their names in ztunnel.
_FIELDS = {
    "ports": "destinationPorts",
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
# Neither converted nor reported by istiod.
_IGNORED = ("trustDomains",)

# One of a clause's alternatives: values that must match, and must not, by field. Without any it never matches.
Match = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
Clause = list[Match]
Rule = list[Clause]


@dataclasses.dataclass(frozen=True)
class Identity:
    """Who a proxy takes a client for."""

    trust_domain: str
    namespace: str
    account: str

    def __str__(self) -> str:
        return f"{self.trust_domain}/ns/{self.namespace}/sa/{self.account}"


@dataclasses.dataclass(frozen=True)
class Connection:
    """A connection as a proxy sees it. None where nobody knows; identity None: plain text, so there is none."""

    identity: Identity | None
    source_ip: str | None
    destination_ip: str | None
    port: int | None


@dataclasses.dataclass(frozen=True)
class L4Policy:
    """What istiod sends ztunnel of a policy. lost: HTTP attributes that are left out, by the number of the rule."""

    action: str
    rules: tuple[Rule, ...]
    lost: t.Mapping[int, tuple[str, ...]]


def http_attributes(rule: policies.Rule) -> tuple[str, ...]:
    """Attributes of a rule that ztunnel can't match."""
    found: list[str] = []
    for item in (item for items in (*rule.operations, *rule.sources) for item in items):
        if item.key not in _FIELDS and item.key not in _IGNORED:
            found += [item.key] if item.wanted else []
            found += [policies.not_(item.key)] if item.unwanted else []
    found += [item.key for item in rule.when if item.key not in _WHEN]
    return tuple(dict.fromkeys(found))


def convert(policy: Object) -> L4Policy | None:
    """What ztunnel is given of a policy; None where that is nothing.

    A rule with HTTP attributes is left out of an ALLOW policy; a DENY policy keeps what is left of it.
    """
    kind = policies.action(policy)
    if policies.target_refs(policy) or kind not in ("ALLOW", "DENY"):
        return None
    rules = policies.rules(policy)
    lost = {number: found for number, rule in enumerate(rules) if (found := http_attributes(rule))}
    kept = [rule for number, rule in enumerate(rules) if kind == "DENY" or number not in lost]
    return L4Policy(kind, tuple(_clauses(rule, namespace_of(policy)) for rule in kept), lost)


def _clauses(rule: policies.Rule, namespace: str) -> Rule:
    groups = [group for group in (rule.operations, rule.sources) if group]
    found = [[_match(conditions, _FIELDS, namespace) for conditions in group] for group in groups]
    return [*found, *([_match([item], _WHEN, namespace)] for item in rule.when)]


def _match(conditions: t.Iterable[policies.Condition], names: t.Mapping[str, str], namespace: str) -> Match:
    """What is no number and no address is left out, as istiod does; a list that is empty then restricts nothing."""
    found: Match = {}
    for item in conditions:
        if field := names.get(item.key):
            values = tuple(_written(field, item.wanted, namespace)), tuple(_written(field, item.unwanted, namespace))
            if any(values):
                found[field] = values
    return found


def _written(field: str, values: t.Iterable[str], namespace: str) -> t.Iterator[str]:
    for value in values:
        if field == "destinationPorts":
            if value.isdecimal() and int(value) <= 65535:
                yield value
        elif field.endswith("Ips"):
            if network := network_of(value):
                yield network
        elif field == "serviceAccounts":
            yield value if "/" in value else f"{namespace}/{value}"
        else:
            yield value


def network_of(text: str) -> str:
    """An address or a block in one spelling; "" where it is neither."""
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        return ""


def policy_matches(policy: L4Policy, connection: Connection) -> Matched:
    """Whether any rule matches a connection."""
    results = [rule_matches(rule, connection) for rule in policy.rules]
    return match_of(results, lambda: _why_not(policy.rules[0], connection))


def rule_matches(rule: Rule, connection: Connection) -> Truth:
    """Whether all clauses match; a rule without any matches everything."""
    return every(some(_matches(match, connection) for match in clause) for clause in rule)


def _why_not(rule: Rule, connection: Connection) -> str:
    """What of a rule does not fit a connection, in words."""
    for clause in rule:
        if some(_matches(match, connection) for match in clause):
            continue
        fields = {field: values for match in clause for field, values in match.items()}
        for field, (wanted, unwanted) in fields.items():
            one = {field: (wanted, unwanted)}
            if not _matches(one, connection):
                return said(field, wanted, unwanted, _actual(field, connection))
        return "it has nothing that ztunnel can match"
    return ""


def said(attribute: str, wanted: t.Sequence[str], unwanted: t.Sequence[str], actual: str) -> str:
    """Which values a policy names, and what was there."""
    values = (
        f"{attribute} is not {', '.join(unwanted)}"
        if unwanted and not wanted
        else f"{attribute} is {', '.join(wanted)}"
    )
    hint = " (write it without spiffe://)" if any(item.startswith("spiffe://") for item in wanted) else ""
    return f"it says {values}{hint}; here it is {actual}"


def _actual(field: str, connection: Connection) -> str:
    identity = connection.identity
    if field == "principals":
        return str(identity) if identity else "nobody, the connection is plain text"
    if field in ("namespaces", "serviceAccounts"):
        account = f"{identity.namespace}/{identity.account}" if identity else "nobody, the connection is plain text"
        return identity.namespace if identity and field == "namespaces" else account
    if field == "destinationPorts":
        return f"the pod's port {connection.port or 'that nobody knows'}"
    return str((connection.source_ip if field == "sourceIps" else connection.destination_ip) or "not known")


def _matches(match: Match, connection: Connection) -> Truth:
    return bool(match) and every(
        holds(*values, functools.partial(_fits, field, connection)) for field, values in match.items()
    )


def _fits(field: str, connection: Connection, value: str) -> Truth:
    identity = connection.identity
    if field == "principals":
        return identity is not None and glob(value, str(identity))
    if field == "namespaces":
        return glob(value, identity.namespace if identity else "")
    if field == "serviceAccounts":
        return identity is not None and value == f"{identity.namespace}/{identity.account}"
    if field == "destinationPorts":
        return None if connection.port is None else int(value) == connection.port
    address = connection.source_ip if field == "sourceIps" else connection.destination_ip
    return within(address, value)


def glob(pattern: str, text: str) -> bool:
    """ztunnel's matching of strings: `*` alone is any text that is not empty, else one star at one end."""
    if pattern == "*":
        return bool(text)
    if pattern.startswith("*"):
        return text.endswith(pattern[1:])
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern


def within(address: str | None, block: str) -> Truth:
    """Whether an address is in a block; None where the address is not known."""
    if address is None:
        return None
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(block, strict=False)
    except ValueError:
        return False
