# What is on a probe's way: nodes, addresses as proxies log them, waypoints, ALLOW policies.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Request
from ansible_collections.ambient.lab.plugins.module_utils._claims.sources import Target, Unusable
from ansible_collections.ambient.lab.plugins.module_utils._cluster.snapshot import Snapshot
from ansible_collections.ambient.lab.plugins.module_utils._witness.paths import namespaces_of, path_of
from ansible_collections.ambient.lab.plugins.module_utils._witness.proxies import Proxy, proxy_of, waypoints, ztunnels
from ansible_collections.ambient.lab.plugins.module_utils._witness.testimony import Path
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object, claim, claims, pod, policy

SOURCE = Target("default", "curl", "main", "10.0.0.9", "n1", "curl")


def backend(name: str, ip: str, node: str) -> Object:
    """A pod of the sample application."""
    item = pod(name, ip=ip, labels={"app": "sample-app"})
    item["spec"]["nodeName"] = node
    return item


def service(ports: list[Object] | None, *, labels: dict[str, str] | None = None, **spec: t.Any) -> Object:
    """The Service in front of it."""
    return {
        "metadata": {"name": "sample-app", "namespace": "default", "labels": labels or {}},
        "spec": {"selector": {"app": "sample-app"}, "ports": ports, **spec},
    }


def cluster(item: Object | None, *policies: Object, pods: list[Object] | None = None) -> Snapshot:
    """Two backends on two nodes, and a pod that is none."""
    found = [backend("a", "10.0.1.5", "n2"), backend("b", "10.0.1.6", "n3"), pod("curl")] if pods is None else pods
    by_namespace: dict[str, list[Object]] = {"default": [], "istio-system": [], "other": []}
    for wanted in policies:
        by_namespace[wanted["metadata"]["namespace"]].append(wanted)
    return Snapshot({}, {"default": found}, {"default": [item] if item else []}, by_namespace, {})


def way(snapshot: Snapshot, url: str = "http://sample-app:8080/", **pods: t.Any) -> Path:
    """Of a request from the source."""
    return path_of(Request(url), SOURCE, snapshot, pods.get("waypoints", {}))


NUMBER = [{"port": 8080, "targetPort": 80}]
EVERY_WAYPOINT = {"group": "gateway.networking.k8s.io", "kind": "GatewayClass", "name": "istio-waypoint"}


@pytest.mark.parametrize(
    ("ports", "spec", "url", "addresses"),
    [
        (NUMBER, {}, "http://sample-app:8080/", ("10.0.1.5:80", "10.0.1.6:80")),
        (NUMBER, {}, "http://sample-app.default.svc.cluster.local:8080/", ("10.0.1.5:80", "10.0.1.6:80")),
        ([{"port": 80}], {}, "http://sample-app/", ("10.0.1.5:80", "10.0.1.6:80")),
        ([{"port": 1}, *NUMBER], {}, "http://sample-app:8080/", ("10.0.1.5:80", "10.0.1.6:80")),
        # Only the pod knows the number of a port with a name.
        ([{"port": 8080, "targetPort": "http"}], {}, "http://sample-app:8080/", ("10.0.1.5:", "10.0.1.6:")),
        # A port that the Service has not.
        (NUMBER, {}, "http://sample-app:9/", ("10.0.1.5:", "10.0.1.6:")),
        (None, {}, "http://sample-app:9/", ("10.0.1.5:", "10.0.1.6:")),
        # A headless Service's name leads to its pods' own ports.
        (NUMBER, {"clusterIP": "None"}, "http://sample-app:8080/", ("10.0.1.5:8080", "10.0.1.6:8080")),
        (None, {"clusterIP": "None"}, "http://sample-app:9/", ("10.0.1.5:9", "10.0.1.6:9")),
        # A pod's own address goes around the Service.
        (NUMBER, {}, "http://10.0.1.6:8080/", ("10.0.1.6:8080",)),
        (NUMBER, {}, "http://10.9.9.9:8080/", ()),
        (NUMBER, {"selector": None}, "http://sample-app:8080/", ()),
        (NUMBER, {}, "http://nobody:8080/", ()),
        (NUMBER, {}, "http://www.example.com/", ()),
    ],
)
def test_addresses(ports: list[Object] | None, spec: Object, url: str, addresses: tuple[str, ...]) -> None:
    assert way(cluster(service(ports, **spec)), url).addresses == addresses


def test_ipv6_is_written_as_in_the_log() -> None:
    pods = [backend("a", "fd00:1::5", "n2")]
    assert way(cluster(service(NUMBER), pods=pods)).addresses == ("[fd00:1::5]:80",)
    assert way(cluster(service(NUMBER), pods=pods), "http://[fd00:1::5]:8080/").addresses == ("[fd00:1::5]:8080",)


def test_nodes_and_source() -> None:
    found = way(cluster(service(NUMBER)))
    assert (found.source, found.nodes, found.service) == (SOURCE, ("n2", "n3"), "sample-app")
    assert way(cluster(service(NUMBER)), "http://10.0.1.6:8080/").nodes == ("n3",)
    assert path_of(Request("http://sample-app/"), Unusable("gone"), cluster(None), {}) == Path(None)


