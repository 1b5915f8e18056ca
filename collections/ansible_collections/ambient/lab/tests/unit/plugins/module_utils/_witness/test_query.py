# Which pods are asked for evidence, and by what the evidence of one request is found.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._claims.sources import Target, Unusable
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh
from ansible_collections.ambient.lab.plugins.module_utils._witness.attribution import Query
from ansible_collections.ambient.lab.plugins.module_utils._witness.proxies import Proxy, proxy_of, ztunnels
from ansible_collections.ambient.lab.tests.unit.fakes import meshes
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object, pod

SOURCE = Target("default", "client", "main", "n1", "client")
CLIENT = meshes.pod("client", ip="10.0.0.9", ips=["10.0.0.9", "fd00::9"])
BACKENDS = [
    meshes.pod("a", ip="10.0.1.5", node="n2", labels={"app": "app"}, ips=["10.0.1.5", "fd00:1::5"]),
    meshes.pod("b", ip="10.0.1.6", node="n3", labels={"app": "app"}),
]
WAYPOINT = {"istio.io/use-waypoint": "waypoint"}


def query(mesh: Mesh, url: str = "http://app:8080/") -> Query:
    return Query.of(meshes.way(mesh, url)[0], SOURCE)


def test_evidence_is_found_by_all_addresses_and_the_pods_own_port() -> None:
    found = query(meshes.mesh_of(CLIENT, *BACKENDS, meshes.service("app", target=80)))
    assert found.addresses == ("10.0.1.5:80", "[fd00:1::5]:80", "10.0.1.6:80")
    assert (found.source_addresses, found.nodes) == (("10.0.0.9", "fd00::9"), ("n2", "n3"))
    assert (found.services, sorted(found.workloads)) == (("app",), [("default", "a"), ("default", "b")])
    named = query(meshes.mesh_of(CLIENT, *BACKENDS, meshes.service("app", target="nobody-knows")))
    assert "10.0.1.6:" in named.addresses


def test_nothing_is_found_of_a_source_that_is_gone() -> None:
    path = meshes.way(meshes.mesh_of(CLIENT), "http://app:8080/")[0]
    assert Query.of(path, Unusable("gone")) == Query(None)


def test_the_waypoint_is_asked_where_the_way_leads_through_it() -> None:
    allow = meshes.policy("l7", "layer7", targetRefs=meshes.target())
    audit = meshes.policy("audit", "layer7", targetRefs=meshes.target(), action="AUDIT")
    tried = meshes.policy("tried", targetRefs=meshes.target(), annotations={"istio.io/dry-run": "true"})
    labels = {**WAYPOINT, "istio.io/use-waypoint-namespace": "layer7"}
    enrolled = meshes.service("app", labels=labels)
    on_gateway = meshes.policy("gate", "layer7", targetRefs=meshes.target("waypoint", "Gateway"))
    mesh = meshes.mesh_of(CLIENT, *BACKENDS, enrolled, meshes.gateway(allowed="All"), allow, audit, tried, on_gateway)
    found = query(mesh)
    assert (found.waypoint, found.waypoint_addresses) == (("layer7", "waypoint"), ("10.0.9.9",))
    # What is bound to a Service of that name elsewhere, only logs, or is only tried, can't have refused.
    assert (found.waypoint_allowing, found.allowing) == (("layer7/gate",), ())
    around = query(mesh, "http://10.0.1.6:8080/")
    assert (around.waypoint, around.waypoint_addresses, around.services) == (None, (), ())


class Reader:
    """Lists of pods, by path and selector."""

    def __init__(self, *pods: Object) -> None:
        self.pods = list(pods)
        self.asked: list[tuple[str, dict[str, str]]] = []

    def items(self, path: str, **query: str) -> list[Object]:
        """All pods, whatever is asked."""
        self.asked.append((path, query))
        return self.pods


def proxy(name: str, node: str, containers: list[Object] | None, *, ready: bool = True) -> Object:
    """The pod of a proxy."""
    item = pod(name, "istio-system", ip="10.0.0.1", ready=ready)
    item["spec"] = {"nodeName": node, "containers": containers}
    item["metadata"]["ownerReferences"] = [{"kind": "DaemonSet", "name": "ztunnel", "controller": True}]
    return item


def test_ztunnels_of_some_nodes() -> None:
    own = [{"name": "sidecar", "image": "x"}, {"name": "istio-proxy", "image": "ztunnel:1.29.1"}]
    reader = Reader(proxy("z1", "n1", own), proxy("z2", "n2", own, ready=False), proxy("z3", "n3", own))
    assert ztunnels(reader, {"n1", "n2", ""}, "istio-system") == [
        Proxy("ztunnel", "istio-system", "z1", "istio-proxy", "n1", "10.0.0.1", "ztunnel:1.29.1", True),
        Proxy("ztunnel", "istio-system", "z2", "istio-proxy", "n2", "10.0.0.1", "ztunnel:1.29.1", False),
    ]
    assert reader.asked == [("/api/v1/pods", {"labelSelector": "app=ztunnel"})]


def test_a_tenants_pod_with_the_label_is_no_ztunnel() -> None:
    own = [{"name": "istio-proxy", "image": "ztunnel:1.29.1"}]
    lone, other, ended = (proxy(name, "n1", own) for name in ("lone", "other", "ended"))
    del lone["metadata"]["ownerReferences"]
    other["metadata"]["namespace"] = "tenant"
    ended["status"]["phase"] = "Failed"
    reader = Reader(lone, other, ended, proxy("z1", "n1", own), proxy("foreign", "n1", [{"name": "main"}]))
    assert [str(item) for item in ztunnels(reader, {"n1"}, "istio-system")] == ["istio-system/z1"]
    # Where Istio runs in a namespace of another name.
    assert [str(item) for item in ztunnels(Reader(other), None, "istio-system")] == ["tenant/other"]


@pytest.mark.parametrize("containers", [None, []])
def test_a_pod_that_says_little(containers: list[Object] | None) -> None:
    found = proxy_of("ztunnel", {"metadata": {"name": "z", "namespace": "mesh"}, "spec": {"containers": containers}})
    assert (str(found), found.node, found.address, found.ready) == ("mesh/z", "", "", False)
    assert found.path == "/api/v1/namespaces/mesh/pods/z"
