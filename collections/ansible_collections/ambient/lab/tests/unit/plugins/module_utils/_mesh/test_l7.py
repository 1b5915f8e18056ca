# How a waypoint's Envoy evaluates a policy: one row per fact of istiod's generators.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._mesh.l4 import Connection, Identity
from ansible_collections.ambient.lab.plugins.module_utils._mesh.l7 import Context, HttpRequest, policy_matches
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import policy

CONNECTION = Connection(Identity("cluster.local", "layer7", "curl"), "10.0.0.1", "10.96.0.1", 80)
REQUEST = HttpRequest("GET", "app.layer7:8080", "/a/b/c", {"x-team": "blue", "x-empty": ""})


def matches(
    rule: dict[str, t.Any], request: HttpRequest | None = REQUEST, action: str = "DENY", **more: t.Any
) -> t.Any:
    context = Context(CONNECTION, request, **more)
    return policy_matches(policy("p", "layer7", action=action, rules=[rule]), context).truth


def operation(**fields: t.Any) -> dict[str, t.Any]:
    return {"to": [{"operation": fields}]}


def source(**fields: t.Any) -> dict[str, t.Any]:
    return {"from": [{"source": fields}]}


def when(key: str, *values: str, **more: t.Any) -> dict[str, t.Any]:
    return {"when": [{"key": key, "values": list(values), **more}]}


TABLE: list[tuple[dict[str, t.Any], bool | None]] = [
    ({}, True),
    (operation(methods=["GET"]), True),
    (operation(methods=["get"]), False),
    (operation(methods=["G*"]), True),
    (operation(notMethods=["GET"]), False),
    (operation(paths=["/a/b/c"]), True),
    (operation(paths=["/a/b"]), False),
    (operation(paths=["/a/*"]), True),
    (operation(paths=["*/c"]), True),
    (operation(paths=["/A/*"]), False),
    (operation(paths=["/a/{*}/c"]), True),
    (operation(paths=["/a/{*}"]), False),
    (operation(paths=["/a/{**}"]), True),
    (operation(paths=["/{**}/c"]), True),
    (operation(notPaths=["/a/*"]), False),
    # The port counts in a host, letters' case does not.
    (operation(hosts=["app.layer7"]), False),
    (operation(hosts=["APP.layer7:8080"]), True),
    (operation(hosts=["app.*"]), True),
    (operation(hosts=["*:8080"]), True),
    (operation(ports=["80"]), True),
    (operation(ports=["8080"]), False),
    (operation(notPorts=["80"]), False),
    (source(principals=["cluster.local/ns/layer7/sa/curl"]), True),
    (source(principals=["spiffe://cluster.local/ns/layer7/sa/curl"]), False),
    (source(principals=["*/curl"]), True),
    (source(principals=["cluster.local/ns/layer7/*"]), True),
    (source(notPrincipals=["*"]), False),
    (source(namespaces=["layer7"]), True),
    (source(namespaces=["l*7"]), True),
    (source(namespaces=["layer"]), False),
    (source(notNamespaces=["layer7"]), False),
    (source(serviceAccounts=["curl"]), True),
    (source(serviceAccounts=["default/curl"]), False),
    (source(ipBlocks=["10.0.0.0/8"]), True),
    (source(remoteIpBlocks=["10.9.0.0/16"]), False),
    # Nobody has a token here: of a JWT nothing matches, and everything negative does.
    (source(requestPrincipals=["*"]), False),
    (source(notRequestPrincipals=["*"]), True),
    (when("request.auth.claims[group]", "a"), False),
    (when("request.headers[X-Team]", "blue"), True),
    (when("request.headers[x-team]", "b*"), True),
    (when("request.headers[x-team]", "Blue"), False),
    # A star is any value, an empty one, too.
    (when("request.headers[x-empty]", "*"), True),
    (when("request.headers[x-other]", "blue"), False),
    (when("request.headers[x-other]", notValues=["blue"]), True),
    (when("request.headers[accept]", "*/*"), True),
    # curl and the proxies send more than a claim says.
    (when("request.headers[user-agent]", "curl/8"), None),
    (when("request.headers[x-forwarded-proto]", notValues=["http"]), None),
    (when("destination.ip", "10.96.0.1"), True),
    (when("destination.port", "80"), True),
    (when("connection.sni", "app"), False),
    (when("source.principal", "cluster.local/ns/layer7/sa/curl"), True),
    (when("experimental.envoy.filters.a[b]", "c"), None),
    # istiod leaves out a rule with a condition that it does not know.
    (when("request.body", "x"), False),
    (operation(methods=["GET"]) | source(namespaces=["other"]), False),
    ({"to": [{"operation": {"methods": ["PUT"]}}, {"operation": {"paths": ["/a/*"]}}]}, True),
    (operation(methods=["GET"], paths=["/x"]), False),
    # An entry that is empty is any one, unlike at ztunnel.
    ({"to": [{}]}, True),
]


@pytest.mark.parametrize(("rule", "expected"), TABLE)
def test_a_rule_against_a_request(rule: dict[str, t.Any], expected: bool | None) -> None:
    assert matches(rule) is expected


@pytest.mark.parametrize(
    ("rule", "action", "expected"),
    [
        (operation(methods=["GET"]), "ALLOW", False),
        # The opposite of ztunnel: what is left of a rule that refuses refuses more.
        (operation(methods=["GET"]), "DENY", True),
        (operation(methods=["GET"]) | source(namespaces=["other"]), "DENY", False),
        (operation(ports=["80"]), "ALLOW", True),
    ],
)
def test_where_the_waypoint_sees_bytes_alone(rule: dict[str, t.Any], action: str, expected: bool) -> None:
    assert matches(rule, None, action) is expected


def test_a_path_that_envoy_may_rewrite_is_not_guessed() -> None:
    for path in ("/a/../b", "/a%2Fb", "/./a", "/a\\b"):
        assert matches(operation(paths=["/a*"]), HttpRequest("GET", "app", path, {})) is None


def test_with_a_token_nobody_knows_what_is_in_it() -> None:
    request = HttpRequest("GET", "app", "/", {"authorization": "Bearer x"}, may_have_token=True)
    assert matches(source(requestPrincipals=["*"]), request) is None
    assert matches(when("request.auth.claims[group]", "a"), request) is None


def test_aliases_of_the_trust_domain_count_at_a_waypoint() -> None:
    rule = source(principals=["old/ns/layer7/sa/curl"])
    assert matches(rule) is False
    assert matches(rule, trust_domains=("cluster.local", "old")) is True
    # cluster.local stands for the mesh's own domain, whatever that is.
    assert matches(source(principals=["cluster.local/ns/layer7/sa/curl"]), trust_domains=("td",)) is False
