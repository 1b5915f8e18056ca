# Readiness per kind, the wait for many objects, and what is said of those that are not ready.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pathlib
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._cluster.finder import Finder, Object, Wanted
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError, Slow
from ansible_collections.ambient.lab.plugins.module_utils._common.rounds import Clock
from ansible_collections.ambient.lab.plugins.module_utils._ready.readiness import counts, problem_of
from ansible_collections.ambient.lab.plugins.module_utils._ready.ready import ready, wait
from ansible_collections.ambient.lab.plugins.modules import ready as module
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi

VERSIONS = {
    "Deployment": "apps/v1",
    "DaemonSet": "apps/v1",
    "StatefulSet": "apps/v1",
    "Job": "batch/v1",
    "CustomResourceDefinition": "apiextensions.k8s.io/v1",
    "Gateway": "gateway.networking.k8s.io/v1",
    "GatewayClass": "gateway.networking.k8s.io/v1",
}
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
PODS = "/api/v1/namespaces/default/pods"
EVENTS = "/api/v1/namespaces/default/events"


def thing(status: Object, spec: Object | None = None, **metadata: t.Any) -> Object:
    """An object at generation 2."""
    return {
        "metadata": {"name": "app", "namespace": "default", "generation": 2, **metadata},
        "spec": spec or {},
        "status": {"observedGeneration": 2, **status},
    }


def says(kind: str, status: str = "True", seen: int = 2) -> Object:
    """A status with one condition."""
    return {
        "conditions": [
            {"type": kind, "status": status, "observedGeneration": seen, "reason": "Because", "message": "of this"}
        ]
    }


def rollout(**changed: int) -> Object:
    """Status of a Deployment of two pods, rolled out unless told otherwise."""
    return {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2, **changed}


def nodes(**changed: int) -> Object:
    """Status of a DaemonSet on two nodes."""
    return {"desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": 2, **changed}


def ordered(**changed: int) -> Object:
    """Status of a StatefulSet of two pods."""
    return {"updatedReplicas": 2, "readyReplicas": 2, **changed}


TWO = {"replicas": 2}
UNSEEN = "its controller has not seen its latest version yet"


@pytest.mark.parametrize(
    ("kind", "item", "problem"),
    [
        ("Deployment", thing(rollout(), TWO), ""),
        ("Deployment", thing(rollout(observedGeneration=1), TWO), UNSEEN),
        ("Deployment", thing({"observedGeneration": 0}, TWO), UNSEEN),
        ("Deployment", thing({}), "0 of 1 pods have its latest version"),
        ("Deployment", thing({**says("ReplicaFailure")}), "have its latest version (Because: of this)"),
        ("Deployment", thing(rollout(availableReplicas=1), TWO), "1 of 2 pods are ready"),
        ("Deployment", thing(rollout(replicas=3), TWO), "pods of its older version are still there"),
        ("Deployment", thing({}, {"replicas": 0}), "is scaled to 0"),
        ("Deployment", thing(rollout(), TWO, deletionTimestamp="now"), "is being deleted"),
        ("DaemonSet", thing(nodes()), ""),
        ("DaemonSet", thing(nodes(numberAvailable=0)), "0 of 2 pods are ready"),
        ("DaemonSet", thing(nodes(updatedNumberScheduled=1)), "1 of 2 pods have its latest version"),
        ("DaemonSet", thing(nodes(updatedNumberScheduled=0), {"updateStrategy": {"type": "OnDelete"}}), ""),
        ("DaemonSet", thing({}), "no node takes its pods"),
        ("DaemonSet", thing({"observedGeneration": 1}), UNSEEN),
        ("StatefulSet", thing(ordered(), TWO), ""),
        ("StatefulSet", thing(ordered(readyReplicas=1), TWO), "1 of 2 pods are ready"),
        ("StatefulSet", thing(ordered(updatedReplicas=1), TWO), "1 of 2 pods have its latest version"),
        (
            "StatefulSet",
            thing(ordered(updatedReplicas=1), {**TWO, "updateStrategy": {"rollingUpdate": {"partition": 1}}}),
            "",
        ),
        ("Pod", thing({"phase": "Running", **says("Ready")}), ""),
        ("Pod", thing({"phase": "Running", **says("Ready", "False")}), "is Running, not ready"),
        ("Pod", thing({}), "is Unknown, not ready"),
        ("Pod", thing({"phase": "Failed"}), "has ended (Failed)"),
        ("Node", thing(says("Ready")), ""),
        ("Node", thing(says("Ready", "False")), "is not Ready (Because: of this)"),
        ("Node", thing({}), "nobody has said yet whether it is Ready"),
        ("GatewayClass", thing(says("Accepted")), ""),
        ("GatewayClass", thing(says("Accepted", seen=1)), "nobody has said yet whether it is Accepted"),
        ("Gateway", thing(says("Programmed")), ""),
        ("Gateway", thing(says("Programmed", "Unknown")), "is not Programmed (Because: of this)"),
        ("CustomResourceDefinition", thing(says("Established")), ""),
        ("Job", thing(says("Complete")), ""),
        ("Job", thing({}), "is not complete"),
        ("Job", thing(says("Failed")), "has failed (Because: of this)"),
        ("ConfigMap", {"metadata": {"name": "app"}}, ""),
    ],
)
def test_readiness(kind: str, item: Object, problem: str) -> None:
    found = problem_of(Wanted(kind, VERSIONS.get(kind, "v1")), item)
    if problem:
        assert found is not None
        assert problem in found.text
    else:
        assert found is None


