# Where a waypoint sends a request, and which protocol it reads at a port.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Object
from ansible_collections.ambient.lab.plugins.module_utils._mesh.routes import protocol_of
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import ask, gateway, mesh_of, pod, policy, service, target

BACKEND = [{"name": "app", "port": 8080}]
AT_X = [{"path": {"type": "Exact", "value": "/x"}}]
USE = {"istio.io/use-waypoint": "waypoint"}


def routed(*rules: Object) -> t.Any:
    """An app and another behind a waypoint, and a route of the app; the other refuses all."""
    parent = {"group": "", "kind": "Service", "name": "app"}
    route = {
        "kind": "HTTPRoute",
        "metadata": {"name": "r", "namespace": "default"},
        "spec": {"parentRefs": [parent], "rules": rules},
    }
    apps = [pod("client", ip="10.0.0.9"), pod("app", ip="10.0.0.2"), service("app", labels=USE)]
    return mesh_of(*apps, gateway("waypoint", "default"), route)


@pytest.mark.parametrize("rule", [{"matches": AT_X}, {"matches": AT_X, "backendRefs": [{**BACKEND[0], "weight": 0}]}])
def test_a_rule_without_a_backend_answers_itself(rule: Object) -> None:
    found = ask(routed(rule, {"backendRefs": BACKEND}), "http://app:8080/x")
    assert (found.outcome, "answers itself" in found.why) == ("unknown", True)
    assert ask(routed(rule, {"backendRefs": BACKEND}), "http://app:8080/y").outcome == "allowed"


def test_a_filter_of_a_backend_is_not_evaluated() -> None:
    filtered = [{**BACKEND[0], "filters": [{"type": "RequestRedirect"}]}]
    assert ask(routed({"backendRefs": filtered}), "http://app:8080/").outcome == "unknown"


@pytest.mark.parametrize("path", ["/%78", "/y/%2e%2e/x", "/y\\x", "//x"])
def test_a_path_that_may_be_normalised_first(path: str) -> None:
    gone = {"matches": AT_X, "backendRefs": [{"name": "gone", "port": 1}]}
    found = ask(routed(gone, {"backendRefs": BACKEND}), f"http://app:8080{path}")
    assert (found.outcome, "may normalise first" in found.why) == ("unknown", True)
    # Without a match of a path it does not matter.
    assert ask(routed({"backendRefs": BACKEND}), f"http://app:8080{path}").outcome == "allowed"


@pytest.mark.parametrize(
    ("port", "protocol"),
    [
        ({"port": 80, "name": "http-web"}, "http"),
        ({"port": 80, "name": "HTTP2"}, "http2"),
        ({"port": 80, "name": "grpc-web-x"}, "grpc-web"),
        ({"port": 80, "name": "web"}, ""),
        ({"port": 80, "name": "http", "appProtocol": "kubernetes.io/h2c"}, "http2"),
        ({"port": 80, "appProtocol": "kubernetes.io/ws"}, "http"),
        ({"port": 80, "appProtocol": "kubernetes.io/wss"}, "https"),
        ({"port": 80, "name": "http", "appProtocol": "mine"}, ""),
        ({"port": 3306, "name": "db"}, "tcp"),
        ({"port": 53}, "tcp"),
        ({"port": 3306, "name": "http"}, "http"),
        ({"number": 3306, "name": "db"}, ""),
        ({"number": 80, "name": "http", "protocol": "TLS"}, "tls"),
    ],
)
def test_the_protocol_of_a_port(port: Object, protocol: str) -> None:
    number = port.get("port") or port["number"]
    udp = {**port, "protocol": "UDP", "name": "tls"}
    assert protocol_of({"kind": "Service", "spec": {"ports": [udp, port]}}, number) == protocol


def test_a_waypoint_reads_no_http_at_a_port_for_tls() -> None:
    only_get = policy("a", rules=[{"to": [{"operation": {"methods": ["GET"]}}]}], targetRefs=target())
    to_tls = service("app", labels=USE)
    to_tls["spec"]["ports"][0]["appProtocol"] = "kubernetes.io/wss"
    mesh = mesh_of(pod("client"), pod("app"), to_tls, gateway("waypoint", "default"), only_get)
    assert ask(mesh, "http://app:8080/").outcome == "unknown"
