"""A namespace of the tests' own: a server that misbehaves by port, three clients, and a policy against one of them."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.ambient.lab.plugins.module_utils._check.curl_outcomes import prove
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from running_lab import Lab

NAMESPACE = "faults"
CLIENTS = ("good", "bad", "outside")
# This one is not in the mesh.
OUTSIDE = {"istio.io/dataplane-mode": "none"}
# What the server does, by port: answer, read and close, refuse by itself, answer late.
OK, SILENT, FORBIDS, SLOW = 8080, 8081, 8082, 8083
PORTS = (OK, SILENT, FORBIDS, SLOW)
SERVER = """
import socket, threading, time
OK = b"HTTP/1.1 200 OK\\r\\nServer: app\\r\\nContent-Length: 3\\r\\nConnection: close\\r\\n\\r\\nok\\n"
NO = b"HTTP/1.1 403 Forbidden\\r\\nServer: app\\r\\nContent-Length: 3\\r\\nConnection: close\\r\\n\\r\\nno\\n"
def answer(connection, port):
    with connection:
        connection.recv(65536)
        if port == 8083:
            time.sleep(4)
        if port != 8081:
            connection.sendall(NO if port == 8082 else OK)
def serve(port):
    listener = socket.create_server(("", port), backlog=512)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection, port), daemon=True).start()
threads = [threading.Thread(target=serve, args=(port,)) for port in (8080, 8081, 8082, 8083)]
[thread.start() for thread in threads]
"""
HARDENED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}

Object = dict[str, Any]


def objects(lab: Lab) -> list[Object]:
    """All of the namespace but the policy."""
    labels = {"istio.io/dataplane-mode": "ambient", "app.kubernetes.io/managed-by": "ambient-lab"}
    found: list[Object] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}},
        _pod(lab.facts["images"]["app"], "server", ["python3", "-c", SERVER]),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "server", "namespace": NAMESPACE},
            "spec": {
                "selector": {"app": "server"},
                "ports": [{"name": f"http-{port}", "port": port, "targetPort": port} for port in PORTS],
            },
        },
    ]
    for name in CLIENTS:
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": NAMESPACE}}
        found += [account, client(lab, name)]
    return found


def client(lab: Lab, name: str) -> Object:
    """A pod with curl that waits to be told what to ask."""
    return _pod(lab.facts["images"]["curl"], name, ["sh", "-c", "sleep infinity"], name)


def _pod(image: str, name: str, command: list[str], account: str = "default") -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {"app": name, **(OUTSIDE if name == "outside" else {})},
        },
        "spec": {
            "serviceAccountName": account,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "main", "image": image, "command": command, "securityContext": HARDENED}],
        },
    }


def policy(**changes: Any) -> Object:
    """The policy against `bad`; changes replace parts of its spec."""
    spec: Object = {
        "selector": {"matchLabels": {"app": "server"}},
        "action": "DENY",
        "rules": [
            {
                "from": [{"source": {"principals": [f"cluster.local/ns/{NAMESPACE}/sa/bad"]}}],
                "to": [{"operation": {"ports": [str(OK)]}}],
            }
        ],
    }
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "deny-bad", "namespace": NAMESPACE},
        "spec": {**spec, **changes},
    }


def claim(name: str, expect: object, port: int = OK, **fields: Any) -> Object:
    """A claim about the server, of the client that its name begins with."""
    source = {"pod": name.split()[0], "namespace": NAMESPACE}
    return {"name": name, "from": source, "to": f"http://server.{NAMESPACE}:{port}/", "expect": expect, **fields}


CLAIMS = [claim("good passes", "allowed"), claim("bad is cut off", "denied_l4", by=f"{NAMESPACE}/deny-bad")]


@dataclass(frozen=True)
class Checked:
    """What the check said. message: of the failure, "" where all claims held."""

    result: Object
    message: str = ""
    claims: dict[str, Object] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Of all claims."""
        return str(self.result["verdict"])


def parameters(lab: Lab, claims: list[Object], **changes: Any) -> Object:
    """Of ambient.lab.curl_outcomes, for quick answers."""
    params = {
        "kubeconfig": lab.facts["kubeconfig"],
        "context": None,
        "namespace": NAMESPACE,
        "claims": copy.deepcopy(claims),
        "phase": "after",
        "stable": 2,
        "timeout": 2.0,
        "interval": 0.2,
        "probe_timeout": 2.0,
        "concurrency": 8,
        "witnesses": "required",
        "surprises": "report",
        "predict_only": False,
        "manifests": None,
        "results_file": None,
        "section": None,
    }
    return {**params, **changes}


def check(lab: Lab, claims: list[Object], **changes: Any) -> Checked:
    """Run ambient.lab.curl_outcomes' own code with these claims."""
    try:
        result, message = prove(parameters(lab, claims, **changes), check_mode=False), ""
    except LabError as error:
        result, message = error.result, error.message
        assert "claims" in result, message
    return Checked(result, message, {item["name"]: item for item in result["claims"]})


def red(lab: Lab, claims: list[Object], **changes: Any) -> Checked:
    """What the check says once what was broken has taken hold; raises TimeoutError where it stays green."""
    said: list[Checked] = []

    def is_red() -> bool:
        said[:] = [check(lab, claims, **changes)]
        return said[0].verdict != "pass"

    until(is_red)
    return said[0]


def redirected(lab: Lab) -> set[str]:
    """The pods whose traffic istio-cni has redirected to ztunnel."""
    pods = lab.get("pod", "-n", NAMESPACE)["items"]
    return {
        pod["metadata"]["name"]
        for pod in pods
        if "ambient.istio.io/redirection" in (pod["metadata"].get("annotations") or {})
    }


@contextmanager
def applied(lab: Lab, item: Object, after: Object | None) -> Iterator[None]:
    """An object in another form, or deleted where `item` is empty; afterwards as it was."""
    try:
        if item:
            lab.apply([item])
        elif after:
            lab.delete(after)
        yield
    finally:
        lab.apply([after]) if after else lab.delete(item)


@contextmanager
def meanwhile(action: Callable[[], None], interval: float) -> Iterator[list[float]]:
    """Do something again and again beside what is done inside; bounded by the block.

    Yields when it was done, one time in seconds each; an error of the action is raised when the block ends.
    """
    ended = threading.Event()
    done: list[float] = []

    def run() -> None:
        while not ended.wait(interval):
            action()
            done.append(time.monotonic())

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        try:
            yield done
        finally:
            ended.set()
    running.result()


@contextmanager
def after_two_rounds(lab: Lab, action: Callable[[], None]) -> Iterator[None]:
    """Do something once two rounds of CLAIMS are over; its error is raised when the block ends."""
    before = denials(lab)

    def run() -> None:
        # The third denial is of the third round.
        until(lambda: denials(lab) >= before + 3)
        action()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        yield
    running.result()


def denials(lab: Lab) -> int:
    """How often ztunnel has said that the policy refused a connection."""
    log = lab.kubectl("logs", "-n", "istio-system", "-l", "app=ztunnel", "--tail=-1")
    return log.count(f"explicitly denied by: {NAMESPACE}/deny-bad")


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for a condition; raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.1)
