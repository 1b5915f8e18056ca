# What a host of a URL means: every way to name a destination is a row.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._mesh.destinations import Destination, resolve
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh, MeshConfig, Object
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import mesh_of, pod, service

Objects = list[t.Any]


def entry(**spec: t.Any) -> Object:
    """A ServiceEntry of namespace egress."""
    metadata = {"name": "partner", "namespace": "egress"}
    return {"kind": "ServiceEntry", "metadata": metadata, "spec": {"hosts": ["api.example"], **spec}}


def slice_of(name: str, *endpoints: Object, port: int = 9000) -> Object:
    labels = {"kubernetes.io/service-name": name}
    metadata = {"name": f"{name}-1", "namespace": "default", "labels": labels}
    ports = [{"name": "http", "port": port}]
    return {"kind": "EndpointSlice", "metadata": metadata, "ports": ports, "endpoints": list(endpoints)}


PORTS = [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 8080}]
MESH = mesh_of(
    pod("app-1", ip="10.0.0.1", labels={"app": "app"}, ips=["10.0.0.1", "fd00::1"]),
    pod("app-2", ip="10.0.0.2", labels={"app": "app"}, ready=False),
    pod("app-3", ip="10.0.0.3", labels={"app": "app"}, phase="Succeeded"),
    pod("db-0", ip="10.0.0.4", labels={"app": "db"}, spec={"hostname": "db-0", "subdomain": "db"}),
    pod("db-1", ip="10.0.0.5", labels={"app": "db"}, spec={"hostname": "db-1", "subdomain": "db"}),
    pod("agent", ip="192.168.1.1", spec={"hostNetwork": True}, ports=[9100]),
    service("app", port=80, target="web", clusterIPs=["10.96.0.1", "fd00:96::1"], type="NodePort")
    | {"metadata": {"name": "app", "namespace": "default", "labels": {}}},
    service("db", ip="None"),
    service("alias", ip=None, type="ExternalName", externalName="app.default.svc.cluster.local"),
    service("bare", ip="10.96.0.3", selector=None),
    service("outside", ip=None, type="ExternalName", externalName="example.com"),
    service("loop", ip=None, type="ExternalName", externalName="loop.default.svc.cluster.local"),
    slice_of("bare", {"addresses": ["10.0.0.4"], "conditions": {"ready": True, "serving": False}}),
    entry(addresses=["240.1.2.3"], ports=PORTS, endpoints=[{"address": "10.0.0.4"}]),
    {
        "kind": "ServiceEntry",
        "metadata": {"name": "wild", "namespace": "default"},
        "spec": {"hosts": ["*.wild.example"], "exportTo": ["."], "ports": PORTS},
    },
)
for item in MESH.items("Pod"):
    item["spec"]["containers"][0]["ports"][0]["name"] = "web"
MESH.items("Service")[0]["spec"]["ports"][0]["nodePort"] = 30080


def to(host: str, port: int = 80, namespace: str = "default", mesh: Mesh = MESH) -> Destination:
    return resolve(mesh, host, port, namespace)


APP = "Service default/app:80"
DB = "pods 10.0.0.4:8080, 10.0.0.5:8080"


