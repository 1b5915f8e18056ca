# A mesh that exists only in memory: its ztunnels and its waypoint log and count what they did to the probes.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import json
import re
import threading
import typing as t
import urllib.parse

from ansible_collections.ambient.lab.plugins.module_utils._cluster.channel import Answer as ApiAnswer
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.tests.unit.fakes.objects import (
    FORBIDDEN,
    OK,
    REFUSED_UPSTREAM,
    RESET,
    Answer,
    FakeEdge,
    Object,
    pod,
    service,
)

REJECTED = "connection closed due to policy rejection"
UNMATCHED = "allow policies exist, but none allowed"
APP_ADDRESS = "10.0.1.5"
WAYPOINT_ADDRESS = "10.0.1.7"
# What the application answers, as it comes through a waypoint.
FROM_UPSTREAM: Answer = (200, 0, {"server": "istio-envoy", "x-envoy-upstream-service-time": "1"}, "hello")


@dataclasses.dataclass(frozen=True)
class Decision:
    """What the mesh does to a request: who decides it, and what is logged as the reason."""

    by: str
    reason: str = ""


SERVED = Decision("application")
# The application takes the connection and closes it without a word.
CLOSED = Decision("application", "closed")


def denied(policy: str) -> Decision:
    """By the destination's ztunnel, because of a DENY policy."""
    return Decision("ztunnel", f": explicitly denied by: {policy}")


def unmatched() -> Decision:
    """By the destination's ztunnel, because no ALLOW policy let it pass."""
    return Decision("ztunnel", f": {UNMATCHED}")


def refused(policy: str) -> Decision:
    """By the waypoint; policy: namespace/name, or none."""
    namespace, _slash, name = policy.partition("/")
    return Decision("waypoint", f"ns[{namespace}]-policy[{name}]-rule[0]" if name else "none")


@dataclasses.dataclass
class Log:
    """One proxy: lines with kubelet's time stamp and when they can be read, refusals by labels."""

    lines: list[tuple[float, str]] = dataclasses.field(default_factory=list)
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    status: int = 200
    counts_status: int = 200


def mesh_pod(name: str, namespace: str, node: str, ip: str, labels: dict[str, str]) -> Object:
    """A pod on a node."""
    item = pod(name, namespace, ip=ip, labels=labels, containers=["istio-proxy"])
    item["spec"]["nodeName"] = node
    kind = "DaemonSet" if labels.get("app") == "ztunnel" else "ReplicaSet"
    item["metadata"]["ownerReferences"] = [{"kind": kind, "name": name, "controller": True}]
    return item


