# Compares an AuthorizationPolicy with the RBAC filters that istiod writes of it for Envoy.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import re
import typing as t

from .._mesh.l4 import network_of
from .._mesh.mesh import Object, namespace_of
from .._mesh.policies import Condition, Rule, action, is_dry_run, rules

# Values by attribute, "!" before an attribute that must not match. What no attribute here names is not compared.
Attributes = dict[str, set[str]]
# istiod, pilot/pkg/security/authz/model/model.go: what becomes part of a permission, the rest of a principal.
_NAMES = {
    "permissions": {
        "method": "method",
        "path": "path",
        "host": "host",
        "destination.port": "port",
        "destination.ip": "destination.ip",
    },
    "principals": {
        "source.ip": "source.ip",
        "remote.ip": "remote.ip",
        "source.principal": "identity",
        "source.namespace": "namespace",
        "source.serviceAccount": "account",
    },
}
_HEADER = re.compile(r"request\.headers\[(.+)\]")
_L7 = ("method", "path", "host", "header:")
_ADDRESSES = {"direct_remote_ip": "source.ip", "source_ip": "source.ip", "remote_ip": "remote.ip"}
_PEER = "io.istio.peer_principal"
_NEVER = {"!any": {"true"}}
# A waypoint's filter chains carry the Service's port in their name, for example inbound-vip|8080|http|....
_CHAIN = re.compile(r"^inbound-[a-z]+\|(\d+)\|")
# Both lists of an RBAC filter, and what istiod writes of the two actions that refuse nothing by themselves
# (pilot/pkg/security/authz/builder/builder.go).
_RULES = ("rules", "shadow_rules")
_ACTIONS = {"AUDIT": "LOG", "CUSTOM": "DENY"}
_BAD = "-deny-due-to-bad-CUSTOM-action"
# Versions of a listener that Envoy does not use, or not yet.
_NOT_ACTIVE = ("warming_state", "draining_state", "error_state")


@dataclasses.dataclass(frozen=True)
class Filter:
    """One RBAC filter that has rules of the policy, by their number.

    Attributes:
        shadow: it only notes what matches, for an authorizer to ask (CUSTOM), or for a dry run.
        port: of its chain.
        tcp: it sees no HTTP.
        bad: of a CUSTOM policy whose provider istiod can't use, so that it denies.
    """

    action: str
    shadow: bool
    rules: dict[int, Object]
    port: str
    tcp: bool
    bad: bool = False


def filters(dump: Object, namespace: str, name: str) -> list[Filter]:
    """The active RBAC filters of a config dump (Envoy's admin port, /config_dump) that have the policy.

    The names of the rules are istiod's (pilot/pkg/security/authz/builder/builder.go).
    """
    wanted = re.compile(rf"ns\[{re.escape(namespace)}\]-policy\[{re.escape(name)}\]-rule\[(\d+)\]({_BAD})?$")
    return list(_find(dump, wanted, ""))


def _find(node: t.Any, wanted: re.Pattern[str], port: str) -> t.Iterator[Filter]:
    if isinstance(node, list):
        for item in node:
            yield from _find(item, wanted, port)
    if not isinstance(node, dict):
        return
    chain = _CHAIN.match(str(node.get("name", "")))
    port = chain[1] if chain else port
    known = [node.get(key) for key in _RULES]
    if any(isinstance(item, dict) and isinstance(item.get("policies"), dict) for item in known):
        for key, item in zip(_RULES, known, strict=True):
            policies = item.get("policies") or {} if isinstance(item, dict) else {}
            matches = [(match, rule) for name, rule in policies.items() if (match := wanted.search(name))]
            if matches and isinstance(item, dict):
                tcp, bad = "filters.network.rbac" in str(node.get("@type")), any(match[2] for match, _rule in matches)
                found = {int(match[1]): rule for match, rule in matches}
                yield Filter(str(item.get("action", "ALLOW")), key == "shadow_rules", found, port, tcp, bad)
        return
    for key, item in node.items():
        if key not in _NOT_ACTIVE:
            yield from _find(item, wanted, port)


def difference(policy: Object, found: Filter) -> str:
    """How a filter differs from what istiod would write of the policy now; "" where it does not."""
    kind = action(policy)
    if kind == "CUSTOM" and found.bad:
        return "it denies all that it matches, because istiod does not have its provider, or can't use it"
    if found.action != _ACTIONS.get(kind, kind):
        return f"its action is {found.action}"
    if found.shadow != (kind == "CUSTOM" or is_dry_run(policy)):
        return "it only tries the policy (dry run)" if found.shadow else "it enforces what is only to be tried"
    # A policy without rules becomes one that never matches.
    wanted: list[Rule | None] = [*rules(policy)] or [None]
    lost = set(range(len(wanted))) - set(found.rules)
    if set(found.rules) - set(range(len(wanted))) or (lost and not found.tcp):
        return f"it has {len(found.rules)} of {len(wanted)} rules" if lost else f"it has {len(found.rules)} rules"
    for number, rule in found.rules.items():
        for part in _NAMES:
            expected = _expected(part, wanted[number], namespace_of(policy))
            loaded: list[Attributes] = []
            for item in rule.get(part) or []:
                loaded.append({})
                _walk(item, False, loaded[-1])
            if not _same(expected, loaded, found):
                return f"{part} of rule {number} are other ones"
    return ""


def compared(policy: Object) -> Object:
    """All of a policy that difference() compares."""
    every: list[Rule | None] = [*rules(policy)] or [None]
    written = [[_expected(part, rule, namespace_of(policy)) for part in _NAMES] for rule in every]
    return {"action": action(policy), "tried": is_dry_run(policy), "rules": written}


