# What a waypoint on the way makes of a request, and what is missing or not known there.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import MeshConfig, Object
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import (
    ask,
    denying,
    gateway,
    mesh_of,
    pod,
    policy,
    service,
    target,
    way,
)

URL = "http://app:8080/"
FROM_CLIENT = {"from": [{"source": {"principals": ["cluster.local/ns/default/sa/client"]}}]}
FROM_NOBODY = {"from": [{"source": {"principals": ["cluster.local/ns/default/sa/nobody"]}}]}
GET = {"to": [{"operation": {"methods": ["GET"]}}]}
WAYPOINT = {"istio.io/use-waypoint": "waypoint"}
FOREIGN = {"istio.io/use-waypoint": "waypoint", "istio.io/use-waypoint-namespace": "layer7"}
CLIENT = pod("client", ip="10.0.0.9")
APP = pod("app", ip="10.0.0.1")


# --- a waypoint on the way


def behind(*objects: t.Any, labels: dict[str, str] | None = None, **fields: t.Any) -> t.Any:
    """The app of namespace layer7 behind its waypoint, and a client of the same namespace."""
    app, client = pod("app", "layer7", ip="10.0.0.1"), pod("client", "layer7", ip="10.0.0.9")
    point = gateway(**{key: fields.pop(key) for key in ("address", "ready", "allowed") if key in fields})
    enrolled = service("app", "layer7", labels=WAYPOINT if labels is None else labels)
    return mesh_of(app, client, *([point] if fields.pop("gateway", True) else []), enrolled, *objects, **fields)


def at_app(**spec: t.Any) -> Object:
    return policy("l7", "layer7", **{"targetRefs": target(), **spec})


ON_GATEWAY, EVERYWHERE = target("waypoint", "Gateway"), target("istio-waypoint", "GatewayClass")


@pytest.mark.parametrize(
    ("policies", "method", "outcome", "among"),
    [
        ([], "POST", "allowed", ()),
        ([at_app(rules=[GET])], "GET", "allowed", ()),
        ([at_app(rules=[GET])], "POST", "denied_l7", ("layer7/l7",)),
        ([at_app(action="DENY", rules=[GET])], "GET", "denied_l7", ("layer7/l7",)),
        ([at_app(targetRefs=ON_GATEWAY, rules=[GET])], "POST", "denied_l7", ("layer7/l7",)),
        ([at_app(targetRefs=target("other"), rules=[GET])], "POST", "allowed", ()),
        (
            [policy("all", "istio-system", targetRefs=EVERYWHERE, rules=[GET])],
            "POST",
            "denied_l7",
            ("istio-system/all",),
        ),
        ([policy("all", "layer7", targetRefs=EVERYWHERE, rules=[GET])], "POST", "allowed", ()),
        # Bound to the waypoint and to the Service they are one set: one that allows is enough.
        ([at_app(rules=[GET]), policy("open", "layer7", targetRefs=ON_GATEWAY, rules=[{}])], "POST", "allowed", ()),
        ([at_app(action="CUSTOM", rules=[{}])], "GET", "unknown", ()),
        ([at_app(action="CUSTOM", rules=[{"to": [{"operation": {"methods": ["PUT"]}}]}])], "GET", "allowed", ()),
        ([at_app(action="AUDIT", rules=[{}])], "GET", "allowed", ()),
        ([at_app(action="DENY", rules=[{}], annotations={"istio.io/dry-run": "true"})], "GET", "allowed", ()),
        # Behind the waypoint ztunnel sees the waypoint, and not the client.
        (
            [policy("l4", "layer7", rules=[{"from": [{"source": {"serviceAccounts": ["client"]}}]}])],
            "GET",
            "denied_upstream",
            ("layer7/l4",),
        ),
        (
            [policy("l4", "layer7", rules=[{"from": [{"source": {"serviceAccounts": ["waypoint"]}}]}])],
            "GET",
            "allowed",
            (),
        ),
    ],
)
def test_what_a_waypoint_decides(policies: list[Object], method: str, outcome: str, among: tuple[str, ...]) -> None:
    found = ask(behind(*policies), URL, namespace="layer7", method=method)
    assert (found.outcome, found.among) == (outcome, among)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"gateway": False}, "the waypoint layer7/waypoint does not exist"),
        ({"address": False}, "is not programmed"),
        ({"labels": {"istio.io/use-waypoint": "none"}}, ""),
        ({"labels": {}}, ""),
    ],
)
def test_a_waypoint_that_does_not_serve_is_gone_around(fields: dict[str, t.Any], why: str) -> None:
    found = ask(behind(at_app(rules=[GET]), **fields), URL, namespace="layer7", method="POST")
    assert found.outcome == "allowed"
    assert why in found.why


