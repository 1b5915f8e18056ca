# What the host of a URL means to a pod: a Service, a ServiceEntry, pods, a node, or something outside.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import functools
import typing as t
import urllib.parse

from .endpoints import Endpoint, behind, endpoints, entry_endpoints, of_pod, port_of, sliced
from .mesh import GATEWAY_NAME, Mesh, Object, ip, is_ip, is_ready, labels_of, name_of, namespace_of

Kind = t.Literal["service", "entry", "pods", "node", "outside", "missing", "unknown"]
# kubelet's resolv.conf: a name with fewer dots is looked for in the search domains first.
_NDOTS = 5
_MAX_ALIASES = 4
_PORTS = {"http": 80, "https": 443}


@dataclasses.dataclass(frozen=True)
class Request:
    """One HTTP request as curl is to send it."""

    url: str
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: str | None = None
    insecure: bool = False

    @functools.cached_property
    def parts(self) -> urllib.parse.SplitResult:
        """The URL in its parts."""
        return urllib.parse.urlsplit(self.url)

    @property
    def host(self) -> str:
        """Host of the URL, lower case, without brackets."""
        return self.parts.hostname or ""

    @property
    def port(self) -> int:
        """Port of the URL, or the scheme's own."""
        return self.parts.port or _PORTS.get(self.parts.scheme, 80)

    @property
    def path(self) -> str:
        """Path of the URL, without its query."""
        return self.parts.path or "/"

    @property
    def authority(self) -> str:
        """Host and port as curl sends them: without the scheme's own port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS.get(self.parts.scheme) else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.method} {self.url}"


@dataclasses.dataclass(frozen=True)
class Destination:
    """What a request goes to, as its URL names it.

    Attributes:
        kind: "service" and "entry" are reached by a virtual address, so their waypoint counts; "pods" by the pods'
            own addresses; "node" by a node's; "missing": the name is the cluster's, and stands for nothing.
        service: the Service, or the ServiceEntry; of "pods" the headless Service that was named, if one was.
        endpoints: where it may end.
        why: what is wrong, or what is not known.
    """

    host: str
    port: int
    kind: Kind
    service: Object | None = None
    endpoints: tuple[Endpoint, ...] = ()
    why: str = ""

    @property
    def pods(self) -> list[Object]:
        """The pods among the endpoints, each once."""
        found = {name_of(item.pod): item.pod for item in self.endpoints if item.pod}
        return list(found.values())

    @property
    def named_by_address(self) -> bool:
        """Whether the request goes to one address of a pod, and to no other one of it."""
        return self.kind == "pods" and is_ip(self.host)

    @property
    def gateway(self) -> str:
        """namespace/name of the Gateway whose Service it is; "" for every other Service."""
        name = labels_of(self.service).get(GATEWAY_NAME) if self.service and self.kind == "service" else None
        return f"{namespace_of(self.service)}/{name}" if self.service and name else ""

    @property
    def key(self) -> str:
        """The same for every way to name the same destination."""
        if self.kind in ("service", "entry", "node") and self.service:
            return f"{self.service['kind']} {name_of(self.service)}:{self.port}"
        if self.kind == "pods":
            return f"pods {', '.join(sorted(str(item) for item in self.endpoints))}"
        return f"host {self.host}:{self.port}"

    def __str__(self) -> str:
        if self.kind in ("service", "entry") and self.service:
            return f"{self.service['kind']} {name_of(self.service)}, port {self.port}"
        return f"{self.host}:{self.port}"


@dataclasses.dataclass(frozen=True)
class Name:
    """A name of the cluster's DNS: a Service, or a pod of a headless Service."""

    namespace: str
    service: str
    pod: str = ""


def names_of(host: str, namespace: str, domain: str) -> list[Name]:
    """What a host may mean in the cluster, in the order in which a pod's resolver asks (resolv.conf(5), search).

    host: with a dot at its end it is absolute. namespace: of the pod that asks. domain: of the cluster.
    """
    absolute = host.rstrip(".")
    asked = [absolute]
    if not host.endswith("."):
        searched = [f"{absolute}.{suffix}" for suffix in (f"{namespace}.svc.{domain}", f"svc.{domain}", domain)]
        asked = [*searched, absolute] if absolute.count(".") < _NDOTS else [absolute, *searched]
    found = []
    for name in asked:
        if not name.endswith(f".svc.{domain}"):
            continue
        labels = name.removesuffix(f".svc.{domain}").split(".")
        if len(labels) == 2:
            found.append(Name(labels[1], labels[0]))
        elif len(labels) == 3:
            found.append(Name(labels[2], labels[1], labels[0]))
    return found


def resolve(mesh: Mesh, host: str, port: int, namespace: str) -> Destination:
    """What a request from a pod of a namespace goes to.

    mesh: with the objects of every namespace that `names_of` names. host: lower case, without brackets.
    """
    return mesh.once(("destination", host, port, namespace), lambda: _resolve(mesh, host, port, namespace, 0))


def _resolve(mesh: Mesh, host: str, port: int, namespace: str, depth: int) -> Destination:
    """depth: of ExternalName Services that were followed already."""
    if is_ip(host):
        return _at_address(mesh, host, port)
    names = names_of(host, namespace, mesh.config.domain)
    for name in names:
        why = mesh.why_unread("Service", name.namespace)
        if why and mesh.namespace(name.namespace):
            return Destination(host, port, "unknown", why=why)
        service = mesh.get("Service", name.namespace, name.service)
        if service is None:
            continue
        if name.pod:
            # Kubernetes, DNS for Services and Pods: hostname and subdomain.
            wanted = {"hostname": name.pod, "subdomain": name.service}
            pods = [pod for pod in behind(mesh, service) if wanted.items() <= pod.get("spec", {}).items()]
            if pods and _is_headless(service):
                ends = tuple(of_pod(mesh, pod, port, service=service) for pod in pods)
                return Destination(host, port, "pods", service, ends)
            continue
        return _to_service(mesh, service, host, port, depth)
    entry = _entry(mesh, host.rstrip("."), namespace)
    if entry:
        return Destination(host, port, "entry", entry, tuple(entry_endpoints(mesh, entry, port)))
    return _nowhere(mesh, host, port, names)