def _expected(part: str, rule: Rule | None, namespace: str) -> list[Attributes]:
    if rule is None:
        return [dict(_NEVER)]
    items = (rule.operations if part == "permissions" else rule.sources) or [[]]
    return [_attributes(part, [*item, *rule.when], namespace) for item in items]


def _attributes(part: str, conditions: t.Iterable[Condition], namespace: str) -> Attributes:
    """Attributes of one operation or source, with the rule's conditions that go with it."""
    found: Attributes = {}
    for item in conditions:
        header = _HEADER.fullmatch(item.attribute) if part == "principals" else None
        name = f"header:{header[1].lower()}" if header else _NAMES[part].get(item.attribute, "")
        for values, negated in ((item.wanted, False), (item.unwanted, True)) if name else ():
            for value in values:
                kind = "identity" if name in ("namespace", "account") else name
                _add(found, kind, _written(name, value, namespace), negated)
    return found


def _written(name: str, value: str, namespace: str) -> str:
    if name == "account":
        return value if "/" in value else f"{namespace}/{value}"
    if name == "namespace":
        return f"{value}/*"
    if name == "identity":
        return _identity(value)
    if name.endswith(".ip"):
        return network_of(value) or value
    if name == "path":
        return value.replace("{**}", "**").replace("{*}", "*")
    return value.lower() if name == "host" else value


def _walk(node: t.Any, negated: bool, found: Attributes) -> None:
    """Add the attributes of one of Envoy's permissions or principals (envoy/config/rbac/v3/rbac.proto)."""
    for kind, item in node.items():
        if kind in ("and_rules", "or_rules", "and_ids", "or_ids"):
            for part in item.get("rules") or item.get("ids") or []:
                _walk(part, negated, found)
        elif kind in ("not_rule", "not_id"):
            _walk(item, not negated, found)
        elif kind == "any" and negated:
            _add(found, "any", "true", True)
        elif kind == "header":
            name = str(item.get("name", "")).lower()
            attribute = {":method": "method", ":authority": "host"}.get(name, f"header:{name}")
            older = {key.removesuffix("_match"): value for key, value in item.items() if key.endswith("_match")}
            value = "*" if item.get("present_match") else _glob(item.get("string_match") or older)
            _add(found, attribute, value.lower() if attribute == "host" else value, negated)
        elif kind == "url_path":
            _add(found, "path", _glob(item.get("path") or {}), negated)
        elif kind == "uri_template":
            _add(found, "path", str((item.get("typed_config") or {}).get("path_template")), negated)
        elif kind == "destination_port":
            _add(found, "port", str(item), negated)
        elif kind == "destination_ip":
            _add(found, "destination.ip", _range(item), negated)
        elif kind in _ADDRESSES:
            _add(found, _ADDRESSES[kind], _range(item), negated)
        elif kind == "authenticated":
            _add(found, "identity", _identity(_glob(item.get("principal_name") or {})), negated)
        elif kind == "filter_state" and item.get("key") == _PEER:
            _add(found, "identity", _identity(_glob(item.get("string_match") or {})), negated)


def _add(found: Attributes, name: str, value: str, negated: bool) -> None:
    found.setdefault(f"!{name}" if negated else name, set()).add(value)


def _glob(matcher: Object) -> str:
    """A StringMatcher the way policies write it, with * for what may be anything."""
    if "safe_regex" in matcher:
        # Of istiod's generators (pilot/pkg/security/authz/model/generator.go).
        text = str((matcher["safe_regex"] or {}).get("regex"))
        for part in ("(?i)", "(.+/|)", "(/.+)?"):
            text = text.replace(part, "")
        return re.sub(r"\[\^/\][*+]|(?<!\\)\.[*+]", "*", text).replace("\\", "")
    if "prefix" in matcher:
        return f"{matcher['prefix']}*"
    if "suffix" in matcher:
        return f"*{matcher['suffix']}"
    return str(matcher.get("exact", "*"))


def _identity(text: str) -> str:
    """namespace/ServiceAccount of a SPIFFE ID, without the trust domain: istiod adds those of the mesh's aliases."""
    text = text.removeprefix("spiffe://")
    match = re.search(r"/ns/([^/]+)(?:/sa/([^/]+))?", text)
    return f"{match[1]}/{match[2] or '*'}" if match else text


def _range(item: Object) -> str:
    # A length that is left out is 0 (google.protobuf.UInt32Value in envoy/config/core/v3/address.proto).
    text = f"{item.get('address_prefix')}/{item.get('prefix_len', 0)}"
    return network_of(text) or text


def _same(expected: t.Sequence[Attributes], loaded: t.Sequence[Attributes], found: Filter) -> bool:
    """Whether both lists have the same items; of those that no filter of this kind can match, nothing is asked."""
    left = list(loaded)
    for wanted in expected:
        match = next((item for item in left if _fits(wanted, item, found)), None)
        if match is None:
            return False
        left.remove(match)
    return not left


def _fits(wanted: Attributes, loaded: Attributes, found: Filter) -> bool:
    wanted = {name: values for name, values in wanted.items() if not (found.tcp and name.lstrip("!").startswith(_L7))}
    loaded = dict(loaded)
    # A waypoint's chain knows its port, so istiod decides there what a rule says of ports (model.go,
    # AmbientDestinationPortAdapations): one that the chain has is left out, or forbids the whole rule.
    for name in ("port", "!port"):
        if name not in loaded and name in wanted and found.port in {"", *wanted[name]}:
            wanted.pop(name)
            if name == "!port":
                loaded.pop("!any", None)
    return wanted == loaded
