# Asks the proxies on the claims' paths, once per round for all claims, and gives each claim its testimony.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import concurrent.futures
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Claim, Source
from ansible_collections.ambient.lab.plugins.module_utils._claims.sources import Target, Unusable
from ansible_collections.ambient.lab.plugins.module_utils._cluster.channel import Answer
from ansible_collections.ambient.lab.plugins.module_utils._cluster.snapshot import Snapshot
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._curl.control import destination
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen
from ansible_collections.ambient.lab.plugins.module_utils._witness.configured import Configurations, with_configuration
from ansible_collections.ambient.lab.plugins.module_utils._witness.counters import Counters
from ansible_collections.ambient.lab.plugins.module_utils._witness.evidence import Evidence, Said
from ansible_collections.ambient.lab.plugins.module_utils._witness.logs import (
    WORDINGS,
    Connection,
    Request,
    parse_connection,
    parse_request,
    too_old,
)
from ansible_collections.ambient.lab.plugins.module_utils._witness.paths import path_of
from ansible_collections.ambient.lab.plugins.module_utils._witness.proxies import Proxy, waypoints, ztunnels
from ansible_collections.ambient.lab.plugins.module_utils._witness.tail import Asker, Tail
from ansible_collections.ambient.lab.plugins.module_utils._witness.testimony import Path, Testimony, take_testimony

# How much a denial needs: a proxy that bears it out, or the client's word alone; "available" is in between.
REQUIRED, NONE = "required", "none"
# What proxies write reaches the API's logs a little later, and counters are merged every now and then.
GRACE_TRIES = 6
GRACE_SECONDS = 0.1
# pilot-agent lets Envoy keep its access log for up to a second (pkg/envoy/proxy.go); the rest is for the way.
LATE_TRIES = 15


class World(Asker, t.Protocol):
    """What asking the proxies needs. Reads raise LabError when the API does not answer."""

    def items(self, path: str, **query: str) -> list[dict[str, t.Any]]:
        """The objects of a list."""

    def forward(self, namespace: str, pod: str, port: int, path: str) -> Answer:
        """GET a path from what listens on a pod's own localhost."""

    def sleep(self, seconds: float) -> None:
        """Wait for what is about to be written."""