class MeshEdge(FakeEdge):
    """Two nodes with a ztunnel each, sample-app on the second, behind a waypoint where one is wanted.

    Args:
        sources: names of pods that call; they have the addresses 10.0.0.10 and so on.
        decide: what happens to a request, by pod, round (0, 1, ...), method and URL.
        waypoint: put one before the Service.
        late: seconds until a ztunnel's line can be read.
        waypoint_late: seconds until the waypoint's line can be read.
    """

    def __init__(
        self,
        sources: t.Sequence[str],
        decide: t.Callable[[str, int, str, str], Decision],
        *,
        waypoint: bool = False,
        late: float = 0.0,
        waypoint_late: float = 0.0,
    ) -> None:
        super().__init__([], self._answer)
        self.decide, self.late, self.waypoint_late = decide, late, waypoint_late
        self.addresses = {name: f"10.0.0.{10 + number}" for number, name in enumerate(sources)}
        pods = [mesh_pod(name, "default", "n1", ip, {"app": name}) for name, ip in self.addresses.items()]
        self.objects = [*pods, mesh_pod("app-1", "default", "n2", APP_ADDRESS, {"app": "sample-app"})]
        labels = {"istio.io/use-waypoint": "wp"} if waypoint else {}
        self.services = [service(labels=labels, target=80)]
        self.proxies = [
            mesh_pod("z1", "istio-system", "n1", "10.0.0.1", {"app": "ztunnel"}),
            mesh_pod("z2", "istio-system", "n2", "10.0.1.1", {"app": "ztunnel"}),
        ]
        if waypoint:
            gateway = {"gateway.networking.k8s.io/gateway-name": "wp"}
            self.proxies.append(mesh_pod("wp-1", "default", "n2", WAYPOINT_ADDRESS, gateway))
            listener = {"name": "mesh", "port": 15008, "protocol": "HBONE"}
            self.gateways = [
                {
                    "metadata": {"name": "wp", "namespace": "default"},
                    "spec": {"listeners": [listener]},
                    "status": {"addresses": [{"value": "10.96.9.9"}]},
                }
            ]
        self._ticks = 0
        # Each began with a line of its own, as proxies do.
        self.logs = {name: Log([(0.0, self._stamped(f"\tinfo\tztunnel\t{name} starts"))]) for name in self.names()}
        self.counts = "1.29.1"
        self.asked: list[str] = []
        self.listed: list[tuple[str, str]] = []
        self.no_lists = False
        self._mesh_lock = threading.Lock()

    def behind(self) -> list[Object]:
        """The proxies are pods as well."""
        return self.proxies

    def names(self) -> list[str]:
        """Pods of the proxies as they are now."""
        return [str(item["metadata"]["name"]) for item in self.proxies]

    def replace(self, old: str, new: str) -> None:
        """A proxy's pod goes, and another one comes on its node."""
        item = next(item for item in self.proxies if item["metadata"]["name"] == old)
        item["metadata"]["name"] = new
        self.logs[new] = Log([(self.clock, self._stamped(f"\tinfo\tztunnel\t{new} starts"))])
        del self.logs[old]

    def items(self, path: str, **query: str) -> list[Object]:
        """Pods of proxies by their label."""
        with self._mesh_lock:
            self.listed.append((path, query["labelSelector"]))
        if self.no_lists:
            raise LabError("pods is forbidden")
        key, _equals, value = query["labelSelector"].partition("=")
        return [item for item in self.proxies if item["metadata"]["labels"].get(key) == value]

    def ask(self, path: str, **query: str) -> ApiAnswer:
        """A proxy's log as kubelet has it, or its counters."""
        found = re.fullmatch(r"/api/v1/namespaces/[^/]+/pods/([^/:]+)(/log|:15020/proxy/(metrics|stats/.*))", path)
        assert found, path
        with self._mesh_lock:
            self.asked.append(path)
            log = self.logs.get(found[1])
            if log is None:
                return ApiAnswer(404, {}, b"")
            status = log.status if found[2] == "/log" else log.counts_status
            if status != 200:
                return ApiAnswer(status, {}, b"")
            if found[2] != "/log":
                return ApiAnswer(200, {}, self._metrics(log).encode())
            lines = [line for at, line in log.lines if at <= self.clock]
        wanted = lines[-int(query["tailLines"]) :] if "tailLines" in query else lines
        since = query.get("sinceTime", "").removesuffix("Z")
        return ApiAnswer(200, {}, "".join(f"{line}\n" for line in wanted if line[:19] >= since).encode())

    def _metrics(self, log: Log) -> str:
        build = f'istio_build{{component="proxy",tag="{self.counts}"}} 1\n'
        return build + "".join(f"{labels} {value}\n" for labels, value in log.counts.items())

    def run(self, namespace: str, pod: str, container: str, script: str, timeout: float) -> tuple[str, str]:
        """The probes' own addresses and names are known only here, so the mesh writes its lines here."""
        output, problem = super().run(namespace, pod, container, script, timeout)
        address = self.addresses[pod]
        for number, config in re.findall(r"^p (\d+) '(.*?)'$", script, re.DOTALL | re.MULTILINE):
            fields = [line.split(" = ", 1) for line in config.splitlines() if " = " in line]
            values = {key: value for key, value in fields if key != "header"}
            method, url = json.loads(values.get("request", '"HEAD"')), json.loads(values["url"])
            if urllib.parse.urlsplit(url).hostname != "sample-app":
                continue
            headers = [json.loads(value) for key, value in fields if key == "header"]
            name = next(item.partition(": ")[2] for item in headers if item.startswith("x-request-id"))
            made = self.decide(pod, self._rounds[pod] - 1, method, url)
            with self._mesh_lock:
                self._write(pod, made, f"{address}:{40000 + int(number)}", name)
        return output.replace("10.0.0.9", address), problem

    def _answer(self, source: str, number: int, method: str, url: str) -> Answer | None:
        if urllib.parse.urlsplit(url).hostname != "sample-app":
            return OK
        decision = self.decide(source, number, method, url)
        if decision.by == "ztunnel":
            return REFUSED_UPSTREAM if self.names()[-1] == "wp-1" else RESET
        if decision.by == "waypoint":
            return FORBIDDEN
        if decision == CLOSED:
            return RESET
        return FROM_UPSTREAM if self.names()[-1] == "wp-1" else OK

    def _write(self, pod: str, made: Decision, sender: str, request_id: str) -> None:
        """What the proxies on the way log and count of one request."""
        waypoint = self.names()[-1] == "wp-1"
        source, workload = (WAYPOINT_ADDRESS, "wp") if waypoint else (sender.rpartition(":")[0], pod)
        by_ztunnel = made.by == "ztunnel"
        outbound = 'error="http status: 401 Unauthorized"' if by_ztunnel and not waypoint else ""
        self.access(self._ztunnel("n1"), sender, "outbound", outbound)
        if made.by != "waypoint":
            error = f'error="{REJECTED}{made.reason}"' if by_ztunnel else ""
            self.access(self._ztunnel("n2"), f"{source}:50001", "inbound", error)
        if by_ztunnel:
            self.count(self._ztunnel("n2"), workload)
        if waypoint:
            code, details = (403, f"rbac_access_denied_matched_policy[{made.reason}]") if made.by == "waypoint" else (
                (503, "upstream_reset_before_response_started") if by_ztunnel else (200, "via_upstream")
            )  # fmt: skip
            line = f'"GET / HTTP/1.1" {code} - {details} - "-" 0 19 0 - "-" "curl" "{request_id}" "sample-app:8080"'
            self.logs["wp-1"].lines.append((self.clock + self.waypoint_late, self._stamped(f" [x] {line}")))
            labels = f'response_code="{code}",destination_service_name="sample-app"'
            self.count("wp-1", pod, labels)

    def _ztunnel(self, node: str) -> str:
        return next(
            str(item["metadata"]["name"])
            for item in self.proxies
            if item["spec"]["nodeName"] == node and item["metadata"]["labels"].get("app") == "ztunnel"
        )

    def access(self, proxy: str, source: str, direction: str, error: str = "") -> None:
        """Write an access line of a ztunnel's."""
        line = (
            f"\terror\taccess\tconnection complete\tsrc.addr={source} dst.addr={APP_ADDRESS}:15008 "
            f'dst.hbone_addr={APP_ADDRESS}:80 direction="{direction}" bytes_sent=0 bytes_recv=0 {error}'
        )
        self.logs[proxy].lines.append((self.clock + self.late, self._stamped(line)))

    def count(self, proxy: str, workload: str, labels: str = "") -> None:
        """Count a refusal, or an answer of the waypoint's."""
        kind = "istio_requests_total" if labels else "istio_tcp_connections_failed_total"
        own = labels or 'response_flags="DENY",destination_workload="app-1",destination_workload_namespace="default"'
        reporter = "waypoint" if labels else "destination"
        if self.counts < "1.29" and not labels:
            return
        key = f'{kind}{{reporter="{reporter}",source_workload="{workload}",source_workload_namespace="default",{own}}}'
        counts = self.logs[proxy].counts
        counts[key] = counts.get(key, 0) + 1

    def _stamped(self, line: str) -> str:
        """The line behind kubelet's time stamp: a time of its own for each, on the node's own clock."""
        self._ticks += 1
        seconds, rest = divmod(self._ticks, 1000)
        return f"2031-01-01T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:03}Z {line}"
