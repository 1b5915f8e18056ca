"""The objects of benchmarks/scale.py: a few pods that call each other, and a crowd that never runs beside them.

Pure: they are only described here. Nothing of the crowd runs: its pods are held by a scheduling gate and have no node,
and its waypoints are Deployments of no replica (parametersRef of their Gateways). EndpointSlices name no pod without a
node, so these waypoints are not programmed.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import typing as t

Object = dict[str, t.Any]

OWNER = {"app.kubernetes.io/managed-by": "ambient-lab-scale"}
NAMESPACE = "ambient-lab-scale"
LAYER7 = f"{NAMESPACE}-l7"
ROOT = "istio-system"
GATEWAY_NAME = "gateway.networking.k8s.io/gateway-name"
USE_WAYPOINT = "istio.io/use-waypoint"
PORT = 8080
CLIENTS, DENIED = 10, 3
CLAIMS = 100
# For measurements of networks (RFC 2544): no host has an address of it.
ADDRESSES = ipaddress.ip_network("198.18.0.0/15")
_NOBODY = "cluster.local/ns/nobody/sa/nobody"
_GATE = "ambient-lab.example/never"
_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}
_CONFINED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


@dataclasses.dataclass(frozen=True)
class Size:
    """How many objects a crowd has; they are spread over the claims' two namespaces and over `namespaces` others."""

    pods: int = 5000
    services: int = 500
    policies: int = 300
    waypoints: int = 50
    namespaces: int = 48

    @property
    def spaces(self) -> list[str]:
        """Namespaces that the crowd is spread over."""
        return [NAMESPACE, LAYER7, *(f"{NAMESPACE}-crowd-{number}" for number in range(self.namespaces))]


def item(kind: str, name: str, namespace: str = "", spec: Object | None = None, **metadata: t.Any) -> Object:
    """An object with the owner's label; metadata: labels, annotations."""
    version = {
        "AuthorizationPolicy": "security.istio.io/v1",
        "Gateway": "gateway.networking.k8s.io/v1",
    }.get(kind, "v1")
    meta: Object = {"name": name, **metadata, "labels": {**OWNER, **metadata.get("labels", {})}}
    if namespace:
        meta["namespace"] = namespace
    return {"apiVersion": version, "kind": kind, "metadata": meta, **({} if spec is None else {"spec": spec})}


def namespaces(size: Size) -> list[Object]:
    """All namespaces, in the mesh."""
    return [item("Namespace", name, labels={"istio.io/dataplane-mode": "ambient"}) for name in size.spaces]


def small(app: str, images: t.Mapping[str, str]) -> list[Object]:
    """The claims' own objects: clients with an identity each, a destination with ztunnel and one with a waypoint.

    Args:
        app: source of the program that answers.
        images: of `app` and `curl`.
    """
    found: list[Object] = []
    for number in range(CLIENTS):
        name = f"client-{number}"
        found.append(item("ServiceAccount", name, NAMESPACE))
        found.append(_running(name, NAMESPACE, "curl", images["curl"], ["sh", "-c", "sleep infinity"], account=name))
    for space in (NAMESPACE, LAYER7):
        found.append({**item("ConfigMap", "destination", space), "data": {"app.py": app}})
        pod = _running("destination", space, "app", images["app"], ["python3", "-u", "/app/app.py"])
        main = pod["spec"]["containers"][0]
        main["ports"] = [{"name": "http", "containerPort": PORT}]
        main["readinessProbe"] = {"httpGet": {"path": "/healthz", "port": PORT}, "periodSeconds": 1}
        main["volumeMounts"] = [{"name": "app", "mountPath": "/app", "readOnly": True}]
        pod["spec"]["volumes"] = [{"name": "app", "configMap": {"name": "destination"}}]
        found += [pod, _service("destination", space, {USE_WAYPOINT: "waypoint"} if space == LAYER7 else {})]
    denied = [f"*/ns/{NAMESPACE}/sa/client-{number}" for number in range(CLIENTS - DENIED, CLIENTS)]
    deny = {"action": "DENY", "rules": [{"from": [{"source": {"principals": denied}}]}], **_selecting("destination")}
    only = {
        "targetRefs": [_ref("Service", "destination")],
        "action": "ALLOW",
        "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}],
    }
    point = item("Gateway", "waypoint", LAYER7, _gateway({}), labels={"istio.io/waypoint-for": "service"})
    policies = [
        item("AuthorizationPolicy", "some-are-denied", NAMESPACE, deny),
        item("AuthorizationPolicy", "get-alone", LAYER7, only),
    ]
    return [*found, point, *policies]


