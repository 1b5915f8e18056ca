"""Answers of every shape: an authorizer's, an application's own, hidden, slow; and a matrix under strict mTLS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.ambient.lab.plugins.module_utils._matrix.claims_matrix import matrix
from fault_world import check
from running_lab import Lab
from trial import Trial
from trial_claims import asked, bound, on, policy, settled, there, words
from trial_world import OUTSIDE, SPACE, pod

Object = dict[str, Any]

# Port 8080 is an application with an event stream, a page that takes its time, and a refusal of its own; port 9090
# an authorizer that sends who has no session to a login, and refuses the API to them.
SERVER = """
import http.server, threading, time
class Application(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/slow":
            time.sleep(8)
        self.answer(403 if self.path == "/own" else 200, self.path != "/events")
        while self.path == "/events":
            self.wfile.write(b"data: tick\\n\\n")
            self.wfile.flush()
            time.sleep(0.2)
    def answer(self, status, ends=True):
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "https://login.example/start")
        self.send_header(*(("Content-Length", "0") if ends else ("Content-Type", "text/event-stream")))
        self.end_headers()
    do_POST = do_GET
class Login(Application):
    def do_GET(self):
        self.answer(200 if self.headers.get("x-session") else 401 if self.path == "/api" else 302)
    do_POST = do_GET
def serve(port, handler):
    http.server.ThreadingHTTPServer(("", port), handler).serve_forever()
[threading.Thread(target=serve, args=of).start() for of in ((8080, Application), (9090, Login))]
"""
THROUGH_GATE = {"istio.io/use-waypoint": "gate"}
MESH = ("-n", "istio-system", "configmap", "istio")


def service(name: str, port: int, labels: Object) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": SPACE, "labels": labels},
        "spec": {"selector": {"app": "shapes"}, "ports": [{"name": "http", "port": 80, "targetPort": port}]},
    }


@pytest.fixture(scope="module")
def address(lab: Lab, trial: Trial) -> Iterator[str]:
    """Of a pod that declares no port, behind Services with a waypoint and without."""
    item = pod("shapes", SPACE, lab.facts["images"]["app"], ["python3", "-c", SERVER], {"app": "shapes"}, "default")
    route: Object = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "quiet", "namespace": SPACE},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "quiet", "port": 80}],
            "rules": [
                {
                    "filters": [
                        {
                            "type": "ResponseHeaderModifier",
                            "responseHeaderModifier": {"remove": ["x-envoy-upstream-service-time"]},
                        }
                    ],
                    "backendRefs": [{"name": "quiet", "port": 80}],
                }
            ],
        },
    }
    services = [
        service("direct", 8080, {}),
        service("door", 8080, THROUGH_GATE),
        service("quiet", 8080, THROUGH_GATE),
        service("login", 9090, {}),
    ]
    no_post = policy("no-post", {"to": [{"operation": {"methods": ["POST"]}}]}, **bound("Service", "quiet"))
    with there(lab, item, *services, route, no_post):
        lab.kubectl("wait", "-n", SPACE, "--for=condition=Ready", "pod/shapes", "--timeout=50s")
        yield str(lab.get("-n", SPACE, "pod", "shapes")["status"]["podIP"])


@contextmanager
def mesh_config(lab: Lab, **changes: Any) -> Iterator[None]:
    """Istio's mesh configuration with other values; afterwards as it was."""
    before = lab.get(*MESH)["data"]["mesh"]
    changed = yaml.safe_dump({**yaml.safe_load(before), **changes})
    try:
        lab.kubectl("patch", *MESH, "--type=merge", "-p", json.dumps({"data": {"mesh": changed}}))
        yield
    finally:
        lab.kubectl("patch", *MESH, "--type=merge", "-p", json.dumps({"data": {"mesh": before}}))
