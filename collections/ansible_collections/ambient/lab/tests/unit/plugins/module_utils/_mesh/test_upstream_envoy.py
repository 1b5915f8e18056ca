# What Istio's own tests say of a waypoint's Envoy.
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Istio's own tests say of a waypoint's Envoy; test_upstream_cases.py counts them and says what is left out."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._mesh.decisions import at_waypoint
from ansible_collections.ambient.lab.plugins.module_utils._mesh.l4 import Connection, Identity
from ansible_collections.ambient.lab.plugins.module_utils._mesh.l7 import (
    Context,
    HttpRequest,
    path_fits,
    policy_matches,
)
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import MeshConfig, Object
from ansible_collections.ambient.lab.plugins.module_utils._mesh.paths import WaypointHop
from ansible_collections.ambient.lab.plugins.module_utils._mesh.waypoints import Waypoint
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import mesh_of, policy, service

DRY = {"istio.io/dry-run": "true"}


def source(**fields: t.Any) -> Object:
    return {"from": [{"source": fields}]}


def to(**fields: t.Any) -> Object:
    return {"to": [{"operation": fields}]}


def when(key: str, *values: str) -> Object:
    return {"when": [{"key": key, "values": list(values)}]}


def decided(policies: list[Object], http: bool, config: MeshConfig, **of: t.Any) -> str:
    """The verdict on a request; of: who (an identity), ip, port, method, path, host, headers."""
    who = of.get("who", Identity("cluster.local", "foo", "client"))
    connection = Connection(who, of.get("ip", "10.0.0.1"), "10.96.0.1", of.get("port", 8000))
    hop = WaypointHop(Waypoint("foo", "wp"), service("httpbin", "foo"), connection, tuple(policies), ())
    request = HttpRequest(of.get("method", "PUT"), of.get("host", "h"), of.get("path", "/x"), of.get("headers", {}))
    return at_waypoint(mesh_of(config=config), hop, request if http else None).verdict


def rules(*items: Object, action: str = "ALLOW", **spec: t.Any) -> list[Object]:
    return [policy("httpbin", "foo", action=action, rules=list(items), **spec)]


def asks(provider: str, path: str) -> Object:
    return policy(provider + path[1:], "foo", action="CUSTOM", provider={"name": provider}, rules=[to(paths=[path])])


CUSTOM = [asks("default", "/httpbin1"), asks("default", "/httpbin2")]
DEFAULT = {"default": "http"}
MANY = [rules(item)[0] | {"metadata": {"name": f"p{number}", "namespace": "foo", "annotations": {}}}
        for number, item in enumerate([
            to(methods=["GET", "POST"]), to(paths=["/v1", "/v2"]), to(hosts=["google.com", "httpbin.org"]),
            to(ports=["80", "90"]), source(principals=["principals1"]), source(requestPrincipals=["r1"]),
            source(namespaces=["namespaces1"]), source(remoteIpBlocks=["5.6.7.0/24"]),
            when("request.headers[X-abc]", "abc1")])]  # fmt: skip
PATHS = ["/exact", "/prefix/*", "*/suffix", "*", "/path/template/{*}", "/{**}/path/template"]
ALIASES = {"principals": ["cluster.local/ns/r/sa/a"]}
EVERY = source(principals=["*"], requestPrincipals=["r"], namespaces=["*"]) | to(methods=["*"], paths=["*"])


def of(domain: str, namespace: str = "r", account: str = "a") -> Object:
    return {"who": Identity(domain, namespace, account)}


