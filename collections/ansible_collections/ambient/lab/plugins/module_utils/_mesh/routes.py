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


def routed(mesh: Mesh, destination: Destination, request: Request) -> Route:
    """Where a waypoint sends a request to a destination."""
    service = destination.service
    own = Route(destination.endpoints)
    if service is None or destination.kind != "service":
        return own
    grpc = [item for item in mesh.items("GRPCRoute") if _is_for(item, service, destination.port)]
    if grpc:
        return dataclasses.replace(own, doubt=f"GRPCRoute {name_of(grpc[0])} routes it, and is not evaluated")
    routes = [item for item in mesh.items("HTTPRoute") if _is_for(item, service, destination.port)]
    if not routes:
        return own
    matching = [
        (item, rule) for item in routes for rule in item.get("spec", {}).get("rules") or [{}] if _matches(rule, request)
    ]
    if not matching:
        return Route((), f"no rule of HTTPRoute {name_of(routes[0])} matches the request, so the waypoint answers 404")
    ends: list[Endpoint] = []
    for item, rule in matching:
        answers = [entry.get("type") for entry in rule.get("filters") or [] if entry.get("type") not in _HARMLESS]
        if answers:
            return Route((), f"the waypoint may answer itself, by {answers[0]} of HTTPRoute {name_of(item)}")
        ends += _backends(mesh, item, rule)
    if not ends:
        return Route((), f"HTTPRoute {name_of(matching[0][0])} has no backend for it, so the waypoint answers itself")
    return Route(tuple(ends))


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
        service = mesh.get("Service", ref.get("namespace") or namespace_of(route), str(ref.get("name")))
        ports = (service or {}).get("spec", {}).get("ports") or []
        port = next((item for item in ports if item["port"] == ref.get("port")), None)
        if service and port:
            ends += endpoints(mesh, service, port)
    return ends
