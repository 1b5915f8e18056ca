# Asks the proxies on the claims' paths, once per round for all claims, and gives each claim its attribution.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import concurrent.futures
import typing as t

from .._claims.parse import Claim
from .._claims.sources import Target, Unusable
from .._cluster.api import ProxyReader
from .._common.errors import LabError
from .._curl.outcomes import Seen
from .._mesh.mesh import Mesh
from .._mesh.paths import Path
from .._results.model import ProxySeen
from .attribution import Attribution, Query, attribute, attributed
from .configured import Configurations
from .evidence import Evidence, Said
from .logs import WORDINGS, Connection, Request, is_access, parse_connection, parse_request, too_old
from .proxies import Proxy, proxy_of, ztunnels
from .tail import Tail

# How much a denial needs: a proxy that bears it out, or the client's word alone; "available" is in between.
REQUIRED, NONE = "required", "none"
# What proxies write reaches the API's logs a little later, and counters are merged every now and then.
GRACE_TRIES = 6
GRACE_SECONDS = 0.1
# pilot-agent lets Envoy keep its access log for up to a second (pkg/envoy/proxy.go); the rest is for the way.
LATE_TRIES = 15


class World(ProxyReader, t.Protocol):
    """What asking the proxies needs."""

    def sleep(self, seconds: float) -> None:
        """Wait for what is about to be written."""


class Run(t.Protocol):
    """A claim in a round."""

    claim: Claim
    found: Target | Unusable
    path: Path
    seen: Seen
    attribution: Attribution | None

    @property
    def by(self) -> str:
        """The policy that must have decided in this phase; "" for any."""