def test_allow_policies_in_force() -> None:
    found = way(
        cluster(
            service(NUMBER, labels={"istio.io/use-waypoint": "wp"}),
            policy("here", selector={"matchLabels": {"app": "sample-app"}}),
            policy("explicit", action="ALLOW"),
            policy("deny", action="DENY"),
            policy("audit", action="AUDIT"),
            policy("elsewhere", selector={"matchLabels": {"app": "other"}}),
            policy("of-another-namespace", "other"),
            policy("mesh-wide", "istio-system"),
            policy("at-service", targetRefs=[{"kind": "Service", "name": "sample-app"}]),
            policy("at-waypoint", targetRefs=[{"kind": "Gateway", "name": "wp"}]),
            policy("twice", targetRefs=[{"kind": "Service", "name": "sample-app"}, {"kind": "Gateway", "name": "wp"}]),
            policy("everywhere", "istio-system", targetRefs=[EVERY_WAYPOINT]),
            policy("of-no-effect", targetRefs=[EVERY_WAYPOINT]),
            policy("at-other", targetRefs=[{"kind": "Service", "name": "other"}]),
            policy("l7-deny", action="DENY", targetRefs=[{"kind": "Service", "name": "sample-app"}]),
        )
    )
    assert found.allowing == ("default/explicit", "default/here", "istio-system/mesh-wide")
    bound = ("default/at-service", "default/at-waypoint", "default/twice", "istio-system/everywhere")
    assert found.waypoint_allowing == bound


def test_a_policy_of_two_references_is_one() -> None:
    refs = [{"kind": "Service", "name": "sample-app"}, {"kind": "Gateway", "name": "wp"}]
    item = service(NUMBER, labels={"istio.io/use-waypoint": "wp"})
    assert cluster(item, bound := policy("twice", targetRefs=refs)).waypoint_policies(item) == [bound]
    # Without a waypoint nobody enforces what is for all of them.
    item = service(NUMBER)
    assert cluster(item, policy("p", "istio-system", targetRefs=[EVERY_WAYPOINT])).waypoint_policies(item) == []


def test_waypoint() -> None:
    labels = {"istio.io/use-waypoint": "wp", "istio.io/use-waypoint-namespace": "infra"}
    proxies = {("infra", "wp"): [Proxy("waypoint", "infra", "wp-1", address="10.0.3.1")]}
    found = way(cluster(service(NUMBER, labels=labels)), waypoints=proxies)
    assert (found.waypoint, found.waypoint_addresses) == (("infra", "wp"), ("10.0.3.1",))
    # Scaled to nothing.
    found = way(cluster(service(NUMBER, labels=labels)))
    assert (found.waypoint, found.waypoint_addresses) == (("infra", "wp"), ())
    # Around it.
    found = way(cluster(service(NUMBER, labels=labels)), "http://10.0.1.6:8080/", waypoints=proxies)
    assert (found.waypoint, found.waypoint_addresses) == (None, ())


def test_namespaces() -> None:
    parsed = claims(
        claim("a", to="http://app.shop:80/", by="infra/policy", expect="denied_l4"),
        claim("b", source={"pod": "curl", "namespace": "clients"}, to="http://10.0.0.1/"),
        claim("c", to="https://www.example.com/"),
        # Nobody but the user knows that this is no Service.
        claim("d", to="https://example.com./"),
    )
    assert namespaces_of(parsed) == {"default", "shop", "infra", "clients"}


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
    return item


def test_ztunnels_of_some_nodes() -> None:
    own = [{"name": "sidecar", "image": "x"}, {"name": "istio-proxy", "image": "ztunnel:1.29.1"}]
    reader = Reader(proxy("z1", "n1", own), proxy("z2", "n2", own, ready=False), proxy("z3", "n3", own))
    assert ztunnels(reader, {"n1", "n2", ""}) == [
        Proxy("ztunnel", "istio-system", "z1", "istio-proxy", "n1", "10.0.0.1", "ztunnel:1.29.1", True),
        Proxy("ztunnel", "istio-system", "z2", "istio-proxy", "n2", "10.0.0.1", "ztunnel:1.29.1", False),
    ]
    assert reader.asked == [("/api/v1/pods", {"labelSelector": "app=ztunnel"})]


def test_waypoints_by_the_gateways_label() -> None:
    reader = Reader(proxy("wp-1", "n1", [{"name": "mine", "image": "proxyv2"}]))
    found = waypoints(reader, "infra", "wp")
    assert [(str(item), item.container, item.image) for item in found] == [("istio-system/wp-1", "mine", "proxyv2")]
    wanted = {"labelSelector": "gateway.networking.k8s.io/gateway-name=wp"}
    assert reader.asked == [("/api/v1/namespaces/infra/pods", wanted)]


@pytest.mark.parametrize("containers", [None, []])
def test_a_pod_that_says_little(containers: list[Object] | None) -> None:
    found = proxy_of("ztunnel", {"metadata": {"name": "z", "namespace": "mesh"}, "spec": {"containers": containers}})
    assert (str(found), found.node, found.address, found.ready) == ("mesh/z", "", "", False)
    assert found.path == "/api/v1/namespaces/mesh/pods/z"
