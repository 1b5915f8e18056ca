# What the check needs of a real cluster.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import time
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import Kube
from ansible_collections.ambient.lab.plugins.module_utils._mesh.load import Asked, Loader
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh


class KubeEdge(Kube):
    """The Edge of rounds.py on a cluster. Arguments as of Kube."""

    def __init__(self, kubeconfig: str | None, context: str | None) -> None:
        super().__init__(kubeconfig, context)
        self._loaders: dict[t.Any, Loader] = {}

    def mesh(self, asked: t.Iterable[Asked], namespaces: t.Iterable[str]) -> Mesh:
        """The objects on the ways of some requests; what changes seldom is read the first time only."""
        key = frozenset(asked), frozenset(namespaces)
        if key not in self._loaders:
            self._loaders[key] = Loader(self, *key)
        return self._loaders[key].load()

    def now(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait between two rounds."""
        time.sleep(seconds)
