# What others need of the Kubernetes API, each as little as it needs; all of it raises LabError when nobody answers.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from .._common.errors import LabError
from .channel import Answer

Object = dict[str, t.Any]
# Objects in one answer (Kubernetes API concepts, retrieving large results sets in chunks).
PAGE = "500"


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


def listed(get: t.Callable[..., Object | None], path: str, **query: str) -> list[Object] | None:
    """The objects of a list, read page by page, without what the API keeps of who has set which field.

    Args:
        get: gives a page by its path and query; None where there is no such list, and so does this.
        query: for example labelSelector; with a limit of its own it is one page.

    Raises:
        LabError: when what answers is no Kubernetes API.
    """
    found: list[Object] = []
    more: dict[str, str] = {}
    while True:
        page = get(path, **{"limit": PAGE, **query, **more})
        if page is None:
            return found or None
        items = page.get("items") or []
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise LabError(f"GET {path} gives no list of objects: is it a Kubernetes API?")
        for item in items:
            # It is up to half of an object.
            (item.get("metadata") or {}).pop("managedFields", None)
        found += items
        token = (page.get("metadata") or {}).get("continue")
        if not token or "limit" in query:
            return found
        more = {"continue": str(token)}
