# What the objects leave open is unknown, and never a prediction: what was not read, is not evaluated, or goes around.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import MeshConfig, Object
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import (
    ask,
    gateway,
    mesh_of,
    pod,
    policy,
    service,
    target,
    way,
)

URL = "http://app:8080/"
CLIENT, APP = pod("client", ip="10.0.0.9"), pod("app", ip="10.0.0.2")
USE = {"istio.io/use-waypoint": "waypoint"}
ENROLLED: list[Object | list[Object]] = [CLIENT, APP, service("app", labels=USE), gateway("waypoint", "default")]
DENY = policy("deny", action="DENY", rules=[{}])
STRICT = {
    "kind": "PeerAuthentication",
    "metadata": {"name": "strict", "namespace": "default"},
    "spec": {"mtls": {"mode": "STRICT"}},
}
BACKEND = {"name": "app", "port": 8080}


def of_kind(kind: str, namespace: str = "default", **spec: t.Any) -> Object:
    return {"kind": kind, "metadata": {"name": "x", "namespace": namespace}, "spec": spec}


def route(namespace: str = "default", **rule: t.Any) -> Object:
    parent = {"group": "", "kind": "Service", "name": "app", "namespace": "default"}
    return of_kind("HTTPRoute", namespace, parentRefs=[parent], rules=[{"backendRefs": [BACKEND], **rule}])


def entry(**spec: t.Any) -> Object:
    ports = [{"number": 80, "name": "http", "protocol": "HTTP"}]
    found = of_kind("ServiceEntry", hosts=["api.example"], ports=ports, resolution="DNS", **spec)
    found["metadata"]["labels"] = USE
    return found


def slices(**end: t.Any) -> Object:
    found = of_kind("EndpointSlice")
    found["metadata"]["labels"] = {"kubernetes.io/service-name": "app"}
    return {**found, "ports": [{"name": "http", "port": 8080}], "endpoints": [{"addresses": ["10.0.0.2"], **end}]}


ENVOYS = {"gateway.networking.k8s.io/gateway-name": "waypoint"}
SELECTED = gateway("waypoint", "layer7")
SELECTED[0]["spec"]["listeners"][0]["allowedRoutes"] = {
    "namespaces": {"from": "Selector", "selector": {"matchExpressions": [{"key": "x", "operator": "Exists"}]}}
}
FOREIGN = {**USE, "istio.io/use-waypoint-namespace": "layer7"}
BOTH = ["10.0.0.2", "fd00::2"]
HOST = {"when": [{"key": "request.headers[Host]", "values": ["app:8080"]}]}
V4 = {"from": [{"source": {"ipBlocks": ["10.0.0.0/8"]}}]}


@pytest.mark.parametrize(
    ("objects", "url", "words"),
    [
        # A sidecar enforces the same policies, by rules of its own.
        ([CLIENT, pod("app", captured=False, annotations={"sidecar.istio.io/status": "{}"}), service("app"), DENY],
         URL, "pod default/app has a sidecar"),
        # istio-cni lets what comes from the node itself around ztunnel.
        ([pod("client", captured=False, spec={"hostNetwork": True}), APP, service("app"), STRICT],
         URL, "from its own node's network"),
        ([CLIENT, DENY], "http://10.0.0.9:8080/", "pod default/client calls itself"),
        # istiod gives such a pod every policy with a selector (krt, FilterSelects).
        ([CLIENT, pod("app", ip="10.0.0.2", labels={}), policy("p", selector={"matchLabels": {"a": "b"}})],
         "http://10.0.0.2:8080/", "pod default/app has no label"),
        ([CLIENT, APP, service("app", labels={**USE, "istio.io/use-waypoint-canary": "w2"}),
          gateway("waypoint", "default")], URL, "goes through another waypoint"),
        ([CLIENT, APP, service("app", labels=FOREIGN), SELECTED], URL, "have matchExpressions"),
        ([*ENROLLED, of_kind("EnvoyFilter", workloadSelector={"labels": ENVOYS})], URL, "EnvoyFilter default/x may"),
        ([*ENROLLED, of_kind("NetworkPolicy", podSelector={"matchLabels": ENVOYS})], URL, "selects pod default/waypoi"),
        ([*ENROLLED, route(matches=[{"path": {"type": "RegularExpression", "value": "/v2"}}])], URL, "not evaluated"),
        ([*ENROLLED, route(matches=[{"queryParams": [{"name": "a", "value": "b"}]}])], URL, "a query"),
        ([*ENROLLED, route(backendRefs=[BACKEND, {"name": "gone", "port": 1}])], URL, "a backend gone that is no Serv"),
        # Its name leads to its real address, around ztunnel and waypoint.
        ([CLIENT, entry(), gateway("waypoint", "default")], "http://api.example/", "has no address of its own"),
        ([CLIENT, entry(addresses=["240.0.0.1"]), gateway("waypoint", "default")],
         "http://api.example/", "nobody can know from here whether ServiceEntry default/x, port 80 answers"),
        # What a container declares is informational.
        ([CLIENT, APP], "http://10.0.0.2:9999/", "nobody can know from here whether 10.0.0.2:9999 answers"),
        # Of two families of addresses nobody knows which one is taken.
        ([pod("client", ips=["10.0.0.9", "fd00::9"]), pod("app", ips=BOTH), service("app"), policy("p", rules=[V4])],
         URL, "nobody can know from here whether AuthorizationPolicy default/p matches"),
        ([*ENROLLED, policy("p", targetRefs=target(), rules=[HOST])],
         URL, "whether AuthorizationPolicy default/p matches"),
    ],
)  # fmt: skip
def test_what_is_left_open(objects: list[Object], url: str, words: str) -> None:
    found = ask(mesh_of(*objects), url)
    assert (found.outcome, words in found.why) == ("unknown", True), found


