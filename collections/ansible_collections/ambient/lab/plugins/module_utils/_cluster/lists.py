# Reads a list of the Kubernetes API page by page.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError

# Objects in one answer (Kubernetes API concepts, retrieving large results sets in chunks).
PAGE = "500"


def listed(get: t.Callable[..., dict[str, t.Any] | None], path: str, **query: str) -> list[dict[str, t.Any]] | None:
    """The objects of a list, read page by page, without what the API keeps of who has set which field.

    Args:
        get: gives a page by its path and query; None where there is no such list.
        path: of the list.
        query: for example labelSelector; with a limit of its own it is one page.

    Returns:
        None where there is no such list.

    Raises:
        LabError: when what answers is no Kubernetes API.
    """
    found: list[dict[str, t.Any]] = []
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
