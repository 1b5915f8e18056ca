# Finds the proxies on a claim's path: the ztunnels of its nodes, the pods of its waypoint.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .._cluster.api import Forwarder, Lister
from .._common.errors import LabError
from .._mesh.mesh import Object, has_ended, is_ready

# The label that Istio's ztunnel chart gives its pods, in whatever namespace it is installed.
ZTUNNEL_SELECTOR = "app=ztunnel"
# The container of both kinds of proxy (manifests/charts/ztunnel, and the waypoint's template).
CONTAINER = "istio-proxy"


# The admin port of ztunnel and of Envoy, which listens on the pod's own localhost only.
ADMIN_PORT = 15000
# Listeners alone: all of Envoy's configuration is several times as much.
DUMP_PATH = {"ztunnel": "/config_dump", "waypoint": "/config_dump?resource=dynamic_listeners"}


@dataclasses.dataclass(frozen=True)
class Proxy:
    """A pod that enforces policies. kind: ztunnel or waypoint; address: its IP."""

    kind: str
    namespace: str
    pod: str
    container: str = CONTAINER
    node: str = ""
    address: str = ""
    image: str = ""
    ready: bool = True

    def __str__(self) -> str:
        return f"{self.namespace}/{self.pod}"

    @property
    def path(self) -> str:
        """Path of its pod in the Kubernetes API."""
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.pod}"


def ztunnels(reader: Lister, nodes: t.Collection[str] | None, root: str) -> list[Proxy]:
    """The ztunnels of these nodes, or of all (None).

    Any pod of any tenant may have the label. Istio's are of a DaemonSet and run its container; where those stand in
    several namespaces, the root namespace's are meant.

    Raises:
        LabError: when pods can't be listed over all namespaces.
    """
    pods = [pod for pod in reader.items("/api/v1/pods", labelSelector=ZTUNNEL_SELECTOR) if _is_ztunnel(pod)]
    spaces = {pod["metadata"]["namespace"] for pod in pods}
    chosen = {root} if root in spaces else spaces
    proxies = [proxy_of("ztunnel", pod) for pod in pods if pod["metadata"]["namespace"] in chosen]
    return [proxy for proxy in proxies if nodes is None or proxy.node in nodes]


def _is_ztunnel(pod: Object) -> bool:
    owners = [owner.get("kind") for owner in pod["metadata"].get("ownerReferences") or [] if owner.get("controller")]
    names = [item.get("name") for item in pod.get("spec", {}).get("containers") or []]
    return not has_ended(pod) and CONTAINER in names and owners == ["DaemonSet"]


def config_dump(forwarder: Forwarder, proxy: Proxy) -> Object:
    """What a proxy has loaded, as its admin port tells it.

    Raises:
        LabError: when it can't be read.
    """
    answer = forwarder.forward(proxy.namespace, proxy.pod, ADMIN_PORT, DUMP_PATH[proxy.kind])
    if answer.status != 200:
        raise LabError(f"its admin port answers with HTTP {answer.status}")
    found = answer.json()
    if found is None:
        raise LabError("its config dump is no JSON object")
    return found


def proxy_of(kind: str, pod: Object) -> Proxy:
    """What the pod of a proxy says of it."""
    containers = pod.get("spec", {}).get("containers") or [{}]
    names = [str(item.get("name")) for item in containers]
    index = names.index(CONTAINER) if CONTAINER in names else 0
    return Proxy(
        kind,
        str(pod["metadata"]["namespace"]),
        str(pod["metadata"]["name"]),
        names[index],
        str(pod.get("spec", {}).get("nodeName", "")),
        str(pod.get("status", {}).get("podIP", "")),
        str(containers[index].get("image", "")),
        is_ready(pod),
    )
