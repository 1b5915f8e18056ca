# A mesh for tests, written as a user would write it: in YAML.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import yaml
from ansible_collections.ambient.lab.plugins.module_utils._check.run import ClaimRun
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Claim, Expectation, PolicyRef, Source
from ansible_collections.ambient.lab.plugins.module_utils._claims.sources import Unusable
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen
from ansible_collections.ambient.lab.plugins.module_utils._mesh.destinations import Request
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh, MeshConfig, Object
from ansible_collections.ambient.lab.plugins.module_utils._mesh.paths import Path
from ansible_collections.ambient.lab.plugins.module_utils._mesh.predictions import Prediction, predict
from ansible_collections.ambient.lab.plugins.module_utils._witness.attribution import Attribution

# Two clients and an app of namespace default, as in the lab; a second namespace has a waypoint.
LAB = """
- {kind: Namespace, metadata: {name: default, labels: {istio.io/dataplane-mode: ambient}}}
- {kind: Namespace, metadata: {name: layer7, labels: {istio.io/dataplane-mode: ambient}}}
- {kind: Namespace, metadata: {name: plain}}
- {kind: Namespace, metadata: {name: istio-system}}
"""


def pod(name: str, namespace: str = "default", **fields: t.Any) -> Object:
    """A pod; fields: ip, labels, account, node, ready, captured, ports, spec, annotations."""
    annotations = {"ambient.istio.io/redirection": "enabled"} if fields.get("captured", True) else {}
    ports = [{"containerPort": number} for number in fields.get("ports", [8080])]
    address = fields.get("ip", "10.0.0.1")
    return {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": fields.get("labels", {"app": name}),
            "annotations": {**annotations, **fields.get("annotations", {})},
        },
        "spec": {
            "serviceAccountName": fields.get("account", name),
            "nodeName": fields.get("node", "one"),
            "containers": [{"name": "main", "ports": ports}],
            **fields.get("spec", {}),
        },
        "status": {
            "phase": fields.get("phase", "Running"),
            "podIP": address,
            "podIPs": [{"ip": item} for item in fields.get("ips", [address])],
            "hostIP": "192.168.1.1",
            "conditions": [{"type": "Ready", "status": str(fields.get("ready", True))}],
        },
    }


def service(name: str, namespace: str = "default", **fields: t.Any) -> Object:
    """A Service of pods with the label app=name; fields: ip, port, target, labels, and more of its spec."""
    labels = fields.pop("labels", {})
    port = {"name": "http", "port": fields.pop("port", 8080), "targetPort": fields.pop("target", 8080)}
    spec = {"clusterIP": fields.pop("ip", "10.96.0.1"), "selector": {"app": name}, "ports": [port], **fields}
    spec = {key: value for key, value in spec.items() if value is not None}
    return {"kind": "Service", "metadata": {"name": name, "namespace": namespace, "labels": labels}, "spec": spec}


def gateway(name: str = "waypoint", namespace: str = "layer7", **fields: t.Any) -> list[Object]:
    """A waypoint with one pod; fields: labels, allowed (from), address, pods (how many are ready)."""
    listener = {"name": "mesh", "port": 15008, "protocol": "HBONE"}
    if "allowed" in fields:
        listener["allowedRoutes"] = {"namespaces": {"from": fields["allowed"]}}
    item = {
        "kind": "Gateway",
        "metadata": {"name": name, "namespace": namespace, "labels": fields.get("labels", {})},
        "spec": {"gatewayClassName": "istio-waypoint", "listeners": [listener]},
        "status": {"addresses": [{"value": "10.96.9.9"}] if fields.get("address", True) else []},
    }
    labels = {"gateway.networking.k8s.io/gateway-name": name}
    ready = fields.get("ready", True)
    return [item, pod(f"{name}-x", namespace, ip="10.0.9.9", labels=labels, account=name, ready=ready, captured=False)]


def policy(name: str, namespace: str = "default", **spec: t.Any) -> Object:
    """An AuthorizationPolicy; annotations apart, the fields are of its spec."""
    metadata = {"name": name, "namespace": namespace, "annotations": spec.pop("annotations", {})}
    return {"kind": "AuthorizationPolicy", "metadata": metadata, "spec": spec}


def denying(name: str = "deny", **spec: t.Any) -> Object:
    """A policy that denies everything, unless its spec says what."""
    return policy(name, **{"action": "DENY", "rules": [{}], **spec})


def target(name: str = "app", kind: str = "Service") -> list[Object]:
    """targetRefs of a policy."""
    groups = {"Service": "", "ServiceEntry": "networking.istio.io"}
    return [{"group": groups.get(kind, "gateway.networking.k8s.io"), "kind": kind, "name": name}]


def mesh_of(*objects: Object | list[Object], config: MeshConfig | None = None, **unread: str) -> Mesh:
    """The lab's namespaces with these objects; unread: a kind, and why nobody could read it."""
    flat = [item for entry in objects for item in (entry if isinstance(entry, list) else [entry])]
    lost = {(kind, ""): why for kind, why in unread.items()}
    return Mesh([*yaml.safe_load(LAB), *flat], config or MeshConfig(version=(1, 31)), lost)


def ask(mesh: Mesh, url: str, source: str = "client", namespace: str = "default", **fields: t.Any) -> Prediction:
    """The prediction for a request of a pod."""
    return way(mesh, url, source, namespace, **fields)[1]


def way(
    mesh: Mesh, url: str, source: str = "client", namespace: str = "default", **fields: t.Any
) -> tuple[Path, Prediction]:
    """The way of a request of a pod, and the prediction; fields: method, headers."""
    request = Request(url, fields.get("method", "GET"), tuple(fields.get("headers", {}).items()))
    return predict(mesh, mesh.get("Pod", namespace, source), request, namespace)


def run_of(
    way: tuple[Path, Prediction],
    expect: Expectation,
    seen: Seen,
    attribution: Attribution | None = None,
    by: str = "",
    control: str | None = "alive",
) -> ClaimRun:
    """A claim of which a round has found all this."""
    source, policy = Source("default", pod="client"), PolicyRef(*by.split("/")) if by else None
    claim = Claim("a claim", source, Request("http://app:8080/"), expect, expect, policy)
    return ClaimRun(claim, "after", Unusable("nobody asks"), *way, seen, control, attribution)
