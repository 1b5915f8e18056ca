# Objects and an edge for tests: a cluster that exists only in memory, with claims in their shortest form.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import re
import threading
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Claim, parse_claims
from ansible_collections.ambient.lab.plugins.module_utils._cluster.channel import Answer as ApiAnswer
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._curl.script import KEPT_HEADERS
from ansible_collections.ambient.lab.plugins.module_utils._mesh.load import Asked
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh

Object = dict[str, t.Any]
AMBIENT = {"istio.io/dataplane-mode": "ambient"}
# What a probe is to see: HTTP code, exit code, headers, body.
Answer = tuple[int, int, dict[str, str], str]

OK: Answer = (200, 0, {}, "hello")
RESET: Answer = (0, 56, {}, "")
FORBIDDEN: Answer = (403, 0, {"server": "istio-envoy"}, "RBAC: access denied")
REFUSED_UPSTREAM: Answer = (
    503, 0, {"server": "istio-envoy"}, "upstream connect error or disconnect/reset before headers. reset"
)  # fmt: skip
APP_403: Answer = (403, 0, {"server": "SimpleHTTP"}, "no")


def claim(name: str = "a claim", **fields: t.Any) -> Object:
    """A claim as a user writes it; `source` stands for `from`."""
    source = fields.pop("source", {"pod": "curl"})
    return {"name": name, "from": source, "to": "http://sample-app:8080/", "expect": "allowed", **fields}


def claims(*raw: Object) -> tuple[Claim, ...]:
    """Parsed claims in namespace default."""
    return parse_claims(list(raw), "default")


def pod(name: str, namespace: str = "default", *, ready: bool = True, mesh: bool = True, **fields: t.Any) -> Object:
    """A pod; fields: labels, phase, service_account, containers, ip, deleting, waiting."""
    metadata: Object = {"name": name, "namespace": namespace, "labels": fields.get("labels", {"app": name})}
    metadata["annotations"] = {"ambient.istio.io/redirection": "enabled"} if mesh else {}
    if fields.get("deleting"):
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    status: Object = {
        "phase": fields.get("phase", "Running"),
        "podIP": fields.get("ip", "10.0.0.9"),
        "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
    }
    if fields.get("waiting"):
        status["containerStatuses"] = [{"name": "main", "state": {"waiting": {"reason": fields["waiting"]}}}]
    return {
        "metadata": metadata,
        "spec": {
            "serviceAccountName": fields.get("service_account", name),
            "containers": [{"name": item} for item in fields.get("containers", ["main"])],
        },
        "status": status,
    }


def policy(name: str, namespace: str = "default", **spec: t.Any) -> Object:
    """An AuthorizationPolicy; status as a list of conditions."""
    conditions = spec.pop("conditions", [])
    return {
        "metadata": {"name": name, "namespace": namespace, "generation": 2},
        "spec": spec,
        "status": {"conditions": conditions},
    }


def condition(
    reason: str = "Accepted", *, kind: str = "ZtunnelAccepted", status: str = "True", seen: int = 2
) -> Object:
    """A condition of a policy as istiod writes it."""
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": f"because {reason}",
        "observedGeneration": seen,
    }


def service(name: str = "sample-app", namespace: str = "default", **fields: t.Any) -> Object:
    """A Service on port 8080 for pods with the label app=<name>; fields: labels, port, target."""
    labels = fields.get("labels", {})
    port = {"port": fields.get("port", 8080), "targetPort": fields.get("target", 8080)}
    spec = {"selector": {"app": name}, "clusterIP": "10.96.0.1", "ports": [port]}
    return {"metadata": {"name": name, "namespace": namespace, "labels": labels}, "spec": spec}


class FakeEdge:
    """An Edge in memory with a clock of its own: a round takes a tenth of a second.

    Args:
        pods: of all namespaces.
        answers: what a probe sees, by pod and round (0, 1, ...), method and URL.
    """

    def __init__(self, pods: list[Object], answers: t.Callable[[str, int, str, str], Answer | None]) -> None:
        self.objects = pods
        self.answers = answers
        self.authorization: list[Object] = []
        # A Service sample-app, unless the test has its own.
        self.default: list[Object] = [service()]
        self.services: list[Object] = self.default
        self.gateways: list[Object] = []
        self.reads = 0
        self.ready = True
        self.problem = ""
        self.clock = 0.0
        self.execs = 0
        self._rounds: dict[str, int] = {}
        self._lock = threading.Lock()

    def mesh(self, asked: t.Iterable[Asked], namespaces: t.Iterable[str]) -> Mesh:
        """The pods, Services, policies and Gateways as they are now."""
        self.reads += 1
        spaces = {item["metadata"]["namespace"] for item in self.objects} | {"default", "istio-system"}
        kinds = {
            "Namespace": [{"metadata": {"name": name, "labels": AMBIENT}} for name in sorted(spaces)],
            "Pod": [*self.objects, *self.behind()],
            "Service": self.services,
            "AuthorizationPolicy": self.authorization,
            "Gateway": self.gateways,
        }
        return Mesh({**item, "kind": kind} for kind, items in kinds.items() for item in items)

    def behind(self) -> list[Object]:
        """The pod behind the default Service; it is ready when the edge is."""
        return [pod("sample-app", ready=self.ready, ip="10.0.1.5")] if self.services is self.default else []

    def ask(self, path: str, **query: str) -> ApiAnswer:
        """No proxy can be asked."""
        return ApiAnswer(404, {}, b"")

    def items(self, path: str, **query: str) -> list[Object]:
        """There are no proxies."""
        return []

    def forward(self, namespace: str, pod: str, port: int, path: str) -> ApiAnswer:
        """No proxy's configuration can be read."""
        raise LabError("nobody listens there")

    def run(self, namespace: str, pod: str, container: str, script: str, timeout: float) -> tuple[str, str]:
        """What the script would print, without running it."""
        with self._lock:
            number = self._rounds.get(pod, 0)
            self._rounds[pod] = number + 1
            self.execs += 1
        if self.problem:
            return "", self.problem
        return _output(script, lambda method, url: self.answers(pod, number, method, url)), ""

    def now(self) -> float:
        """Seconds; each look at the clock takes some."""
        self.clock += 0.1
        return self.clock

    def sleep(self, seconds: float) -> None:
        """Let the clock go on."""
        self.clock += seconds


def _output(script: str, answer: t.Callable[[str, str], Answer | None]) -> str:
    nonce = script.split("\n", 1)[0].removeprefix("N=")
    printed = ""
    for number, config in re.findall(r"^p (\d+) '(.*?)'$", script, re.DOTALL | re.MULTILINE):
        fields = dict(line.split(" = ", 1) for line in config.splitlines() if " = " in line)
        given = answer(json.loads(fields.get("request", '"HEAD"')), json.loads(fields["url"]))
        if given is not None:
            printed += record(nonce, number, given)
    return printed


def record(nonce: str, number: str, answer: Answer) -> str:
    """What the script prints for one probe."""
    http_code, exit_code, headers, body = answer
    size = 10 if http_code else 0
    report = f"{http_code:03d},{exit_code},1,{size},{len(body)},0.001,0,10.0.0.9,{40000 + int(number)},"
    why = f"curl {exit_code}" if exit_code else ""
    lines = [f"meta {number} {report}", f"why {number} {why}"]
    lines += [f"head {number} {name} {headers.get(name, '')}" for name in KEPT_HEADERS] + [f"end {number}"]
    return f"{body}\n" + "".join(f"{nonce} {line}\n" for line in lines)