@pytest.mark.parametrize(
    ("host", "port", "namespace", "kind", "key"),
    [
        ("app", 80, "default", "service", APP),
        ("app.default", 80, "layer7", "service", APP),
        ("app.default.svc", 80, "layer7", "service", APP),
        ("app.default.svc.cluster.local", 80, "layer7", "service", APP),
        ("app.default.svc.cluster.local.", 80, "layer7", "service", APP),
        ("10.96.0.1", 80, "layer7", "service", APP),
        ("fd00:96::1", 80, "layer7", "service", APP),
        ("fd00:96:0:0::1", 80, "layer7", "service", APP),
        ("alias", 80, "default", "service", APP),
        ("db", 8080, "default", "pods", DB),
        ("db-0.db", 8080, "default", "pods", "pods 10.0.0.4:8080"),
        ("db-0.db.default", 8080, "layer7", "pods", "pods 10.0.0.4:8080"),
        ("db-0.db.default.svc.cluster.local", 8080, "layer7", "pods", "pods 10.0.0.4:8080"),
        ("10.0.0.4", 8080, "layer7", "pods", "pods 10.0.0.4:8080"),
        ("fd00::1", 8080, "layer7", "pods", "pods [fd00::1]:8080"),
        ("bare", 8080, "default", "service", "Service default/bare:8080"),
        ("192.168.1.1", 30080, "default", "node", "Service default/app:30080"),
        ("192.168.1.1", 9100, "default", "node", "host 192.168.1.1:9100"),
        ("api.example", 80, "default", "entry", "ServiceEntry egress/partner:80"),
        ("240.1.2.3", 80, "default", "entry", "ServiceEntry egress/partner:80"),
        ("a.wild.example", 80, "default", "entry", "ServiceEntry default/wild:80"),
        # ztunnel is not told of exportTo.
        ("a.wild.example", 80, "layer7", "entry", "ServiceEntry default/wild:80"),
        ("outside", 80, "default", "outside", "host outside:80"),
        ("example.com", 80, "default", "outside", "host example.com:80"),
        ("203.0.113.1", 80, "default", "outside", "host 203.0.113.1:80"),
        # A pod that has ended is nobody's backend any more.
        ("10.0.0.3", 80, "default", "outside", "host 10.0.0.3:80"),
        ("loop", 80, "default", "unknown", "host loop:80"),
        # A dot at the end: the cluster's search domains are not asked.
        ("app.default.", 80, "layer7", "outside", "host app.default.:80"),
    ],
)
def test_every_way_to_name_a_destination(host: str, port: int, namespace: str, kind: str, key: str) -> None:
    found = to(host, port, namespace)
    assert (found.kind, found.key) == (kind, key)


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("ap", "there is no Service ap in namespace default"),
        ("ap.default", "there is no Service ap in namespace default"),
        ("ap.default.svc", "there is no Service ap in namespace default"),
        ("db-9.db.default.svc.cluster.local", "no Service and no pod has the name db-9.db.default.svc.cluster.local"),
    ],
)
def test_a_name_of_the_cluster_that_nothing_has(host: str, why: str) -> None:
    found = to(host)
    assert (found.kind, found.why) == ("missing", why)


def test_endpoints_have_the_port_of_the_pod_and_say_whether_they_are_ready() -> None:
    assert [(str(end), end.ready) for end in to("app").endpoints] == [("10.0.0.1:8080", True), ("10.0.0.2:8080", False)]
    # Slices say `serving` where the Service publishes addresses that are not ready.
    assert [(str(end), end.ready) for end in to("bare", 8080).endpoints] == [("10.0.0.4:9000", False)]
    assert [str(end) for end in to("api.example").endpoints] == ["10.0.0.4:8080"]


def test_a_pods_address_is_ready_at_a_port_that_it_declares_or_a_service_leads_to() -> None:
    silent = pod("silent", ip="10.0.0.7", ports=[])
    mesh = mesh_of(silent, pod("metrics", ip="10.0.0.8", ports=[9100]), service("metrics", target=9200))
    assert to("10.0.0.7", 1234, mesh=mesh).endpoints[0].ready
    assert [to("10.0.0.8", port, mesh=mesh).endpoints[0].ready for port in (9100, 9200, 1)] == [True, True, None]


def test_a_service_without_that_port_says_which_it_has() -> None:
    assert to("app", 81).why == "Service default/app has no port 81, it has 80"


def test_what_could_not_be_read_is_unknown_and_not_missing() -> None:
    assert to("app", mesh=mesh_of(Service="forbidden")).kind == "unknown"
    assert to("10.0.0.1", mesh=mesh_of(Pod="forbidden")).kind == "unknown"


def test_the_clusters_own_domain() -> None:
    mesh = mesh_of(service("app"), config=MeshConfig(domain="corp.example"))
    assert to("app.default.svc.corp.example", 8080, mesh=mesh).kind == "service"
    assert to("app.default.svc.cluster.local", 8080, mesh=mesh).kind == "outside"