def test_a_waypoint_without_a_ready_pod_lets_nothing_through() -> None:
    found = ask(behind(ready=False), URL, namespace="layer7")
    assert (found.outcome, found.why) == ("broken", "no pod of the waypoint layer7/waypoint is ready")


@pytest.mark.parametrize(("allowed", "outcome"), [("All", "denied_l7"), ("Same", "allowed")])
def test_a_waypoint_of_another_namespace(allowed: str, outcome: str) -> None:
    only_get = policy("get", "layer7", targetRefs=ON_GATEWAY, rules=[GET])
    mesh = mesh_of(CLIENT, APP, service("app", labels=FOREIGN), gateway(allowed=allowed), only_get)
    assert ask(mesh, URL, method="POST").outcome == outcome


def test_only_what_ztunnel_carries_goes_through_a_waypoint() -> None:
    outside = pod("outside", "layer7", captured=False, labels={"istio.io/dataplane-mode": "none"})
    found = ask(behind(outside, at_app(rules=[GET])), URL, "outside", "layer7", method="POST")
    assert found.outcome == "allowed"
    assert "ztunnel does not carry the source's traffic" in found.why


def test_a_pods_own_address_goes_around_the_waypoint_of_its_service() -> None:
    mesh = behind(at_app(rules=[GET]))
    assert ask(mesh, "http://10.0.0.1:8080/", namespace="layer7", method="POST").outcome == "allowed"
    assert ask(mesh, "http://10.96.0.1:8080/", namespace="layer7", method="POST").outcome == "denied_l7"


def test_a_waypoint_for_workloads_is_on_the_way_to_a_pods_address() -> None:
    labelled = pod("app", ip="10.0.0.1", labels={"app": "app", **FOREIGN})
    point = gateway(allowed="All", labels={"istio.io/waypoint-for": "workload"})
    bound = [policy("get", "layer7", targetRefs=ON_GATEWAY, rules=[GET]), denying(targetRefs=target(), rules=[{}])]
    mesh = mesh_of(CLIENT, labelled, service("app", labels=FOREIGN), point, *bound)
    found = ask(mesh, "http://10.0.0.1:8080/", method="POST")
    assert (found.outcome, found.among) == ("denied_l7", ("layer7/get",))
    # It takes no traffic to Services, so nothing that is bound to one is enforced.
    assert ask(mesh, URL, method="POST").outcome == "allowed"


def test_a_service_entry_behind_an_egress_waypoint() -> None:
    ports = [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 8080}]
    entry = {
        "kind": "ServiceEntry",
        "metadata": {"name": "partner", "namespace": "layer7", "labels": WAYPOINT},
        "spec": {
            "hosts": ["api.example"],
            "addresses": ["240.1.2.3"],
            "ports": ports,
            "endpoints": [{"address": "203.0.113.1"}],
        },
    }
    only = policy("only", "layer7", targetRefs=target("partner", "ServiceEntry"), rules=[FROM_NOBODY])
    mesh = mesh_of(CLIENT, gateway(), entry, only)
    for url in ("http://api.example/", "http://240.1.2.3/"):
        found = ask(mesh, url)
        assert (found.outcome, found.among) == ("denied_l7", ("layer7/only",))


def test_a_route_to_another_service_leads_to_its_pods_and_not_to_its_policies() -> None:
    route: Object = {
        "kind": "HTTPRoute",
        "metadata": {"name": "front", "namespace": "layer7"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "app", "port": 8080}],
            "rules": [{"backendRefs": [{"name": "canary", "port": 8080}]}],
        },
    }
    canary = [pod("canary", "layer7", ip="10.0.0.5"), service("canary", "layer7", ip="10.96.0.5")]
    l4 = policy("l4", "layer7", selector={"matchLabels": {"app": "canary"}}, rules=[FROM_CLIENT])
    path, found = way(behind(canary, route, l4), URL, namespace="layer7")
    assert [str(end) for end in path.endpoints] == ["10.0.0.5:8080"]
    assert (found.outcome, found.among) == ("denied_upstream", ("layer7/l4",))
    route["spec"]["rules"][0]["filters"] = [{"type": "RequestRedirect"}]
    redirected = ask(behind(canary, route), URL, namespace="layer7")
    assert (redirected.outcome, "RequestRedirect of HTTPRoute layer7/front" in redirected.why) == ("unknown", True)