def claims() -> list[Object]:
    """Claims of every client, half of them through the waypoint; of both kinds some are denied."""
    found = []
    for number in range(CLAIMS):
        client = number % CLIENTS
        claim: Object = {"name": f"request {number}", "from": {"pod": f"client-{client}"}}
        if number < CLAIMS // 2:
            denied = client >= CLIENTS - DENIED
            to: t.Any = f"http://destination:{PORT}/{number}"
            seen = {"expect": "denied_l4", "by": f"{NAMESPACE}/some-are-denied"} if denied else {"expect": "allowed"}
        else:
            denied = number % 2 == 0
            method = "POST" if denied else "GET"
            to = {"url": f"http://destination.{LAYER7}:{PORT}/{number}", "method": method}
            seen = {"expect": "denied_l7", "by": f"{LAYER7}/get-alone"} if denied else {"expect": "allowed"}
        found.append({**claim, "to": to, **seen})
    return found


def crowd(size: Size) -> list[Object]:
    """Objects that look as those of other teams: none of them concerns a claim."""
    spaces = size.spaces
    found: list[Object] = []
    for number in range(size.waypoints):
        space = spaces[number % len(spaces)]
        if number < len(spaces):
            found.append({**item("ConfigMap", "no-pods", space), "data": {"deployment": "spec: {replicas: 0}\n"}})
        found.append(item("Gateway", f"waypoint-{number}", space, _gateway(_NO_PODS)))
    for number in range(size.services):
        space = spaces[number % len(spaces)]
        point = f"waypoint-{_beside(number, size.waypoints, len(spaces))}" if number % 5 == 0 else ""
        found.append(_service(f"app-{number}", space, {USE_WAYPOINT: point} if point else {}))
    found += [_policy(number, size) for number in range(size.policies)]
    return [*found, *(_waiting(number, size) for number in range(size.pods))]


def status(pod: Object) -> Object:
    """What a pod of the crowd gets for its status, so that it looks as one that runs."""
    number = int(pod["metadata"]["name"].rpartition("-")[2])
    # Far from each other, as the pods of many nodes are.
    return running(str(ADDRESSES[257 + number * 23 % (ADDRESSES.num_addresses - 1024)]), number)


def running(address: str, number: int) -> Object:
    """Status of a pod that runs and is ready. number: makes it differ from others."""
    now = "2026-01-01T00:00:00Z"
    # Without the reason and the message that a gate has left.
    conditions = [
        {"type": name, "status": "True", "lastTransitionTime": now, "reason": None, "message": None}
        for name in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    ]
    container = {
        "name": "main",
        "image": "registry.example/app:1",
        "imageID": f"registry.example/app@sha256:{number:064x}",
        "containerID": f"containerd://{number:064x}",
        "ready": True,
        "started": True,
        "restartCount": 0,
        "state": {"running": {"startedAt": now}},
    }
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": now,
        "conditions": conditions,
        "containerStatuses": [container],
    }


_NO_PODS = {"infrastructure": {"parametersRef": {"group": "", "kind": "ConfigMap", "name": "no-pods"}}}


