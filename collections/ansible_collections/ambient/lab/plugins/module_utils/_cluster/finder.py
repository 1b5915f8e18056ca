# Finds objects by kind, with one request per object where the kind is a common one.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .api import Getter, Lister

Object = dict[str, t.Any]

# Plural names by group and kind, and whether they are in a namespace, so that nobody has to ask the API for them.
_KNOWN = {
    ("", "Namespace"): ("namespaces", False),
    ("", "Node"): ("nodes", False),
    ("", "Pod"): ("pods", True),
    ("", "Service"): ("services", True),
    ("apps", "DaemonSet"): ("daemonsets", True),
    ("apps", "Deployment"): ("deployments", True),
    ("apps", "StatefulSet"): ("statefulsets", True),
    ("batch", "Job"): ("jobs", True),
    ("apiextensions.k8s.io", "CustomResourceDefinition"): ("customresourcedefinitions", False),
    ("gateway.networking.k8s.io", "Gateway"): ("gateways", True),
    ("gateway.networking.k8s.io", "GatewayClass"): ("gatewayclasses", False),
    ("security.istio.io", "AuthorizationPolicy"): ("authorizationpolicies", True),
}


class Reader(Getter, Lister, t.Protocol):
    """Reads of an API."""

    def text(self, path: str, **query: str) -> str:
        """A body that is no JSON, for example a log."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Which objects: the one with this name, or all of the kind, with these labels where a selector is given."""

    kind: str
    api_version: str = "v1"
    name: str | None = None
    namespace: str | None = None
    label_selector: str | None = None

    @classmethod
    def of(cls, params: t.Mapping[str, t.Any]) -> Wanted:
        """From a module's suboptions; other keys are left alone."""
        return cls(**{field.name: params[field.name] for field in dataclasses.fields(cls) if field.name in params})

    @property
    def group(self) -> str:
        """API group, "" for the core group."""
        return self.api_version.rpartition("/")[0]

    def __str__(self) -> str:
        if self.name:
            return f"{self.kind} {f'{self.namespace}/' if self.namespace else ''}{self.name}"
        labels = f" with {self.label_selector}" if self.label_selector else ""
        return f"{self.kind}{labels}" + (f" in namespace {self.namespace}" if self.namespace else "")


class Finder:
    """Reads objects; may be used from several threads at once.

    All of it raises LabError when the API does not answer, or refuses.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._asked: dict[tuple[str, str], Object] = {}

    def find(self, wanted: Wanted) -> list[Object]:
        """The objects that are there; none where the API does not know the kind (yet)."""
        path = self.path(wanted)
        if path is None:
            return []
        if wanted.name:
            found = self.reader.get(path)
            return [] if found is None else [found]
        query = {"labelSelector": wanted.label_selector} if wanted.label_selector else {}
        # The API leaves these two out of a list's items.
        head = {"apiVersion": wanted.api_version, "kind": wanted.kind}
        return [{**head, **item} for item in self.reader.items(path, **query)]

    def path(self, wanted: Wanted) -> str | None:
        """Where the API has the object, or the list; None where it does not know the kind."""
        known = _KNOWN.get((wanted.group, wanted.kind))
        if known is None:
            found = self.resource(wanted)
            if found is None:
                return None
            known = found["name"], bool(found.get("namespaced"))
        plural, namespaced = known
        # A namespace that a manifest gives to an object of the cluster's counts for nothing, as with kubectl.
        scope = f"/namespaces/{wanted.namespace}" if wanted.namespace and namespaced else ""
        return f"{_root(wanted.api_version)}{scope}/{plural}" + (f"/{wanted.name}" if wanted.name else "")

    def resource(self, wanted: Wanted) -> Object | None:
        """What the API says of a kind, its plural name and whether it is namespaced; None where it does not know it."""
        if (wanted.api_version, wanted.kind) not in self._asked:
            body = self.reader.get(_root(wanted.api_version)) or {}
            for item in body.get("resources") or []:
                if "/" not in item["name"]:
                    self._asked[wanted.api_version, item["kind"]] = item
        return self._asked.get((wanted.api_version, wanted.kind))


def _root(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