@pytest.mark.parametrize(
    ("url", "port", "outcome"),
    [
        ("https://app:8080/", {"name": "http"}, "unknown"),
        ("http://app:8080/", {"name": "tcp-x"}, "unknown"),
        ("http://app:8080/", {"name": "x", "appProtocol": "http"}, "denied_l7"),
        ("http://app:8080/", {"name": "x"}, "denied_l7"),
    ],
)
def test_where_a_waypoint_sees_bytes_alone(url: str, port: Object, outcome: str) -> None:
    mesh = behind(at_app(action="DENY", rules=[GET]))
    (item,) = mesh.items("Service")
    item["spec"]["ports"][0].update(port)
    assert ask(mesh, url, namespace="layer7").outcome == outcome


def test_a_token_is_not_looked_into() -> None:
    authentication = {
        "kind": "RequestAuthentication",
        "metadata": {"name": "jwt", "namespace": "layer7"},
        "spec": {"targetRefs": target()},
    }
    mesh = behind(authentication)
    assert ask(mesh, URL, namespace="layer7").outcome == "allowed"
    assert ask(mesh, URL, namespace="layer7", headers={"Authorization": "Bearer x"}).outcome == "unknown"


# --- what keeps the model from knowing, and what is missing

ROUTING = {"name": "v", "namespace": "layer7"}


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ({"kind": "EnvoyFilter", "metadata": {"name": "f", "namespace": "layer7"}, "spec": {}}, "EnvoyFilter layer7/f"),
        (
            {"kind": "VirtualService", "metadata": ROUTING, "spec": {"hosts": ["app"]}},
            "VirtualService layer7/v routes it",
        ),
        ({"kind": "WasmPlugin", "metadata": {"name": "w", "namespace": "istio-system"}, "spec": {}}, "WasmPlugin"),
        (
            {"kind": "NetworkPolicy", "metadata": {"name": "n", "namespace": "layer7"}, "spec": {"podSelector": {}}},
            "NetworkPolicy layer7/n selects pod layer7/app",
        ),
    ],
)
def test_what_is_not_evaluated_makes_it_unknown(extra: Object, why: str) -> None:
    found = ask(behind(extra), URL, namespace="layer7")
    assert (found.outcome, why in found.why) == ("unknown", True)


def test_pods_that_could_not_be_read_are_not_missing() -> None:
    found = ask(mesh_of(CLIENT, service("app"), Pod="forbidden"), URL)
    assert (found.outcome, "forbidden" in found.why) == ("unknown", True)


@pytest.mark.parametrize("kind", ["AuthorizationPolicy", "PeerAuthentication", "Gateway", "Service", "HTTPRoute"])
def test_what_could_not_be_read_makes_it_unknown(kind: str) -> None:
    outside = pod("client", "layer7", captured=False, labels={"istio.io/dataplane-mode": "none"})
    # Of plain text the peer authentication decides, of everything else the rest.
    extra = [outside] if kind == "PeerAuthentication" else []
    lost: dict[str, t.Any] = {kind: "forbidden"}
    found = ask(behind(*extra, **lost), URL, namespace="layer7")
    assert (found.outcome, "forbidden" in found.why) == ("unknown", True)


def test_flags_of_istiod_that_are_not_evaluated() -> None:
    config = MeshConfig(flags={"ENABLE_LAYERED_WAYPOINT_AUTHORIZATION_POLICIES": "true"})
    assert ask(behind(config=config), URL, namespace="layer7").outcome == "unknown"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://ap:8080/", "there is no Service ap in namespace default"),
        ("http://app:81/", "Service default/app has no port 81, it has 8080"),
        ("http://empty:8080/", "no ready pod is behind Service default/empty, port 8080"),
    ],
)
def test_what_is_missing_on_the_way(url: str, why: str) -> None:
    mesh = mesh_of(CLIENT, APP, service("app"), service("empty", ip="10.96.0.2"))
    found = ask(mesh, url)
    assert (found.outcome, found.why) == ("broken", why)


