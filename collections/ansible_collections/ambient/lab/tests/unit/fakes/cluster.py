# A small cluster behind a FakeApi: discovery, and objects that are applied (dry run too), refused and deleted.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi

Object = dict[str, t.Any]

# Plural name by API version and kind; of these only a Namespace is in no namespace.
KINDS = {
    ("v1", "Namespace"): "namespaces",
    ("v1", "ServiceAccount"): "serviceaccounts",
    ("v1", "Pod"): "pods",
    ("v1", "ConfigMap"): "configmaps",
    ("v1", "Secret"): "secrets",
}
VERBS = ["create", "delete", "get", "list", "patch"]


class Cluster:
    """Objects by path, as a FakeApi serves them.

    Every object that anybody may ask for is made known with `knows` first; only those in `objects` are there.
    refused has the plural names of what the user may not change. racing has the paths of objects that somebody else
    removes as soon as they have been asked for. written has "METHOD path" of what was, in order.
    """

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self.objects: dict[str, Object] = {}
        self.refused: set[str] = set()
        self.racing: set[str] = set()
        self.written: list[str] = []
        self._version = 0
        resources = [
            {"name": plural, "singularName": "", "namespaced": kind != "Namespace", "kind": kind, "verbs": VERBS}
            for (_version, kind), plural in KINDS.items()
        ]
        api.objects |= {
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
            "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": resources},
        }

    def has(self, item: Object) -> str:
        """An object is there; its path."""
        path = self.knows(item)
        self._store(path, item)
        return path

    def knows(self, item: Object) -> str:
        """An object may be asked for; its path."""
        meta = item["metadata"]
        scope = f"/namespaces/{meta['namespace']}" if "namespace" in meta else ""
        plural = KINDS[item["apiVersion"], item["kind"]]
        path = f"/api/v1{scope}/{plural}/{meta['name']}"
        self.api.objects |= {
            path: lambda _query: self._get(path, plural),
            f"PATCH {path}": lambda body: self._apply(path, plural, body),
            f"DELETE {path}": lambda _body: self._delete(path, plural),
        }
        return path

    def _get(self, path: str, plural: str) -> Object | tuple[int, Object]:
        if path not in self.objects:
            return _not_found(path, plural)
        return self.objects.pop(path) if path in self.racing else self.objects[path]

    def _apply(self, path: str, plural: str, body: Object) -> tuple[int, Object]:
        asked, headers = self.api.asked[-1]
        assert headers["content-type"] == "application/apply-patch+yaml"
        meta = body["metadata"]
        if plural in self.refused:
            return _forbidden(plural, meta["name"], "patch")
        if "namespace" in meta and f"/api/v1/namespaces/{meta['namespace']}" not in self.objects:
            return _status(404, f'namespaces "{meta["namespace"]}" not found')
        account = (body.get("spec") or {}).get("serviceAccountName")
        if account and f"/api/v1/namespaces/{meta['namespace']}/serviceaccounts/{account}" not in self.objects:
            said = (
                f'error looking up service account {meta["namespace"]}/{account}: serviceaccount "{account}" not found'
            )
            return _status(403, f'pods "{meta["name"]}" is forbidden: {said}')
        if "dryRun=All" in asked:
            before = dict(self.objects)
            item = self._store(path, body)
            self.objects = before
        else:
            self.written.append(f"PATCH {path}")
            item = self._store(path, body)
        return 200, item

    def _store(self, path: str, body: Object) -> Object:
        found = self.objects.get(path, {})
        self._version += 1
        kept = {"uid": f"uid-{path}", "creationTimestamp": "2026-01-01T00:00:00Z"}
        meta = {**(found.get("metadata") or {}), **body["metadata"], **kept}
        item = {**found, **body, "metadata": meta}
        if item != found:
            item["metadata"] = {**meta, "resourceVersion": str(self._version), "managedFields": [{"at": self._version}]}
        self.objects[path] = item
        return item

    def _delete(self, path: str, plural: str) -> tuple[int, Object]:
        name = path.rpartition("/")[2]
        if plural in self.refused:
            return _forbidden(plural, name, "delete")
        if path not in self.objects:
            return _not_found(path, plural)
        if "dryRun=All" not in self.api.asked[-1][0]:
            self.written.append(f"DELETE {path}")
            del self.objects[path]
        return 200, {"kind": "Status", "apiVersion": "v1", "status": "Success"}


def _status(code: int, message: str) -> tuple[int, Object]:
    """A refusal, as the API words it."""
    return code, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}


def _not_found(path: str, plural: str) -> tuple[int, Object]:
    return _status(404, f'{plural} "{path.rpartition("/")[2]}" not found')


def _forbidden(plural: str, name: str, verb: str) -> tuple[int, Object]:
    said = f'User "somebody" cannot {verb} resource "{plural}" in API group "" in the namespace "shop"'
    return _status(403, f'{plural} "{name}" is forbidden: {said}')
