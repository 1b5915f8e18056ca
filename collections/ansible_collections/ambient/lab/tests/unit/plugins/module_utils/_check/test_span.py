# Whether a request stays on a node, by where the pods on its way run.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._check.run import ClaimRun
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import gateway, mesh_of, pod, service
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object, claim, claims

USE = {"istio.io/use-waypoint": "waypoint"}


def span(*objects: Object | list[Object], to: str = "http://app:8080/") -> str | None:
    """Of a request of the pod `client` on node one."""
    (asked,) = claims(claim(source={"pod": "client"}, to=to))
    return ClaimRun.of(asked, "after", mesh_of(pod("client", node="one"), *objects)).span


def apps(*nodes: str) -> list[Object]:
    """A pod of the Service `app` on each node."""
    return [pod(f"app-{place}", ip=f"10.0.1.{place}", labels={"app": "app"}, node=at) for place, at in enumerate(nodes)]


def waypoint(node: str) -> list[Object]:
    """A waypoint with a pod on a node."""
    gate, only = gateway(namespace="default")
    only["spec"]["nodeName"] = node
    return [gate, only]


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        (("one",), "same node"),
        (("two",), "cross node"),
        (("two", "three"), "cross node"),
        (("one", "two"), "same or cross node"),
        ((), None),
    ],
)
def test_by_the_pods_behind_a_service(nodes: tuple[str, ...], said: str | None) -> None:
    assert span(service("app"), apps(*nodes)) == said


@pytest.mark.parametrize(
    ("gate", "app", "said"),
    [
        ("one", "one", "same node"),
        ("two", "one", "cross node"),
        ("two", "two", "cross node"),
        ("one", "two", "cross node"),
    ],
)
def test_the_waypoint_is_on_the_way(gate: str, app: str, said: str) -> None:
    assert span(service("app", labels=USE), waypoint(gate), apps(app)) == said


def test_of_what_has_no_node_nothing_is_said() -> None:
    pending = pod("app-0", labels={"app": "app"}, ready=False)
    del pending["spec"]["nodeName"]
    assert span(service("app"), pending) is None
    assert span(to="http://elsewhere.example/") is None