@pytest.mark.parametrize("spec", [{"hosts": ["other"]}, {"hosts": ["app"], "gateways": ["ingress"]}])
def test_a_virtual_service_for_something_else_is_no_doubt(spec: Object) -> None:
    other = {"kind": "VirtualService", "metadata": ROUTING, "spec": spec}
    assert ask(behind(other), URL, namespace="layer7").outcome == "allowed"


def test_of_several_that_refuse_any_may_be_named() -> None:
    two = [denying("a"), denying("b")]
    found = ask(mesh_of(CLIENT, APP, service("app"), *two), URL)
    assert (found.among, found.doubtful) == (("default/a", "default/b"), ())
    assert found.why == (
        "ztunnel of pod default/app: rule 0 of AuthorizationPolicy default/a (DENY) and "
        "rule 0 of AuthorizationPolicy default/b (DENY) match"
    )
    # To ztunnel strict peer authentication is a DENY policy like any other.
    strict = {"kind": "PeerAuthentication", "metadata": {"name": "s", "namespace": "default"},
              "spec": {"mtls": {"mode": "STRICT"}}}  # fmt: skip
    plain = pod("client", captured=False, labels={"istio.io/dataplane-mode": "none"})
    found = ask(mesh_of(plain, APP, service("app"), denying("a"), strict), URL)
    assert found.among == ("default/a", "istio-system/istio_converted_static_strict")
    either = denying("a", rules=[{"from": [{"source": {"ipBlocks": ["10.0.0.0/8"]}}]}])
    hidden = pod("client", captured=False, ips=["fd00::1"], labels={"istio.io/dataplane-mode": "none"})
    found = ask(mesh_of(hidden, APP, service("app"), either, strict), URL)
    assert (found.among, found.doubtful) == (
        ("istio-system/istio_converted_static_strict", "default/a"),
        ("default/a",),
    )


def custom(name: str = "c", provider: str = "p", **spec: t.Any) -> Object:
    return at_app(action="CUSTOM", provider={"name": provider}, **{"rules": [{}], **spec}) | {
        "metadata": {"name": name, "namespace": "layer7", "annotations": spec.get("annotations", {})}
    }


HTTP_ONLY = [{"to": [{"operation": {"methods": ["PUT"]}}]}]


@pytest.mark.parametrize(
    ("policies", "providers", "outcome", "words"),
    [
        # istiod makes DENY rules of those whose provider it does not have (builder, getBadCustomDenyRules).
        ([custom()], {"p": "http"}, "unknown", "the authorizer of AuthorizationPolicy layer7/c (CUSTOM) decides"),
        ([custom()], None, "unknown", "the authorizer"),
        ([custom()], {}, "denied_l7", "has provider p, which the mesh's extensionProviders lack"),
        ([custom(rules=HTTP_ONLY)], {}, "allowed", ""),
        ([custom(provider="q"), custom("d")], {"p": "http", "q": "grpc"}, "denied_l7", "has several providers (p, q)"),
        ([custom(annotations={"istio.io/dry-run": "true"})], {"p": "http"}, "unknown", "the authorizer"),
        # Where one that is there may refuse first, nobody knows who does.
        ([custom(provider="q"), custom("d", "q")], {}, "denied_l7", "has provider q"),
    ],
)
def test_a_custom_policy(policies: list[Object], providers: dict[str, str] | None, outcome: str, words: str) -> None:
    config = MeshConfig(version=(1, 31), providers=providers)
    found = ask(behind(*policies, config=config), URL, namespace="layer7")
    assert (found.outcome, words in found.why) == (outcome, True), found
    if outcome == "denied_l7":
        assert found.among == tuple(f"layer7/{item['metadata']['name']}" for item in policies)


@pytest.mark.parametrize(("method", "outcome"), [("PURGE", "denied_l7"), ("FOO", "unknown"), ("get", "unknown")])
def test_envoy_does_not_take_every_method(method: str, outcome: str) -> None:
    """As measured: 400 to those, whatever policies say."""
    assert ask(behind(at_app(rules=[GET])), URL, namespace="layer7", method=method).outcome == outcome
