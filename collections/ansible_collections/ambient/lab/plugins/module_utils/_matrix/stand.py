# Stands in for sources without curl: a short-lived pod with the same ServiceAccount, or an ephemeral container.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import datetime
import os
import socket
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import (
    DATAPLANE_MODE,
    Object,
    annotations_of,
    labels_of,
)

NAME = "ambient-lab-probe"
LABEL, MANAGER = "app.kubernetes.io/managed-by", "ambient-lab"
# Which process made a pod, so that another one on the same machine knows whether it still runs.
RUN = "ambient-lab/run"
NOT_NOW = "check mode makes nothing that could ask in its place"
# A ResourceQuota may want all four of a container, and a LimitRange has limits of its own.
RESOURCES: Object = {
    "requests": {"cpu": "10m", "memory": "16Mi"},
    "limits": {"cpu": "250m", "memory": "128Mi"},
}
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


def pod_of(
    namespace: str,
    account: str,
    model: Object | None,
    image: str,
    seconds: int,
    run: str,
    resources: Object,
) -> Object:
    """A pod that does nothing, with a source's identity, and without a label that a Service could select.

    It has none of the source's labels, though NetworkPolicies go by them. With them it would get requests of the
    source's Services, count in its PodDisruptionBudget, and a ReplicaSet or StatefulSet would take it over and could
    delete a pod in exchange. What is only observed must not be disturbed; an ephemeral container is exact.

    Args:
        namespace: of the source.
        account: its ServiceAccount.
        model: the source's own pod, None where it has none; whether it is in the mesh is copied.
        image: with sh and curl.
        seconds: after which the node ends the pod, should nobody remove it.
        run: the process that makes it.
        resources: requests and limits of its container.
    """
    labels = {LABEL: MANAGER}
    mode = labels_of(model).get(DATAPLANE_MODE)
    if mode:
        labels[DATAPLANE_MODE] = mode
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"{NAME}-",
            "namespace": namespace,
            "labels": labels,
            "annotations": {RUN: run},
        },
        "spec": {
            "serviceAccountName": account,
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


def running_ephemeral(pod: Object, name: str = "") -> str:
    """Name of an ephemeral container of ours that runs in the pod; "" where there is none."""
    for status in pod.get("status", {}).get("ephemeralContainerStatuses") or []:
        fits = status["name"] == name if name else status["name"].startswith(f"{NAME}-")
        if fits and "running" in (status.get("state") or {}):
            return str(status["name"])
    return ""


def stuck_ephemeral(pod: Object, name: str) -> str:
    """Why an ephemeral container does not run, as far as its pod says; "" where nothing is known."""
    for status in pod.get("status", {}).get("ephemeralContainerStatuses") or []:
        for kind in ("waiting", "terminated"):
            reason = (status.get("state") or {}).get(kind)
            if status["name"] == name and reason:
                return f"{kind}, {reason.get('reason')}"
    return ""


def ours(pod: Object) -> bool:
    """Whether a pod stands in for a source, and is none itself."""
    metadata = pod["metadata"]
    managed = (metadata.get("labels") or {}).get(LABEL) == MANAGER
    return managed and str(metadata["name"]).startswith(f"{NAME}-")


def leftover(pod: Object, now: float, gone: t.Callable[[str], bool]) -> bool:
    """Whether the process that made a pod of ours is no more: it has ended, was due to end, or its maker is gone.

    Args:
        pod: one of ours.
        now: seconds since the epoch.
        gone: whether a process of this machine, by what `this_run` said in it, has ended.
    """
    if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return True
    created = datetime.datetime.fromisoformat(str(pod["metadata"]["creationTimestamp"])).timestamp()
    if now - created > float(pod["spec"].get("activeDeadlineSeconds") or 0):
        return True
    return gone(annotations_of(pod).get(RUN, ""))


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
