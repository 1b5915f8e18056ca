# What the check needs of a real cluster.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import time
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._claims.sources import Target, pod_ready
from ansible_collections.ambient.lab.plugins.module_utils._cluster.channel import Answer
from ansible_collections.ambient.lab.plugins.module_utils._cluster.endpoints import ready_endpoints
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import Kube
from ansible_collections.ambient.lab.plugins.module_utils._cluster.policies import Object
from ansible_collections.ambient.lab.plugins.module_utils._cluster.snapshot import Snapshot, take
from ansible_collections.ambient.lab.plugins.module_utils._curl.control import Destination


class KubeEdge:
    """The Edge of rounds.py on a cluster."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube

    def snapshot(self, namespaces: t.Iterable[str]) -> Snapshot:
        """All objects on the paths into these namespaces."""
        return take(self._kube, namespaces)

    def endpoint_ready(self, destination: Destination) -> bool:
        """Whether a ready pod stands behind the port of a Service or an address.

        The port counts, because ztunnel cuts off a connection to a port that nobody offers, like a denied one.
        """
        if destination.address:
            pods = self._kube.items("/api/v1/pods", fieldSelector=f"status.podIP={destination.host}")
            return any(pod_ready(pod) and destination.port in _declared(pod["spec"]) for pod in pods)
        namespace, name = destination.namespace, destination.service
        if namespace is None or name is None:
            return False
        service = self._kube.get(f"/api/v1/namespaces/{namespace}/services/{name}")
        if service is None or destination.port not in [port["port"] for port in service["spec"].get("ports") or []]:
            return False
        return ready_endpoints(self._kube.items, namespace, name) > 0

    def ask(self, path: str, **query: str) -> Answer:
        """GET a path of the API and take any answer."""
        return self._kube.ask(path, **query)

    def forward(self, namespace: str, pod: str, port: int, path: str) -> Answer:
        """GET a path from what listens on a pod's own localhost."""
        return self._kube.forward(namespace, pod, port, path)

    def items(self, path: str, **query: str) -> list[Object]:
        """The objects of a list."""
        return self._kube.items(path, **query)

    def run(self, target: Target, script: str, timeout: float) -> tuple[str, str]:
        """Run a shell script in a container; its output, and what went wrong with the exec."""
        return self._kube.run(target.namespace, target.pod, target.container, script, timeout)

    def now(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait between two rounds."""
        time.sleep(seconds)


def _declared(spec: dict[str, t.Any]) -> set[int]:
    """Ports that a pod's containers declare."""
    return {int(port["containerPort"]) for item in spec["containers"] for port in item.get("ports") or []}
