# Makes what stands in for sources without curl, waits until it runs, and removes it whatever happens.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import json
import types
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Source
from ansible_collections.ambient.lab.plugins.module_utils._claims.sources import (
    Target,
    Unusable,
    find_target,
    target_in,
)
from ansible_collections.ambient.lab.plugins.module_utils._cluster.api import Getter, Lister
from ansible_collections.ambient.lab.plugins.module_utils._cluster.channel import Answer, status_message
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._common.rounds import Clock, Retry, Wait, repeat
from ansible_collections.ambient.lab.plugins.module_utils._matrix.stand import (
    LABEL,
    MANAGER,
    NOT_NOW,
    RESOURCES,
    ephemeral_of,
    leftover,
    ours,
    pod_of,
    run_is_gone,
    running_ephemeral,
    stuck_ephemeral,
    this_run,
)
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh, Object, name_of

READY_SECONDS = 60.0
GONE_SECONDS = 20.0
POLL_SECONDS = 0.25
PODS = "/api/v1/namespaces/{}/pods"
# Words of the admission plugins ResourceQuota and LimitRanger (k8s.io/apiserver, k8s.io/kubernetes).
_RESOURCES_REFUSED = ("quota", "usage per", "limit to request")
RESOURCES_HELP = "probe_resources sets what it requests, and its limits"
_STRATEGIC_MERGE = "application/strategic-merge-patch+json"


class Api(Getter, Lister, t.Protocol):
    """What is needed of the cluster."""

    def send(
        self, method: str, path: str, body: Object | None = None, content_type: str = "application/json", **query: str
    ) -> Answer:
        """POST, PATCH or DELETE, and any answer."""


