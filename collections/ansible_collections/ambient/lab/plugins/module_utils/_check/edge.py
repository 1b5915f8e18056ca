# What the check needs of a real cluster.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import time
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._claims.sources import Target
from ansible_collections.ambient.lab.plugins.module_utils._cluster.channel import Answer
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import Kube
from ansible_collections.ambient.lab.plugins.module_utils._mesh.load import Asked, Loader
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh, Object


class KubeEdge:
    """The Edge of rounds.py on a cluster."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._loaders: dict[t.Any, Loader] = {}

    def mesh(self, asked: t.Iterable[Asked], namespaces: t.Iterable[str]) -> Mesh:
        """The objects on the ways of some requests; what changes seldom is read the first time only."""
        key = frozenset(asked), frozenset(namespaces)
        if key not in self._loaders:
            self._loaders[key] = Loader(self._kube, *key)
        return self._loaders[key].load()

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
