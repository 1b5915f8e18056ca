# Finds the pod that a claim's source means, and says in what state it is.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .._common.rounds import Retry
from .._mesh.mesh import Mesh, account_of, has_ended, has_labels, is_ready, workload_name
from .parse import Source

_DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"

Pod = dict[str, t.Any]


@dataclasses.dataclass(frozen=True)
class Target:
    """A container to run probes in, its pod, and by what proxies know that: node, name of the workload."""

    namespace: str
    pod: str
    container: str
    node: str = ""
    workload: str = ""
    item: Pod | None = dataclasses.field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.pod}"


@dataclasses.dataclass(frozen=True)
class Unusable:
    """Why a source can't probe now, and whether it may in a moment."""

    reason: str
    retry: Retry = Retry.USEFUL


def target_in(mesh: Mesh, source: Source) -> Target | Unusable:
    """The pod of a mesh that the source means, or why it can't probe."""
    named = mesh.get("Pod", source.namespace, source.pod) if source.pod else None
    return mesh.once(
        ("source", source),
        lambda: find_target(source, [named] if named else [] if source.pod else mesh.items("Pod", source.namespace)),
    )


def find_target(source: Source, pods: t.Sequence[Pod]) -> Target | Unusable:
    """The pod that the source means, among the pods of its namespace.

    Of several that fit, the first ready one in the order of names is taken, so that rounds stay comparable.
    """
    fitting = sorted((pod for pod in pods if _fits(source, pod)), key=lambda pod: str(pod["metadata"]["name"]))
    if not fitting:
        return Unusable(f"{source} does not exist", Retry.POINTLESS)
    alive = [pod for pod in fitting if not has_ended(pod)]
    if not alive:
        return Unusable(f"{_state(fitting[0])} and won't come back", Retry.POINTLESS)
    ready = [pod for pod in alive if is_ready(pod)]
    if not ready:
        return Unusable(_state(alive[0]))
    return _target(source, ready[0])


def _fits(source: Source, pod: Pod) -> bool:
    if source.pod:
        return bool(pod["metadata"]["name"] == source.pod)
    if source.service_account:
        return account_of(pod) == source.service_account
    return has_labels(pod, dict(source.labels))


def _state(pod: Pod) -> str:
    name = f"pod {pod['metadata']['namespace']}/{pod['metadata']['name']}"
    if "deletionTimestamp" in pod["metadata"]:
        return f"{name} is being deleted"
    status = pod.get("status", {})
    for container in status.get("containerStatuses") or []:
        for kind in ("waiting", "terminated"):
            reason = (container.get("state") or {}).get(kind)
            if reason:
                code = f" (exit code {reason['exitCode']})" if kind == "terminated" else ""
                return f"{name} is not ready: container {container['name']} is {kind}, {reason.get('reason')}{code}"
    phase = status.get("phase", "Unknown")
    return f"{name} is {phase}" + (", but not ready" if phase == "Running" else "")


def _target(source: Source, pod: Pod) -> Target | Unusable:
    # A folder's pod need not say what runs in it.
    names = [container.get("name", "main") for container in pod["spec"].get("containers") or [{}]]
    default = (pod["metadata"].get("annotations") or {}).get(_DEFAULT_CONTAINER)
    wanted = source.container or (default if default in names else names[0])
    if wanted not in names:
        name = f"{source.namespace}/{pod['metadata']['name']}"
        return Unusable(f"pod {name} has no container {wanted!r}, it has {', '.join(names)}", Retry.POINTLESS)
    return Target(
        source.namespace,
        str(pod["metadata"]["name"]),
        str(wanted),
        str(pod["spec"].get("nodeName", "")),
        workload_name(pod),
        pod,
    )
