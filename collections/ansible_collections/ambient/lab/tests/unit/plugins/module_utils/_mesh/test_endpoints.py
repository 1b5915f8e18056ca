# Where a connection may end: which pods and ports of a Service, and whether ztunnel is before them.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Object
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import ask, mesh_of, pod, policy, service

URL = "http://app:8080/"
CLIENT = pod("client", ip="10.0.0.9")
NEAR, FAR = pod("app", ip="10.0.0.2"), pod("far", ip="10.0.0.3", node="two", labels={"app": "app"})
NOWHERE = pod("far", ip="10.0.0.3", labels={"app": "app"})
del NOWHERE["spec"]["nodeName"]


@pytest.mark.parametrize(
    ("fields", "pods", "url", "outcome"),
    [
        ({"internalTrafficPolicy": "Local"}, [NEAR], URL, "allowed"),
        ({"internalTrafficPolicy": "Local"}, [FAR], URL, "unknown"),
        ({"internalTrafficPolicy": "Local"}, [NEAR, FAR], URL, "unknown"),
        ({"internalTrafficPolicy": "Local"}, [NOWHERE], URL, "unknown"),
        ({"internalTrafficPolicy": "Cluster"}, [FAR], URL, "allowed"),
        ({"externalTrafficPolicy": "Local"}, [FAR], URL, "allowed"),
        ({"externalTrafficPolicy": "Local"}, [NEAR], "http://192.168.1.1:30080/", "unknown"),
        ({}, [NEAR], "http://192.168.1.1:30080/", "allowed"),
    ],
)
def test_a_service_may_lead_to_one_node_alone(
    fields: dict[str, t.Any], pods: list[Object], url: str, outcome: str
) -> None:
    app = service("app", **fields)
    app["spec"]["ports"][0]["nodePort"] = 30080
    assert ask(mesh_of(CLIENT, *pods, app), url).outcome == outcome


@pytest.mark.parametrize("address", ["10.96.0.1", "None"])
@pytest.mark.parametrize(("publishes", "outcome"), [(True, "unknown"), (False, "broken")])
def test_a_pod_that_is_not_ready_may_be_published(address: str, publishes: bool, outcome: str) -> None:
    app = service("app", ip=address, publishNotReadyAddresses=publishes)
    assert ask(mesh_of(CLIENT, pod("app", ip="10.0.0.2", ready=False), app), URL).outcome == outcome


@pytest.mark.parametrize("protocol", ["UDP", "SCTP"])
def test_a_port_that_is_not_for_tcp_is_another(protocol: str) -> None:
    app = service("app")
    app["spec"]["ports"].insert(0, {"name": "dns", "port": 8080, "protocol": protocol, "targetPort": 5353})
    refuses = policy("d", action="DENY", rules=[{"to": [{"operation": {"ports": ["8080"]}}]}])
    assert ask(mesh_of(CLIENT, NEAR, app, refuses), URL).outcome == "denied_l4"


@pytest.mark.parametrize(
    ("value", "captured", "outcome"),
    [("true", False, "allowed"), ("false", False, "denied_l4"), ("true", True, "allowed"), ("yes", False, "denied_l4")],
)
def test_plain_text_may_go_around_ztunnel(value: str, captured: bool, outcome: str) -> None:
    strict = {"kind": "PeerAuthentication", "metadata": {"name": "s", "namespace": "default"},
              "spec": {"mtls": {"mode": "STRICT"}}}  # fmt: skip
    app = pod("app", ip="10.0.0.2", node="two", annotations={"ambient.istio.io/bypass-inbound-capture": value})
    mesh = mesh_of(pod("client", captured=captured), app, service("app"), strict)
    assert ask(mesh, URL).outcome == outcome
    # What comes by HBONE is ztunnel's all the same.
    denied = mesh_of(pod("client", captured=captured), app, service("app"), policy("d", action="DENY", rules=[{}]))
    assert ask(denied, URL).outcome == ("denied_l4" if captured or outcome == "denied_l4" else "allowed")
