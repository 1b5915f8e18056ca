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
from ansible_collections.ambient.lab.plugins.modules.claims_matrix import SPEC
from fault_world import Checked, check
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
    """Istio's mesh configuration with other values; afterwards as it was. Another defaultConfig restarts waypoints."""
    before = lab.get(*MESH)["data"]["mesh"]
    changed = yaml.safe_dump({**yaml.safe_load(before), **changes})
    try:
        lab.kubectl("patch", *MESH, "--type=merge", "-p", json.dumps({"data": {"mesh": changed}}))
        yield
    finally:
        lab.kubectl("patch", *MESH, "--type=merge", "-p", json.dumps({"data": {"mesh": before}}))


def verdicts(said: Checked) -> list[str]:
    return [item["verdict"] for item in said.claims.values()]


def test_a_slow_page_is_no_block_and_a_stream_is_an_answer(lab: Lab, address: str) -> None:
    url = f"http://direct.{SPACE}"
    stream, slow = asked(f"{url}/events", "a", "allowed"), asked(f"{url}/slow", "b", "timeout")
    claims = [stream, asked(f"{url}/events", "b", "timeout"), slow]
    wanted = ["pass", "fail", "error"]
    said = settled(lab, claims, lambda said: verdicts(said) == wanted, stable=1, timeout=0.0, probe_timeout=1.5)
    assert verdicts(said) == wanted, said.message
    assert "a destination that is down or slow looks the same" in words(said)


def test_a_pod_that_declares_no_port_shows_itself_alive_by_its_service(lab: Lab, address: str) -> None:
    gate = {"from": [{"source": {"principals": [f"cluster.local/ns/{SPACE}/sa/gate"]}}]}
    around = asked(f"http://{address}:8080/", "b", "denied_l4", by=f"{SPACE}/only-the-waypoint")
    with there(lab, policy("only-the-waypoint", gate, action="ALLOW", **on("shapes"))):
        claims = [asked(f"http://quiet.{SPACE}/", "b", "allowed"), around]
        said = settled(lab, claims, lambda said: said.verdict == "pass")
        assert said.verdict == "pass", said.message


def test_who_wrote_an_answer_in_a_mesh_that_hides_it(lab: Lab, address: str) -> None:
    """An authorizer's redirect, the application's page, and the application's own 403."""
    provider = {
        "name": "login",
        "envoyExtAuthzHttp": {
            "service": f"login.{SPACE}.svc.cluster.local",
            "port": 80,
            "includeRequestHeadersInCheck": ["x-session"],
            "headersToDownstreamOnDeny": ["location"],
        },
    }
    ask = policy("ask-login", {}, action="CUSTOM", provider={"name": "login"}, **bound("Service", "door"))
    logged_in = asked(f"http://door.{SPACE}/page", "a", "allowed")
    logged_in["to"]["headers"] = {"x-session": "1"}
    page, own = asked(f"http://quiet.{SPACE}/", "a", "allowed"), asked(f"http://quiet.{SPACE}/own", "b", "denied_l7")
    claims = [
        logged_in,
        asked(f"http://door.{SPACE}/api", "a", {"outcome": "denied_l7", "http_code": 401}),
        asked(f"http://door.{SPACE}/", "a", {"outcome": "denied_l7", "http_code": 302}),
        page,
        asked(f"http://quiet.{SPACE}/", "b", "denied_l7", "POST", by=f"{SPACE}/no-post"),
    ]
    with mesh_config(lab, extensionProviders=[provider]), there(lab, ask):
        said = settled(lab, claims, lambda said: said.verdict == "pass", probe_timeout=5.0)
        assert said.verdict == "pass", said.message
        said = check(lab, [page, own], namespace=SPACE, stable=1, timeout=0.0)
        assert verdicts(said) == ["pass", "fail"], said.message
        assert "the application itself answered HTTP 403, no proxy refused" in words(said)
        with mesh_config(lab, accessLogFile=""):
            once = {"stable": 1, "timeout": 0.0}
            said = settled(lab, [page, own], lambda said: verdicts(said) == ["error", "error"], **once)
            assert verdicts(said) == ["error", "error"], said.message
            assert "this mesh hides Envoy's headers, and no access log says it" in words(said)


def test_a_matrix_under_strict_mtls_reads_its_own_file(lab: Lab, trial: Trial, tmp_path: Path) -> None:
    """One source has no shell, and in its namespace a quota counts everything: a pod asks in its place, and goes."""
    image = lab.facts["images"]["app"]
    mute = pod("mute", OUTSIDE, image.replace("/tools:", "/pause:"), ["/pause"], {"app": "mute"}, "default")
    counted = ("requests.cpu", "requests.memory", "limits.cpu", "limits.memory")
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "everything", "namespace": OUTSIDE},
        "spec": {"hard": {**dict.fromkeys(counted, "1G"), "pods": "9"}},
    }
    strict = {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": "no-plain-text", "namespace": SPACE},
        "spec": {"mtls": {"mode": "STRICT"}},
    }
    params: Object = {name: option.get("default") for name, option in SPEC.items()}
    params |= {
        "kubeconfig": lab.facts["kubeconfig"],
        "file": str(tmp_path / "observed.yml"),
        "namespaces": [OUTSIDE, SPACE],
        "source_namespaces": [OUTSIDE],
        "destination_namespaces": [SPACE],
        # The Service `plain` alone.
        "exclude": [f"[!p]*.{SPACE}"],
        "probe_with": "pod",
        "probe_image": image,
    }
    with there(lab, mute, strict):
        lab.kubectl("wait", "-n", OUTSIDE, "--for=condition=Ready", "pod/mute", "--timeout=50s")
        with there(lab, quota):
            observed = matrix(params, check_mode=False, diff=False)
            assert (observed["unprobed"], observed["unclear"]) == ([], [])
            assert {cell["outcome"] for cell in observed["cells"]} == {"denied_l4"}
            compared = matrix({**params, "state": "compare"}, check_mode=False, diff=False)
            assert (compared["verdict"], compared["same"]) == ("pass", len(observed["cells"]))
        claims = yaml.safe_load(Path(params["file"]).read_text(encoding="utf-8"))["claims"]
        own = [claim for claim in claims if claim["from"]["service_account"] == "d"]
        said = settled(lab, own, lambda said: said.verdict == "pass")
        assert said.verdict == "pass", said.message
    assert {item["metadata"]["name"] for item in lab.get("-n", OUTSIDE, "pods")["items"]} == {"d"}
