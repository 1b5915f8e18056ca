# Objects and an edge for tests: a cluster that exists only in memory, with claims in their shortest form.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import re
import threading
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Claim, parse_claims
from ansible_collections.ambient.lab.plugins.module_utils._claims.sources import Target
from ansible_collections.ambient.lab.plugins.module_utils._cluster.channel import Answer as ApiAnswer
from ansible_collections.ambient.lab.plugins.module_utils._cluster.snapshot import Snapshot
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._curl.control import Destination
from ansible_collections.ambient.lab.plugins.module_utils._curl.script import KEPT_HEADERS

Object = dict[str, t.Any]
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
        self.services: list[Object] = []
        self.lists: list[str] = []
        self.ready = True
        self.problem = ""
        self.clock = 0.0
        self.execs = 0
        self._rounds: dict[str, int] = {}
        self._lock = threading.Lock()

    def pods(self, namespace: str) -> list[Object]:
        """Pods of the namespace."""
        return [item for item in self.objects if item["metadata"]["namespace"] == namespace]

    def policies(self, namespace: str) -> list[Object]:
        """Policies of the namespace."""
        self.lists.append(namespace)
        return [item for item in self.authorization if item["metadata"]["namespace"] == namespace]

    def snapshot(self, namespaces: t.Iterable[str]) -> Snapshot:
        """Pods, Services and policies of the namespaces; there are no Gateways."""
        names = sorted({*namespaces, "istio-system"})
        policies = {name: self.policies(name) for name in names}
        pods = {name: self.pods(name) for name in names}
        return Snapshot({}, pods, {"default": self.services}, policies, {})

    def endpoint_ready(self, destination: Destination) -> bool:
        """The same answer for every destination."""
        return self.ready

    def ask(self, path: str, **query: str) -> ApiAnswer:
        """No proxy can be asked."""
        return ApiAnswer(404, {}, b"")

    def items(self, path: str, **query: str) -> list[Object]:
        """There are no proxies."""
        return []

    def forward(self, namespace: str, pod: str, port: int, path: str) -> ApiAnswer:
        """No proxy's configuration can be read."""
        raise LabError("nobody listens there")

    def run(self, target: Target, script: str, timeout: float) -> tuple[str, str]:
        """What the script would print, without running it."""
        with self._lock:
            number = self._rounds.get(target.pod, 0)
            self._rounds[target.pod] = number + 1
            self.execs += 1
        if self.problem:
            return "", self.problem
        return _output(script, lambda method, url: self.answers(target.pod, number, method, url)), ""

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