def test_a_kind_of_the_same_name_in_another_group_only_has_to_exist() -> None:
    assert problem_of(Wanted("Gateway", "networking.istio.io/v1"), thing({})) is None


def test_which_pods_of_a_list_count() -> None:
    ended, going = thing({"phase": "Failed"}), thing({"phase": "Running"}, deletionTimestamp="now")
    assert [counts(Wanted("Pod"), item) for item in (thing({"phase": "Pending"}), ended, going)] == [True, False, False]
    assert counts(Wanted("Pod", name="app"), ended)


class Sequence:
    """A Reader that gives one answer after the other, the last one for ever; each look takes a second."""

    def __init__(self, *answers: Object | None) -> None:
        self.answers = answers
        self.looks = 0
        self.at = 0.0

    def get(self, path: str, **query: str) -> Object | None:
        """The next answer."""
        self.looks += 1
        return self.answers[min(self.looks, len(self.answers)) - 1]

    def items(self, path: str, **query: str) -> list[Object]:
        """Nothing."""
        return []

    def text(self, path: str, **query: str) -> str:
        """Nothing."""
        return ""

    def now(self) -> float:
        """Seconds."""
        return self.at

    def sleep(self, seconds: float) -> None:
        """Let the clock go on."""
        self.at += seconds


RUNNING = thing({"phase": "Running", **says("Ready")})
PENDING = thing({"phase": "Pending"})


@pytest.mark.parametrize(
    ("answers", "looks", "elapsed", "problems"),
    [
        ([RUNNING], 1, 0, 0),
        ([None, PENDING, RUNNING], 3, 2, 0),
        ([None], 4, 2.5, 1),
        ([PENDING, thing({"phase": "Failed"})], 2, 1, 1),
    ],
)
def test_wait(answers: list[Object | None], looks: int, elapsed: float, problems: int) -> None:
    reader = Sequence(*answers)
    ended = wait([Wanted("Pod", name="app")], Finder(reader), 2.5, 1, Clock(reader.now, reader.sleep))
    assert (ended.rounds, ended.elapsed, len(ended.last[0].problems)) == (looks, elapsed, problems)


def test_a_slow_answer_ends_no_wait_that_has_time_left() -> None:
    """A busy machine takes its time; a cluster that is not there is told at once."""

    class Busy(Sequence):
        def get(self, path: str, **query: str) -> Object | None:
            self.at += 10
            found = super().get(path, **query)
            if found is None:
                raise Slow("Read timed out")
            return found

    reader = Busy(None, None, RUNNING)
    ended = wait([Wanted("Pod", name="app")], Finder(reader), 60, 1, Clock(reader.now, reader.sleep))
    assert (ended.rounds, ended.last[0].problems) == (1, [])
    reader = Busy(None)
    with pytest.raises(Slow):
        wait([Wanted("Pod", name="app")], Finder(reader), 60, 1, Clock(reader.now, reader.sleep))
    assert 60 <= reader.at < 75


def params(folder: pathlib.Path, api: FakeApi, *objects: Object, **changed: t.Any) -> dict[str, t.Any]:
    """Parameters of the module with their defaults."""
    defaults = {name: option.get("default") for name, option in module.SPEC.items()}
    return {**defaults, "kubeconfig": api.kubeconfig(folder), "objects": list(objects), "timeout": 0.0, **changed}


APP = {"kind": "Deployment", "api_version": "apps/v1", "name": "app", "namespace": "default"}


def container(**fields: t.Any) -> Object:
    """Status of a pod with one container."""
    return {"phase": "Pending", "containerStatuses": [{"name": "main", "ready": False, "restartCount": 3, **fields}]}


def waiting(reason: str, message: str = "") -> Object:
    """State of a container."""
    return {"waiting": {"reason": reason, "message": message}}


CRASHED = {"terminated": {"exitCode": 3, "reason": "Error"}}
NO_NODE = {
    "phase": "Pending",
    "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes: Insufficient cpu."}],
}
WARNING = {
    "items": [
        {"reason": "FailedMount", "message": "no \x1b[31mvolume\n", "lastTimestamp": "2026-01-02"},
        {"reason": "Older", "lastTimestamp": "2026-01-01"},
    ]
}


