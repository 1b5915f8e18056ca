# AuthorizationPolicies as ztunnel has them: istiod's conversion, and ztunnel's evaluation of a connection.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.
#
# Sources: istio/istio pilot/pkg/serviceregistry/ambient/authorization.go (conversion),
# istio/ztunnel src/rbac.rs (evaluation).

from __future__ import annotations

import dataclasses
import ipaddress
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Object, namespace_of
from ansible_collections.ambient.lab.plugins.module_utils._mesh.policies import action, rules, target_refs
from ansible_collections.ambient.lab.plugins.module_utils._mesh.truth import Match as Matched
from ansible_collections.ambient.lab.plugins.module_utils._mesh.truth import Truth, every, negated, some

# Fields of a source, and conditions, by their names in ztunnel.
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
_OPERATION = {"ports": "destinationPorts"}
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


def not_(field: str) -> str:
    """The negative twin of a field: `ports` -> `notPorts`."""
    return f"not{field[0].upper()}{field[1:]}"


def http_attributes(rule: Object) -> tuple[str, ...]:
    """Attributes of a rule that ztunnel can't match, in the order in which they stand there."""
    found: list[str] = []
    for key, inner, known in (("to", "operation", _OPERATION), ("from", "source", _SOURCE)):
        for item in rule.get(key) or []:
            for field, values in ((item or {}).get(inner) or {}).items():
                name = f"{field[3].lower()}{field[4:]}" if field.startswith("not") else field
                if values and name not in known and name not in _IGNORED:
                    found.append(field)
    found += [str(item.get("key")) for item in rule.get("when") or [] if item.get("key") not in _WHEN]
    return tuple(dict.fromkeys(found))


def convert(policy: Object) -> L4Policy | None:
    """What ztunnel is given of a policy; None where that is nothing.

    A rule with HTTP attributes is left out of an ALLOW policy; a DENY policy keeps what is left of it.
    """
    kind = action(policy)
    if target_refs(policy) or kind not in ("ALLOW", "DENY"):
        return None
    lost = {number: found for number, rule in enumerate(rules(policy)) if (found := http_attributes(rule))}
    kept = [rule for number, rule in enumerate(rules(policy)) if kind == "DENY" or number not in lost]
    return L4Policy(kind, tuple(_rule(rule, namespace_of(policy)) for rule in kept), lost)


def _rule(rule: Object, namespace: str) -> Rule:
    clauses: Rule = []
    if rule.get("to"):
        clauses.append([_match((item or {}).get("operation") or {}, _OPERATION, namespace) for item in rule["to"]])
    if rule.get("from"):
        clauses.append([_match((item or {}).get("source") or {}, _SOURCE, namespace) for item in rule["from"]])
    for item in rule.get("when") or []:
        field = _WHEN.get(str(item.get("key")))
        found: Match = {}
        if field:
            _put(found, field, item.get("values") or [], item.get("notValues") or [], namespace)
        clauses.append([found])
    return clauses


def _match(given: Object, names: t.Mapping[str, str], namespace: str) -> Match:
    found: Match = {}
    for key, field in names.items():
        _put(found, field, given.get(key) or [], given.get(not_(key)) or [], namespace)
    return found


def _put(found: Match, field: str, wanted: t.Sequence[str], unwanted: t.Sequence[str], namespace: str) -> None:
    """What is no number and no address is left out, as istiod does; a list that is empty then restricts nothing."""
    values = tuple(_written(field, wanted, namespace)), tuple(_written(field, unwanted, namespace))
    if any(values):
        found[field] = values


def _written(field: str, values: t.Sequence[str], namespace: str) -> t.Iterator[str]:
    for item in values:
        value = str(item)
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
    if True in results:
        return Matched(True, results.index(True))
    return Matched(some(results), why_not=_why_not(policy.rules[0], connection) if policy.rules else "it has no rule")


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


def rule_matches(rule: Rule, connection: Connection) -> Truth:
    """Whether all clauses match; a rule without any matches everything."""
    return every(some(_matches(match, connection) for match in clause) for clause in rule)


def _matches(match: Match, connection: Connection) -> Truth:
    if not match:
        return False
    return every(
        every(
            (
                some(_fits(field, value, connection) for value in wanted) if wanted else True,
                negated(some(_fits(field, value, connection) for value in unwanted)),
            )
        )
        for field, (wanted, unwanted) in match.items()
    )


def _fits(field: str, value: str, connection: Connection) -> Truth:
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
