# Which routes requests take: the workload of a pod as istiod names it, and what a missing edge's traffic needs.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._check.run import ClaimRun
from ansible_collections.ambient.lab.plugins.module_utils._graph.parse import End
from ansible_collections.ambient.lab.plugins.module_utils._graph.run import GraphRun
from ansible_collections.ambient.lab.plugins.module_utils._graph.traffic import (
    routes,
    unsent,
    waypoints,
    workload_of,
)
from ansible_collections.ambient.lab.tests.unit.fakes.graph import SERVICE, graph_claim, graph_claims
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import gateway, mesh_of, pod
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object, claim, claims


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


WAYPOINT = gateway("waypoint", "default")
STARTING = gateway("waypoint", "default", address=False)
HOSTED = pod("hosted", ip="192.168.1.1", spec={"hostNetwork": True})
HEADLESS = {**SERVICE, "spec": {**SERVICE["spec"], "clusterIP": "None"}}
GREEN = [
    {**SERVICE, "metadata": {"name": "green", "namespace": "default"}, "spec": {**SERVICE["spec"], "selector": HASH}},
    {
        "kind": "HTTPRoute",
        "metadata": {"name": "to-green", "namespace": "default"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "sample-app"}],
            "rules": [{"backendRefs": [{"name": "green", "port": 8080}]}],
        },
    },
]
DIRECT = {(CURL, APP), (CURL, BLUE), (APP, BLUE)}
TO_WAYPOINT = (CURL, End("workload", "default", "waypoint"))


@pytest.mark.parametrize(
    ("url", "objects", "found"),
    [
        ("http://sample-app:8080/", [SERVICE, BLUE_POD], DIRECT),
        ("http://sample-app.default:8080/", [SERVICE, BLUE_POD], DIRECT),
        # Nobody knows which of two workloads gets the request.
        ("http://sample-app:8080/", [SERVICE, BLUE_POD, GREEN_POD], {(CURL, APP)}),
        ("http://sample-app:8080/", [LABELLED, BLUE_POD, *WAYPOINT], {*DIRECT, TO_WAYPOINT}),
        # A waypoint that does not serve is not on the way.
        ("http://sample-app:8080/", [LABELLED, BLUE_POD, *STARTING], DIRECT),
        ("http://sample-app:8080/", [LABELLED, BLUE_POD], DIRECT),
        # Where its routes lead to another Service's pods, the Service's own get nothing.
        (
            "http://sample-app:8080/",
            [LABELLED, *WAYPOINT, *GREEN, {**GREEN_POD, "metadata": {**GREEN_POD["metadata"], "labels": HASH}}],
            {(CURL, APP), (CURL, End("workload", "default", "sample-app-green")), TO_WAYPOINT},
        ),
        # A headless name stands for the pods' own addresses: nobody sees a Service.
        ("http://sample-app:8080/", [HEADLESS, BLUE_POD], {(CURL, BLUE)}),
        ("http://10.0.0.7:8080/", [SERVICE, {**BLUE_POD, "status": {"podIP": "10.0.0.7"}}], {(CURL, BLUE)}),
        # A node's address is that of all its pods with hostNetwork, and ztunnel knows none of them by it.
        ("http://192.168.1.1:8080/", [HOSTED], set()),
        ("http://other:8080/", [SERVICE, BLUE_POD], set()),
        ("http://www.example.com/", [SERVICE, BLUE_POD], set()),
    ],
)
def test_routes(url: str, objects: list[Object], found: set[tuple[End, End]]) -> None:
    (request,) = claims(claim(to=url))
    assert routes(ClaimRun.of(request, "after", mesh_of(pod("curl"), objects))) == found
    # Without a pod that can call there is no way at all.
    for callers in ([pod("curl", ready=False)], []):
        assert routes(ClaimRun.of(request, "after", mesh_of(callers, objects))) == frozenset()


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
    namespace = {"kind": "Namespace", "metadata": {"name": "default", "labels": namespace_labels}}
    objects = [namespace, pod("curl"), pod("waypoint"), blue, service]
    assert waypoints(end, mesh_of(*objects)) == found
    # What could not be read may name a waypoint.
    for kind in ("Namespace", "Service", "Pod"):
        assert waypoints(end, mesh_of(*objects, config=None, **{kind: "HTTP 403"})) is None


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
    runs = [GraphRun(item, phase) for item in known]
    assert [run.claim.name for run in unsent(runs, frozenset().union(*sent))] == names
