# Finds what can be called in a cluster: the ports of its Services, and a pod's own address beside them.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .._mesh.endpoints import Endpoint, endpoints
from .._mesh.mesh import Mesh, Object, labels_of, name_of
from .._mesh.waypoints import MANAGED
from .._results.measured import Skipped

_WAYPOINTS = "istio.io-mesh-controller"
_HTTP = ("http", "http1", "http2", "ws", "web")
_HTTPS = ("https", "wss")
# Protocols by the name or appProtocol of a port that curl does not speak.
_OTHER = (
    *("tcp", "tls", "udp", "grpc", "grpcs", "h2c", "hbone", "dns", "amqp", "mqtt", "kafka", "ldap", "ldaps", "smtp"),
    *("mongo", "mysql", "postgres", "postgresql", "redis", "memcached", "cassandra", "ssh", "ftp", "thrift"),
)
_HTTPS_PORTS = (443, 6443, 8443, 9443)
# Ports of databases, brokers and the like; some of them lock a client out that sends them nonsense.
_OTHER_PORTS = (22, 25, 53, 389, 636, 1433, 1521, 3306, 5432, 5672, 6379, 9042, 9092, 11211, 15008, 15010, 27017)


@dataclasses.dataclass(frozen=True)
class Goal:
    """A destination: a port of a Service, or of one of its pods where there is an address."""

    namespace: str
    service: str
    port: int
    scheme: str = "http"
    http: bool = True
    address: str = ""

    def __str__(self) -> str:
        return f"{'pod of ' if self.address else ''}{self.service}.{self.namespace}:{self.port}"

    @property
    def shown(self) -> tuple[str, str]:
        """The ways in which a pattern can name it."""
        return str(self), str(self).rpartition(":")[0]

    def url(self, path: str) -> str:
        """URL of a path, as short as every pod's DNS search list allows."""
        host = f"[{self.address}]" if ":" in self.address else self.address or f"{self.service}.{self.namespace}"
        return f"{self.scheme}://{host}:{self.port}{path}"


def goals(namespaces: t.Iterable[str], mesh: Mesh, pod_ip: bool, non_http: bool) -> tuple[list[Goal], list[Skipped]]:
    """The ports of all Services that curl can ask, and the Services and ports that it can't.

    Args:
        namespaces: of the Services.
        mesh: objects of these namespaces.
        pod_ip: also one ready pod of each Service by its address, which leads around the waypoint.
        non_http: also ports that speak something else than HTTP.
    """
    found: list[Goal] = []
    left: list[Skipped] = []
    for namespace in namespaces:
        for service in sorted(mesh.items("Service", namespace), key=name_of):
            name, spec = str(service["metadata"]["name"]), service.get("spec") or {}
            ports = [(port, _first(mesh, service, port)) for port in spec.get("ports") or []]
            headless = spec.get("clusterIP") == "None"
            if reason := _unusable(service, spec, any(pod for _port, pod in ports), pod_ip):
                left.append(Skipped(f"{name}.{namespace}", reason))
                continue
            for port, pod in ports:
                if why := _unspoken(port, non_http):
                    left.append(Skipped(f"{name}.{namespace}:{port['port']}", why))
                    continue
                goal = Goal(namespace, name, int(port["port"]), *speaks(port))
                found += [] if headless else [goal]
                if pod_ip and pod:
                    found.append(dataclasses.replace(goal, port=pod.port or goal.port, address=pod.address))
    order = sorted(found, key=lambda goal: (goal.namespace, goal.service, bool(goal.address), goal.port))
    # Two ports of a Service may lead to the same one of its pods.
    return list({str(goal): goal for goal in reversed(order)}.values())[::-1], left


def _first(mesh: Mesh, service: Object, port: Object) -> Endpoint | None:
    """The first ready pod behind a Service's port, in the order of names."""
    ready = {name_of(end.pod): end for end in endpoints(mesh, service, port) if end.pod and end.ready}
    return ready[min(ready)] if ready else None


def _unusable(service: Object, spec: Object, stands: bool, pod_ip: bool) -> str:
    if is_waypoint(service):
        return "a waypoint's own Service: calls to it are carried inside HBONE"
    if spec.get("type") == "ExternalName":
        return f"ExternalName: it leads out of the cluster, to {spec.get('externalName')}"
    if not spec.get("ports"):
        return "it has no ports"
    if spec.get("selector") and not stands:
        return "no ready pod stands behind it"
    if spec.get("clusterIP") == "None" and not (pod_ip and stands):
        return "headless: it has no address of its own; pod_ip=true asks one of its pods"
    return ""


def is_waypoint(item: Object) -> bool:
    """Whether istiod has made a pod or a Service for a waypoint."""
    return labels_of(item).get(MANAGED) == _WAYPOINTS


def _unspoken(port: Object, non_http: bool) -> str:
    """Why curl can't ask a Service's port; "" where it can."""
    if (protocol := port.get("protocol") or "TCP") != "TCP":
        return f"{protocol}: curl speaks TCP"
    if not speaks(port)[1] and not non_http:
        return f"it speaks {hint(port) or 'no HTTP by its number'}: non_http=true sends it an HTTP request all the same"
    return ""


def hint(port: Object) -> str:
    """The protocol that a port declares; a port is named `<protocol>[-<suffix>]` where it has no appProtocol.

    Source: istio.io, Protocol Selection, explicit protocol selection.
    """
    declared = str(port.get("appProtocol") or port.get("name") or "").lower()
    return declared.rpartition("/")[2].partition("-")[0]


def speaks(port: Object) -> tuple[str, bool]:
    """Scheme of the URL, and whether the port answers HTTP as far as its name, appProtocol and number say."""
    declared, number = hint(port), int(port["port"])
    if declared in _HTTPS:
        return "https", True
    if declared in _HTTP:
        return "http", True
    if declared in _OTHER or number in _OTHER_PORTS:
        return "http", False
    return ("https" if number in _HTTPS_PORTS else "http"), True
