# Says of CustomResourceDefinitions which have objects: to remove one takes all its objects along.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import concurrent.futures
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._cluster.finder import Finder, Object, Reader, Wanted
from ansible_collections.ambient.lab.plugins.module_utils._cluster.objects import MANAGED_BY

_KIND, _VERSION = "CustomResourceDefinition", "apiextensions.k8s.io/v1"


def crds(reader: Reader, selectors: t.Sequence[str], owner: str | None = None) -> tuple[list[Object], list[str]]:
    """The CRDs with any of these labels.

    Args:
        reader: of the cluster's API.
        selectors: label selectors.
        owner: value of the label app.kubernetes.io/managed-by of objects that do not count.

    Returns:
        Those without objects, as definitions that name them; and the names of those with objects.

    Raises:
        LabError: when the API does not answer, or refuses.
    """
    finder = Finder(reader)
    found = {
        item["metadata"]["name"]: item["spec"]
        for selector in selectors
        for item in finder.find(Wanted(_KIND, _VERSION, label_selector=selector))
    }
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        used = dict(zip(found, pool.map(lambda spec: _has_objects(reader, spec, owner), found.values()), strict=True))
    unused = [
        {"apiVersion": _VERSION, "kind": _KIND, "metadata": {"name": name}} for name, has in used.items() if not has
    ]
    return unused, [name for name, has in used.items() if has]


def _has_objects(reader: Reader, spec: Object, owner: str | None) -> bool:
    version = next(item["name"] for item in spec["versions"] if item["served"])
    query = {"labelSelector": f"{MANAGED_BY}!={owner}"} if owner else {}
    return bool(reader.items(f"/apis/{spec['group']}/{version}/{spec['names']['plural']}", limit="1", **query))