def bound(kind: str, name: str = "app", parent: str = "Service") -> Object:
    group = "" if parent == "Service" else "networking.istio.io"
    return of_kind(kind, parentRefs=[{"group": group, "kind": parent, "name": name}])


TCP = service("app", labels=USE)
TCP["spec"]["ports"][0]["name"] = "tcp-x"
PARTNER = entry(addresses=["240.0.0.1"], endpoints=[{"address": "10.0.0.2"}])
HELD = of_kind("BackendTLSPolicy", targetRefs=target())
OTHER_HOST = of_kind("DestinationRule", host="other")


@pytest.mark.parametrize(
    ("objects", "url", "words"),
    [
        ([TCP, bound("TCPRoute")], URL, "TCPRoute default/x routes it, and is not evaluated"),
        ([TCP, bound("TLSRoute")], URL, "TLSRoute default/x routes it"),
        ([TCP, bound("HTTPRoute")], URL, ""),
        ([bound("TCPRoute")], URL, ""),
        ([bound("TCPRoute", "other")], URL, ""),
        ([bound("GRPCRoute")], URL, "GRPCRoute default/x routes it"),
        ([of_kind("DestinationRule", host="app.default.svc.cluster.local")], URL, "DestinationRule default/x changes"),
        ([of_kind("DestinationRule", "istio-system", host="*.cluster.local")], URL, "DestinationRule istio-system/x"),
        ([OTHER_HOST], URL, ""),
        ([HELD], URL, "BackendTLSPolicy default/x changes how the waypoint calls it"),
        ([of_kind("TrafficExtension")], URL, "TrafficExtension default/x may change what waypoint default/waypoint"),
        # The routes of a ServiceEntry, and what only has its name.
        ([PARTNER, bound("HTTPRoute", "x", "ServiceEntry")], "http://api.example/", "HTTPRoute default/x has no back"),
        ([PARTNER, bound("HTTPRoute", "x")], "http://api.example/", ""),
        ([of_kind("VirtualService", hosts=["app"])], URL, "VirtualService default/x routes it"),
        # The backend of a route has traffic policies, too; its own routes do not count.
        ([service("b", ip="10.96.0.2", selector={"app": "app"}), of_kind("DestinationRule", host="b"),
          route(backendRefs=[{"name": "b", "port": 8080}])], URL, "DestinationRule default/x changes"),
        ([of_kind("ServiceEntry", hosts=["app.default.svc.cluster.local"])], URL, "ServiceEntry default/x has"),
    ],
)  # fmt: skip
def test_what_may_route_or_change_a_call_behind_a_waypoint(objects: list[Object], url: str, words: str) -> None:
    found = ask(mesh_of(*ENROLLED, *objects), url)
    assert (found.outcome, words in found.why) == ("unknown" if words else "allowed", True), found


def test_what_is_behind_a_waypoint_does_not_matter_where_it_refuses() -> None:
    mesh = mesh_of(*ENROLLED, of_kind("DestinationRule", host="app"), policy("p", action="DENY", targetRefs=target(),
                   rules=[{}]))  # fmt: skip
    assert ask(mesh, URL).outcome == "denied_l7"


def test_without_a_waypoint_nobody_reads_traffic_policies() -> None:
    assert ask(mesh_of(CLIENT, APP, service("app"), of_kind("DestinationRule", host="app")), URL).outcome == "allowed"


def test_a_route_needs_the_group_of_a_service_and_no_grant() -> None:
    # Without a group a parentRef names a "Service" of the Gateway API (its default), which istiod does not know.
    lost = route(backendRefs=[{"name": "gone", "port": 1}])
    del lost["spec"]["parentRefs"][0]["group"]
    assert ask(mesh_of(*ENROLLED, lost), URL).outcome == "allowed"


