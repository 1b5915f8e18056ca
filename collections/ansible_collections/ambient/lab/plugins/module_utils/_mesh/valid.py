# What Istio's webhook refuses of its policies, and the API of names: a folder of manifests has nobody else that does.
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Sources: istio/istio pkg/config/validation/validation.go (ValidateAuthorizationPolicy, ValidatePeerAuthentication,
# ValidateRequestAuthentication) and pkg/config/security; Kubernetes, "Object Names and IDs".
# The form of the fields is in shapes.py.

from __future__ import annotations

import re
import typing as t

from . import l7
from .l4 import network_of
from .mesh import Object
from .policies import GROUPS, action, not_, selector, target_refs, written_rules

# Where a problem is, as keys of the object, and what it is.
Problem = tuple[tuple[t.Any, ...], str]
_MAX_ACCOUNTS, _MAX_PORT, _MAX_LABEL, _MAX_NAME = 16, 65535, 63, 253
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_IDENTITIES = ("namespaces", "serviceAccounts", "trustDomains", "principals", "requestPrincipals")
_NOT_CUSTOM = ("source.namespace", "source.principal", "source.serviceAccount", "source.trustDomain", "request.auth.")


def problems(policy: Object) -> t.Iterator[Problem]:
    """Why the API would refuse a policy of Istio's that has the form of one; nothing where it takes it."""
    spec = policy.get("spec", {})
    if spec.get("selector") is not None and target_refs(policy):
        yield ("spec", "selector"), "selector and targetRefs exclude each other: leave one out"
    yield from _targets(spec)
    for key, value in selector(policy).items():
        if not key or "*" in key + value:
            yield (
                ("spec", "selector", "matchLabels", key),
                f"a selector takes no wildcards and no empty key: {key}={value}",
            )
    more = {"AuthorizationPolicy": _authorization, "PeerAuthentication": _peers, "RequestAuthentication": _tokens}
    yield from more[policy["kind"]](policy) if policy["kind"] in more else ()


def misnamed(kind: str, meta: Object) -> t.Iterator[Problem]:
    """Why the API would refuse the names of an object."""
    form = _LABEL if kind in ("Namespace", "Service") else _SUBDOMAIN
    for key, pattern in (("name", form), ("namespace", _LABEL)):
        text = str(meta.get(key, "a"))
        if not re.fullmatch(pattern, text) or len(text) > (_MAX_NAME if pattern == _SUBDOMAIN else _MAX_LABEL):
            what = "labels of a-z, 0-9 and -, with dots between" if pattern == _SUBDOMAIN else "a-z, 0-9 and - alone"
            yield ("metadata", key), f"{text!r} is no {key} that the API takes: it must be {what} (DNS-1123)"


def _peers(policy: Object) -> t.Iterator[Problem]:
    ports = policy.get("spec", {}).get("portLevelMtls")
    if ports is not None and not ports:
        yield ("spec", "portLevelMtls"), "portLevelMtls must have a port, or not be there"
    if ports and not selector(policy):
        yield ("spec", "portLevelMtls"), "portLevelMtls needs a selector with labels: it is for workloads alone"
    for port in ports or ():
        if not 0 < int(port) <= _MAX_PORT:
            yield ("spec", "portLevelMtls", port), f"{port} is no port"


def _tokens(policy: Object) -> t.Iterator[Problem]:
    for number, rule in enumerate(policy.get("spec", {}).get("jwtRules") or []):
        if not (rule.get("issuer") or rule.get("jwksUri") or rule.get("jwks_uri")):
            yield ("spec", "jwtRules", number), "a jwtRule needs issuer or jwksUri"


def _authorization(policy: Object) -> t.Iterator[Problem]:
    spec, kind = policy.get("spec", {}), action(policy)
    if kind in ("DENY", "CUSTOM") and not written_rules(policy):
        yield ("spec",), f"{kind} needs rules; `rules: [{{}}]` matches everything"
    if kind == "CUSTOM" and not (spec.get("provider") or {}).get("name"):
        yield ("spec",), "CUSTOM needs provider.name"
    if kind != "CUSTOM" and spec.get("provider"):
        yield ("spec", "provider"), f"provider is for CUSTOM alone, not for {kind}"
    for number, rule in enumerate(written_rules(policy)):
        for where, text in _rule(rule, kind):
            yield ("spec", "rules", number, *where), text


def twice(root: t.Any) -> t.Iterator[tuple[int, str]]:
    """Line and name of keys that stand twice in a mapping below a YAML node: each reader of YAML takes another one."""
    nodes, seen = [root], set()
    while nodes:
        node = nodes.pop()
        if id(node) in seen or node.id == "scalar":
            continue
        seen.add(id(node))
        pairs: list[t.Any] = node.value if node.id == "mapping" else [(None, value) for value in node.value]
        keys: set[str] = set()
        for key, value in pairs:
            name = str(key.value) if key is not None else "<<"
            if name in keys and name != "<<":
                yield key.start_mark.line + 1, name
            keys.add(name)
            nodes.append(value)


def _targets(spec: Object) -> t.Iterator[Problem]:
    single = [(("targetRef",), spec["targetRef"])] if spec.get("targetRef") else []
    for where, ref in [
        *single,
        *((("targetRefs", number), ref) for number, ref in enumerate(spec.get("targetRefs", ()))),
    ]:
        kind, group = str(ref.get("kind")), ref.get("group") or ""
        if group not in GROUPS.get(kind, ()):
            known = ", ".join(f"{name} of {' or '.join(map(repr, groups))}" for name, groups in GROUPS.items())
            yield ("spec", *where), f"targetRefs can't name {kind} of group {group!r}: known are {known}"
        if ref.get("namespace"):
            yield ("spec", *where), "a targetRef must have no namespace: it names an object of the policy's own"


def _rule(rule: Object, kind: str) -> t.Iterator[Problem]:
    for key, inner in (("from", "source"), ("to", "operation")):
        for number, entry in enumerate(rule.get(key) or []):
            fields = {name: values for name, values in ((entry or {}).get(inner) or {}).items() if values}
            if not fields:
                yield (key, number), f"{inner} has no field that says anything"
            for name, values in fields.items():
                for text in _values(_plain(name), values, kind):
                    yield (key, number, inner, name), text
            named = {_plain(name) for name in fields}
            if "serviceAccounts" in named and named & {"namespaces", "principals"}:
                yield (key, number, inner), "serviceAccounts can't stand beside namespaces or principals"
    for number, entry in enumerate(rule.get("when") or []):
        name, values = str(entry.get("key")), [*(entry.get("values") or []), *(entry.get("notValues") or [])]
        if not l7.is_known(name):
            yield ("when", number, "key"), f"unknown key {name}"
        elif not values:
            yield ("when", number), f"{name} needs values or notValues"
        elif kind == "CUSTOM" and name.startswith(_NOT_CUSTOM):
            yield ("when", number, "key"), f"CUSTOM can't use {name}"
        field = {"source.ip": "ipBlocks", "remote.ip": "ipBlocks", "destination.ip": "ipBlocks"}.get(name, name)
        field = {"destination.port": "ports", "source.serviceAccount": "serviceAccounts"}.get(name, field)
        for text in _values(field, values, ""):
            yield ("when", number), text


def _plain(name: str) -> str:
    """A field without its negation."""
    return (
        f"{name[3].lower()}{name[4:]}"
        if name.startswith("not") and name == not_(f"{name[3].lower()}{name[4:]}")
        else name
    )


def _values(field: str, values: t.Sequence[str], kind: str) -> t.Iterator[str]:
    if kind == "CUSTOM" and field in _IDENTITIES:
        yield f"CUSTOM can't use {field}: its authorizer is asked before anybody knows who calls"
    if field == "serviceAccounts" and len(values) > _MAX_ACCOUNTS:
        yield f"serviceAccounts has {len(values)} values, at most {_MAX_ACCOUNTS} are allowed"
    for value in values:
        if not value:
            yield f"{field} has an empty value"
        elif field == "ports" and not (value.isdecimal() and 0 < int(value) <= _MAX_PORT):
            yield f"{value} is no port"
        elif field in ("ipBlocks", "remoteIpBlocks") and not network_of(value):
            yield f"{value} is neither an address nor a block of them (CIDR)"
        elif field == "serviceAccounts" and ("*" in value or value.count("/") > 1):
            yield f"serviceAccounts takes `name` and `namespace/name` without wildcards, not {value}"
        elif field == "paths" and ("{*}" in value or "{**}" in value):
            parts = [part for part in value.split("/") if "{" in part or "}" in part]
            if not {*parts} <= {"{*}", "{**}"} or "{**}" in parts[:-1]:
                yield f"{value}: {{*}} and {{**}} stand for whole segments, and {{**}} is the last of them"
