# A cluster in memory whose objects can be changed, and which does to requests what the model says of them.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import copy
import json
import typing as t
import urllib.parse

from ansible_collections.ambient.lab.plugins.module_utils._cluster.channel import Answer as ApiAnswer
from ansible_collections.ambient.lab.plugins.module_utils._mesh.destinations import Request
from ansible_collections.ambient.lab.plugins.module_utils._mesh.folder import PLACE
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import (
    DATAPLANE_MODE,
    REDIRECTION,
    Mesh,
    Object,
    labels_of,
)
from ansible_collections.ambient.lab.plugins.module_utils._mesh.policies import target_refs
from ansible_collections.ambient.lab.plugins.module_utils._mesh.predictions import predict
from ansible_collections.ambient.lab.plugins.module_utils._reach.swap import path_of
from ansible_collections.ambient.lab.tests.unit.fakes.mesh import FROM_UPSTREAM
from ansible_collections.ambient.lab.tests.unit.fakes.objects import (
    FORBIDDEN,
    REFUSED_UPSTREAM,
    RESET,
    Answer,
    FakeEdge,
    condition,
)

SEEN: dict[str, Answer] = {
    "allowed": FROM_UPSTREAM,
    "denied_l4": RESET,
    "denied_l7": FORBIDDEN,
    "denied_upstream": REFUSED_UPSTREAM,
}


TAKEN = ApiAnswer(409, {}, b'{"reason": "AlreadyExists", "message": "it already exists"}')

CHANGED = ApiAnswer(409, {}, b'{"reason": "Conflict", "message": "the object has been modified"}')


class Changeable(FakeEdge):
    """A cluster.

    Args:
        mesh: that it has at first.

    Attributes:
        there: its objects by path.
        sent: "METHOD path" of each write.
        answer: what a write is answered with in the place of being done, by its method, with "dry " before that of a
            dry run; called before it.
        deaf: its proxies never hear of a change.
        lag: reads of the mesh until istio-cni has done its part.
    """

    host = "https://api"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__([], self._answer)
        self.config, self.first = mesh.config, mesh
        items = [{key: value for key, value in item.items() if key != PLACE} for item in mesh.objects()]
        self.there: dict[str, Object] = {path_of(item): json.loads(json.dumps(item)) for item in items}
        for number, item in enumerate(self.there.values()):
            item["metadata"] |= {"resourceVersion": "0", "uid": f"uid-{number}"}
        self.sent: list[str] = []
        self.answer: dict[str, t.Callable[[], ApiAnswer | None]] = {}
        self.deaf, self.lag, self._reads = False, 0, 0
        self._version = 0

    def forget(self) -> None:
        """It is read anew in each round."""

    def written(self) -> dict[str, t.Any]:
        """What people wrote."""
        return {
            path: (item.get("spec"), labels_of(item), item["metadata"].get("annotations"))
            for path, item in self.there.items()
        }

    def mesh(self, *_asked: object) -> Mesh:
        """All objects as they are now, and istio-cni has done what it does."""
        items = copy.deepcopy(list(self.there.values()))
        spaces = {item["metadata"]["name"]: labels_of(item) for item in items if item["kind"] == "Namespace"}
        left = {name for name, labels in spaces.items() if labels.get(DATAPLANE_MODE) != "ambient"}
        self._reads = self._reads + 1 if left else 0
        for item in items if self._reads > self.lag else []:
            if item["kind"] == "Pod" and item["metadata"]["namespace"] in left:
                item["metadata"].get("annotations", {}).pop(REDIRECTION, None)
        return Mesh(items, self.config)

    def get(self, path: str, **_query: str) -> Object | None:
        """An object; of a policy istiod has seen this version."""
        found = copy.deepcopy(self.there.get(path))
        if found and found["kind"] == "AuthorizationPolicy":
            meta = found["metadata"]
            meta["generation"] = int(meta.get("resourceVersion", 0))
            kind = "WaypointAccepted" if target_refs(found) else "ZtunnelAccepted"
            found["status"] = {"conditions": [condition(kind=kind, seen=meta["generation"])]}
        return found

    def send(
        self, method: str, path: str, body: Object | None = None, content_type: str = "", **query: str
    ) -> ApiAnswer:
        """A write."""
        dry = "dryRun" in query
        key = f"dry {method}" if dry else method
        made = self.answer[key]() if key in self.answer else None
        if made:
            return made
        if dry:
            return TAKEN if method == "POST" else ApiAnswer(200, {}, b"{}")
        self.sent.append(f"{method} {path}")
        there = self.there.get(path, {}).get("metadata", {})
        if method == "DELETE":
            assert body
            if any(there.get(key) != value for key, value in body["preconditions"].items() if there):
                return CHANGED
            return ApiAnswer(200 if self.there.pop(path, None) else 404, {}, b"{}")
        assert body
        if method == "POST":
            path = f"{path}/{body['metadata']['name']}"
            assert path not in self.there
            self.there[path] = {}
        else:
            assert content_type == "application/merge-patch+json"
            if body["metadata"].get("resourceVersion") not in (None, there["resourceVersion"]):
                return CHANGED
        self._version += 1
        item = merged(self.there[path], body)
        item["metadata"] |= {"resourceVersion": str(self._version)}
        item["metadata"].setdefault("uid", f"uid-new-{self._version}")
        self.there[path] = item
        return ApiAnswer(200, {}, json.dumps(item).encode())

    def _answer(self, source: str, _number: int, method: str, url: str) -> Answer:
        if "kubernetes" in str(urllib.parse.urlsplit(url).hostname):
            return FROM_UPSTREAM
        mesh = self.first if self.deaf else self.mesh()
        pod = next(item for item in mesh.items("Pod") if item["metadata"]["name"] == source)
        space = pod["metadata"]["namespace"]
        return SEEN[predict(mesh, pod, Request(url, method), space)[1].outcome]


def merged(there: t.Any, patch: t.Any) -> t.Any:
    """RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    found = dict(there) if isinstance(there, dict) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key), value)
    return found
