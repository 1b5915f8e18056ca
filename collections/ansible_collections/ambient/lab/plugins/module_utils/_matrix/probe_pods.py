# Makes the pods and containers that probe for sources without curl, waits until they run, and removes them.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import socket
import typing as t

from .._claims.parse import Source
from .._claims.sources import Target, Unusable, find_target, target_in
from .._cluster.api import Getter, Lister
from .._cluster.channel import Answer, status_message
from .._common.errors import LabError
from .._common.rounds import Clock, Reason, Retry, Wait, repeat
from .._mesh.mesh import DATAPLANE_MODE, Mesh, Object, annotations_of, has_ended, labels_of, name_of

NAME = "ambient-lab-probe"
LABEL, MANAGER = "app.kubernetes.io/managed-by", "ambient-lab"
# Which process made a pod, so that another one on the same machine knows whether it still runs.
RUN = "ambient-lab/run"
NOT_NOW = "check mode makes nothing that could ask in its place"
# A ResourceQuota may want all four of a container, and a LimitRange has limits of its own.
RESOURCES: Object = {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "250m", "memory": "128Mi"}}
_USER = 65532
_SECURITY: Object = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
_IDENTITY: Object = {
    "runAsNonRoot": True,
    "runAsUser": _USER,
    "runAsGroup": _USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
_READY_SECONDS = 60.0
_GONE_SECONDS = 20.0
_POLL_SECONDS = 0.25
_PODS = "/api/v1/namespaces/{}/pods"
# Words of the admission plugins ResourceQuota and LimitRanger (k8s.io/apiserver, k8s.io/kubernetes).
_RESOURCES_REFUSED = ("quota", "usage per", "limit to request")
_RESOURCES_HELP = "probe_resources sets what it requests, and its limits"
_STRATEGIC_MERGE = "application/strategic-merge-patch+json"


def pod_of(source: Source, model: Object | None, image: str, seconds: int, resources: Object) -> Object:
    """A pod that does nothing, with a source's identity, and without a label that a Service could select.

    It has none of the source's labels, though NetworkPolicies go by them. With them it would get requests of the
    source's Services, count in its PodDisruptionBudget, and a ReplicaSet or StatefulSet would take it over and could
    delete a pod in exchange. What is only observed must not be disturbed; an ephemeral container is exact.

    Args:
        source: by ServiceAccount.
        model: the source's own pod, None where it has none; whether it is in the mesh is copied.
        image: with sh and curl.
        seconds: after which the node ends the pod, should nobody remove it.
        resources: requests and limits of its container.
    """
    mode = labels_of(model).get(DATAPLANE_MODE)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"{NAME}-",
            "namespace": source.namespace,
            "labels": {LABEL: MANAGER, **({DATAPLANE_MODE: mode} if mode else {})},
            "annotations": {RUN: this_run()},
        },
        "spec": {
            "serviceAccountName": source.service_account or "default",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": seconds,
            "terminationGracePeriodSeconds": 1,
            "securityContext": _IDENTITY,
            "containers": [
                {
                    "name": "probe",
                    "image": image,
                    "command": ["sh", "-c", f"sleep {seconds}"],
                    "resources": resources,
                    "securityContext": _SECURITY,
                }
            ],
        },
    }


def ephemeral_of(pod: Object, image: str) -> Object:
    """An ephemeral container with a name that the pod does not have yet; it ends with the pod, and at once."""
    taken = {item["name"] for item in pod["spec"].get("ephemeralContainers") or []}
    number = next(number for number in range(1, len(taken) + 2) if f"{NAME}-{number}" not in taken)
    return {
        "name": f"{NAME}-{number}",
        "image": image,
        "command": ["sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait"],
        "securityContext": {**_SECURITY, **_IDENTITY},
    }


def running_ephemeral(pod: Object) -> str:
    """Name of an ephemeral container of ours that runs in the pod; "" where there is none."""
    states = _ephemeral_states(pod).items()
    return next((name for name, state in states if name.startswith(f"{NAME}-") and "running" in state), "")


def _ephemeral_states(pod: Object) -> dict[str, Object]:
    statuses = pod.get("status", {}).get("ephemeralContainerStatuses") or []
    return {str(status["name"]): status.get("state") or {} for status in statuses}


