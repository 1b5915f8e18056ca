# What Istio's own tests say, as rows of our own.
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Istio's own tests say, as rows of our own: each row is one upstream case, and the decision in it.

Sources: istio/istio 86c9f01 (1.32-dev) and istio/ztunnel 62d8265. Upstream cases / decided alike / left out:

- ztunnel src/rbac.rs: 27 / 27 / 0; of rbac_empty_policy one assertion is left out, because istiod sends no clause
  without matches.
- ztunnel src/state.rs, assert_rbac_*: 3 / 2 / 1 (assert_rbac_with_dest_workload_info: about the store).
- istiod TestConvertAuthorizationPolicyStatus: 12 / 12 / 0.
- istiod pilot/pkg/serviceregistry/ambient/testdata: 22 / 22 / 0.
- istiod TestWaypointPolicyStatusCollection: 18 / 18 / 0; a status is no decision, so a row says whether a waypoint
  enforces the policy, for each target.
- istiod TestPolicyMatcher: 26 / 20 / 6 (ingress gateways).
- istiod authz/builder TestGenerator_GenerateHTTP: 22 / 20 / 2. Where an authorizer has to be asked the model says
  unknown, which is alike. Left out: custom-bad-invalid-config (a provider's settings are not checked: unknown, where
  istiod denies) and custom-grpc-provider-no-namespace (the input of another).
