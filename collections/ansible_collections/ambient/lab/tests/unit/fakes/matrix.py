# Clusters that a matrix is laid out from, and its plan.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._matrix.plan import Plan, Wanted, lay_out
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object, pod

WAYPOINT = {"gateway.istio.io/managed": "istio.io-mesh-controller"}


def service(name: str, namespace: str = "default", **fields: t.Any) -> Object:
    """A Service on port 8080 for pods with the label app=<name>; fields: ports, labels, and others of its spec."""
    labels = fields.pop("labels", {})
    ports = fields.pop("ports", [{"name": "http", "port": 8080}])
    spec = {"selector": {"app": name}, "clusterIP": "10.1.0.1", "ports": ports, **fields}
    return {"metadata": {"name": name, "namespace": namespace, "labels": labels}, "spec": spec}


def cluster(pods: list[Object], services: list[Object], *more: str) -> Mesh:
    """A mesh of these objects, with their namespaces and further ones."""
    names = sorted({item["metadata"]["namespace"] for item in [*pods, *services]} | {"default", *more})
    kinds = {"Namespace": [{"metadata": {"name": name}} for name in names], "Pod": pods, "Service": services}
    return Mesh({**item, "kind": kind} for kind, items in kinds.items() for item in items)


def laid_out(mesh: Mesh, *namespaces: str, **fields: t.Any) -> Plan:
    """The plan of some namespaces, as sources and destinations."""
    names = namespaces or ("default",)
    return lay_out(Wanted(names, names, **fields), mesh)


APP = [pod("app", labels={"app": "app"}), pod("curl")]
