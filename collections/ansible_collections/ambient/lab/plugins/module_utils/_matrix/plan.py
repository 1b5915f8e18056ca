# Lays out a matrix from a cluster's objects: who can call, what can be called, and every pair of them as a claim.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import fnmatch
import typing as t
import urllib.parse

from .._claims.parse import Claim, Source, parse_claims
from .._common.errors import LabError
from .._mesh.destinations import Request, names_of
from .._mesh.mesh import Mesh, account_of, namespace_of
from .._results.measured import Skipped
from .goals import Goal, goals, is_waypoint

MAX_PROBES = 20_000
_ALIVE = ("Pending", "Running")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the matrix is to span. exclude: glob patterns on sources and destinations as they are shown."""

    source_namespaces: tuple[str, ...]
    destination_namespaces: tuple[str, ...]
    methods: tuple[str, ...] = ("GET",)
    paths: tuple[str, ...] = ("/",)
    exclude: tuple[str, ...] = ()
    pod_ip: bool = False
    non_http: bool = False

    @property
    def namespaces(self) -> list[str]:
        """All namespaces whose objects are needed."""
        return sorted({*self.source_namespaces, *self.destination_namespaces})


@dataclasses.dataclass(frozen=True)
class Pair:
    """A cell of the matrix: a claim, and how its two ends are shown."""

    claim: Claim
    origin: str
    goal: str
    pod: bool = False
    http: bool = True

    @property
    def key(self) -> tuple[Source, Request]:
        """What it asks, whatever its name is."""
        return self.claim.source, self.claim.request


@dataclasses.dataclass(frozen=True)
class Plan:
    """All cells, and what is not among them."""

    pairs: tuple[Pair, ...]
    left: tuple[Skipped, ...]


def lay_out(wanted: Wanted, mesh: Mesh) -> Plan:
    """Every source x destination x method x path.

    Args:
        wanted: what to span.
        mesh: objects of its namespaces.

    Raises:
        LabError: when a namespace does not exist, nothing is left to probe, or there is too much of it.
    """
    for name in wanted.namespaces:
        if mesh.namespace(name) is None:
            raise LabError(f"namespace {name} does not exist: correct namespaces, or create it")
    sources, left = _sources(wanted.source_namespaces, mesh)
    destinations, others = goals(wanted.destination_namespaces, mesh, wanted.pod_ip, wanted.non_http)
    sources = [item for item in sources if not excluded(wanted.exclude, origin_of(item))]
    destinations = [item for item in destinations if not excluded(wanted.exclude, *item.shown)]
    left = [item for item in (*left, *others) if not excluded(wanted.exclude, item.what)]
    if not sources or not destinations:
        what = "source (a running pod)" if not sources else "destination (a Service with a TCP port for HTTP)"
        why = "".join(f"\n  {item.what}: {item.reason}" for item in left[:6])
        raise LabError(f"there is no {what} in {', '.join(wanted.namespaces)}, so there is nothing to probe{why}")
    require_few(len(sources) * len(destinations) * len(wanted.methods) * len(wanted.paths))
    return Plan(tuple(_pairs(sources, destinations, wanted)), tuple(left))


def require_few(probes: int) -> None:
    """Raises LabError where a round would be too large."""
    if probes > MAX_PROBES:
        raise LabError(
            f"the matrix has {probes} probes in each round, at most {MAX_PROBES} are allowed: make it smaller with "
            "source_namespaces, destination_namespaces, exclude, methods or paths, or write several files"
        )


def _sources(namespaces: t.Iterable[str], mesh: Mesh) -> tuple[list[Source], list[Skipped]]:
    """One source per ServiceAccount that runs pods, in the order of names; waypoints call nobody of their own."""
    pods = [pod for namespace in namespaces for pod in mesh.items("Pod", namespace)]
    alive = [pod for pod in pods if pod.get("status", {}).get("phase") in _ALIVE]
    found, waypoints = (
        sorted({(namespace_of(pod), account_of(pod)) for pod in alive if is_waypoint(pod) is forwards})
        for forwards in (False, True)
    )
    why = "a waypoint forwards calls and makes none of its own"
    left = [Skipped(f"{namespace}/{account}", why) for namespace, account in waypoints]
    return [Source(namespace, service_account=account) for namespace, account in found], left


def origin_of(source: Source) -> str:
    """How a source is shown: namespace and ServiceAccount, where it goes by that."""
    return f"{source.namespace}/{source.service_account}" if source.service_account else str(source)


def excluded(patterns: t.Iterable[str], *shown: str) -> bool:
    """Whether a glob pattern fits one of the ways in which something is shown."""
    return any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns for text in shown)


def _pairs(sources: t.Sequence[Source], destinations: t.Sequence[Goal], wanted: Wanted) -> list[Pair]:
    asked = [(path, method) for path in sorted(set(wanted.paths)) for method in sorted(set(wanted.methods))]
    cells = [(source, goal, *ask) for source in sources for goal in destinations for ask in asked]
    # The same strict reader as that of a user's claims: what is written down later can be read.
    claims = parse_claims(
        [
            {
                # Unique, because each of its parts is what tells cells apart.
                "name": f"{origin_of(source)} -> {goal} {method}" + ("" if path == "/" else f" {path}"),
                "from": {"service_account": source.service_account, "namespace": source.namespace},
                "to": {"url": goal.url(path), "method": method},
                "expect": "allowed",
            }
            for source, goal, path, method in cells
        ],
        "default",
    )
    return [
        Pair(claim, origin_of(claim.source), shown(str(goal), path), bool(goal.address), goal.http)
        for claim, (_source, goal, path, _method) in zip(claims, cells, strict=True)
    ]


def shown(goal: str, path: str) -> str:
    """A destination with its path, where that is not the root."""
    return goal if path in ("/", "") else f"{goal}{path}"


def foreign(claim: Claim, mesh: Mesh) -> Pair:
    """A cell of a claim that somebody has written by hand; a Service's are the same however its name is written."""
    host = claim.request.host
    names = [name for name in names_of(host, claim.source.namespace, mesh.config.domain) if not name.pod]
    known = [f"{name.service}.{name.namespace}" for name in names if mesh.get("Service", name.namespace, name.service)]
    called = f"{known[0] if known else host}:{claim.request.port}"
    return Pair(claim, origin_of(claim.source), shown(called, path_of(claim.request)))


def path_of(request: Request) -> str:
    """Path of a URL, with its query."""
    parts = urllib.parse.urlsplit(request.url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
