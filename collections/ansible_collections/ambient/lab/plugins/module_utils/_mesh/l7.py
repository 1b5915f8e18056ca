# AuthorizationPolicies as a waypoint's Envoy enforces them.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.
#
# Source: istio/istio pilot/pkg/security/authz/model (generator.go, permission.go, principal.go, matcher) and
# pilot/pkg/security/trustdomain/bundle.go.

from __future__ import annotations

import dataclasses
import re
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._mesh.l4 import (
    Connection,
    glob,
    network_of,
    not_,
    said,
    within,
)
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Object, namespace_of
from ansible_collections.ambient.lab.plugins.module_utils._mesh.policies import action, rules
from ansible_collections.ambient.lab.plugins.module_utils._mesh.truth import Match, Truth, every, negated, some

_OPERATION = {"methods": "method", "paths": "path", "hosts": "host", "ports": "destination.port"}
_SOURCE = {
    "principals": "source.principal",
    "namespaces": "source.namespace",
    "serviceAccounts": "source.serviceAccount",
    "trustDomains": "source.trustDomain",
    "ipBlocks": "source.ip",
    "remoteIpBlocks": "remote.ip",
    "requestPrincipals": "request.auth.principal",
}
_WHEN = (
    *(value for value in _SOURCE.values()),
    "destination.ip",
    "destination.port",
    "connection.sni",
    "request.auth.audiences",
    "request.auth.presenter",
)
_HEADER = re.compile(r"request\.headers\[(.+)\]")
_CLAIM = re.compile(r"request\.auth\.claims(\[.+\])+")
# What only a request has; a filter for TCP leaves it out.
_HTTP = ("method", "path", "host", "request.")
# What curl, or a proxy on the way, sends without the claim's saying so. Its value is nobody's promise.
UNSAID = re.compile(
    r"user-agent|accept-encoding|content-(type|length)|connection|via|forwarded|x-(forwarded|envoy|request|b3)-?.*|"
    r"traceparent|tracestate|baggage|b3|:.*"
)
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


@dataclasses.dataclass(frozen=True)
class Condition:
    """One attribute of a rule, with the values that must match and those that must not."""

    attribute: str
    wanted: tuple[str, ...]
    unwanted: tuple[str, ...]

    @property
    def is_http(self) -> bool:
        """Whether only a request has it."""
        return self.attribute.startswith(_HTTP)


def policy_matches(policy: Object, context: Context) -> Match:
    """Whether any rule matches a request."""
    results = [rule_matches(policy, rule, context) for rule in rules(policy)]
    if True in results:
        return Match(True, results.index(True))
    return Match(some(results), why_not=_why_not(policy, context) if results else "it has no rule")


def rule_matches(policy: Object, rule: Object, context: Context) -> Truth:
    """Whether a rule matches a request. An empty source or operation is any, unlike at ztunnel."""
    namespace, widened = namespace_of(policy), action(policy) != "ALLOW"
    alternatives = _alternatives(rule)
    if alternatives is None:
        # istiod leaves out a rule with a key that it does not know.
        return False
    if context.request is None and not widened:
        for item in (item for group in alternatives for conditions in group for item in conditions):
            if item.is_http:
                return False
    return every(
        some(every(_holds(item, context, namespace) for item in conditions) for conditions in group)
        for group in alternatives
    )


def _alternatives(rule: Object) -> list[list[list[Condition]]] | None:
    """Of `to`, `from` and `when` the alternatives, each a list of conditions; None with an unknown condition."""
    when = [_condition(item) for item in rule.get("when") or []]
    if None in when:
        return None
    return [
        [_conditions((item or {}).get("operation") or {}, _OPERATION) for item in rule.get("to") or []] or [[]],
        [_conditions((item or {}).get("source") or {}, _SOURCE) for item in rule.get("from") or []] or [[]],
        [[item for item in when if item]],
    ]


def _why_not(policy: Object, context: Context) -> str:
    """What of the first rule does not fit a request, in words."""
    for group in _alternatives(rules(policy)[0]) or []:
        if some(every(_holds(item, context, namespace_of(policy)) for item in conditions) for conditions in group):
            continue
        for item in group[0]:
            if not _holds(item, context, namespace_of(policy)):
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


def _conditions(given: Object, names: t.Mapping[str, str]) -> list[Condition]:
    found = []
    for key, attribute in names.items():
        wanted, unwanted = given.get(key) or (), given.get(not_(key)) or ()
        if wanted or unwanted:
            found.append(Condition(attribute, tuple(map(str, wanted)), tuple(map(str, unwanted))))
    return found


def _condition(given: Object) -> Condition | None:
    key = str(given.get("key"))
    known = key in _WHEN or _HEADER.fullmatch(key) or _CLAIM.fullmatch(key) or key.startswith("experimental.")
    if not known:
        return None
    values = (tuple(map(str, given.get(name) or ())) for name in ("values", "notValues"))
    return Condition(key, *values)


def _holds(condition: Condition, context: Context, namespace: str) -> Truth:
    if condition.is_http and context.request is None:
        # Only rules that refuse come here: the attribute is left out, so that the rule is wider.
        return True
    wanted = some(_fits(condition.attribute, value, context, namespace) for value in condition.wanted)
    unwanted = some(_fits(condition.attribute, value, context, namespace) for value in condition.unwanted)
    return every((wanted if condition.wanted else True, negated(unwanted)))


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
    principal = f"spiffe://{identity}"
    if attribute == "source.namespace":
        pattern = ".*".join(re.escape(part) for part in value.split("*"))
        return re.fullmatch(rf".*/ns/{pattern}/.*", principal) is not None
    if attribute == "source.serviceAccount":
        space, slash, account = value.rpartition("/")
        return (space if slash else namespace, account) == (identity.namespace, identity.account)
    if attribute == "source.trustDomain":
        return glob(value, identity.trust_domain)
    return any(_principal_fits(item, principal) for item in _with_aliases(value, context.trust_domains))


def _principal_fits(value: str, principal: str) -> bool:
    if value == "*":
        return True
    if value.startswith("*"):
        return principal.removeprefix("spiffe://").endswith(value[1:])
    return glob(f"spiffe://{value}", principal)


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
