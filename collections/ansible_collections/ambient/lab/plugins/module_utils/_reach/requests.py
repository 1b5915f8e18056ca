# Requests to a destination: one for each way in which the rules of waypoints and routes can match together.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
import typing as t

from .._mesh import l7
from .._mesh.destinations import Request
from .._mesh.l4 import Connection, glob
from .._mesh.mesh import Mesh, Object, namespace_of
from .._mesh.paths import WaypointHop
from .._mesh.policies import Rule, rules
from .._mesh.predictions import http_request
from .._mesh.routes import reads_bytes
from .doors import Door
from .patterns import ANY, OTHER, TooManyError, like_glob, like_path, samples
from .sources import CALLER

_OPERATION = ("method", "path", "host")
_HEADER = re.compile(r"request\.headers\[(.+)\]")
# So many combinations of attributes are looked at, at a destination.
_MAX = 20_000
_SHOWN = 2

# Patterns by attribute: method, path, host, and headers by their lower case names.
Patterns = dict[str, dict[str, None]]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A class of requests. request: the one that stands for all of them. label: what tells it from the others."""

    request: Request
    label: str


def kinds(door: Door, hops: t.Sequence[tuple[Mesh, WaypointHop]]) -> list[Kind]:
    """Requests that waypoints on the way to a destination can tell apart; GET of the root is the first.

    Args:
        door: the destination.
        hops: of each state that has one, with its objects.

    Raises:
        TooManyError: when there are too many of them.
    """
    hops = [(mesh, hop) for mesh, hop in hops if not reads_bytes(hop.target, door.port, door.url)]
    named: Patterns = {}
    routed: Patterns = {}
    for mesh, hop in hops:
        for rule in (rule for policy in hop.policies for rule in rules(policy)):
            _of_rule(rule, named)
        for space in dict.fromkeys([namespace_of(hop.target), hop.waypoint.namespace]):
            for route in mesh.items("HTTPRoute", space):
                _of_route(route, hop.target["metadata"]["name"], routed)
    patterns = {name: [*{**named.get(name, {}), **routed.get(name, {})}] for name in (*named, *routed)}
    headers = [name for name in patterns if name not in _OPERATION]
    choices = [_choices(name, patterns.get(name, []), door) for name in (*_OPERATION, *headers)]
    choices.append(["", "Bearer any-other"] if any(hop.authentications for _mesh, hop in hops) else [""])
    told = [(mesh, hop, _without_callers(hop)) for mesh, hop in hops]
    found: dict[t.Hashable, list[Request]] = {}
    if math.prod(map(len, choices)) > _MAX:
        raise TooManyError(f"policies and routes that tell more than {_MAX} requests apart")
    for method, path, host, *given, token in itertools.product(*choices):
        texts = [*zip(headers, given, strict=True), ("host", host), ("authorization", token)]
        request = Request(f"{door.url[:-1]}{path}", method, tuple(item for item in texts if item[1]))
        texts = [("method", method), ("path", path), *texts]
        ways = [_fitting(name, routed.get(name, {}), text) for name, text in texts]
        key = (*(_matching(mesh, hop, listed, request) for mesh, hop, listed in told), *ways, token)
        found.setdefault(key, []).append(request)
    return [Kind(alike[0], _labels(alike, patterns)) for alike in found.values()]


def _labels(alike: t.Sequence[Request], patterns: t.Mapping[str, t.Sequence[str]]) -> str:
    """The first requests of a class, and how many more are told apart by their attributes, and not by the rules."""
    more = len(alike) - _SHOWN
    texts = [_label(request, patterns) for request in alike[:_SHOWN]]
    return " or ".join(texts) + (f" and {more} alike" if more > 0 else "")


def _choices(name: str, patterns: t.Sequence[str], door: Door) -> list[str]:
    """Values of an attribute, one for each way in which its patterns can match together; "" leaves a header out."""
    own = f"{door.host}:{door.port}" if door.port != 80 else door.host
    fits = functools.partial(_fitting, name, patterns)
    if name == "method":
        return samples(map(like_glob, patterns), fits, l7.METHODS) if patterns else ["GET"]
    if name == "path":
        # Of paths that a waypoint may normalise first those stay that a policy names: what they meet is unknown.
        odd = [pattern.replace("{*", "*").replace("*}", "*") for pattern in patterns if l7.CHANGED.search(pattern)]
        seeds = ["/", *(re.sub(r"\*+", OTHER, pattern) for pattern in odd)]
        steps, shape = [*map(like_path, patterns)], f"/{ANY}"
        return samples(steps, fits, [text for text in seeds if text.startswith("/")], shape, l7.CHANGED)
    if name == "host":
        short, port = door.host.partition(".")[0], "" if door.port == 80 else f":{door.port}"
        names = [door.host, short, f"{door.host}.svc", f"{door.host}.svc.cluster.local"] if short != door.host else []
        seeds = ["", *(f"{item}{end}" for item in names for end in ("", port))]
        steps = [like_glob(pattern.lower()) for pattern in patterns]
        return samples(steps, lambda text: fits(text or own), seeds) if patterns else [""]
    return samples(map(like_glob, patterns), fits, [""]) if patterns else [""]


def _fitting(name: str, patterns: t.Iterable[str], text: str) -> tuple[bool, ...]:
    """Which patterns of an attribute fit a value."""
    if name == "path":
        return tuple(l7.path_fits(pattern, text) for pattern in patterns)
    if name == "host":
        return tuple(glob(pattern.lower(), text.lower()) for pattern in patterns)
    return tuple(bool(text) and glob(pattern, text) for pattern in patterns)


def _of_rule(rule: Rule, found: Patterns) -> None:
    for item in (*(item for operation in rule.operations for item in operation), *rule.when):
        header = _HEADER.fullmatch(item.attribute)
        name = header[1].lower() if header else item.attribute
        if header or name in _OPERATION:
            found.setdefault(name, {}).update(dict.fromkeys((*item.wanted, *item.unwanted)))


def _of_route(route: Object, target: str, found: Patterns) -> None:
    spec = route.get("spec", {})
    if all(ref.get("name") != target for ref in spec.get("parentRefs") or []):
        return
    for match in (match for rule in spec.get("rules") or [] for match in rule.get("matches") or []):
        path = match.get("path") or {}
        value = str(path.get("value") or "/").rstrip("/")
        more = {f"{value}/*": None} if path.get("type", "PathPrefix") == "PathPrefix" else {}
        found.setdefault("path", {}).update({value or "/": None, **more} if path else {})
        found.setdefault("method", {}).update({str(match["method"]): None} if match.get("method") else {})
        for item in match.get("headers") or []:
            found.setdefault(str(item.get("name")).lower(), {})[str(item.get("value"))] = None


def _matching(
    mesh: Mesh, hop: WaypointHop, told: t.Iterable[tuple[Object, Rule]], request: Request
) -> tuple[t.Any, ...]:
    """What each rule at a waypoint makes of a request, whoever sends it."""
    connection = Connection(None, None, hop.connection.destination_ip, hop.connection.port)
    context = l7.Context(connection, http_request(hop, request), mesh.config.trust_domains)
    return tuple(l7.rule_matches(policy, rule, context) for policy, rule in told)


def _without_callers(hop: WaypointHop) -> list[tuple[Object, Rule]]:
    """The rules at a waypoint, each with its policy, without what they say of callers."""
    found = []
    for policy in hop.policies:
        for rule in rules(policy):
            when = [item for item in rule.when if not item.attribute.startswith(CALLER)]
            found.append((policy, dataclasses.replace(rule, sources=[], when=when)))
    return found


def _label(request: Request, patterns: t.Mapping[str, t.Sequence[str]]) -> str:
    """A request by the attributes that policies and routes name."""
    parts = []
    for name, text in (("method", request.method), ("path", request.path.partition("?")[0])):
        other = f" (any other {name})" if not any(_fitting(name, patterns.get(name, []), text)) else ""
        parts += [f"{text}{other}"] if name in patterns else []
    parts += [f"{name}: {'any other' if OTHER in text else text}" for name, text in request.headers]
    return " ".join(parts) or "any request"