def test_tls_where_a_waypoint_reads_http_is_unknown() -> None:
    assert ask(mesh_of(*ENROLLED), "https://app:8080/").outcome == "unknown"


def test_a_service_may_lead_to_a_workload_entry() -> None:
    machine = of_kind("WorkloadEntry", address="192.0.2.7", labels={"app": "app"})
    found = ask(mesh_of(CLIENT, APP, service("app"), machine, DENY), URL)
    assert (found.outcome, "it depends on which endpoint answers" in found.why) == ("unknown", True)


def gateway_of_class(name: str, **labels: str) -> list[Object]:
    found = gateway("waypoint", "default", labels=labels)
    found[0]["spec"]["gatewayClassName"] = name
    return found


def class_of(name: str, controller: str = "istio.io/mesh-controller", **labels: str) -> Object:
    return {
        "kind": "GatewayClass",
        "metadata": {"name": name, "labels": labels},
        "spec": {"controllerName": controller},
    }


FOR = "istio.io/waypoint-for"
REFUSES = policy("p", action="DENY", targetRefs=target(), rules=[{}])


@pytest.mark.parametrize(
    ("objects", "outcome", "words"),
    [
        ([gateway_of_class("istio-waypoint")], "denied_l7", ""),
        # The Gateway's own label before its class's, and "service" where neither has it (istiod, WaypointsCollection).
        ([gateway_of_class("istio-waypoint"), class_of("istio-waypoint", **{FOR: "workload"})],
         "allowed", f"is not for services: its GatewayClass's label {FOR} is workload"),
        ([gateway_of_class("istio-waypoint", **{FOR: "service"}), class_of("istio-waypoint", **{FOR: "workload"})],
         "denied_l7", ""),
        ([gateway_of_class("mine"), class_of("mine")], "denied_l7", ""),
        ([gateway_of_class("mine")], "unknown", "GatewayClass mine, which a controller that is not known"),
        ([gateway_of_class("mine"), class_of("mine", "else.where/x")], "unknown", "which else.where/x implements"),
    ],
)  # fmt: skip
def test_the_class_of_a_waypoint(objects: list[t.Any], outcome: str, words: str) -> None:
    found = ask(mesh_of(CLIENT, APP, service("app", labels=USE), REFUSES, *objects), URL)
    assert (found.outcome, words in found.why) == (outcome, True), found


def test_a_class_that_could_not_be_read_may_say_what_a_waypoint_is_for() -> None:
    plain, said = gateway_of_class("istio-waypoint"), gateway_of_class("istio-waypoint", **{FOR: "service"})
    objects = [CLIENT, APP, service("app", labels=USE), REFUSES]
    assert ask(mesh_of(*objects, plain, GatewayClass="forbidden"), URL).outcome == "unknown"
    assert ask(mesh_of(*objects, said, GatewayClass="forbidden"), URL).outcome == "denied_l7"


HEADLESS = service("app", ip="None")
TO_WORKLOADS = gateway("waypoint", "default", labels={FOR: "workload"})
GATE = policy("p", action="DENY", targetRefs=target("waypoint", "Gateway"), rules=[{}])


def second(labels: dict[str, str], **fields: t.Any) -> Object:
    return pod("app2", ip="10.0.0.3", labels={"app": "app", **labels}, **fields)


@pytest.mark.parametrize(
    ("pods", "outcome"),
    [
        ([pod("app", ip="10.0.0.2", labels={"app": "app", **USE}), second(USE)], "denied_l7"),
        ([pod("app", ip="10.0.0.2"), second(USE)], "unknown"),
        ([pod("app", ip="10.0.0.2", labels={"app": "app", **USE}), second({})], "unknown"),
        ([pod("app", ip="10.0.0.2"), second({})], "allowed"),
        # A doubt about any of them is one about all.
        ([pod("app", ip="10.0.0.2"), second({"istio.io/use-waypoint-canary": "w2"})], "unknown"),
    ],
)
def test_a_headless_name_is_every_pod_of_it(pods: list[Object], outcome: str) -> None:
    assert ask(mesh_of(CLIENT, HEADLESS, TO_WORKLOADS, GATE, *pods), URL).outcome == outcome


def test_the_address_behind_a_headless_name_is_not_one() -> None:
    at_first = {"when": [{"key": "destination.ip", "values": ["10.0.0.2"]}]}
    gate = policy("p", action="DENY", targetRefs=target("waypoint", "Gateway"), rules=[at_first])
    pods = [pod("app", ip="10.0.0.2", labels={"app": "app", **USE}), second(USE)]
    assert ask(mesh_of(CLIENT, HEADLESS, TO_WORKLOADS, gate, *pods), URL).outcome == "unknown"