class Witnesses:
    """The proxies on the ways of some claims, from round to round; pool: for reads side by side."""

    def __init__(self, world: World, pool: concurrent.futures.Executor) -> None:
        self._world, self._pool = world, pool
        self._tails: dict[str, Tail] = {}
        self._requests: dict[str, dict[str, Request]] = {}
        self._wording: dict[str, str] = {}
        self._logging: set[str] = set()
        # Of each claim the outcome, and x-request-id of its probes that had it.
        self._asked: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._queries: dict[str, Query] = {}
        # Addresses of clients and waypoints: lines about others are left alone.
        self._addresses: tuple[str, ...] = ()
        self.problem = ""
        self.evidence = Evidence()

    def begin_round(self, runs: t.Sequence[Run], mesh: Mesh) -> None:
        """Find the proxies as they are now, before the round's requests are sent."""
        try:
            proxies = self._find(runs, mesh)
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

    def _find(self, runs: t.Sequence[Run], mesh: Mesh) -> list[Proxy]:
        self._queries = {run.claim.name: Query.of(run.path, run.found) for run in runs}
        points = [run.path.at_waypoint.waypoint for run in runs if run.path.at_waypoint]
        pods = {proxy_of("waypoint", pod) for point in points for pod in point.pods}
        nodes = {node for query in self._queries.values() for node in query.nodes}
        nodes |= {query.source.node for query in self._queries.values() if query.source}
        callers = [address for query in self._queries.values() for address in query.source_addresses]
        self._addresses = tuple(dict.fromkeys([*callers, *(proxy.address for proxy in pods)]))
        return [*ztunnels(self._world, nodes, mesh.config.root), *sorted(pods, key=str)]

    def collect(self, runs: t.Sequence[Run]) -> None:
        """Give each claim its attribution, once the proxies have written what they know of the round's requests."""
        for run in runs:
            outcome, ids = self._asked.get(run.claim.name, ("", ()))
            kept = ids if outcome == run.seen.outcome else ()
            self._asked[run.claim.name] = run.seen.outcome, (run.seen.request_id, *kept)
        lines: dict[str, list[Connection]] = {name: [] for name in self._tails}
        for number in range(GRACE_TRIES):
            if number:
                self._world.sleep(GRACE_SECONDS)
            self._attribute(runs, lines)
            if not any(self._may_say_more(run) for run in runs):
                break

    def _may_say_more(self, run: Run) -> bool:
        """Whether a proxy that can be read may have something to add to a claim's attribution in a moment."""
        attribution = run.attribution
        if attribution is None or attribution.problem or run.seen.unclear:
            return attribution is not None
        nodes = self._queries[run.claim.name].nodes
        readable = [said for said in self.evidence.ztunnels(nodes) if not said.log_problem]
        return attribution.late and attribution.decided_by == "ztunnel" and bool(readable)

    def collect_late(self, runs: t.Sequence[Run], mesh: Mesh) -> None:
        """The last round's attributions, once the proxies have written down which policy refused, and with what their
        configuration and istiod say of that policy."""
        configurations = Configurations(self._world, self._pool)
        late = [run for run in runs if run.attribution and (run.attribution.late or run.seen.unclear)]
        if late and self._may_log(late, configurations):
            lines = {str(said.proxy): list(said.connections) for said in self.evidence.said}
            for _try in range(LATE_TRIES):
                self._world.sleep(GRACE_SECONDS)
                self._attribute(runs, lines)
                if not any(run.attribution and (run.attribution.late or run.seen.unclear) for run in runs):
                    break
        decided = [run for run in runs if run.attribution and run.attribution.decided_by in ("ztunnel", "waypoint")]
        if not decided or self.problem:
            return
        proxies = [said.proxy for said in self.evidence.said]
        configurations.read(proxies)
        for run in decided:
            query, attribution = self._queries[run.claim.name], t.cast(Attribution, run.attribution)
            run.attribution = configurations.confirm(attribution, query, run.by, proxies, mesh)

    def _may_log(self, late: t.Sequence[Run], configurations: Configurations) -> bool:
        """Whether waiting for a line makes sense: of a ztunnel that logs, or of a waypoint with an access log."""
        if any(run.attribution and run.attribution.decided_by == "ztunnel" for run in late):
            return any(said.logs_access for said in self.evidence.said if said.proxy.kind == "ztunnel")
        points = [said.proxy for said in self.evidence.said if said.proxy.kind == "waypoint"]
        return any(configurations.writes_access_log(proxy) for proxy in points)

    def described(self) -> list[ProxySeen]:
        """The proxies that were asked, with the version that was recognised."""
        return [
            ProxySeen(
                proxy=str(said.proxy),
                kind=said.proxy.kind,
                version=said.version or said.proxy.image.rpartition(":")[2],
                wording=WORDINGS.get(said.wording, ""),
            )
            for said in self.evidence.said
        ]

    def _attribute(self, runs: t.Sequence[Run], lines: dict[str, list[Connection]]) -> None:
        """Read what was written by now; what had been read before in this round is in `lines`."""
        said = self._pool.map(lambda tail: self._said(tail, lines[str(tail.proxy)]), self._tails.values())
        self.evidence = Evidence(list(said), self.problem)
        for run in runs:
            if self.problem:
                problem = f"nobody could say who refused this: {self.problem}"
                run.attribution = Attribution(problem=problem, silent=True)
                continue
            name = run.claim.name
            query, (_outcome, ids) = self._queries[name], self._asked[name]
            run.seen = attributed(run.seen, query, self.evidence, ids)
            run.attribution = attribute(run.seen, query, self.evidence, ids)

    def _said(self, tail: Tail, lines: list[Connection]) -> Said:
        name = str(tail.proxy)
        requests = self._requests.setdefault(name, {})
        for line in tail.read():
            if tail.proxy.kind == "waypoint":
                if found := parse_request(line):
                    requests[found.request_id] = found
                continue
            if name not in self._logging and is_access(line):
                self._logging.add(name)
            # Parsing costs; most of a busy log is about others.
            if any(address in line for address in self._addresses):
                if parsed := parse_connection(line):
                    lines.append(parsed)
                elif too_old(line):
                    self._wording[name] = "old"
        wordings = [item.denial.wording for item in lines if item.denial]
        self._wording[name] = next(filter(None, wordings), self._wording.get(name, ""))
        counters = tail.count()
        old = f"it logs {WORDINGS['old']}" if self._wording[name] == "old" else ""
        uncounted = "" if counters.known else "this version does not count refusals"
        if tail.before is None:
            uncounted = "it could not be asked before the round"
        return Said(
            tail.proxy,
            tuple(lines),
            requests,
            counters.since(tail.before) if tail.before else [],
            tail.log_problem or old,
            tail.counter_problem or uncounted,
            tail.gap,
            name in self._logging,
            counters.version,
            self._wording[name],
        )
