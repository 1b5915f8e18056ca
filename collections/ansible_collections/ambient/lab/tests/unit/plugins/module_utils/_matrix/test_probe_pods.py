# What stands in for sources: objects, leftovers, and a life that ends whatever happens.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import socket
import subprocess
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Source
from ansible_collections.ambient.lab.plugins.module_utils._cluster.channel import Answer
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._common.rounds import Clock
from ansible_collections.ambient.lab.plugins.module_utils._matrix.probe_pods import (
    NOT_NOW,
    RESOURCES,
    RUN,
    ProbePods,
    ephemeral_of,
    leftover,
    ours,
    pod_of,
    run_is_gone,
    running_ephemeral,
    this_run,
)
from ansible_collections.ambient.lab.tests.unit.fakes.matrix import cluster
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object, pod

CREATED = "2026-01-01T00:00:00Z"
CREATED_AT = 1767225600.0
BARE = Source("default", service_account="bare")
MANAGED = {"app.kubernetes.io/managed-by": "ambient-lab"}


class FakeCluster:
    """Pods by path, as an API keeps them; what `states` says becomes of a pod or container that is made."""

    def __init__(self, *pods: Object) -> None:
        self.pods = {f"{item['metadata']['namespace']}/{item['metadata']['name']}": item for item in pods}
        self.sent: list[str] = []
        self.refuse: dict[str, int] = {}
        self.message = "not  you"
        # A path for which nobody answers.
        self.dead = ""
        self.waiting = ""
        self.clock = 0.0

    def get(self, path: str, **query: str) -> Object | None:
        return self.pods.get(self._key(path))

    def items(self, path: str, **query: str) -> list[Object]:
        assert query == {"labelSelector": "app.kubernetes.io/managed-by=ambient-lab"}
        return [item for item in self.pods.values() if f"/{item['metadata']['namespace']}/" in path]

    def send(
        self,
        method: str,
        path: str,
        body: t.Mapping[str, t.Any] | None = None,
        content_type: str = "application/json",
        **query: str,
    ) -> Answer:
        self.sent.append(f"{method} {path}")
        if self.dead and path.endswith(self.dead):
            raise LabError("the cluster does not answer")
        if method in self.refuse:
            return Answer(self.refuse[method], {}, json.dumps({"message": self.message}).encode())
        if method == "DELETE":
            gone = self.pods.pop(self._key(path), None)
            return Answer(200 if gone else 404, {}, b"{}")
        assert body is not None
        if method == "PATCH":
            assert content_type == "application/strategic-merge-patch+json"
            found = self.pods[self._key(path.removesuffix("/ephemeralcontainers"))]
            (container,) = body["spec"]["ephemeralContainers"]
            found["spec"].setdefault("ephemeralContainers", []).append(container)
            state = {"waiting": {"reason": self.waiting}} if self.waiting else {"running": {}}
            found["status"].setdefault("ephemeralContainerStatuses", []).append(
                {"name": container["name"], "state": state}
            )
            return Answer(200, {}, b"{}")
        made = json.loads(json.dumps(body))
        made["metadata"]["name"] = f"{made['metadata']['generateName']}{len(self.sent)}"
        made["metadata"]["creationTimestamp"] = CREATED
        made["status"] = pod("x", ready=not self.waiting, waiting=self.waiting, phase="Running")["status"]
        self.pods[f"{made['metadata']['namespace']}/{made['metadata']['name']}"] = made
        return Answer(201, {}, json.dumps(made).encode())

    @staticmethod
    def _key(path: str) -> str:
        parts = path.split("/")
        return f"{parts[4]}/{parts[6]}"

    def probe_pods(self, kind: str, **fields: t.Any) -> ProbePods:
        """Probe pods with a clock of their own."""

        def sleep(seconds: float) -> None:
            self.clock += seconds

        clock = Clock(lambda: self.clock, sleep, lambda: CREATED_AT + 100)
        return ProbePods(self, kind, "tools", 600, clock, **fields)