@pytest.mark.parametrize(
    ("flags", "outcome"),
    [
        ({}, "unknown"),
        ({"REVISION": "canary"}, "denied_l4"),
        ({"REVISION": "default"}, "allowed"),
        ({"A": ""}, "denied_l4"),
    ],
)
def test_an_object_for_another_revision_of_istiod_is_not_read(flags: dict[str, str], outcome: str) -> None:
    denies = policy("p", action="DENY", rules=[{}])
    denies["metadata"]["labels"] = {"istio.io/rev": "canary"}
    config = MeshConfig(flags=flags, version=(1, 31))
    mesh = mesh_of(CLIENT, APP, service("app"), denies, config=config)
    assert ask(mesh, URL).outcome == outcome
    # It exists all the same.
    assert mesh.get("AuthorizationPolicy", "default", "p") == denies


def test_what_was_assumed_is_said() -> None:
    config = MeshConfig(version=(1, 31), assumed=("istiod is not known",))
    found = ask(mesh_of(CLIENT, APP, service("app"), config=config), URL)
    assert (found.outcome, found.assumed) == ("allowed", ("istiod is not known",))
    assert found.why.endswith("assumed: istiod is not known")


@pytest.mark.parametrize("kind", [
    "NetworkPolicy", "EnvoyFilter", "WasmPlugin", "TrafficExtension", "DestinationRule", "VirtualService",
    "BackendTLSPolicy", "GRPCRoute", "TCPRoute", "TLSRoute", "WorkloadEntry", "ServiceEntry",
])  # fmt: skip
def test_what_could_not_be_read_is_not_nothing(kind: str) -> None:
    found = ask(mesh_of(*ENROLLED, config=None, **{kind: "forbidden"}), URL)
    assert (found.outcome, found.why.count("forbidden")) == ("unknown", 1)


def test_a_namespace_that_could_not_be_read_may_have_a_waypoint() -> None:
    assert ask(mesh_of(CLIENT, APP, service("app"), Namespace="forbidden"), URL).outcome == "unknown"


def test_the_namespace_behind_a_route_counts_too() -> None:
    backend = {"name": "b", "namespace": "layer7", "port": 8080}
    mesh = mesh_of(*ENROLLED, route(backendRefs=[backend]), pod("b", "layer7"), service("b", "layer7"))
    # A route of a Service needs no ReferenceGrant (istiod, convertHTTPRoute: enforceRefGrant is for gateways alone).
    assert ask(mesh, URL).outcome == "allowed"
    mesh.unread["AuthorizationPolicy", "layer7"] = "forbidden"
    assert ask(mesh, URL).outcome == "unknown"


def test_a_policy_of_istiods_own_is_not_evaluated() -> None:
    config = MeshConfig(flags={"PILOT_AUTO_ALLOW_WAYPOINT_POLICY": "true"})
    assert ask(mesh_of(*ENROLLED, config=config), "http://10.0.0.2:8080/").outcome == "unknown"


def test_a_route_of_another_namespace_is_not_the_waypoints() -> None:
    assert ask(mesh_of(*ENROLLED, route("layer7", backendRefs=[{"name": "gone", "port": 1}])), URL).outcome == "allowed"


def test_an_endpoint_without_a_pod_is_called_in_plain_text() -> None:
    objects = [CLIENT, APP, service("app", selector=None), STRICT]
    assert ask(mesh_of(*objects, slices()), URL).outcome == "denied_l4"
    known = {"kind": "Pod", "name": "app", "namespace": "default"}
    assert ask(mesh_of(*objects, slices(targetRef=known)), URL).outcome == "allowed"


def test_a_host_outside_is_never_taken_for_ready() -> None:
    for spec in ({}, {"endpoints": [{"address": "192.0.2.1"}]}):
        path, _prediction = way(mesh_of(CLIENT, entry(addresses=["240.0.0.1"], **spec)), "http://api.example/")
        assert (len(path.endpoints), path.ready) == (1, False)


def test_a_pod_behind_a_service_entry_may_have_no_address_yet() -> None:
    pending = pod("app", phase="Pending")
    pending["status"] = {"phase": "Pending"}
    chosen = entry(addresses=["240.0.0.1"], workloadSelector={"labels": {"app": "app"}})
    assert ask(mesh_of(CLIENT, pending, chosen), "http://api.example/").outcome == "broken"


def test_peer_authentication_with_a_selector_in_the_root_namespace_counts_nowhere() -> None:
    strict = of_kind(
        "PeerAuthentication", "istio-system", selector={"matchLabels": {"app": "app"}}, mtls={"mode": "STRICT"}
    )
    objects = [pod("client", captured=False), pod("app", "istio-system"), service("app", "istio-system"), strict]
    assert ask(mesh_of(*objects), "http://app.istio-system:8080/").outcome == "allowed"