def _nowhere(mesh: Mesh, host: str, port: int, names: t.Sequence[Name]) -> Destination:
    """A name that no object has: a Service that is missing, or a host outside."""
    explicit = host.rstrip(".").endswith((f".svc.{mesh.config.domain}", ".svc"))
    single = "." not in host.rstrip(".")
    for name in reversed(names):
        if not name.pod and (explicit or single or mesh.namespace(name.namespace)):
            # The resolver's first guesses are nobody's intention.
            wanted = next((item for item in names if not item.pod), name) if single else name
            return Destination(
                host, port, "missing", why=f"there is no Service {wanted.service} in namespace {wanted.namespace}"
            )
    if explicit:
        return Destination(host, port, "missing", why=f"no Service and no pod has the name {host}")
    return Destination(host, port, "outside")


def _to_service(mesh: Mesh, service: Object, host: str, port: int, depth: int) -> Destination:
    spec = service.get("spec", {})
    if spec.get("type") == "ExternalName":
        if depth >= _MAX_ALIASES:
            return Destination(host, port, "unknown", service, why=f"{host} is an alias of aliases without an end")
        target = str(spec.get("externalName", "")).lower().rstrip(".")
        found = _resolve(mesh, target if is_ip(target) else f"{target}.", port, namespace_of(service), depth + 1)
        return dataclasses.replace(found, host=host)
    if _is_headless(service):
        # The name stands for the pods' own addresses, and any port of theirs can be asked for.
        ends = [of_pod(mesh, pod, port, service=service) for pod in behind(mesh, service)]
        ends = ends or [dataclasses.replace(item, port=port) for item in sliced(mesh, service, None)]
        return Destination(host, port, "pods", service, tuple(ends))
    wanted = port_of(service, port)
    if wanted is None:
        offered = ", ".join(str(item["port"]) for item in spec.get("ports") or [])
        why = f"Service {name_of(service)} has no port {port}, it has {offered}"
        return Destination(host, port, "service", service, why=why)
    return Destination(host, port, "service", service, tuple(endpoints(mesh, service, wanted)))


def _is_headless(service: Object) -> bool:
    return bool(service.get("spec", {}).get("clusterIP") == "None")


def _at_address(mesh: Mesh, host: str, port: int) -> Destination:
    service = mesh.service_at(host)
    if service and service["kind"] == "ServiceEntry":
        return Destination(host, port, "entry", service, tuple(entry_endpoints(mesh, service, port)))
    if service:
        return _to_service(mesh, service, host, port, 0)
    pods = mesh.pods_at(host)
    hosted = [pod for pod in pods if pod.get("spec", {}).get("hostNetwork")]
    if pods and not hosted:
        return Destination(host, port, "pods", None, tuple(of_pod(mesh, pod, port, ip(host)) for pod in pods))
    if hosted or any(ip(str(pod.get("status", {}).get("hostIP"))) == ip(host) for pod in mesh.items("Pod")):
        return _at_node(mesh, host, port, hosted)
    why = mesh.why_unread("Service", "") or mesh.why_unread("Pod", "")
    return Destination(host, port, "unknown" if why else "outside", why=why)


def _at_node(mesh: Mesh, host: str, port: int, hosted: t.Sequence[Object]) -> Destination:
    for service in mesh.items("Service"):
        if item := port_of(service, port, "nodePort"):
            return Destination(host, port, "node", service, tuple(endpoints(mesh, service, item)))
    ends = tuple(Endpoint(ip(host), port, pod, is_ready(pod)) for pod in hosted)
    return Destination(host, port, "node", None, ends)


def _entry(mesh: Mesh, host: str, namespace: str) -> Object | None:
    """The ServiceEntry that has a host: by its exact name, or else by the longest wildcard; the client's own first.

    ztunnel is not told of exportTo (istiod, pilot/pkg/serviceregistry/ambient).
    """
    fitting = [
        (len(name), namespace_of(entry) == namespace, entry)
        for entry in mesh.items("ServiceEntry")
        for name in hosts_of(mesh, entry)
        if name == host or (name.startswith("*.") and host.endswith(name[1:]))
    ]
    return max(fitting, key=lambda item: item[:2])[2] if fitting else None


def rivals(mesh: Mesh, destination: Destination) -> list[Object]:
    """ServiceEntries with the very host of a destination: which one a client gets depends on its namespace."""
    service = destination.service
    if service is None or destination.kind not in ("service", "entry"):
        return []
    hosts = set(hosts_of(mesh, service))
    return [item for item in mesh.items("ServiceEntry") if item is not service and hosts & set(hosts_of(mesh, item))]


def hosts_of(mesh: Mesh, target: Object) -> list[str]:
    """Full names of a Service or a ServiceEntry, in lower case."""
    own = f"{target['metadata']['name']}.{namespace_of(target)}.svc.{mesh.config.domain}"
    return [str(host).lower() for host in target.get("spec", {}).get("hosts") or [own]]


def entry_addresses(entry: Object) -> list[str]:
    """Virtual addresses of a ServiceEntry: its own, or those that istiod gave it."""
    assigned = [item.get("value") for item in entry.get("status", {}).get("addresses") or []]
    return [str(item) for item in entry.get("spec", {}).get("addresses") or assigned]