def _beside(number: int, count: int, step: int) -> int:
    """A waypoint in the namespace of an object with this number."""
    return number % step + step * (number // step % max(1, count // step))


def _waiting(number: int, size: Size) -> Object:
    """A pod that is never placed. Most are of a Service, the last tenth are the waypoints'."""
    spaces = size.spaces
    space, name = spaces[number % len(spaces)], f"crowd-{number}"
    labels = {"app": f"app-{number % size.services}", "version": f"v{number % 3}", "team": f"team-{number % 40}"}
    if number >= size.pods * 9 // 10:
        labels = {GATEWAY_NAME: f"waypoint-{_beside(number, size.waypoints, len(spaces))}"}
    main = {
        "name": "main",
        "image": "registry.example/app:1",
        "ports": [{"name": "http", "containerPort": PORT}, {"name": "metrics", "containerPort": 9090}],
        "env": [{"name": f"SETTING_{index}", "value": f"value-{index}"} for index in range(8)],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": _CONFINED,
    }
    spec = {
        "schedulingGates": [{"name": _GATE}],
        "automountServiceAccountToken": False,
        "securityContext": _SECURITY,
        "containers": [main],
    }
    return item("Pod", name, space, spec, labels=labels, annotations={"ambient.istio.io/redirection": "enabled"})


def _policy(number: int, size: Size) -> Object:
    """Policies of all kinds and bindings, in turn. None matches a request of a claim."""
    spaces = size.spaces
    space, app = spaces[number % len(spaces)], f"app-{number % size.services}"
    point = f"waypoint-{_beside(number, size.waypoints, len(spaces))}"
    source = [{"source": {"principals": [_NOBODY], "notNamespaces": ["ops"]}}]
    l4 = {"from": source, "to": [{"operation": {"ports": [str(PORT), "9090"]}}]}
    l7 = {"from": source, "to": [{"operation": {"methods": ["GET", "POST"], "paths": [f"/v{number}/*", "/health"]}}]}
    kinds: list[Object] = [
        {"action": "ALLOW", "rules": [l4, l4], **_selecting(app)},
        {"action": "DENY", "rules": [l4], **_selecting(app)},
        {"action": "DENY", "rules": [l4]},
        {"action": "ALLOW", "rules": [l7, l7, l7], "targetRefs": [_ref("Service", app)]},
        {"action": "DENY", "rules": [l7], "targetRefs": [_ref("Gateway", point)]},
        {"action": "AUDIT", "rules": [l7], "targetRefs": [_ref("Service", app)]},
        {"action": "ALLOW", "rules": [{"from": [{"source": {"ipBlocks": ["198.18.0.0/15"]}}]}], **_selecting(app)},
        # Of its source istiod takes no identity (validation of CUSTOM).
        {
            "action": "CUSTOM",
            "provider": {"name": "nobody"},
            "rules": [{"to": l7["to"]}],
            "targetRefs": [_ref("Gateway", point)],
        },
    ]
    spec = kinds[number % len(kinds)]
    # A few hold everywhere, as those of a platform's team do.
    root = number % len(kinds) == 2 and number < 10 * len(kinds)
    return item("AuthorizationPolicy", f"policy-{number}", ROOT if root else space, spec)


def _running(
    name: str, namespace: str, container: str, image: str, command: list[str], account: str = "default"
) -> Object:
    spec = {
        "serviceAccountName": account,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": _SECURITY,
        "containers": [{"name": container, "image": image, "command": command, "securityContext": _CONFINED}],
    }
    return item("Pod", name, namespace, spec, labels={"app": name})


def _service(name: str, namespace: str, labels: t.Mapping[str, str]) -> Object:
    spec = {"selector": {"app": name}, "ports": [{"name": "http", "port": PORT, "targetPort": PORT}]}
    return item("Service", name, namespace, spec, labels=labels)


def _gateway(more: Object) -> Object:
    return {
        "gatewayClassName": "istio-waypoint",
        "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
        **more,
    }


def _selecting(app: str) -> Object:
    return {"selector": {"matchLabels": {"app": app}}}


def _ref(kind: str, name: str) -> Object:
    group = "gateway.networking.k8s.io" if kind == "Gateway" else ""
    return {"group": group, "kind": kind, "name": name}
