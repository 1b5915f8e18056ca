# AuthorizationPolicies as a waypoint's Envoy enforces them.
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Source: istio/istio pilot/pkg/security/authz/model (generator.go, permission.go, principal.go, matcher) and
# pilot/pkg/security/trustdomain/bundle.go.

from __future__ import annotations

import dataclasses
import re
import typing as t

from .l4 import Connection, glob, network_of, said, within
from .mesh import Object, namespace_of
from .policies import SOURCE, Condition, Match, Rule, Truth, action, every, holds, match_of, rules, some

_WHEN = (
    *SOURCE.values(),
    "destination.ip",
    "destination.port",
    "connection.sni",
    "request.auth.audiences",
    "request.auth.presenter",
)
_HEADER = re.compile(r"request\.headers\[(.+)\]")
_OTHER = re.compile(rf"{_HEADER.pattern}|request\.auth\.claims(\[.+\])+|experimental\..*")
# What only a request has; a filter for TCP leaves it out.
_HTTP = ("method", "path", "host", "request.")
# What curl, or a proxy on the way, sends without the claim's saying so. Its value is nobody's promise.
UNSAID = re.compile(
    r"user-agent|accept-encoding|content-(type|length)|connection|via|forwarded|x-(forwarded|envoy|request|b3)-?.*|"
    r"traceparent|tracestate|baggage|b3|:.*"
)
# What Envoy takes in HTTP/1.1; to others it answers 400 before any policy (http1.allow_custom_methods is off).
# Measured through a waypoint of Istio 1.31's Envoy; the common ones come first.
METHODS = (
    "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "ACL", "BIND", "CHECKOUT", "CONNECT", "COPY", "LINK",
    "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MOVE", "MSEARCH", "NOTIFY", "PROPFIND", "PROPPATCH",
    "PURGE", "REBIND", "REPORT", "SEARCH", "SOURCE", "SUBSCRIBE", "TRACE", "UNBIND", "UNLINK", "UNLOCK",
    "UNSUBSCRIBE",
)  # fmt: skip
# What Envoy's normalisation of paths may change (RFC 3986, 6.2.2; istiod's default is BASE, MERGE_SLASHES does more).
CHANGED = re.compile(r"%|\\|//|/\.{1,2}(/|$)")


@dataclasses.dataclass(frozen=True)
class HttpRequest:
    """A request as a waypoint sees it. path: without the query; headers: by name in lower case."""

    method: str
    authority: str
    path: str
    headers: t.Mapping[str, str]
    may_have_token: bool = False


@dataclasses.dataclass(frozen=True)
class Context:
    """What a rule is matched against. request: None where the waypoint sees bytes alone, as of TLS."""

    connection: Connection
    request: HttpRequest | None
    trust_domains: tuple[str, ...] = ("cluster.local",)


def policy_matches(policy: Object, context: Context) -> Match:
    """Whether any rule matches a request."""
    found = rules(policy)
    results = [rule_matches(policy, rule, context) for rule in found]
    return match_of(results, lambda: _why_not(policy, found[0], context))


def rule_matches(policy: Object, rule: Rule, context: Context) -> Truth:
    """Whether a rule matches a request. An empty source or operation is any, unlike at ztunnel."""
    if any(item.key not in _WHEN and not _OTHER.fullmatch(item.key) for item in rule.when):
        # istiod leaves out a rule with a key that it does not know.
        return False
    groups = _groups(rule)
    if context.request is None and action(policy) == "ALLOW":
        for item in (item for group in groups for conditions in group for item in conditions):
            if item.attribute.startswith(_HTTP):
                return False
    return every(_group_matches(group, context, namespace_of(policy)) for group in groups)


def _groups(rule: Rule) -> list[list[list[Condition]]]:
    """Of operations, sources and `when` the alternatives."""
    return [rule.operations or [[]], rule.sources or [[]], [rule.when]]


def _group_matches(group: list[list[Condition]], context: Context, namespace: str) -> Truth:
    return some(every(_holds(item, context, namespace) for item in conditions) for conditions in group)


def _why_not(policy: Object, rule: Rule, context: Context) -> str:
    """What of a rule does not fit a request, in words."""
    namespace = namespace_of(policy)
    for group in _groups(rule):
        for item in group[0] if not _group_matches(group, context, namespace) else []:
            if not _holds(item, context, namespace):
                return said(item.attribute, item.wanted, item.unwanted, _actual(item.attribute, context))
    return ""


def _actual(attribute: str, context: Context) -> str:
    request, connection = context.request, context.connection
    if attribute.startswith("source.") and attribute != "source.ip":
        return str(connection.identity or "nobody")
    if attribute == "destination.port":
        return f"the Service's port {connection.port}"
    if request is None:
        return "not seen, the waypoint reads bytes alone"
    known = {"method": request.method, "path": request.path, "host": request.authority}
    header = _HEADER.fullmatch(attribute)
    return known.get(attribute) or (request.headers.get(header[1].lower(), "missing") if header else "not there")


