# What istiod was told, and which istiod it is, may leave open what is enforced; and what a policy is bound to.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._mesh.config import config_of
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import MeshConfig, Object
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import ask, gateway, mesh_of, pod, policy, service, target

URL = "http://app:8080/"
CLIENT, APP = pod("client", ip="10.0.0.9"), pod("app", ip="10.0.0.2")
ENROLLED: list[t.Any] = [CLIENT, APP, service("app", labels={"istio.io/use-waypoint": "waypoint"})]
POINT = gateway("waypoint", "default")
DENY = policy("deny", action="DENY", rules=[{}])
ISTIOD = {
    "metadata": {"labels": {"app.kubernetes.io/version": "1.31.0"}},
    "spec": {"template": {"spec": {"containers": [{"env": [{"name": "REVISION", "value": "default"}]}]}}},
}
SELECTS = config_of({"data": {"mesh": "discoverySelectors: [{matchLabels: {mesh: 'on'}}]"}}, ISTIOD)
STRICT = {"kind": "PeerAuthentication", "metadata": {"name": "s", "namespace": "default"}, "spec": {}}


@pytest.mark.parametrize(
    ("objects", "outcome"),
    [([DENY], "unknown"), ([STRICT], "unknown"), ([], "allowed")],
)
def test_istiod_may_leave_out_a_namespace(objects: list[Object], outcome: str) -> None:
    assert ask(mesh_of(CLIENT, APP, service("app"), *objects, config=SELECTS), URL).outcome == outcome


@pytest.mark.parametrize(("labels", "outcome"), [({}, "denied_l7"), ({"istio.io/rev": "default"}, "denied_l7"),
                                                 ({"istio.io/rev": "canary"}, "unknown")])  # fmt: skip
def test_a_waypoint_may_be_another_istiods(labels: dict[str, str], outcome: str) -> None:
    config = MeshConfig(flags={"REVISION": "default"}, version=(1, 31))
    refuses = policy("p", action="DENY", rules=[{}], targetRefs=target())
    point = gateway("waypoint", "default", labels=labels)
    assert ask(mesh_of(*ENROLLED, point, refuses, config=config), URL).outcome == outcome
    space = {"kind": "Namespace", "metadata": {"name": "default", "labels": labels}}
    assert ask(mesh_of(*ENROLLED, POINT, refuses, space, config=config), URL).outcome == outcome


def test_a_shared_configuration_may_have_the_provider() -> None:
    shared = {"name": "SHARED_MESH_CONFIG", "value": "shared"}
    deployment = {**ISTIOD, "spec": {"template": {"spec": {"containers": [{"env": [shared]}]}}}}
    config = config_of({"data": {"mesh": "trustDomain: cluster.local"}}, deployment)
    custom = policy("c", action="CUSTOM", provider={"name": "ext"}, rules=[{}], targetRefs=target())
    assert ask(mesh_of(*ENROLLED, POINT, custom, config=config), URL).outcome == "unknown"


@pytest.mark.parametrize(
    ("ref", "space", "version", "outcome"),
    [
        ({"kind": "Service", "name": "app"}, "default", (1, 31), "denied_l7"),
        ({"kind": "Service", "name": "app", "group": "core"}, "default", (1, 31), "denied_l7"),
        ({"kind": "Service", "name": "app", "group": "example.com"}, "default", (1, 31), "allowed"),
        ({"kind": "Gateway", "name": "waypoint"}, "default", (1, 31), "allowed"),
        ({**target("waypoint", "Gateway")[0], "namespace": "default"}, "default", (1, 31), "denied_l7"),
        ({**target("waypoint", "Gateway")[0], "namespace": "other"}, "default", (1, 31), "allowed"),
        (target("istio-waypoint", "GatewayClass")[0], "istio-system", (1, 25), "denied_l7"),
        # Older istiods know no class, and take a Gateway's name in any namespace.
        (target("istio-waypoint", "GatewayClass")[0], "istio-system", (1, 24), "unknown"),
        (target("waypoint", "Gateway")[0], "istio-system", (1, 24), "unknown"),
        (target("waypoint", "Gateway")[0], "istio-system", (1, 25), "allowed"),
        (target("other", "Gateway")[0], "istio-system", (1, 24), "allowed"),
    ],
)
def test_what_a_policy_is_bound_to(ref: Object, space: str, version: tuple[int, int], outcome: str) -> None:
    refuses = policy("p", space, action="DENY", rules=[{}], targetRefs=[ref])
    mesh = mesh_of(*ENROLLED, POINT, refuses, config=MeshConfig(version=version))
    assert ask(mesh, URL).outcome == outcome