@pytest.mark.parametrize(
    ("pod", "events", "lines"),
    [
        (container(state=waiting("ImagePullBackOff", "no such image")), {}, [
            "    pod app: container main is waiting, ImagePullBackOff: no such image",
        ]),
        (container(state=waiting("CrashLoopBackOff", "back-off"), lastState=CRASHED), {}, [
            "    pod app: container main is not ready, CrashLoopBackOff (exit code 3, Error, 3 restarts)",
            "      | line 1",
            "      | line 2",
        ]),
        (container(state=CRASHED), {}, [
            "    pod app: container main is not ready, Error (exit code 3, Error, 3 restarts)",
        ]),
        (NO_NODE, {}, ["    pod app has no node: 0/1 nodes: Insufficient cpu."]),
        (container(state=waiting("ContainerCreating")), WARNING, ["    pod app: FailedMount: no [31mvolume"]),
        (container(state={"running": {}}), WARNING, ["    pod app: FailedMount: no [31mvolume"]),
    ],
)  # fmt: skip
def test_why_a_deployment_is_not_ready(tmp_path: pathlib.Path, pod: Object, events: Object, lines: list[str]) -> None:
    deployment = thing(rollout(availableReplicas=0), {**TWO, "selector": {"matchLabels": {"app": "app"}}})
    objects = {
        f"{DEPLOYMENTS}/app": deployment,
        PODS: {"items": [thing(pod), RUNNING]},
        EVENTS: events,
        f"{PODS}/app/log": "line 1\nline 2\n",
    }
    with FakeApi(objects) as api, pytest.raises(LabError) as caught:
        ready(params(tmp_path, api, APP))
    said = caught.value.message.splitlines()
    assert said[0].startswith("1 of 1 objects are not ready after 0.")
    assert said[1] == "  Deployment default/app: 0 of 2 pods are ready"
    assert said[2 : 2 + len(lines)] == lines
    assert said[-1] == f"look: kubectl --kubeconfig {tmp_path}/kubeconfig -n default describe pod app"


def test_what_is_missing_and_what_has_no_pod(tmp_path: pathlib.Path) -> None:
    empty = thing({}, {"selector": {"matchLabels": {"app": "app"}}})
    labelled = {"kind": "Pod", "namespace": "default", "label_selector": "app=x"}
    kinds = {"/api/v1": {"resources": [{"name": "pods", "kind": "Pod"}, {"name": "nodes", "kind": "Node"}]}}
    objects = {f"{DEPLOYMENTS}/app": empty, EVENTS: WARNING, **kinds}
    with FakeApi(objects) as api, pytest.raises(LabError) as caught:
        ready(params(tmp_path, api, APP, labelled, {"kind": "Node"}))
    assert caught.value.message.splitlines()[1:5] == [
        "  Deployment default/app: 0 of 1 pods have its latest version",
        "    last warning: FailedMount: no [31mvolume",
        "  Pod with app=x in namespace default: there is none",
        "  Node: there is none",
    ]


@pytest.mark.parametrize("kind", ["Deploymint", "Deployment"])
def test_a_kind_that_the_api_does_not_know(tmp_path: pathlib.Path, kind: str) -> None:
    wrong = {**APP, "kind": kind, "api_version": "apps/v2"}
    with FakeApi({}) as api, pytest.raises(LabError) as caught:
        ready(params(tmp_path, api, wrong))
    assert caught.value.message.splitlines()[1:] == [
        f"  {kind} default/app: the API knows no kind {kind} in apps/v2: correct it, or install its CRD first",
        f"look: kubectl --kubeconfig {tmp_path}/kubeconfig api-resources",
    ]


def test_all_is_ready(tmp_path: pathlib.Path) -> None:
    with FakeApi({f"{DEPLOYMENTS}/app": thing(rollout(), TWO), PODS: {"items": [RUNNING]}}) as api:
        returned = ready(params(tmp_path, api, APP, {"kind": "Pod", "namespace": "default"}))
    assert [item["metadata"]["name"] for item in returned["resources"]] == ["app", "app"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"objects": []}, "objects is empty"),
        ({"timeout": -1.0}, "timeout must be from 0 to 3600 seconds"),
        ({"interval": 0.0}, "interval must be from 0.01"),
        ({"objects": [{"kind": "Pod", "name": "a", "label_selector": "b"}]}, "exclude each other"),
    ],
)
def test_wrong_input(tmp_path: pathlib.Path, changed: dict[str, t.Any], words: str) -> None:
    with FakeApi({}) as api:
        with pytest.raises(LabError) as caught:
            ready(params(tmp_path, api, APP) | changed)
        assert api.connections == set()
    assert words in caught.value.message
