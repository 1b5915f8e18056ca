"""The namespaces, pods, Services and waypoints of the random trial: every shape of a way that the model knows."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

SPACE, POINT, OUTSIDE, ROOT = "trial", "trial-point", "trial-out", "istio-system"
AMBIENT = {"istio.io/dataplane-mode": "ambient"}
USE, USE_SPACE, FOR = "istio.io/use-waypoint", "istio.io/use-waypoint-namespace", "istio.io/waypoint-for"
# Apps of SPACE. Their Services: without a waypoint, with one of the namespace, with one of another, and with one for
# Services and pods alike.
APPS: dict[str, dict[str, str]] = {
    "plain": {},
    "own": {USE: "gate"},
    "shared": {USE: "shared", USE_SPACE: POINT},
    "work": {USE: "both"},
}
CLIENTS = [("a", SPACE), ("b", SPACE), ("c", POINT), ("d", OUTSIDE)]
PORTS = {80: 8080, 90: 9090}
SERVER = """
import http.server, threading
class Any(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def handle_one_request(self):
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Length", "0")
        # A waypoint's connection that lives on is held against the policies of its beginning.
        self.send_header("Connection", "close")
        self.end_headers()
    def log_message(self, *args):
        pass
def serve(port):
    http.server.ThreadingHTTPServer(("", port), Any).serve_forever()
[threading.Thread(target=serve, args=(port,)).start() for port in (8080, 9090)]
"""


def objects(images: dict[str, str]) -> list[Object]:
    """All of the trial but its policies.

    Args:
        images: of the lab, "app" (with Python) and "curl".
    """
    found = [_namespace(SPACE, AMBIENT), _namespace(POINT, AMBIENT), _namespace(OUTSIDE, {})]
    for name, labels in APPS.items():
        found += _app(name, images["app"], {USE: "both"} if name == "work" else {})
        found.append(_service(name, labels))
    found.append(_service("head", {}, clusterIP="None", selector={"app": "plain"}))
    found += [_gateway("gate", SPACE), _gateway("shared", POINT), _gateway("both", SPACE, {FOR: "all"})]
    for name, space in CLIENTS:
        found += [_account(name, space), pod(name, space, images["curl"], ["sleep", "86400"], {"app": name})]
    return found


def _namespace(name: str, labels: dict[str, str]) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def _account(name: str, space: str) -> Object:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": space}}


def _app(name: str, image: str, labels: dict[str, str]) -> list[Object]:
    item = pod(name, SPACE, image, ["python3", "-c", SERVER], {"app": name, "tier": "back", **labels})
    item["spec"] |= {"hostname": f"{name}-0", "subdomain": "head"} if name == "plain" else {}
    item["spec"]["containers"][0]["ports"] = [{"containerPort": port} for port in PORTS.values()]
    return [_account(name, SPACE), item]


def pod(name: str, space: str, image: str, command: list[str], labels: dict[str, str], account: str = "") -> Object:
    """A pod with one container, of the ServiceAccount of its own name unless another is given."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": space, "labels": labels},
        "spec": {
            "serviceAccountName": account or name,
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": image, "imagePullPolicy": "IfNotPresent", "command": command}],
        },
    }


def _service(name: str, labels: dict[str, str], **spec: Any) -> Object:
    ports = [{"name": f"http-{port}", "port": port, "targetPort": target} for port, target in PORTS.items()]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": SPACE, "labels": labels},
        "spec": {"selector": {"app": name}, "ports": ports, **spec},
    }


def _gateway(name: str, space: str, labels: dict[str, str] | None = None) -> Object:
    listener = {
        "name": "mesh",
        "port": 15008,
        "protocol": "HBONE",
        "allowedRoutes": {"namespaces": {"from": "All"}},
    }
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": name, "namespace": space, "labels": labels or {}},
        "spec": {"gatewayClassName": "istio-waypoint", "listeners": [listener]},
    }