class Probers:
    """What stands in for sources; leaving the context removes every pod that was made.

    Args:
        api: of the cluster.
        kind: pod or ephemeral.
        image: with sh and curl.
        seconds: after which a node ends a pod by itself.
        clock: to wait with.
        resources: requests and limits of a pod's container; what is left out is as in RESOURCES.
        check_mode: only what is there already stands in for a source.
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
        # Pods that were made; namespace/name.
        self.pods: set[str] = set()
        # Pods that get a container which they keep; namespace/name.
        self.marked: list[str] = []

    def __enter__(self) -> Probers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._remove(sorted(self.pods))

    def clear(self, namespaces: t.Iterable[str]) -> list[str]:
        """Remove what earlier runs had to leave behind; namespace/name of each pod."""
        old: list[str] = []
        if self._check_mode:
            return old
        for namespace in namespaces:
            for pod in self._api.items(PODS.format(namespace), labelSelector=f"{LABEL}={MANAGER}"):
                if ours(pod) and leftover(pod, self._clock.epoch(), run_is_gone):
                    old.append(f"{namespace}/{pod['metadata']['name']}")
        self._remove(old)
        return old

    def stand_in(self, sources: t.Iterable[Source], mesh: Mesh) -> dict[Source, Source | str]:
        """For each source the pod and container that probe in its place, or why there are none.

        Args:
            sources: by ServiceAccount.
            mesh: objects of their namespaces.
        """
        make = self._make_pod if self._kind == "pod" else self._make_ephemeral
        made = {source: make(source, mesh) for source in sources}
        deadline = self._clock.now() + READY_SECONDS
        return {source: item if isinstance(item, str) else self._runs(item, deadline) for source, item in made.items()}

    def _runs(self, source: Source, deadline: float) -> Source | str:
        """Wait until what was made runs; why it does not."""
        what, look = "pod in its place", _pod
        if self._kind == "ephemeral":
            what, look = "ephemeral container in its pod", _ephemeral
        path = _path(f"{source.namespace}/{source.pod}")
        ended = repeat(
            lambda: look(source, self._api.get(path)),
            Wait[Unusable | None](deadline - self._clock.now(), lambda found: [found.retry] if found else []),
            self._clock,
            POLL_SECONDS,
        )
        return f"the {what} does not run: {ended.last.reason}" if ended.last else source

    def _make_pod(self, source: Source, mesh: Mesh) -> Source | str:
        if self._check_mode:
            return NOT_NOW
        account, model = source.service_account or "default", own_pod(source, mesh)
        pod = pod_of(source.namespace, account, model, self._image, self._seconds, this_run(), self._resources)
        answer = self._api.send("POST", PODS.format(source.namespace), pod)
        if answer.status != 201:
            why = _why(answer)
            help_ = f"; {RESOURCES_HELP}" if any(words in why for words in _RESOURCES_REFUSED) else ""
            return f"the API refused a pod in its place: {why}{help_}"
        name = str(json.loads(answer.body)["metadata"]["name"])
        self.pods.add(f"{source.namespace}/{name}")
        return Source(source.namespace, pod=name, container="probe")

    def _make_ephemeral(self, source: Source, mesh: Mesh) -> Source | str:
        pod = own_pod(source, mesh)
        if pod is None:
            return "it has no pod that could take a container"
        name, place = str(pod["metadata"]["name"]), name_of(pod)
        running = running_ephemeral(pod)
        if running:
            return Source(source.namespace, pod=name, container=running)
        if self._check_mode:
            self.marked.append(place)
            return NOT_NOW
        container = ephemeral_of(pod, self._image)
        patch = {"spec": {"ephemeralContainers": [container]}}
        answer = self._api.send("PATCH", f"{_path(place)}/ephemeralcontainers", patch, _STRATEGIC_MERGE)
        if answer.status != 200:
            return f"the API refused an ephemeral container in {place}: {_why(answer)}"
        self.marked.append(place)
        return Source(source.namespace, pod=name, container=container["name"])

    def _remove(self, names: t.Sequence[str]) -> None:
        """Delete pods and wait until they are gone; a pod that can't be deleted ends by its own deadline."""
        refused = []
        for name in names:
            body = {"gracePeriodSeconds": 1, "propagationPolicy": "Background"}
            try:
                answer = self._api.send("DELETE", _path(name), body)
            except LabError as error:
                # The others can be removed all the same.
                refused.append(f"{name}: {error.message}")
                continue
            if answer.status not in (200, 202, 404):
                refused.append(f"{name}: {_why(answer)}")
        if not refused:
            there = Wait[list[str]](GONE_SECONDS, lambda left: [Retry.USEFUL for _name in left])
            repeat(lambda: [name for name in names if self._api.get(_path(name))], there, self._clock, POLL_SECONDS)
        else:
            raise LabError(f"a pod that stood in for a source can't be removed, do it by hand: {'; '.join(refused)}")


def _path(pod: str) -> str:
    """Path of a pod in the Kubernetes API; pod: namespace/name."""
    namespace, _slash, name = pod.partition("/")
    return f"{PODS.format(namespace)}/{name}"


def own_pod(source: Source, mesh: Mesh) -> Object | None:
    """The ready pod that a source means, None where there is none."""
    target = target_in(mesh, source)
    return target.item if isinstance(target, Target) else None


def _pod(source: Source, pod: Object | None) -> Unusable | None:
    """Why a pod that was made can't probe; None where it can."""
    found = find_target(source, [pod] if pod else [])
    return _unless_pulled(found) if isinstance(found, Unusable) else None


def _ephemeral(source: Source, pod: Object | None) -> Unusable | None:
    """Why an ephemeral container that was made can't probe; None where it can."""
    if pod is None:
        return Unusable(f"pod {source.namespace}/{source.pod} is gone", Retry.POINTLESS)
    if running_ephemeral(pod, source.container or ""):
        return None
    stuck = stuck_ephemeral(pod, source.container or "")
    ended = Retry.unless(stuck.startswith("terminated"))
    return _unless_pulled(Unusable(stuck or "it did not start in time", ended))


def _unless_pulled(found: Unusable) -> Unusable:
    """The same; an image that can't be pulled now is not waited for."""
    return dataclasses.replace(found, retry=Retry.POINTLESS) if "ImagePull" in found.reason else found


def _why(answer: Answer) -> str:
    """The API's own message."""
    return f"HTTP {answer.status}: {(status_message(answer.body) or 'no reason given')[:300]}"