def ours(pod: Object) -> bool:
    """Whether a pod stands in for a source, and is none itself."""
    return labels_of(pod).get(LABEL) == MANAGER and str(pod["metadata"]["name"]).startswith(f"{NAME}-")


def leftover(pod: Object, now: float) -> bool:
    """Whether the process that made a pod of ours is no more: it has ended, was due to end, or its maker is gone.

    Args:
        pod: one of ours.
        now: seconds since the epoch.
    """
    created = datetime.datetime.fromisoformat(str(pod["metadata"]["creationTimestamp"])).timestamp()
    return (
        has_ended(pod)
        or now - created > float(pod["spec"].get("activeDeadlineSeconds") or 0)
        or run_is_gone(annotations_of(pod).get(RUN, ""))
    )


def this_run() -> str:
    """Names this process: machine, number, and start, because numbers are used again."""
    return f"{socket.gethostname()}/{os.getpid()}/{_started(os.getpid())}"


def run_is_gone(run: str) -> bool:
    """Whether a process of this machine has ended; False for other machines, where nobody can tell."""
    host, process, started = [*run.rsplit("/", 2), "", ""][:3]
    if host != socket.gethostname() or not process.isdecimal() or not started:
        return False
    return _started(int(process)) != started


def _started(process: int) -> str:
    """Start of a process in clock ticks (proc(5), /proc/pid/stat, field 22); "" where it does not run."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


class Api(Getter, Lister, t.Protocol):
    """What is needed of the cluster."""

    def send(
        self, method: str, path: str, body: Object | None = None, content_type: str = "application/json", **query: str
    ) -> Answer:
        """POST, PATCH or DELETE, and any answer."""


class ProbePods:
    """What stands in for sources; leaving the context removes every pod that was made.

    Args:
        api: of the cluster.
        kind: pod or ephemeral.
        image: with sh and curl.
        seconds: after which a node ends a pod by itself.
        clock: to wait with.
        resources: requests and limits of a pod's container; what is left out is as in RESOURCES.
        check_mode: only what is there already stands in for a source.

    Attributes:
        pods: that were made; namespace/name.
        marked: pods that get a container which they keep; namespace/name.
    """

    def __init__(
        self,
        api: Api,
        kind: str,
        image: str,
        seconds: int,
        clock: Clock,
        *,
        resources: Object | None = None,
        check_mode: bool = False,
    ) -> None:
        self._api, self._kind, self._image, self._seconds, self._clock = api, kind, image, seconds, clock
        self._resources = {**RESOURCES, **(resources or {})}
        self._check_mode = check_mode
        self.pods: set[str] = set()
        self.marked: list[str] = []

    def __enter__(self) -> ProbePods:
        return self

    def __exit__(self, *_error: object) -> None:
        self._remove(sorted(self.pods))

    def clear(self, namespaces: t.Iterable[str]) -> list[str]:
        """Remove what earlier runs had to leave behind; namespace/name of each pod."""
        spaces = [] if self._check_mode else list(namespaces)
        pods = [
            pod for space in spaces for pod in self._api.items(_PODS.format(space), labelSelector=f"{LABEL}={MANAGER}")
        ]
        old = [name_of(pod) for pod in pods if ours(pod) and leftover(pod, self._clock.epoch())]
        self._remove(old)
        return old

    def stand_in(self, sources: t.Iterable[Source], mesh: Mesh) -> dict[Source, Source | str]:
        """For each source the pod and container that probe in its place, or why there are none.

        Args:
            sources: by ServiceAccount.
            mesh: objects of their namespaces.
        """
        make = self._make_pod if self._kind == "pod" else self._make_ephemeral
        made = {source: make(source, own_pod(source, mesh)) for source in sources}
        deadline = self._clock.now() + _READY_SECONDS
        return {source: item if isinstance(item, str) else self._runs(item, deadline) for source, item in made.items()}

    def _runs(self, source: Source, deadline: float) -> Source | str:
        """Wait until what was made runs; why it does not."""
        what, look = "pod in its place", _pod
        if self._kind == "ephemeral":
            what, look = "ephemeral container in its pod", _ephemeral
        path = _path(f"{source.namespace}/{source.pod}")
        ended = repeat(
            lambda: look(source, self._api.get(path)),
            Wait[Unusable | None](deadline - self._clock.now(), lambda found: [_waited_for(found)] if found else []),
            self._clock,
            _POLL_SECONDS,
        )
        return f"the {what} does not run: {ended.last.reason}" if ended.last else source

    def _make_pod(self, source: Source, own: Object | None) -> Source | str:
        if self._check_mode:
            return NOT_NOW
        pod = pod_of(source, own, self._image, self._seconds, self._resources)
        answer = self._api.send("POST", _PODS.format(source.namespace), pod)
        if answer.status != 201:
            why = _why(answer)
            help_ = f"; {_RESOURCES_HELP}" if any(words in why for words in _RESOURCES_REFUSED) else ""
            return f"the API refused a pod in its place: {why}{help_}"
        made = json.loads(answer.body)
        self.pods.add(name_of(made))
        return Source(source.namespace, pod=str(made["metadata"]["name"]), container="probe")

    def _make_ephemeral(self, source: Source, own: Object | None) -> Source | str:
        if own is None:
            return "it has no pod that could take a container"
        place = Source(source.namespace, pod=str(own["metadata"]["name"]), container=running_ephemeral(own))
        if place.container:
            return place
        if not self._check_mode:
            container = ephemeral_of(own, self._image)
            patch = {"spec": {"ephemeralContainers": [container]}}
            path = f"{_path(name_of(own))}/ephemeralcontainers"
            answer = self._api.send("PATCH", path, patch, _STRATEGIC_MERGE)
            if answer.status != 200:
                return f"the API refused an ephemeral container in {name_of(own)}: {_why(answer)}"
            place = dataclasses.replace(place, container=container["name"])
        self.marked.append(name_of(own))
        return NOT_NOW if self._check_mode else place

    def _remove(self, names: t.Sequence[str]) -> None:
        """Delete pods and wait until they are gone; a pod that can't be deleted ends by its own deadline."""
        refused = []
        for name in names:
            try:
                # The others can be removed all the same.
                answer = self._api.send(
                    "DELETE", _path(name), {"gracePeriodSeconds": 1, "propagationPolicy": "Background"}
                )
                refused += [f"{name}: {_why(answer)}"] if answer.status not in (200, 202, 404) else []
            except LabError as error:
                refused.append(f"{name}: {error.message}")
        if refused:
            raise LabError(f"a pod that stood in for a source can't be removed, do it by hand: {'; '.join(refused)}")
        there = Wait[list[str]](_GONE_SECONDS, lambda left: [Reason(f"pod {name} is still there") for name in left])
        repeat(lambda: [name for name in names if self._api.get(_path(name))], there, self._clock, _POLL_SECONDS)


