# Says why pods are not ready: what their containers wait for, what the scheduler says, what a crash left in the log.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from .._cluster.finder import Object, Reader, Wanted
from .._common.errors import LabError
from .._common.text import printable
from .._mesh.mesh import GATEWAY_NAME
from .readiness import problem_of

MAX_PODS = 2
LOG_LINES = 5
_LENGTH = 240
# Waiting for these says nothing of the cause; the pod's last warning does.
_UNSPOKEN = ("ContainerCreating", "PodInitializing", None)
_POD = Wanted("Pod", name="any")


def explain(item: Object, wanted: Wanted, reader: Reader) -> tuple[list[str], list[str]]:
    """Why an object is not ready, as far as its pods and the cluster's events say.

    Returns:
        Lines, and the names of the pods that they are about. Both empty where nothing is known, or where the
        user may not look.
    """
    try:
        pods = _pods(item, wanted, reader)
        if not pods and wanted.kind != "Pod":
            return [f"last warning: {text}" for text in _warnings(item, reader)], []
        lines: list[str] = []
        bad = [pod for pod in pods if problem_of(_POD, pod)]
        newest = sorted(bad, key=lambda pod: str(pod["metadata"].get("creationTimestamp")), reverse=True)[:MAX_PODS]
        for pod in newest:
            lines += _pod(pod, reader)
    except LabError:
        return [], []
    return lines, [str(pod["metadata"]["name"]) for pod in newest]


def _pods(item: Object, wanted: Wanted, reader: Reader) -> list[Object]:
    if wanted.kind == "Pod":
        return [item]
    selector = _selector(item, wanted)
    if not selector:
        return []
    return reader.items(f"/api/v1/namespaces/{item['metadata']['namespace']}/pods", labelSelector=selector)


def _selector(item: Object, wanted: Wanted) -> str:
    """Label selector of the pods that an object owns, "" where it owns none."""
    if wanted.kind == "Gateway":
        return f"{GATEWAY_NAME}={item['metadata']['name']}"
    selector = item.get("spec", {}).get("selector")
    labels = (selector.get("matchLabels") or {}) if isinstance(selector, dict) else {}
    return ",".join(f"{key}={value}" for key, value in labels.items())


def _pod(pod: Object, reader: Reader) -> list[str]:
    status = pod.get("status", {})
    head = f"pod {pod['metadata']['name']}"
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    lines = [line for container in containers for line in _container(pod, container, reader)]
    if not lines:
        scheduled = [item for item in status.get("conditions") or [] if item.get("type") == "PodScheduled"]
        if scheduled and scheduled[0].get("status") == "False":
            return [f"{head} has no node: {_short(str(scheduled[0].get('message')))}"]
        lines = [f": {text}" for text in _warnings(pod, reader)]
    # The log's lines stand below the line they belong to.
    return [line if line.startswith(" ") else head + line for line in lines]


def _container(pod: Object, container: Object, reader: Reader) -> list[str]:
    """Lines about one container; those of its log begin with a space."""
    state = container.get("state") or {}
    waiting, terminated = state.get("waiting") or {}, state.get("terminated") or {}
    last = (container.get("lastState") or {}).get("terminated") or {}
    ended = terminated or last
    if container.get("ready") or (terminated and not terminated.get("exitCode")):
        return []
    if not ended:
        if waiting.get("reason") in _UNSPOKEN:
            return []
        said = [str(waiting[key]) for key in ("reason", "message") if waiting.get(key)]
        return [f": container {container['name']} is waiting, {_short(': '.join(said))}"]
    times = int(container.get("restartCount") or 0)
    reason = waiting.get("reason") or ended.get("reason") or "Error"
    how = f"exit code {ended.get('exitCode')}, {ended.get('reason')}"
    line = f": container {container['name']} is not ready, {reason} ({how}, {times} restarts)"
    return [line, *(f"  | {text}" for text in _log(pod, container, reader, previous=not terminated))]


def _log(pod: Object, container: Object, reader: Reader, *, previous: bool) -> list[str]:
    meta = pod["metadata"]
    query = {"container": str(container["name"]), "tailLines": str(LOG_LINES)}
    if previous:
        query["previous"] = "true"
    try:
        log = reader.text(f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/log", **query)
    except LabError:
        return []
    return [_short(line) for line in log.splitlines()[-LOG_LINES:] if line.strip()]


def _warnings(item: Object, reader: Reader) -> list[str]:
    """The newest warning about an object, if there is one."""
    meta = item["metadata"]
    if not meta.get("namespace"):
        return []
    events = reader.items(
        f"/api/v1/namespaces/{meta['namespace']}/events",
        fieldSelector=f"involvedObject.name={meta['name']},type=Warning",
    )
    newest = sorted(events, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))[-1:]
    return [_short(f"{event.get('reason')}: {event.get('message')}") for event in newest]


def _short(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _LENGTH else text[:_LENGTH] + "..."