class Witnesses:
    """The proxies on the ways of some claims, from round to round.

    Args:
        claims: whose outcomes they are asked about.
        world: the cluster.
        pool: for reads side by side.
    """

    def __init__(self, claims: t.Sequence[Claim], world: World, pool: concurrent.futures.Executor) -> None:
        self._claims, self._world, self._pool = claims, world, pool
        self._tails: dict[str, Tail] = {}
        self._waypoints: dict[tuple[str, str], list[Proxy]] = {}
        self._requests: dict[str, dict[str, Request]] = {}
        self._wording: dict[str, str] = {}
        # The values of x-request-id of each claim's probes, the newest first, and the outcome that they all had.
        self._ids: list[tuple[str, list[str]]] = [("", []) for _claim in claims]
        self._paths: list[Path] = []
        self.problem = ""
        self.evidence = Evidence()

    def begin_round(self, cluster: Snapshot, targets: t.Mapping[Source, Target | Unusable]) -> None:
        """Find the proxies as they are now, before the round's requests are sent."""
        try:
            proxies = self._find(cluster, targets)
            self.problem = ""
        except LabError as error:
            proxies, self.problem = [], error.message
        # A pod that was found while it started had no address, and what it says is found by its address.
        addresses = {name: tail.proxy.address for name, tail in self._tails.items()}
        new = {str(proxy): Tail(self._world, proxy) for proxy in proxies if addresses.get(str(proxy)) != proxy.address}
        list(self._pool.map(lambda tail: tail.begin(), new.values()))
        known = {**self._tails, **new}
        self._tails = {str(proxy): known[str(proxy)] for proxy in proxies}
        for tail in self._tails.values():
            tail.begin_round()

    def _find(self, cluster: Snapshot, targets: t.Mapping[Source, Target | Unusable]) -> list[Proxy]:
        services = {service for claim in self._claims for service in [_service(claim)] if service}
        objects = [cluster.service(*service) for service in services]
        wanted = list({waypoint for item in objects if item for waypoint in [cluster.waypoint(item)] if waypoint})
        pods = self._pool.map(lambda waypoint: waypoints(self._world, *waypoint), wanted)
        self._waypoints = dict(zip(wanted, pods, strict=True))
        ways = {
            (claim.source, claim.request): path_of(claim.request, targets[claim.source], cluster, self._waypoints)
            for claim in self._claims
        }
        self._paths = [ways[claim.source, claim.request] for claim in self._claims]
        nodes = {node for path in self._paths for node in path.nodes}
        nodes |= {path.source.node for path in self._paths if path.source}
        return [*ztunnels(self._world, nodes), *(proxy for items in self._waypoints.values() for proxy in items)]

    def hear(self, seen: t.Sequence[Seen]) -> list[Testimony]:
        """Each claim's testimony, once the proxies have written what they have to say of the round's requests."""
        for index, item in enumerate(seen):
            outcome, ids = self._ids[index]
            kept = ids if outcome == item.outcome else []
            self._ids[index] = (item.outcome, [item.request_id, *kept])
        lines: dict[str, list[Connection]] = {name: [] for name in self._tails}
        testimonies: list[Testimony] = []
        for number in range(GRACE_TRIES):
            if number:
                self._world.sleep(GRACE_SECONDS)
            self.evidence = Evidence(self._read(lines), self.problem)
            testimonies = self._testimonies(seen)
            if not any(item.problem for item in testimonies):
                break
        return testimonies

    def hear_late(self, seen: t.Sequence[Seen], cluster: Snapshot) -> list[Testimony]:
        """The last round's testimonies, once waypoints have written down which policy refused, and with what the
        proxies' configuration and istiod say of that policy."""
        configurations = Configurations(self._world, self._pool)
        testimonies = self._testimonies(seen)
        if any(item.late for item in testimonies) and self._logging(configurations):
            testimonies = self._late(seen)
        if not self._paths or not any(item.decided_by in ("ztunnel", "waypoint") for item in testimonies):
            return testimonies
        proxies = [said.proxy for said in self.evidence.said]
        configurations.read(proxies)
        return [
            with_configuration(item, path, str(claim.by) if claim.by else None, proxies, cluster, configurations)
            for claim, item, path in zip(self._claims, testimonies, self._paths, strict=True)
        ]

    def _late(self, seen: t.Sequence[Seen]) -> list[Testimony]:
        lines = {str(said.proxy): list(said.connections) for said in self.evidence.said}
        testimonies = self._testimonies(seen)
        for _try in range(LATE_TRIES):
            if not any(item.late for item in testimonies):
                break
            self._world.sleep(GRACE_SECONDS)
            self.evidence = Evidence(self._read(lines), self.problem)
            testimonies = self._testimonies(seen)
        return testimonies

    def _logging(self, configurations: Configurations) -> bool:
        """Whether any waypoint on the claims' paths writes an access log at all."""
        waypoints_asked = [said.proxy for said in self.evidence.said if said.proxy.kind == "waypoint"]
        return any(configurations.writes_access_log(proxy) for proxy in waypoints_asked)

    def described(self) -> list[dict[str, str]]:
        """The proxies that were asked, with the version that was recognised."""
        return [
            {
                "proxy": str(said.proxy),
                "kind": said.proxy.kind,
                "version": said.version or said.proxy.image.rpartition(":")[2],
                "wording": WORDINGS.get(said.wording, ""),
            }
            for said in self.evidence.said
        ]

    def _testimonies(self, seen: t.Sequence[Seen]) -> list[Testimony]:
        if not self._paths:
            problem = f"nobody could say who refused this: {self.problem}"
            return [Testimony(problem=problem, silent=True) for _claim in seen]
        return [
            take_testimony(item, path, self.evidence, ids)
            for item, path, (_address, ids) in zip(seen, self._paths, self._ids, strict=True)
        ]

    def _read(self, lines: dict[str, list[Connection]]) -> list[Said]:
        """What all proxies have said by now; what they had said before in this round is in `lines`."""
        sources = tuple({path.source.address for path in self._paths if path.source and path.source.address})
        addresses = (*sources, *(proxy.address for items in self._waypoints.values() for proxy in items))
        return list(
            self._pool.map(lambda tail: self._said(tail, lines[str(tail.proxy)], addresses), self._tails.values())
        )

    def _said(self, tail: Tail, lines: list[Connection], addresses: t.Sequence[str]) -> Said:
        name = str(tail.proxy)
        requests = self._requests.setdefault(name, {})
        for line in tail.read():
            if tail.proxy.kind == "waypoint":
                found = parse_request(line)
                if found:
                    requests[found.request_id] = found
            # Parsing costs; most of a busy log is about others.
            elif any(address in line for address in addresses):
                parsed = parse_connection(line)
                if parsed:
                    lines.append(parsed)
                elif too_old(line):
                    self._wording[name] = "old"
        wordings = [item.denial.wording for item in lines if item.denial]
        self._wording[name] = next(filter(None, wordings), self._wording.get(name, ""))
        counters = tail.count()
        old = f"it logs {WORDINGS['old']}" if self._wording[name] == "old" else ""
        return Said(
            tail.proxy,
            tuple(lines),
            requests,
            counters.since(tail.before) if tail.before else [],
            tail.log_problem or old,
            _counter_problem(tail, counters),
            tail.gap,
            counters.version,
            self._wording[name],
        )


def _counter_problem(tail: Tail, counters: Counters) -> str:
    """Why the counters say nothing of the round, "" where they do."""
    if tail.counter_problem:
        return tail.counter_problem
    if tail.before is None:
        return "it could not be asked before the round"
    return "" if counters.known else "this version does not count refusals"


def _service(claim: Claim) -> tuple[str, str] | None:
    where = destination(claim.request, claim.source.namespace)
    return (where.namespace, where.service) if where.namespace and where.service else None