# Policies, the mesh's trust domains, its providers, and requests with their verdicts.
BUILT: list[tuple[str, list[Object], tuple[str, ...], dict[str, str], list[tuple[Object, str]]]] = [
    ("allow-empty-rule", rules({}), (), {}, [({}, "allow")]),
    ("allow-full-rule", rules(EVERY), (), {}, [({}, "deny")]),
    ("allow-nil-rule", rules(), (), {}, [({}, "deny")]),
    ("allow-path", rules(to(paths=PATHS, notPaths=["*"])), (), {}, [({"path": "/exact"}, "deny")]),
    ("audit-full-rule", rules(EVERY, action="AUDIT"), (), {}, [({}, "allow")]),
    ("custom-grpc-provider", CUSTOM, (), {"default": "grpc"}, [({"path": "/httpbin1"}, "unknown"), ({}, "allow")]),
    ("custom-http-provider", CUSTOM, (), DEFAULT, [({"path": "/httpbin2"}, "unknown"), ({}, "allow")]),
    ("custom-bad-multiple-providers", [CUSTOM[0], asks("another", "/httpbin2")], (), DEFAULT,
     [({"path": "/httpbin1"}, "deny"), ({"path": "/httpbin2"}, "deny"), ({}, "allow")]),
    ("deny-and-allow", [*rules(source(principals=["deny*"]), action="DENY"),
     policy("allow", "foo", rules=[source(principals=["allow*"])])], (), {},
     [(of("deny.td"), "deny"), (of("allow.td"), "allow"), ({}, "deny")]),
    ("deny-empty-rule", rules({}, action="DENY"), (), {}, [({}, "deny")]),
    ("dry-run-allow-and-deny", [*rules(to(paths=["/allow"]), annotations=DRY),
     policy("d", "foo", action="DENY", rules=[to(paths=["/deny"])], annotations=DRY)], (), {},
     [({"path": "/deny"}, "allow"), ({}, "allow")]),
    ("dry-run-allow", rules(to(paths=["/exact"]), annotations=DRY), (), {}, [({}, "allow")]),
    ("dry-run-mix", [*rules(to(paths=["/allow"]), annotations=DRY),
     policy("a", "foo", rules=[to(paths=["/another"])], annotations={"istio.io/dry-run": "false"})], (), {},
     [({"path": "/another"}, "allow"), ({"path": "/allow"}, "deny")]),
    ("multiple-policies", MANY, (), {},
     [({}, "deny"), ({"method": "POST"}, "allow"), ({"path": "/v2"}, "allow"), ({"host": "google.com"}, "allow"),
      ({"port": 90}, "allow"), (of("td", "namespaces1"), "allow"), ({"headers": {"x-abc": "abc1"}}, "allow"),
      ({"ip": "5.6.7.8"}, "allow")]),
    ("single-policy", rules(EVERY | when("destination.ip", "10.96.0.1")), (), {}, [({}, "deny")]),
    ("trust-domain-one-alias", rules(source(**ALIASES) | to(methods=["M"])), ("td1", "cluster.local"), {},
     [(of("td1") | {"method": "M"}, "allow"), (of("cluster.local") | {"method": "M"}, "allow"),
      (of("td1"), "deny"), (of("other") | {"method": "M"}, "deny")]),
    ("trust-domain-multiple-aliases", rules(source(principals=["some-td/ns/r/sa/a"])),
     ("td1", "cluster.local", "some-td"), {},
     [(of("td1"), "allow"), (of("some-td"), "allow"), (of("cluster.local"), "allow"), (of("other"), "deny")]),
    ("trust-domain-wildcard-in-principal", rules(source(principals=["*bar/ns/r/sa/a"])), ("td1", "foobar"), {},
     [(of("td1"), "allow"), (of("foobar"), "allow"), (of("other"), "deny")]),
    ("trust-domain-aliases-in-source-principal",
     rules(source(namespaces=["istio-system"]) | when("source.principal", "*-td/ns/istio-system/sa/a")),
     ("new-td", "old-td", "some-trustdomain"), {},
     [(of("some-trustdomain", "istio-system"), "allow"), (of("new-td", "r"), "deny")]),
    ("trust-domains-field",
     rules(source(trustDomains=["cluster.local"]), source(notTrustDomains=["bad*", "untrusted"])),
     (), {}, [(of("cluster.local"), "allow"), (of("x"), "allow"), (of("badx"), "deny"), (of("untrusted"), "deny")]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("policies", "domains", "providers", "requests"), [row[1:] for row in BUILT], ids=[row[0] for row in BUILT]
)
def test_generate_http(
    policies: list[Object], domains: tuple[str, ...], providers: dict[str, str], requests: list[tuple[Object, str]]
) -> None:
    config = MeshConfig(trust_domains=domains or ("cluster.local",), providers=providers)
    assert [decided(policies, True, config, **item) for item, _verdict in requests] == [item for _r, item in requests]


BOTH = [
    source(requestPrincipals=["id-1"]) | to(methods=["GET"]),
    source(namespaces=["ns-1"]) | to(ports=["8080"], methods=["GET"]),
    source(namespaces=["ns-2"], requestPrincipals=["id-2"]) | to(ports=["9090"]),
    source(namespaces=["ns-1"]) | to(ports=["80"]),
]
TCP: list[tuple[str, list[Object], dict[str, str], list[tuple[Object, str]]]] = [
    ("allow-both-http-tcp", rules(*BOTH), {},
     [(of("td", "ns-1") | {"port": 80}, "allow"), (of("td", "ns-1") | {"port": 8080}, "deny"),
      (of("td", "ns-2") | {"port": 9090}, "deny")]),
    ("allow-only-http", rules(BOTH[0], source(namespaces=["ns-1"]) | to(hosts=["example.com"])), {},
     [(of("td", "ns-1"), "deny")]),
    ("audit-both-http-tcp", rules(EVERY, action="AUDIT"), {}, [({}, "allow")]),
    ("custom-both-http-tcp", rules(to(methods=["GET"]), action="CUSTOM", provider={"name": "default"}),
     {"default": "grpc"}, [({}, "unknown")]),
    ("custom-only-http", CUSTOM, DEFAULT, [({}, "allow")]),
    ("deny-both-http-tcp", rules(BOTH[1], action="DENY"), {},
     [(of("td", "ns-1") | {"port": 8080}, "deny"), (of("td", "ns-1") | {"port": 80}, "allow")]),
    ("dry-run-mix", [*rules(to(ports=["80"]), annotations=DRY), policy("a", "foo", rules=[to(ports=["9000"])])], {},
     [({"port": 9000}, "allow"), ({"port": 80}, "deny")]),
]  # fmt: skip


@pytest.mark.parametrize(("policies", "providers", "requests"), [row[1:] for row in TCP], ids=[row[0] for row in TCP])
def test_generate_tcp(policies: list[Object], providers: dict[str, str], requests: list[tuple[Object, str]]) -> None:
    config = MeshConfig(providers=providers)
    assert [decided(policies, False, config, **item) for item, _verdict in requests] == [item for _r, item in requests]


CONNECTION = Connection(Identity("cluster.local", "foo", "a"), "1.2.3.4", "1.2.3.4", 80)
REQUEST = HttpRequest("GET", "foo", "/abc", {"x-foo": "foo"})
# A rule, what it matches here, and what it does not once the value is another.
GENERATED: list[tuple[str, t.Callable[[str], Object], str, str, bool]] = [
    ("destIP", lambda value: when("destination.ip", value), "1.2.3.4", "1.2.3.5", True),
    ("destPort", lambda value: when("destination.port", value), "80", "81", True),
    ("srcIP", lambda value: when("source.ip", value), "1.2.3.4", "1.2.3.5", True),
    ("remoteIP", lambda value: when("remote.ip", value), "1.2.3.4", "1.2.3.5", True),
    ("srcNamespace-http", lambda value: when("source.namespace", value), "foo", "fo", True),
    ("srcNamespace-tcp", lambda value: when("source.namespace", value), "foo", "bar", False),
    ("srcTrustDomain-exact", lambda value: when("source.trustDomain", value), "cluster.local", "cluster", True),
    ("srcTrustDomain-wildcard", lambda value: when("source.trustDomain", value), "*", "x*", True),
    ("srcTrustDomain-prefix", lambda value: when("source.trustDomain", value), "cluster.*", "other.*", True),
    ("srcTrustDomain-suffix", lambda value: when("source.trustDomain", value), "*local", "*other", True),
    ("srcPrincipal-http", lambda value: when("source.principal", value), "cluster.local/ns/foo/sa/a", "foo", True),
    ("srcPrincipal-tcp", lambda value: when("source.principal", value), "cluster.local/ns/foo/sa/a", "foo", False),
    ("requestHeader", lambda value: when("request.headers[x-foo]", value), "foo", "bar", True),
    ("host", lambda value: to(hosts=[value]), "FOO", "bar", True),
    ("path", lambda value: to(paths=[value]), "/abc", "/abcd", True),
    ("path-template", lambda value: to(paths=[value]), "/{*}", "/abc/{*}", True),
    ("method", lambda value: to(methods=[value]), "GET", "get", True),
    # TestStringMatcherWithPrefix, by the attribute that has a prefix.
    ("prefix-wildcard", lambda value: source(principals=[value]), "*", "x/*", True),
    ("prefix-prefix", lambda value: source(principals=[value]), "cluster.local/ns/f*", "cluster.local/ns/x*", True),
    ("prefix-suffix", lambda value: source(principals=[value]), "*/sa/a", "*/sa/b", True),
    ("prefix-suffix-with-dot", lambda value: source(principals=[value]), "*.local/ns/foo/sa/a", "*xlocal/ns/foo/sa/a",
     True),
    ("prefix-exact", lambda value: source(principals=[value]), "cluster.local/ns/foo/sa/a", "ns/foo/sa/a", True),
    ("prefix-suffix-empty", lambda value: when("request.headers[x-foo]", value), "*oo", "*-foo", True),
    # TestServiceAccount and TestNamespaceMatcherRegex_Match.
    ("account-standard", lambda value: source(serviceAccounts=[value]), "foo/a", "bar/a", True),
    ("account-sa-suffix", lambda value: source(serviceAccounts=[value]), "foo/a", "foo/a-suffix", True),
    ("account-ns-suffix", lambda value: source(serviceAccounts=[value]), "foo/a", "foo-suffix/a", True),
    ("account-dot-in-ns", lambda value: source(serviceAccounts=[value]), "foo/a", "f.o/a", True),
    ("account-dot-in-sa", lambda value: source(serviceAccounts=[value]), "foo/a", "foo/.", True),
    ("account-default-ns", lambda value: source(serviceAccounts=[value]), "a", "b", True),
    ("namespace-dot", lambda value: source(namespaces=[value]), "foo", "f.o", True),
    ("namespace-wildcard-dot", lambda value: source(namespaces=[value]), "f*o", "f*.o", True),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "good", "bad", "http"), [row[1:] for row in GENERATED], ids=[r[0] for r in GENERATED])
def test_generators(rule: t.Callable[[str], Object], good: str, bad: str, http: bool) -> None:
    context = Context(CONNECTION, REQUEST if http else None)
    seen = [policy_matches(policy("p", "foo", rules=[rule(value)]), context).truth for value in (good, bad)]
    assert seen == [True, False]


@pytest.mark.parametrize(
    ("value", "path", "wanted"),
    [
        ("/foo/bar/{*}", "/foo/bar/x", True), ("/foo/bar/{*}", "/foo/bar/x/y", False),
        ("/foo/{**}/bar", "/foo/x/y/bar", True), ("/foo/{**}/bar", "/foo/x/y", False),
        ("/{*}/foo/{**}/bar", "/a/foo/x/y/bar", True), ("/{*}/foo/{**}/bar", "/a/b/foo/x/bar", False),
        ("/{*}/{*}/foo/{**}/bar", "/a/b/foo/x/bar", True), ("/{*}/{*}/foo/{**}/bar", "/a/foo/x/bar", False),
    ],
)  # fmt: skip
def test_path_templates(value: str, path: str, wanted: bool) -> None:
    assert path_fits(value, path) is wanted
