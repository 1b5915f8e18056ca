# What others need of the Kubernetes API, each as little as it needs; all of it raises LabError when nobody answers.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._cluster.channel import Answer

Object = dict[str, t.Any]


class Asker(t.Protocol):
    """GET requests."""

    def ask(self, path: str, **query: str) -> Answer:
        """GET a path and take any answer."""


class Getter(t.Protocol):
    """Reads of single objects."""

    def get(self, path: str, **query: str) -> Object | None:
        """One object, None where there is none."""


class Lister(t.Protocol):
    """Reads of lists."""

    def items(self, path: str, **query: str) -> list[Object]:
        """The objects of a list."""


class Forwarder(t.Protocol):
    """Port-forwards."""

    def forward(self, namespace: str, pod: str, port: int, path: str) -> Answer:
        """GET a path from what listens on a pod's own localhost."""


class ProxyReader(Asker, Lister, Forwarder, t.Protocol):
    """What reading the proxies needs."""