def _path(pod: str) -> str:
    """Path of a pod in the Kubernetes API; pod: namespace/name."""
    namespace, _slash, name = pod.partition("/")
    return f"{_PODS.format(namespace)}/{name}"


def own_pod(source: Source, mesh: Mesh) -> Object | None:
    """The ready pod that a source means, None where there is none."""
    target = target_in(mesh, source)
    return target.item if isinstance(target, Target) else None


def _pod(source: Source, pod: Object | None) -> Unusable | None:
    """Why a pod that was made can't probe; None where it can."""
    found = find_target(source, [pod] if pod else [])
    return found if isinstance(found, Unusable) else None


def _ephemeral(source: Source, pod: Object | None) -> Unusable | None:
    """Why an ephemeral container that was made can't probe; None where it can."""
    if pod is None:
        return Unusable(f"pod {source.namespace}/{source.pod} is gone", Retry.POINTLESS)
    state = _ephemeral_states(pod).get(source.container or "", {})
    if "running" in state:
        return None
    for kind in ("terminated", "waiting"):
        if reason := state.get(kind):
            return Unusable(f"{kind}, {reason.get('reason')}", Retry.unless(kind == "terminated"))
    return Unusable("it did not start in time")


def _waited_for(found: Unusable) -> Reason:
    """What is waited for, and whether that is of use; an image that can't be pulled now is not waited for."""
    return Reason(found.reason, Retry.POINTLESS if "ImagePull" in found.reason else found.retry)


def _why(answer: Answer) -> str:
    """The API's own message."""
    return f"HTTP {answer.status}: {(status_message(answer.body) or 'no reason given')[:300]}"
