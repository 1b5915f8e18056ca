# Where a waypoint sends a request that it lets pass: the Service's own pods, or what HTTPRoutes and GRPCRoutes say.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.
#
# Source: Gateway API, GAMMA (a route whose parentRef is a Service); istio/istio pilot/pkg/networking/core/waypoint.go.

from __future__ import annotations

import dataclasses
import typing as t
import urllib.parse

from ansible_collections.ambient.lab.plugins.module_utils._mesh.destinations import Destination, Endpoint, endpoints
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh, Object, name_of, namespace_of

# Filters of a rule that leave it to the backend to answer.
_HARMLESS = ("RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "URLRewrite")


class Request(t.Protocol):
    """What a route matches of a request."""

    @property
    def url(self) -> str:
        """Of the request."""

    @property
    def method(self) -> str:
        """Of the request."""

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """Of the request."""


@dataclasses.dataclass(frozen=True)
class Route:
    """Where a request goes behind a waypoint. doubt: why nobody can say who answers it; "" where it is known."""

    endpoints: tuple[Endpoint, ...]
    doubt: str = ""


def routed(mesh: Mesh, destination: Destination, request: Request, space: str) -> Route:
    """Where a waypoint of a namespace sends a request to a destination.

    istiod takes routes of the Service's and of the waypoint's namespace alone (getVirtualServiceForWaypoint).
    """
    service = destination.service
    own = Route(destination.endpoints)
    if service is None or destination.kind != "service":
        return own
    spaces = dict.fromkeys([namespace_of(service), space])
    grpc, routes = (
        [item for name in spaces for item in mesh.items(kind, name) if _is_for(item, service, destination.port)]
        for kind in ("GRPCRoute", "HTTPRoute")
    )
    if grpc:
        return dataclasses.replace(own, doubt=f"GRPCRoute {name_of(grpc[0])} routes it, and is not evaluated")
    if not routes:
        return own
    matching = [
        (item, rule) for item in routes for rule in item.get("spec", {}).get("rules") or [{}] if _matches(rule, request)
    ]
    if not matching:
        return Route((), f"no rule of HTTPRoute {name_of(routes[0])} matches the request, so the waypoint answers 404")
    ends: list[Endpoint] = []
    # A rule that only may match, and a backend that is not there, leave open who answers.
    doubt = next(
        (f"HTTPRoute {name_of(item)} {why}" for item, rule in matching if (why := _open(mesh, item, rule))), ""
    )
    for item, rule in matching:
        answers = [entry.get("type") for entry in rule.get("filters") or [] if entry.get("type") not in _HARMLESS]
        if answers:
            return Route((), f"the waypoint may answer itself, by {answers[0]} of HTTPRoute {name_of(item)}")
        ends += _backends(mesh, item, rule)
    if not ends:
        return Route((), f"HTTPRoute {name_of(matching[0][0])} has no backend for it, so the waypoint answers itself")
    return Route(tuple(ends), doubt)


def _open(mesh: Mesh, route: Object, rule: Object) -> str:
    """What of a rule that may take the request is not known; "" where all is."""
    for match in rule.get("matches") or []:
        kinds = [(match.get("path") or {}).get("type"), *(item.get("type") for item in match.get("headers") or [])]
        if match.get("queryParams") or "RegularExpression" in kinds:
            return "matches a regular expression or a query, which is not evaluated"
    for ref in rule.get("backendRefs") or []:
        if ref.get("weight") != 0 and not _backend(mesh, route, ref):
            return f"has a backend {ref.get('name')} that is no Service with this port"
    return ""


def _backend(mesh: Mesh, route: Object, ref: Object) -> tuple[Object, Object] | None:
    """Service and port that a rule sends requests to."""
    if ref.get("kind", "Service") != "Service":
        return None
    service = mesh.get("Service", ref.get("namespace") or namespace_of(route), str(ref.get("name")))
    ports = (service or {}).get("spec", {}).get("ports") or []
    port = next((item for item in ports if item["port"] == ref.get("port")), None)
    return (service, port) if service and port else None


def changes_answers(mesh: Mesh, destination: Destination) -> bool:
    """Whether a route of a Service may take headers out of the answers."""
    if destination.service is None or destination.kind != "service":
        return False
    routes = [item for kind in ("HTTPRoute", "GRPCRoute") for item in mesh.items(kind)]
    rules = [
        rule
        for item in routes
        if _is_for(item, destination.service, destination.port)
        for rule in item.get("spec", {}).get("rules") or []
    ]
    filters = [entry for rule in rules for entry in rule.get("filters") or []]
    return any(entry.get("type") in ("ResponseHeaderModifier", "ExtensionRef") for entry in filters)


def _is_for(route: Object, service: Object, port: int) -> bool:
    for ref in route.get("spec", {}).get("parentRefs") or []:
        space = ref.get("namespace") or namespace_of(route)
        named = (ref.get("kind"), space, ref.get("name"))
        wanted = ("Service", namespace_of(service), service["metadata"]["name"])
        if named == wanted and ref.get("port") in (None, port):
            return True
    return False


def _matches(rule: Object, request: Request) -> bool:
    """Whether a rule may take a request; one of its matches is enough, and none of them takes all."""
    matches = rule.get("matches") or []
    return not matches or any(_match(item, request) for item in matches)


def _match(match: Object, request: Request) -> bool:
    path = urllib.parse.urlsplit(request.url).path or "/"
    wanted = match.get("path") or {}
    value = str(wanted.get("value") or "/")
    if wanted.get("type", "PathPrefix") == "Exact" and path != value:
        return False
    if wanted.get("type", "PathPrefix") == "PathPrefix" and not f"{path}/".startswith(f"{value.rstrip('/')}/"):
        return False
    if match.get("method") and match["method"] != request.method:
        return False
    given = {name.lower(): text for name, text in request.headers}
    for header in match.get("headers") or []:
        if header.get("type", "Exact") == "Exact" and given.get(str(header["name"]).lower()) != header.get("value"):
            return False
    # Regular expressions and query parameters are not evaluated: such a rule may match.
    return True


def _backends(mesh: Mesh, route: Object, rule: Object) -> list[Endpoint]:
    ends: list[Endpoint] = []
    for ref in rule.get("backendRefs") or []:
        if ref.get("weight") == 0:
            continue
        if found := _backend(mesh, route, ref):
            ends += endpoints(mesh, *found)
    return ends