def test_a_pod_has_the_sources_identity_and_nothing_that_a_service_selects() -> None:
    model = pod("bare", labels={"app": "bare", "istio.io/dataplane-mode": "none"})
    made = pod_of(BARE, model, "tools", 600, RESOURCES)
    assert made["metadata"]["labels"] == {**MANAGED, "istio.io/dataplane-mode": "none"}
    assert pod_of(BARE, pod("bare"), "tools", 600, RESOURCES)["metadata"]["labels"] == MANAGED
    spec = made["spec"]
    assert (spec["serviceAccountName"], spec["activeDeadlineSeconds"]) == ("bare", 600)
    assert spec["automountServiceAccountToken"] is False
    (container,) = spec["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert spec["securityContext"]["runAsNonRoot"] is True
    # A ResourceQuota may want all four.
    assert {kind: set(values) for kind, values in container["resources"].items()} == {
        "requests": {"cpu", "memory"},
        "limits": {"cpu", "memory"},
    }


def test_an_ephemeral_container_gets_a_name_that_is_free() -> None:
    item = pod("bare")
    assert ephemeral_of(item, "tools")["name"] == "ambient-lab-probe-1"
    item["spec"]["ephemeralContainers"] = [{"name": "ambient-lab-probe-1"}, {"name": "debug"}]
    assert ephemeral_of(item, "tools")["name"] == "ambient-lab-probe-2"


def _mine(run: str = "elsewhere/1/1", **fields: t.Any) -> Object:
    item = pod("ambient-lab-probe-x", labels=MANAGED, **fields)
    item["metadata"] |= {"creationTimestamp": CREATED, "annotations": {RUN: run}}
    item["spec"]["activeDeadlineSeconds"] = 600
    return item


@pytest.mark.parametrize(
    ("phase", "age", "gone", "expected"),
    [
        ("Running", 10, False, False),
        ("Pending", 10, False, False),
        ("Running", 10, True, True),
        ("Running", 601, False, True),
        ("Failed", 10, False, True),
        ("Succeeded", 10, False, True),
    ],
)
def test_leftovers(phase: str, age: float, gone: bool, expected: bool) -> None:
    # No process has both this number and this start.
    run = f"{socket.gethostname()}/{os.getpid()}/1" if gone else this_run()
    assert leftover(_mine(run, phase=phase), CREATED_AT + age) is expected


def test_only_own_pods_are_ours() -> None:
    assert ours(_mine())
    assert not ours(pod("ambient-lab-probe-x"))
    assert not ours(pod("sample-app", labels=MANAGED))


def test_a_run_is_gone_when_its_process_is() -> None:
    assert not run_is_gone(this_run())
    with subprocess.Popen(["sleep", "60"]) as process:
        with open(f"/proc/{process.pid}/stat", encoding="utf-8") as file:
            started = file.read().rpartition(")")[2].split()[19]
        run = f"{socket.gethostname()}/{process.pid}/{started}"
        assert not run_is_gone(run)
        # The number may belong to another process by now.
        assert run_is_gone(f"{socket.gethostname()}/{process.pid}/1")
        process.kill()
        process.wait()
        assert run_is_gone(run)
    assert not run_is_gone(f"elsewhere/{os.getpid()}/1")
    assert not run_is_gone("")
    assert not run_is_gone(f"{socket.gethostname()}/1/")


def test_pods_are_removed_whatever_happens() -> None:
    api = FakeCluster(pod("bare"))

    def probe() -> t.NoReturn:
        with api.probe_pods("pod") as probe_pods:
            (place,) = probe_pods.stand_in([BARE], cluster([pod("bare")], [])).values()
            assert place == Source("default", pod="ambient-lab-probe-1", container="probe")
            assert probe_pods.pods == {"default/ambient-lab-probe-1"} <= set(api.pods)
            raise KeyError

    with pytest.raises(KeyError):
        probe()
    assert list(api.pods) == ["default/bare"]


def test_leftovers_are_removed_first_and_others_stay() -> None:
    alive, dead, other = _mine(), _mine(phase="Failed"), pod("sample-app", labels=MANAGED)
    dead["metadata"]["name"] = "ambient-lab-probe-y"
    api = FakeCluster(alive, dead, other)
    with api.probe_pods("pod") as probe_pods:
        assert probe_pods.clear(["default", "empty"]) == ["default/ambient-lab-probe-y"]
    assert sorted(api.pods) == ["default/ambient-lab-probe-x", "default/sample-app"]


@pytest.mark.parametrize(
    ("kind", "method", "waiting", "reason", "seconds"),
    [
        ("pod", "POST", "", "the API refused a pod in its place: HTTP 403: not you", 0),
        ("pod", "", "ErrImagePull", "container main is waiting, ErrImagePull", 0),
        ("pod", "", "ContainerCreating", "the pod in its place does not run", 60),
        ("ephemeral", "PATCH", "", "the API refused an ephemeral container in default/bare: HTTP 403", 0),
        ("ephemeral", "", "ImagePullBackOff", "waiting, ImagePullBackOff", 0),
        ("ephemeral", "", "ContainerCreating", "does not run: waiting, ContainerCreating", 60),
    ],
)
def test_where_nothing_can_stand_in(kind: str, method: str, waiting: str, reason: str, seconds: float) -> None:
    api = FakeCluster(pod("bare"))
    api.waiting = waiting
    if method:
        api.refuse[method] = 403
    with api.probe_pods(kind) as probe_pods:
        (place,) = probe_pods.stand_in([BARE], cluster([pod("bare")], [])).values()
    assert isinstance(place, str)
    assert reason in place
    assert seconds <= api.clock < seconds + 1
    assert list(api.pods) == ["default/bare"]


@pytest.mark.parametrize(
    "said",
    [
        "exceeded quota: all, requested: limits.cpu=200m, used: limits.cpu=4, limited: limits.cpu=4",
        "minimum cpu usage per Container is 50m, but request is 10m",
        "cpu max limit to request ratio per Container is 4, but provided ratio is 20.000000",
    ],
)
def test_a_pod_that_does_not_fit_is_refused_with_the_option_that_mends_it(said: str) -> None:
    api = FakeCluster(pod("bare"))
    api.refuse["POST"], api.message = 403, said
    with api.probe_pods("pod") as probe_pods:
        (place,) = probe_pods.stand_in([BARE], cluster([pod("bare")], [])).values()
    assert str(place).endswith(f"{said}; probe_resources sets what it requests, and its limits")


def test_a_pod_gets_the_resources_that_are_asked_for() -> None:
    api = FakeCluster(pod("bare"))
    with api.probe_pods("pod", resources={"requests": {"cpu": "50m"}}) as probe_pods:
        probe_pods.stand_in([BARE], cluster([pod("bare")], []))
        (made,) = (item for name, item in api.pods.items() if "probe" in name)
        resources = made["spec"]["containers"][0]["resources"]
    assert resources == {"requests": {"cpu": "50m"}, "limits": RESOURCES["limits"]}


def test_a_pod_that_stays_is_said() -> None:
    api = FakeCluster(pod("bare"))
    probe_pods = api.probe_pods("pod")
    probe_pods.stand_in([BARE], cluster([pod("bare")], []))
    api.refuse["DELETE"] = 403
    words = "can't be removed, do it by hand: default/ambient-lab-probe-1: HTTP 403: not you"
    with pytest.raises(LabError, match=words):
        probe_pods.__exit__(None, None, None)


def test_a_pod_that_nobody_answers_for_keeps_no_other_from_being_removed() -> None:
    api = FakeCluster(pod("bare"))
    probe_pods = api.probe_pods("pod")
    probe_pods.stand_in([BARE, Source("default", service_account="other")], cluster([pod("bare")], []))
    api.dead = "/ambient-lab-probe-1"
    words = "can't be removed, do it by hand: default/ambient-lab-probe-1: the cluster does not answer$"
    with pytest.raises(LabError, match=words):
        probe_pods.__exit__(None, None, None)
    assert sorted(api.pods) == ["default/ambient-lab-probe-1", "default/bare"]


@pytest.mark.parametrize("kind", ["pod", "ephemeral"])
def test_check_mode_makes_and_removes_nothing(kind: str) -> None:
    dead = _mine(phase="Failed")
    api = FakeCluster(pod("bare"), dead)
    with api.probe_pods(kind, check_mode=True) as probe_pods:
        assert probe_pods.clear(["default"]) == []
        assert probe_pods.stand_in([BARE], cluster([pod("bare")], [])) == {BARE: NOT_NOW}
    # A container stays in its pod, so that the pod would be another one then.
    assert probe_pods.marked == (["default/bare"] if kind == "ephemeral" else [])
    assert api.sent == []


def test_check_mode_asks_from_a_container_that_is_there() -> None:
    bare = pod("bare")
    api = FakeCluster(bare)
    with api.probe_pods("ephemeral") as probe_pods:
        made = probe_pods.stand_in([BARE], cluster([bare], []))
    with api.probe_pods("ephemeral", check_mode=True) as probe_pods:
        assert probe_pods.stand_in([BARE], cluster([bare], [])) == made
    assert probe_pods.marked == []


def test_an_ephemeral_container_is_made_once() -> None:
    bare = pod("bare")
    api = FakeCluster(bare)
    for marked in (["default/bare"], []):
        with api.probe_pods("ephemeral") as probe_pods:
            (place,) = probe_pods.stand_in([BARE], cluster([bare], [])).values()
            assert place == Source("default", pod="bare", container="ambient-lab-probe-1")
            assert probe_pods.marked == marked
    assert len(api.sent) == 1
    assert running_ephemeral(bare) == "ambient-lab-probe-1"
    bare["status"]["ephemeralContainerStatuses"][0]["state"] = {"terminated": {"reason": "Completed"}}
    with api.probe_pods("ephemeral") as probe_pods:
        (place,) = probe_pods.stand_in([BARE], cluster([bare], [])).values()
        assert place == Source("default", pod="bare", container="ambient-lab-probe-2")


def test_a_source_whose_pod_is_gone_gets_no_container() -> None:
    with FakeCluster().probe_pods("ephemeral") as probe_pods:
        assert probe_pods.stand_in([BARE], cluster([], [])) == {BARE: "it has no pod that could take a container"}