def http_attributes(rule: Rule, port: int | None = None) -> tuple[str, ...]:
    """Attributes of a rule that are there in HTTP alone. port: leaves out operations that are for other ports."""
    held = [one for one in rule.operations if port is None or admits(one, port)]
    found = (item for items in (*held, *rule.sources, rule.when) for item in items)
    return tuple(dict.fromkeys(item.key for item in found if item.attribute.startswith(_HTTP)))


def admits(conditions: t.Iterable[Condition], port: int) -> bool:
    """Whether conditions may hold at a port."""
    about = [one for one in conditions if one.attribute == "destination.port"]
    return all((not one.wanted or str(port) in one.wanted) and str(port) not in one.unwanted for one in about)


def is_known(key: str) -> bool:
    """Whether istiod knows the key of a condition."""
    return key in _WHEN or _OTHER.fullmatch(key) is not None


def _holds(condition: Condition, context: Context, namespace: str) -> Truth:
    attribute = condition.attribute
    if attribute.startswith(_HTTP) and context.request is None:
        # Only rules that refuse come here: the attribute is left out, so that the rule is wider.
        return True
    return holds(condition.wanted, condition.unwanted, lambda value: _fits(attribute, value, context, namespace))


def _fits(attribute: str, value: str, context: Context, namespace: str) -> Truth:
    connection = context.connection
    if attribute == "destination.port":
        return None if connection.port is None else value == str(connection.port)
    if attribute == "destination.ip":
        return within(connection.destination_ip, network_of(value))
    if attribute == "source.ip":
        return within(connection.source_ip, network_of(value))
    if attribute == "remote.ip":
        # What X-Forwarded-For may change (Envoy, use_remote_address).
        forwarded = context.request is not None and "x-forwarded-for" in context.request.headers
        return within(None if forwarded else connection.source_ip, network_of(value))
    if attribute.startswith("source."):
        return _identity_fits(attribute, value, context, namespace)
    if attribute == "connection.sni":
        return False if context.request is not None else None
    if attribute.startswith("experimental."):
        return None
    return _request_fits(attribute, value, t.cast(HttpRequest, context.request))


def _identity_fits(attribute: str, value: str, context: Context, namespace: str) -> Truth:
    identity = context.connection.identity
    if identity is None:
        return False
    if attribute == "source.namespace":
        pattern = ".*".join(re.escape(part) for part in value.split("*"))
        return re.fullmatch(rf".*/ns/{pattern}/.*", str(identity)) is not None
    if attribute == "source.serviceAccount":
        space, slash, account = value.rpartition("/")
        return (space if slash else namespace, account) == (identity.namespace, identity.account)
    if attribute == "source.trustDomain":
        return glob(value, identity.trust_domain)
    return any(glob(item, str(identity)) for item in _with_aliases(value, context.trust_domains))


def _with_aliases(value: str, trust_domains: t.Sequence[str]) -> list[str]:
    """A principal with the mesh's trust domains in place of the one it names, where that one is the mesh's."""
    domain, slash, rest = value.partition("/")
    if not slash or value.count("/") != 4:
        return [value]
    own = {*trust_domains, "cluster.local"}
    if not any(glob(domain, item) for item in own):
        return [value]
    return [f"{item}/{rest}" for item in trust_domains]


def _request_fits(attribute: str, value: str, request: HttpRequest) -> Truth:
    if attribute == "method":
        return glob(value, request.method)
    if attribute == "host":
        return glob(value.lower(), request.authority.lower())
    if attribute == "path":
        return None if CHANGED.search(request.path) else path_fits(value, request.path)
    header = _HEADER.fullmatch(attribute)
    if header:
        name = header[1].lower()
        if name in request.headers:
            return value == "*" or glob(value, request.headers[name])
        if name == "accept":
            return glob(value, "*/*")
        # Envoy keeps `host` as :authority.
        return None if name == "host" or UNSAID.fullmatch(name) else False
    # Attributes of a JWT: without one, nothing of it matches.
    return None if request.may_have_token else False


def path_fits(value: str, path: str) -> bool:
    """Whether a path fits a policy's value: exact, with a star at one end, or a template."""
    if "{*}" not in value and "{**}" not in value:
        return glob(value, path)
    text = value.replace("{**}", "\0").replace("{*}", "*")
    pattern = "".join({"\0": ".*", "*": "[^/]+"}.get(char) or re.escape(char) for char in text)
    return re.fullmatch(pattern, path) is not None