- istiod authz/builder TestGenerator_GenerateTCP: 7 / 7 / 0.
- istiod authz/model TestGenerator: 21 / 17 / 4 (SNI, and Envoy's metadata, which is unknown to the model).
  TestServiceAccount: 15 / 5 / 10 (identities that Istio does not issue). TestNamespaceMatcherRegex_Match: 2 / 2 / 0.
  TestRequestPrincipal: 8 / 0 / 8 (contents of JWTs).
- istiod authz/matcher, templates and prefixes: 10 / 10 / 0; the other tables compare protobuf alone.
- Together: 193 / 162 / 31. No case is decided otherwise.
"""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._mesh import l4
from ansible_collections.ambient.lab.plugins.module_utils._mesh.decisions import at_ztunnel
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Object
from ansible_collections.ambient.lab.plugins.module_utils._mesh.paths import ZtunnelHop, pod_policies
from ansible_collections.ambient.lab.plugins.module_utils._mesh.peers import strictness
from ansible_collections.ambient.lab.plugins.module_utils._mesh.waypoints import Waypoint, bound_policies, waypoint_of
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import gateway, mesh_of, pod, policy, service

Rules = list[Object]


def source(**fields: t.Any) -> Object:
    return {"from": [{"source": fields}]}


def to(**fields: t.Any) -> Object:
    return {"to": [{"operation": fields}]}


def when(key: str, *values: str, **more: t.Any) -> Object:
    return {"when": [{"key": key, "values": list(values), **more}]}


# --- ztunnel, src/rbac.rs

PLAIN = l4.Connection(None, "127.0.0.1", "127.0.0.2", 8080)
TLS = l4.Connection(l4.Identity("td", "namespace", "account"), "127.0.0.1", "127.0.0.2", 8080)
ALT = l4.Connection(l4.Identity("td-alt", "ns-alt", "sa=alt"), "127.0.0.3", "127.0.0.4", 9090)
WHO = "td/ns/namespace/sa/account"


def at80(namespace: str, port: int = 80) -> l4.Connection:
    return l4.Connection(l4.Identity("td", namespace, "account"), "127.0.0.1", "127.0.0.2", port)


NESTED = [{"from": [{"source": {"namespaces": ["a"]}}, {"source": {"namespaces": ["b"]}}], **to(ports=["80"])}]
TWO = [source(namespaces=["a"]), source(namespaces=["b"])]
RBAC: list[tuple[str, Rules, list[tuple[l4.Connection, bool]]]] = [
    ("rbac_empty_policy, match", [to(methods=["GET"])], [(PLAIN, False)]),
    ("rbac_empty_policy, group", [{}], [(PLAIN, True)]),
    ("rbac_empty_policy, policy", [], [(PLAIN, False)]),
    ("rbac_nesting", NESTED,
     [(at80("a"), True), (at80("b"), True), (at80("bad"), False), (at80("b", 12345), False)]),
    ("rbac_multi_rule", TWO, [(at80("a"), True), (at80("b"), True), (at80("bad"), False)]),
    *(
        (name, [rule], list(zip((PLAIN, TLS, ALT), seen, strict=True)))
        for name, rule, seen in [
            ("namespaces", source(namespaces=["namespace"]), (False, True, False)),
            ("not_namespaces", source(notNamespaces=["namespace"]), (True, False, True)),
            ("service_accounts", source(serviceAccounts=["namespace/account"]), (False, True, False)),
            ("not_service_accounts", source(notServiceAccounts=["namespace/account"]), (True, False, True)),
            ("principals", source(principals=[WHO]), (False, True, False)),
            ("not_principals", source(notPrincipals=[WHO]), (True, False, True)),
            ("source_ips", source(ipBlocks=["127.0.0.1"]), (True, True, False)),
            ("not_source_ips", source(notIpBlocks=["127.0.0.1"]), (False, False, True)),
            ("destination_ips", when("destination.ip", "127.0.0.2"), (True, True, False)),
            ("not_destination_ips", when("destination.ip", notValues=["127.0.0.2"]), (False, False, True)),
            ("cidr_range", when("destination.ip", "127.0.0.1/24"), (True, True, True)),
            ("destination_ports", to(ports=["8080"]), (True, True, False)),
            ("not_destination_ports", to(notPorts=["8080"]), (False, False, True)),
        ]
    ),
]  # fmt: skip


@pytest.mark.parametrize(("rules", "seen"), [row[1:] for row in RBAC], ids=[row[0] for row in RBAC])
def test_rbac(rules: Rules, seen: list[tuple[l4.Connection, bool]]) -> None:
    found = l4.convert(policy("p", action="DENY", rules=rules))
    assert found
    assert [l4.policy_matches(found, connection).truth for connection, _wanted in seen] == [item for _c, item in seen]


@pytest.mark.parametrize(
    ("pattern", "text", "wanted"),
    [
        ("foo", "foo", True), ("foo", "not", False), ("foo", "", False),
        ("foo*", "foobar", True), ("foo*", "notfoo", False), ("foo*", "", False),
        ("*foo", "barfoo", True), ("*foo", "foonot", False), ("*foo", "", False),
        ("*", "foo", True), ("*", "", False),
    ],
)  # fmt: skip
def test_rbac_string_match(pattern: str, text: str, wanted: bool) -> None:
    assert l4.glob(pattern, text) is wanted


DRY = {"istio.io/dry-run": "true"}


@pytest.mark.parametrize(
    ("namespace", "account", "verdict", "among"),
    [
        ("ns2", "not-defaultacct", "allow", ()),
        ("ns1", "defaultacct", "allow", ()),
        ("ns1", "not-defaultacct", "deny", ("ns1/foo",)),
        ("ns1", "denyacct", "deny", ("ns1/deny",)),
    ],
)
def test_assert_rbac(namespace: str, account: str, verdict: str, among: tuple[str, ...]) -> None:
    policies = [
        policy("wildcard-allow", "istio-system", rules=[{}], annotations=DRY),
        policy("wildcard-deny", "istio-system", action="DENY", rules=[{}], annotations=DRY),
        policy("foo", "ns1", rules=[source(principals=["cluster.local/ns/default/sa/defaultacct"])]),
        policy("deny", "ns1", action="DENY", rules=[source(principals=["cluster.local/ns/default/sa/denyacct"])]),
    ]
    mesh, app = mesh_of(*policies), pod("app", namespace)
    client = l4.Connection(l4.Identity("cluster.local", "default", account), "10.0.0.1", "10.0.0.2", 80)
    found = at_ztunnel(mesh, ZtunnelHop(app, client, tuple(pod_policies(mesh, app))))
    assert (found.verdict, found.among) == (verdict, among)


# --- istiod, what ztunnel is given

BAR = source(principals=["cluster.local/ns/foo/sa/bar"])
NOT_JWT = source(notRequestPrincipals=["example.com/sub-1"])
FINE = source(principals=["trust/ns/echo-1234/"]) | to(ports=["http"])
HTTP = source(requestPrincipals=["a"]) | to(methods=["GET"]) | when("request.auth.presenter", "p")
# Whether it is sent, which attributes are lost, and whether any rule can match then (None: upstream does not look).
CONVERTED: list[tuple[str, Object, bool, set[str], bool | None]] = [
    ("targetRef", {"targetRef": {"kind": "Service", "name": "test-svc"}, "rules": []}, False, set(), None),
    ("fine", {"rules": [FINE]}, True, set(), None),
    ("AUDIT", {"action": "AUDIT", "rules": [FINE]}, False, set(), None),
    ("CUSTOM", {"action": "CUSTOM", "rules": [FINE]}, False, set(), None),
    ("HTTP", {"rules": [HTTP]}, True, {"methods", "request.auth.presenter", "requestPrincipals"}, None),
    ("DENY L4", {"action": "DENY", "rules": [BAR]}, True, set(), None),
    ("DENY L7", {"action": "DENY", "rules": [NOT_JWT]}, True, {"notRequestPrincipals"}, False),
    ("DENY mixed", {"action": "DENY", "rules": [source(**BAR["from"][0]["source"], **NOT_JWT["from"][0]["source"])]},
     True, {"notRequestPrincipals"}, True),
    ("DENY L7 and L4 rule", {"action": "DENY", "rules": [NOT_JWT, BAR]}, True, {"notRequestPrincipals"}, True),
    ("DENY all and L7", {"action": "DENY", "rules": [{}, NOT_JWT]}, True, {"notRequestPrincipals"}, True),
    ("DENY L4 from, L7 when", {"action": "DENY", "rules": [BAR | when("request.headers[x-token]", "secret")]},
     True, {"request.headers[x-token]"}, False),
    ("DENY L4 from, L7 to", {"action": "DENY", "rules": [BAR | to(methods=["GET"])]}, True, {"methods"}, False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "sent", "lost", "effective"), [row[1:] for row in CONVERTED], ids=[row[0] for row in CONVERTED]
)
def test_conversion(spec: Object, sent: bool, lost: set[str], effective: bool | None) -> None:
    found = l4.convert(policy("p", **spec))
    assert (found is not None) is sent
    if found:
        assert {name for names in found.lost.values() for name in names} == lost
        can = any(all(any(clause) for clause in rule) for rule in found.rules)
        assert effective is None or can is effective


def mixed(what: str, **fields: t.Any) -> Object:
    return source(principals=[f"td/ns/{what}/sa/x"], namespaces=[what], **fields)


GROUPS = [
    mixed("from-mix", requestPrincipals=["r"]) | to(ports=["80"]),
    mixed("to-mix") | to(ports=["80"], methods=["m"]),
    mixed("only-l4") | to(ports=["80"]),
    source(requestPrincipals=["r"]) | to(paths=["/p"], methods=["m"]),
    {"when": [*when("source.namespace", "l4-l7")["when"], *when("connection.sni", "s")["when"]]},
    {"when": [*when("source.namespace", "when-l4")["when"], *when("source.ip", "127.0.0.1")["when"]]},
    {"when": [*when("connection.sni", "s")["when"], *when("request.headers[X-header]", "h")["when"]]},
]
# Every L4 attribute with every kind of value; a negative star makes it match nobody.
FULL = [
    source(principals=["p", "p-*", "*-p", "*"], notPrincipals=["n", "n-*", "*-n", "*"]),
    source(serviceAccounts=["ns/sa", "sa-only"], notServiceAccounts=["ns/sa-not", "sa-not-only"]),
    source(requestPrincipals=["*"]),
    source(namespaces=["ns", "ns-*", "*-ns", "*"], notNamespaces=["n", "n-*", "*-n", "*"]),
    source(ipBlocks=["1.2.3.4", "5.6.0.0/16"], notIpBlocks=["2.2.3.4"]),
    to(methods=["*"]),
    to(ports=["81", "90"], notPorts=["800"]),
]


@pytest.mark.parametrize(
    ("action", "rules", "matching"),
    [
        ("ALLOW", FULL, {"ns/sa"}),
        ("ALLOW", GROUPS, {"only-l4/x", "when-l4/x"}),
        ("DENY", GROUPS, {"from-mix/x", "to-mix/x", "only-l4/x", "when-l4/x"}),
    ],
    ids=["allow-full", "allow-groups", "deny-groups"],
)
def test_golden_policies(action: str, rules: Rules, matching: set[str]) -> None:
    found = l4.convert(policy("p", action=action, rules=rules))
    assert found
    names = ("from-mix/x", "to-mix/x", "only-l4/x", "l4-l7/x", "when-l4/x", "ns/sa", "other/x")
    clients = {name: l4.Identity("td", *name.split("/")) for name in names}
    seen = {name for name, who in clients.items()
            if l4.policy_matches(found, l4.Connection(who, "127.0.0.1", "127.0.0.2", 80)).truth}  # fmt: skip
    assert seen == matching


# Modes of mesh, namespace and workload (None: no such object), the workload's ports, and who is refused plain text by
# the converted policy; "" where none is made.
PORTS = ("8080", "9090", "7070")
PEERS: list[tuple[str, tuple[str | None, str | None, str | None], dict[str, str], str]] = [
    ("disable", (None, "DISABLE", None), {}, ""),
    ("disable-port-mtls-strict", (None, None, "DISABLE"), {"9090": "STRICT"}, "9090"),
    ("permissive", (None, "PERMISSIVE", None), {}, ""),
    ("permissive-port-mtls-strict-and-permissive", (None, None, "PERMISSIVE"),
     {"9090": "STRICT", "8080": "PERMISSIVE"}, "9090"),
    ("permissive-port-mtls-strict", (None, None, "PERMISSIVE"), {"9090": "STRICT"}, "9090"),
    ("permissive-root-permissive-namespace-strict-workload-ports", ("PERMISSIVE", "PERMISSIVE", "UNSET"),
     {"9090": "STRICT", "8080": "STRICT"}, "8080 9090"),
    ("permissive-root-permissive-workload", ("PERMISSIVE", None, "UNSET"), {"9090": "PERMISSIVE"}, ""),
    ("permissive-root-strict-namespace-permissive-workload", ("PERMISSIVE", "STRICT", "UNSET"),
     {"9090": "PERMISSIVE"}, "8080 7070"),
    ("permissive-root-unset-namespace-mixed-workload-ports", ("PERMISSIVE", "UNSET", "UNSET"),
     {"9090": "STRICT", "8080": "PERMISSIVE"}, "9090"),
    ("strict-and-disable-port-mtls", (None, None, "STRICT"), {"9090": "DISABLE"}, "8080 7070"),
    ("strict-and-permissive-port-mtls", (None, None, "STRICT"), {"9090": "PERMISSIVE"}, "8080 7070"),
    ("strict-and-strict-port-mtls", (None, None, "STRICT"), {"8080": "STRICT"}, ""),
    ("strict", (None, "STRICT", None), {}, ""),
    ("strict-port-mtls-strict-and-permissive", (None, None, "STRICT"),
     {"9090": "STRICT", "8080": "PERMISSIVE"}, "9090 7070"),
    ("strict-root-permissive-namespace-strict-workload", ("STRICT", "PERMISSIVE", "UNSET"),
     {"9090": "STRICT"}, "9090"),
    ("strict-root-permissive-workload", ("STRICT", None, "UNSET"), {"9090": "PERMISSIVE"}, "8080 7070"),
    ("strict-root-unset-workload-port-mtls-strict-and-permissive", ("STRICT", None, "UNSET"),
     {"9090": "PERMISSIVE", "8080": "STRICT"}, "8080 7070"),
    ("strict-workload", (None, None, "STRICT"), {}, ""),
    ("unset-port-mtls-strict", (None, None, "UNSET"), {"8080": "STRICT"}, "8080"),
]  # fmt: skip


@pytest.mark.parametrize(("modes", "ports", "refused"), [row[1:] for row in PEERS], ids=[row[0] for row in PEERS])
def test_golden_peer_authentications(
    modes: tuple[str | None, str | None, str | None], ports: dict[str, str], refused: str
) -> None:
    objects = []
    for level, mode in enumerate(modes):
        spec: Object = {"mtls": {"mode": mode}}
        if level == 2:
            spec |= {"selector": {"matchLabels": {"app": "a"}}}
            spec |= {"portLevelMtls": {port: {"mode": item} for port, item in ports.items()}} if ports else {}
        space = "foo" if level else "istio-system"
        objects += [{"kind": "PeerAuthentication", "metadata": {"name": f"n{level}", "namespace": space},
                     "spec": spec}] if mode else []  # fmt: skip
    mesh, app = mesh_of(*objects), pod("a", "foo", labels={"app": "a"})
    found = {port: strictness(mesh, app, int(port)) for port in PORTS}
    own = {port for port, item in found.items() if item.strict and item.policy.startswith("foo/converted_")}
    assert own == set(refused.split())
    assert not any(item.doubt for item in found.values())


# --- istiod, what a waypoint enforces

GROUP = {
    "ServiceEntry": "networking.istio.io",
    "Gateway": "gateway.networking.k8s.io",
    "GatewayClass": "gateway.networking.k8s.io",
}


def refs(*names: str) -> list[Object]:
    pairs = [name.split("/") for name in names]
    return [{"group": GROUP.get(kind, ""), "kind": kind, "name": name} for kind, name in pairs]


APP = pod("my-app", labels={"app": "my-app"})
SVC, ENTRY = service("sample-svc"), {"kind": "ServiceEntry", "metadata": {"name": "entry", "namespace": "default"}}
SELECTS = {"selector": {"matchLabels": {"app": "my-app"}}}
SELECTS_WAYPOINT = {"selector": {"matchLabels": {"gateway.networking.k8s.io/gateway-name": "wp"}}}
WP, GW, CLASS = refs("Gateway/wp"), refs("Gateway/sample-gateway"), refs("GatewayClass/istio-waypoint")
# The policy's namespace and spec, the waypoint's namespace ("" for ztunnel), the target, and whether it counts.
MATCHER: list[tuple[str, str, Object, str, Object, bool]] = [
    ("app, targetRef", "default", {"targetRef": GW[0]}, "", APP, False),
    ("app, selector", "default", SELECTS, "", APP, True),
    ("app, both", "default", SELECTS | {"targetRef": GW[0]}, "", APP, False),
    ("app, none", "default", {}, "", APP, True),
    ("waypoint, targetRef", "default", {"targetRef": WP[0]}, "default", SVC, True),
    ("waypoint, selector", "default", SELECTS_WAYPOINT, "default", SVC, False),
    ("waypoint, both", "default", SELECTS_WAYPOINT | {"targetRef": WP[0]}, "default", SVC, True),
    ("waypoint, none", "default", {}, "default", SVC, False),
    ("waypoint, other targetRef", "default", {"targetRef": GW[0]}, "default", SVC, False),
    ("waypoint, targetRefs", "default", {"targetRefs": WP}, "default", SVC, True),
    ("waypoint, partial", "default", {"targetRefs": [*WP, *GW]}, "default", SVC, True),
    ("waypoint, other targetRefs", "default", {"targetRefs": GW}, "default", SVC, False),
    ("service", "default", {"targetRefs": refs("Service/sample-svc")}, "default", SVC, True),
    ("service entry", "default", {"targetRefs": refs("ServiceEntry/entry")}, "default", ENTRY, True),
    ("service entry of a service's name", "default", {"targetRefs": refs("ServiceEntry/sample-svc")}, "default",
     SVC, False),
    ("gateway with service", "default", {"targetRefs": WP}, "default", SVC, True),
    ("gateway with several services", "default", {"targetRefs": WP}, "default", service("sample-svc-1"), True),
    ("gateway of another namespace", "default", {"targetRefs": WP}, "waypoint", SVC, False),
    ("class in root", "istio-system", {"targetRefs": CLASS}, "default", SVC, True),
    ("class elsewhere", "default", {"targetRefs": CLASS}, "default", SVC, False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("space", "spec", "waypoint", "target", "counts"), [row[1:] for row in MATCHER], ids=[row[0] for row in MATCHER]
)
def test_policy_matcher(space: str, spec: Object, waypoint: str, target: Object, counts: bool) -> None:
    mesh = mesh_of(policy("policy1", space, **spec))
    here = bound_policies(mesh, Waypoint(waypoint, "wp"), target, "AuthorizationPolicy") if waypoint else []
    assert bool(here or (not waypoint and pod_policies(mesh, target))) is counts


USE = {"istio.io/use-waypoint": "wp"}


def named(kind: str, name: str, **labels: str) -> Object:
    return {"kind": kind, "metadata": {"name": name, "namespace": "layer7", "labels": labels}, "spec": {}}


# What there is of the targets, the refs, the policy's namespace, and for which of the targets a waypoint enforces it.
NONE = {"istio.io/use-waypoint": "none"}
BOUND: list[tuple[str, list[Object], list[Object], str, set[str]]] = [
    (f"single-bind-{what}-{kind}", [named(kind, "a", **labels)] if name == "a" else [], refs(f"{kind}/{name}"),
     "layer7", bound)
    for kind in ("ServiceEntry", "Service")
    for what, name, labels, bound in [
        ("success", "a", USE, {"a"}), ("success-targetRef", "a", USE, {"a"}), ("no-waypoint", "a", NONE, set()),
        ("missing", "gone", USE, set()),
    ]
] + [
    ("multi-bind-success-serviceentry", [named("ServiceEntry", "a", **USE), named("ServiceEntry", "b", **USE)],
     refs("ServiceEntry/a", "ServiceEntry/b"), "layer7", {"a", "b"}),
    ("multi-partial-bind-serviceentry", [named("ServiceEntry", "a", **USE), named("ServiceEntry", "b", **NONE)],
     refs("ServiceEntry/a", "ServiceEntry/b"), "layer7", {"a"}),
    ("single-bind-success-gateway", [named("Service", "a", **USE)], refs("Gateway/wp"), "layer7", {"a"}),
    ("single-bind-success-gateway-targetRef", [named("Service", "a", **USE)], refs("Gateway/wp"), "layer7", {"a"}),
    ("single-bind-no-gateway", [named("Service", "a", **USE)], refs("Gateway/gone"), "layer7", set()),
    ("multi-bind-partial-all-resources", [named("Service", "a", **USE), named("ServiceEntry", "b", **NONE)],
     refs("Service/a", "ServiceEntry/b", "Gateway/gone"), "layer7", {"a"}),
    ("single-bind-gateway-class", [named("Service", "a", **USE)], CLASS, "istio-system", {"a"}),
    ("nonexistent-gateway-class", [named("Service", "a", **USE)], refs("GatewayClass/none"), "istio-system", set()),
    ("non-waypoint-gateway-class", [named("Service", "a", **USE)], refs("GatewayClass/istio"), "istio-system", set()),
    ("gateway-class-ap-not-in-root-ns", [named("Service", "a", **USE)], CLASS, "layer7", set()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("targets", "to_refs", "space", "bound"), [row[1:] for row in BOUND], ids=[row[0] for row in BOUND]
)
def test_waypoint_policy_status(targets: list[Object], to_refs: list[Object], space: str, bound: set[str]) -> None:
    spec = {"targetRef": to_refs[0]} if len(to_refs) == 1 else {"targetRefs": to_refs}
    mesh = mesh_of(gateway("wp"), *targets, policy("p", space, **spec))
    found = {}
    for target in targets:
        waypoint = waypoint_of(mesh, target)
        here = bound_policies(mesh, waypoint, target, "AuthorizationPolicy") if waypoint and waypoint.serves else []
        found[target["metadata"]["name"]] = bool(here)
    assert {name for name, enforced in found.items() if enforced} == bound
