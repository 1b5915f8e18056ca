# Where a waypoint sends what it lets pass: to the Service's own pods, or where routes and traffic policies say.
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Sources: Gateway API, GAMMA (a route whose parentRef is a Service); istio/istio
# pilot/pkg/networking/core/listener_waypoint.go (getVirtualServiceForWaypoint, getWaypointTCPRoutes) and
# pilot/pkg/config/kube/gateway (conversion.go; for a Service's routes no ReferenceGrant is asked for).

from __future__ import annotations

import dataclasses
import typing as t

from .destinations import Destination, Request, hosts_of
from .endpoints import Endpoint, endpoints, port_of
from .l7 import CHANGED, UNSAID
from .mesh import Mesh, Object, name_of, namespace_of

ROUTES = ("HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute")
# What else decides where and how a waypoint calls a backend.
TRAFFIC = ("VirtualService", "DestinationRule", "BackendTLSPolicy")
# What may change all that a waypoint does.
EXTENSIONS = ("EnvoyFilter", "WasmPlugin", "TrafficExtension")
# Filters of a rule that leave it to the backend to answer.
_HARMLESS = ("RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "URLRewrite")
# API group of what a route's parentRef may name in the mesh (toInternalParentReference).
_GROUPS = {"Service": "", "ServiceEntry": "networking.istio.io"}
# Protocols of a port that a waypoint reads as HTTP; of a port without one it looks at the bytes.
HTTP = ("http", "http2", "http_proxy", "grpc", "grpc-web")
_APP_PROTOCOLS = {"kubernetes.io/h2c": "http2", "kubernetes.io/ws": "http", "kubernetes.io/wss": "https"}
# Of these ports istiod looks at no bytes, because servers speak first there: SMTP, DNS, MySQL, MongoDB.
_SERVER_FIRST = (25, 53, 3306, 27017)
_BYTES = ("tcp", "tls", "https", "mongo", "mysql", "redis", "udp")


@dataclasses.dataclass(frozen=True)
class Route:
    """Where a request goes behind a waypoint. doubts: why nobody can say who answers it."""

    endpoints: tuple[Endpoint, ...]
    doubts: tuple[str, ...] = ()


def protocol_of(target: Object, port: int) -> str:
    """Protocol of a port as istiod reads it; "" where it looks at the bytes.

    Source: istio/istio pkg/config/kube/conversion.go (ConvertProtocol), pkg/config/protocol/instance.go (Parse).
    """
    item = port_of(target, port) or {}
    if "number" in item:
        # A ServiceEntry says the application's protocol; of a Service, `protocol` is TCP or UDP.
        said = str(item.get("protocol", "")).lower()
        return said if said in (*HTTP, *_BYTES) else ""
    said = str(item.get("appProtocol", item.get("name", "")))
    said = _APP_PROTOCOLS.get(said, said).lower()
    said = "grpc-web" if said.startswith("grpc-web") else said.partition("-")[0]
    if said in (*HTTP, *_BYTES):
        return said
    return "tcp" if port in _SERVER_FIRST else ""


def reads_bytes(target: Object, port: int, url: str) -> bool:
    """Whether a waypoint sees no HTTP in a request to a port."""
    return protocol_of(target, port) in _BYTES or url.startswith("https:")


def routed(mesh: Mesh, destination: Destination, request: Request, space: str) -> Route:
    """Where a waypoint of a namespace sends a request to a destination.

    istiod takes routes of the Service's and of the waypoint's namespace alone (getVirtualServiceForWaypoint).
    """
    service = destination.service
    if service is None or destination.kind not in ("service", "entry"):
        return Route(destination.endpoints)
    spaces = tuple(dict.fromkeys([namespace_of(service), space]))
    unread = [why for kind in (*ROUTES, *TRAFFIC) if (why := mesh.why_unread(kind, *spaces, mesh.config.root))]
    http = not reads_bytes(service, destination.port, request.url)
    doubts = [*dict.fromkeys(unread), *_traffic(mesh, service, space)]
    for kind in ("GRPCRoute",) if http else ("TLSRoute", "TCPRoute"):
        doubts += [
            f"{kind} {name_of(item)} routes it, and is not evaluated"
            for item in _bound(mesh, kind, spaces, destination)
        ]
    routes = _bound(mesh, "HTTPRoute", spaces, destination) if http else []
    found = _by_rules(mesh, routes, request, space) if routes else Route(destination.endpoints)
    return dataclasses.replace(found, doubts=(*doubts, *found.doubts))


def _by_rules(mesh: Mesh, routes: t.Sequence[Object], request: Request, space: str) -> Route:
    # One of a rule's matches is enough, and none of them takes all.
    matching = [
        (item, rule)
        for item in routes
        for rule in item.get("spec", {}).get("rules") or [{}]
        if any(_matches(match, request) for match in rule.get("matches") or [{}])
    ]
    if not matching:
        return Route((), (f"no rule of HTTPRoute {name_of(routes[0])} matches, so the waypoint answers 404",))
    ends: list[Endpoint] = []
    # A rule that only may match, and a backend that is not there, leave open who answers.
    doubts = [
        f"HTTPRoute {name_of(item)} {why}" for item, rule in matching if (why := _open(mesh, item, rule, request))
    ]
    for item, rule in matching:
        answers = [entry.get("type") for entry in rule.get("filters") or [] if entry.get("type") not in _HARMLESS]
        if answers:
            return Route((), (f"the waypoint may answer itself, by {answers[0]} of HTTPRoute {name_of(item)}",))
        for ref in rule.get("backendRefs") or []:
            if ref.get("weight") != 0 and (found := _backend(mesh, item, ref)):
                ends += endpoints(mesh, *found)
                doubts += _traffic(mesh, found[0], space, routed=True)
    if not ends:
        return Route((), (f"HTTPRoute {name_of(matching[0][0])} has no backend, so the waypoint answers itself",))
    return Route(tuple(ends), tuple(doubts))


def _traffic(mesh: Mesh, service: Object, space: str, *, routed: bool = False) -> list[str]:
    """What traffic policies for a Service leave open. routed: it is a backend, whose own routes do not count."""
    what = {"VirtualService": "routes it"}
    return [
        f"{item['kind']} {name_of(item)} {what.get(item['kind'], 'changes how the waypoint calls it')}, "
        "and is not evaluated"
        for item in _traffic_policies(mesh, service, space, routed=routed)
    ]


def _traffic_policies(mesh: Mesh, service: Object, space: str, *, routed: bool = False) -> list[Object]:
    own, root = namespace_of(service), mesh.config.root
    rules = [item for name in dict.fromkeys((own, space, root)) for item in mesh.items("DestinationRule", name)]
    return [
        *([] if routed else _virtual_services(mesh, service, (own, space))),
        *(item for item in rules if _means(mesh, str(item.get("spec", {}).get("host")), service)),
        *(
            item
            for item in mesh.items("BackendTLSPolicy", own)
            for ref in item.get("spec", {}).get("targetRefs") or []
            if (ref.get("kind"), ref.get("name")) == (service["kind"], service["metadata"]["name"])
        ),
    ]


def routing(mesh: Mesh, destination: Destination, space: str) -> list[Object]:
    """All objects by which a waypoint of a namespace sends requests to a destination on, evaluated or not."""
    service = destination.service
    if service is None or destination.kind not in ("service", "entry"):
        return []
    spaces = tuple(dict.fromkeys([namespace_of(service), space]))
    routes = [item for kind in ROUTES for item in _bound(mesh, kind, spaces, destination)]
    refs = [
        found
        for route in routes
        for rule in route.get("spec", {}).get("rules") or []
        for ref in rule.get("backendRefs") or []
        if (found := _backend(mesh, route, ref))
    ]
    more = [item for backend, _port in refs for item in _traffic_policies(mesh, backend, space, routed=True)]
    return [*routes, *_traffic_policies(mesh, service, space), *more]


def _virtual_services(mesh: Mesh, service: Object, spaces: t.Iterable[str]) -> list[Object]:
    """VirtualServices for traffic in the mesh to a Service or a ServiceEntry."""
    items = [item for name in dict.fromkeys(spaces) for item in mesh.items("VirtualService", name)]
    return [
        item
        for item in items
        if "mesh" in (item.get("spec", {}).get("gateways") or ["mesh"])
        and any(_means(mesh, str(host), service) for host in item.get("spec", {}).get("hosts") or [])
    ]


def _means(mesh: Mesh, host: str, service: Object) -> bool:
    """Whether a host of a traffic policy may mean a Service or a ServiceEntry."""
    names, host = hosts_of(mesh, service), host.lower()
    if host.startswith("*"):
        return any(name.endswith(host[1:]) for name in names)
    return any(name == host or name.startswith(f"{host}.") for name in names)


def _open(mesh: Mesh, route: Object, rule: Object, request: Request) -> str:
    """What of a rule that may take the request is not known; "" where all is."""
    for match in rule.get("matches") or []:
        headers = match.get("headers") or []
        kinds = [(match.get("path") or {}).get("type"), *(item.get("type") for item in headers)]
        unsaid = any(_is_unsaid(item) for item in headers)
        if match.get("queryParams") or "RegularExpression" in kinds or unsaid:
            return "matches a regular expression, a query or a header of curl's own, which is not evaluated"
        if match.get("path") and CHANGED.search(request.path):
            return f"matches the path {request.path}, which the waypoint may normalise first"
    live = [ref for ref in rule.get("backendRefs") or [] if ref.get("weight") != 0]
    if not live:
        return "has a rule without a backend, for which the waypoint answers itself (HTTP 500)"
    for ref in live:
        if any(entry.get("type") not in _HARMLESS for entry in ref.get("filters") or []):
            return f"has a filter of its backend {ref.get('name')}, which is not evaluated"
        if not _backend(mesh, route, ref):
            return f"has a backend {ref.get('name')} that is no Service with this port"
    return ""


def _backend(mesh: Mesh, route: Object, ref: Object) -> tuple[Object, Object] | None:
    """Service and port that a rule sends requests to."""
    if ref.get("kind", "Service") != "Service":
        return None
    service = mesh.get("Service", ref.get("namespace") or namespace_of(route), str(ref.get("name")))
    port = port_of(service or {}, ref.get("port"))
    return (service, port) if service and port else None


def changes_answers(mesh: Mesh, destination: Destination, space: str) -> bool:
    """Whether a route may take headers out of the answers of a waypoint of a namespace."""
    service = destination.service
    if service is None or destination.kind not in ("service", "entry"):
        return False
    spaces = tuple(dict.fromkeys([namespace_of(service), space]))
    if any(mesh.why_unread(kind, *spaces) for kind in (*ROUTES, "VirtualService")):
        return True
    routes = [item for kind in ("HTTPRoute", "GRPCRoute") for item in _bound(mesh, kind, spaces, destination)]
    rules = [rule for item in routes for rule in item.get("spec", {}).get("rules") or []]
    filters = [entry.get("type") for rule in rules for entry in rule.get("filters") or []]
    return bool({"ResponseHeaderModifier", "ExtensionRef"} & {*filters} or _virtual_services(mesh, service, spaces))


def _bound(mesh: Mesh, kind: str, spaces: t.Iterable[str], destination: Destination) -> list[Object]:
    """Routes of a kind for a destination's port; a parentRef without `group` names nothing in the mesh."""
    target = t.cast(Object, destination.service)
    wanted = (_GROUPS.get(target["kind"]), target["kind"], namespace_of(target), target["metadata"]["name"])
    return [
        item
        for name in spaces
        for item in mesh.items(kind, name)
        if any(
            (ref.get("group"), ref.get("kind"), ref.get("namespace") or name, ref.get("name")) == wanted
            and ref.get("port") in (None, destination.port)
            for ref in item.get("spec", {}).get("parentRefs") or []
        )
    ]


def _matches(match: Object, request: Request) -> bool:
    path = request.path
    wanted = {} if CHANGED.search(path) else match.get("path") or {}
    value = str(wanted.get("value") or "/")
    if wanted.get("type", "PathPrefix") == "Exact" and path != value:
        return False
    if wanted.get("type", "PathPrefix") == "PathPrefix" and not f"{path}/".startswith(f"{value.rstrip('/')}/"):
        return False
    if match.get("method") and match["method"] != request.method:
        return False
    given = {name.lower(): text for name, text in request.headers}
    for header in match.get("headers") or []:
        exact = header.get("type", "Exact") == "Exact" and not _is_unsaid(header)
        if exact and given.get(str(header.get("name")).lower()) != header.get("value"):
            return False
    # Regular expressions, query parameters and headers of curl's own are not evaluated: such a rule may match.
    return True


def _is_unsaid(header: Object) -> bool:
    """Whether curl or a proxy sends a header without the claim's saying so."""
    name = str(header.get("name")).lower()
    return name in ("accept", "host") or UNSAID.fullmatch(name) is not None
