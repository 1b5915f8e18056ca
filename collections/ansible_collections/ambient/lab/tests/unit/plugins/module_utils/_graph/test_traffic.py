# Which routes requests take: the workload of a pod as istiod names it, and what a missing edge's traffic needs.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._claims.sources import Target, Unusable
from ansible_collections.ambient.lab.plugins.module_utils._cluster.snapshot import Snapshot
from ansible_collections.ambient.lab.plugins.module_utils._graph.parse import End
from ansible_collections.ambient.lab.plugins.module_utils._graph.traffic import (
    routes,
    unsent,
    waypoints,
    workload_of,
)
from ansible_collections.ambient.lab.plugins.module_utils._witness.paths import namespaces_of
from ansible_collections.ambient.lab.tests.unit.fakes.graph import SERVICE, graph_claim, graph_claims
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object, claim, claims, pod


def owned(
    name: str, kind: str, owner: str, labels: t.Mapping[str, str] | None = None, *, controller: bool = True
) -> Object:
    """A pod that somebody else has made."""
    item = pod(name, labels={"app": "sample-app", **(labels or {})})
    item["metadata"]["generateName"] = name[:-1]
    item["metadata"]["ownerReferences"] = [{"kind": kind, "name": owner, "controller": controller}]
    return item


HASH = {"pod-template-hash": "7c"}


@pytest.mark.parametrize(
    ("item", "name"),
    [
        (pod("curl"), "curl"),
        (owned("a-7c-x", "ReplicaSet", "a-7c", HASH), "a"),
        (owned("a-7c-x", "ReplicaSet", "a-7c"), "a-7c"),
        (owned("a-8d-x", "ReplicaSet", "a-8d", {"rollouts-pod-template-hash": "8d"}), "a"),
        (owned("z-x", "DaemonSet", "ztunnel"), "ztunnel"),
        (owned("b-29000000-x", "Job", "b-29000000"), "b"),
        (owned("b-x", "Job", "b"), "b"),
        (owned("r-x", "ReplicationController", "r-1", {"deploymentconfig": "r"}), "r"),
        (owned("a-x", "ReplicaSet", "a-7c", HASH, controller=False), "a-x"),
        (owned("a-x", "ReplicaSet", "a-7c", HASH | {"service.istio.io/workload-name": "mine"}), "mine"),
    ],
)
def test_workload_of(item: Object, name: str) -> None:
    assert workload_of(item) == End("workload", "default", name)


def test_a_pod_with_a_name_of_its_own_is_a_workload_even_if_owned() -> None:
    item = owned("web-0", "StatefulSet", "web")
    del item["metadata"]["generateName"]
    assert workload_of(item) == End("workload", "default", "web-0")


CURL, APP = End("workload", "default", "curl"), End("service", "default", "sample-app")
BLUE = End("workload", "default", "sample-app-blue")
BLUE_POD = owned("sample-app-blue-7c-x", "ReplicaSet", "sample-app-blue-7c", HASH)
GREEN_POD = owned("sample-app-green-7c-x", "ReplicaSet", "sample-app-green-7c", HASH)
LABELLED = {**SERVICE, "metadata": {**SERVICE["metadata"], "labels": {"istio.io/use-waypoint": "waypoint"}}}


@pytest.mark.parametrize(
    ("url", "service", "pods", "found"),
    [
        ("http://sample-app:8080/", SERVICE, [BLUE_POD], {(CURL, APP), (CURL, BLUE), (APP, BLUE)}),
        ("http://sample-app.default:8080/", SERVICE, [BLUE_POD], {(CURL, APP), (CURL, BLUE), (APP, BLUE)}),
        # Nobody knows which of two workloads gets the request.
        ("http://sample-app:8080/", SERVICE, [BLUE_POD, GREEN_POD], {(CURL, APP)}),
        (
            "http://sample-app:8080/",
            LABELLED,
            [BLUE_POD],
            {(CURL, APP), (CURL, BLUE), (APP, BLUE), (CURL, End("workload", "default", "waypoint"))},
        ),
        ("http://10.0.0.7:8080/", SERVICE, [{**BLUE_POD, "status": {"podIP": "10.0.0.7"}}], {(CURL, BLUE)}),
        ("http://other:8080/", SERVICE, [BLUE_POD], set()),
        ("http://www.example.com/", SERVICE, [BLUE_POD], set()),
    ],
)
def test_routes(url: str, service: Object, pods: list[Object], found: set[tuple[End, End]]) -> None:
    cluster = Snapshot({}, {"default": [pod("curl"), *pods]}, {"default": [service]}, {}, {})
    (request,) = claims(claim(to=url))
    assert routes(request, Target("default", "curl", "main"), cluster) == found
    assert routes(request, Unusable("starting"), cluster) == frozenset()
    assert routes(request, Target("default", "gone", "main"), cluster) == frozenset()


HERE = frozenset({("default", "waypoint")})
ELSEWHERE = {"istio.io/use-waypoint": "shared", "istio.io/use-waypoint-namespace": "infra"}


@pytest.mark.parametrize(
    ("end", "service", "pod_labels", "namespace_labels", "found"),
    [
        (APP, SERVICE, {}, {}, frozenset()),
        (APP, LABELLED, {}, {}, HERE),
        (APP, SERVICE, {}, {"istio.io/use-waypoint": "waypoint"}, HERE),
        (APP, SERVICE, {}, ELSEWHERE, frozenset({("infra", "shared")})),
        # A workload is reached by its Services, and by itself.
        (BLUE, LABELLED, {}, {}, HERE),
        (BLUE, SERVICE, {"istio.io/use-waypoint": "waypoint"}, {}, HERE),
        (BLUE, LABELLED, ELSEWHERE, {}, HERE | {("infra", "shared")}),
        (CURL, LABELLED, {}, {}, frozenset()),
        # It is behind itself no more than behind none.
        (End("workload", "default", "waypoint"), SERVICE, {}, {"istio.io/use-waypoint": "waypoint"}, frozenset()),
        (End("service", "other", "sample-app"), LABELLED, {}, {}, None),
    ],
)
def test_waypoints(
    end: End,
    service: Object,
    pod_labels: dict[str, str],
    namespace_labels: dict[str, str],
    found: frozenset[tuple[str, str]] | None,
) -> None:
    blue = owned("sample-app-blue-7c-x", "ReplicaSet", "sample-app-blue-7c", HASH | pod_labels)
    pods = [pod("curl"), pod("waypoint"), blue]
    namespace = {"metadata": {"name": "default", "labels": namespace_labels}}
    cluster = Snapshot({"default": namespace}, {"default": pods}, {"default": [service]}, {}, {})
    assert waypoints(end, cluster) == found


def test_namespaces_of() -> None:
    requests = claims(
        claim("a", source={"pod": "x", "namespace": "one"}, to="http://app.two:80/"),
        claim("b", to="http://10.0.0.1/"),
    )
    assert namespaces_of(requests) == {"one", "two", "default"}


@pytest.mark.parametrize(
    ("sent", "phase", "names"),
    [
        ([frozenset({(CURL, BLUE)})], "after", []),
        ([frozenset({(CURL, APP)}), frozenset({(BLUE, CURL)})], "after", ["absent"]),
        ([], "after", ["absent"]),
        ([], "before", []),
    ],
)
def test_unsent(sent: list[frozenset[t.Any]], phase: str, names: list[str]) -> None:
    known = graph_claims(graph_claim("control"), graph_claim("absent", "curl", expect="no_edge"))
    assert [item.name for item in unsent(known, phase, sent)] == names
