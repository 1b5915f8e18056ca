# Sends the traffic and looks at Kiali's graph, round by round, until all claims hold.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import typing as t

from .._check.rounds import ClaimRounds, Edge, Settings, unusable
from .._check.run import ClaimRun
from .._check.stable import Checked, Stable, Verdict
from .._claims.parse import Claim
from .._common.errors import LabError
from .._common.rounds import repeat
from .._mesh.mesh import Mesh
from .http import Kiali, Reply
from .judge import WaypointsOf, judge_all
from .model import Graph, parse_graph
from .parse import GraphClaim, uncontrolled
from .run import EdgesSeen, GraphRun, Judged
from .traffic import Route, routes, unsent, waypoints
from .window import Sending, ServerClock, Window, covered

# Seconds between two samples of Prometheus, where Kiali does not say (Kiali's own default, handlers/config.go).
DEFAULT_SCRAPE = 15.0
NO_DATE = "Kiali's answer has no Date header, so that its window can't be placed"


@dataclasses.dataclass(frozen=True)
class Look:
    """One look at the graph: what Kiali said last.

    window: of the answer, until `end` (Unix time). answer: raw, for the pictures. Both None where there is none.
    """

    reply: Reply
    window: Window | None = None
    end: int = 0
    answer: dict[str, t.Any] | None = None

    @property
    def asked(self) -> tuple[int, int] | None:
        """Begin and end of what the answer is about; None where there is none."""
        return (self.window.start, self.end) if self.window and self.answer is not None else None


class Watch:
    """What is known of the graph: the server's clock, the window, what was sent in it, the last good look.

    Args:
        runs: the claims about the graph, which a look judges.
        namespaces: to ask Kiali about.
        kiali: to ask.
        now: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        runs: t.Sequence[GraphRun],
        namespaces: t.Sequence[str],
        kiali: Kiali,
        now: t.Callable[[], float],
    ) -> None:
        self.window: Window | None = None
        self.last = Look(Reply())
        self.restarts = 0
        self._runs, self._namespaces = runs, namespaces
        self._kiali, self._now = kiali, now
        self._clock = ServerClock()
        self._sent: dict[Route, list[Sending]] = {}
        self._kept: Look | None = None

    def begin(self) -> Reply:
        """Open the first window, if Kiali answers; everything before this moment stays out of it."""
        reply = self._heard(self._kiali.config())
        if reply.problem:
            return reply
        if not self._clock.known:
            return dataclasses.replace(reply, problem=NO_DATE)
        prometheus = reply.body.get("prometheus") or {}
        scrape = float(prometheus.get("globalScrapeInterval") or DEFAULT_SCRAPE)
        self.window = Window.after(self._clock.time(self._now()), scrape)
        return reply

    def note(self, begin: float, end: float, sent: t.Iterable[Route]) -> None:
        """Remember requests that behaved as claimed; begin and end of their sending, by the clock of `now`."""
        if self.window:
            sending = Sending(self._clock.time(begin), self._clock.time(end))
            for route in sent:
                self._sent.setdefault(route, []).append(sending)

    def look(self, waypoints: WaypointsOf) -> None:
        """Ask Kiali, judge all claims, and open a new window where the present one is spoilt for good.

        Args:
            waypoints: that may count requests to an end.
        """
        reply = Reply() if self.window else self.begin()
        if self.window is None:
            self.last = self._nothing(reply)
            return
        window, end = self.window, int(self._clock.time(self._now()))
        if window.seconds(end) < 1:
            for run in self._runs:
                run.wait(EdgesSeen())
            self.last = Look(reply)
            return
        self.last = self._ask(window, end, waypoints)
        if any(run.judged.sticky for run in self._runs):
            self._keep()
            self.window = Window.after(self._clock.time(self._now()), window.scrape)
            self.restarts += 1
        elif self.last.answer and window.proves(end):
            self._keep()

    def shown(self) -> Look:
        """The last answer that means something, Services included, with what Kiali said last."""
        last = self.last
        best = self._kept or last
        if best.window is None or best.answer is None:
            return last
        answer = best.answer
        if not any(_through_service(run.claim) for run in self._runs):
            reply = self._kiali.graph(self._namespaces, best.window.start, best.end, True)
            answer = answer if reply.problem else reply.body
        return dataclasses.replace(best, reply=last.reply, answer=answer)

    def _keep(self) -> None:
        self._kept = self.last
        for run in self._runs:
            run.proven = run.judged

    def _ask(self, window: Window, end: int, waypoints: WaypointsOf) -> Look:
        graphs: dict[bool, Graph] = {}
        reply = Reply()
        # False comes first, so that the answer that is kept shows Services where any claim names one.
        for inject in sorted({_through_service(run.claim) for run in self._runs}):
            reply = self._heard(self._kiali.graph(self._namespaces, window.start, end, inject))
            if reply.problem:
                return self._nothing(reply)
            try:
                graphs[inject] = parse_graph(reply.body)
            except LabError as error:
                return self._nothing(dataclasses.replace(reply, problem=f"Kiali answered, but {error.message}"))

        def seen(claim: GraphClaim) -> EdgesSeen:
            return EdgesSeen(tuple(graphs[_through_service(claim)].between(claim.source, claim.target)))

        def sent(claim: GraphClaim) -> bool:
            return covered(self._sent.get((claim.source, claim.target), []), window, end)

        judge_all(self._runs, seen, sent, waypoints)
        if not window.proves(end):
            self._wait()
        return Look(reply, window, end, reply.body)

    def _wait(self) -> None:
        """What is there proves something at once; what is missing may still come."""
        spoilt = any(run.judged.sticky for run in self._runs)
        for run in self._runs:
            if not (run.judged.sticky or (spoilt and run.holds)):
                run.wait(run.judged.seen)

    def _nothing(self, reply: Reply) -> Look:
        for run in self._runs:
            run.judged = Judged(EdgesSeen(problem=reply.problem), Verdict("error", reply.problem, reply.retry))
        return Look(reply)

    def _heard(self, reply: Reply) -> Reply:
        if reply.reached and reply.date is not None:
            self._clock.observe(reply.date, self._now())
        return reply


def _through_service(claim: GraphClaim) -> bool:
    """Whether the claim names a Service. Between two workloads Kiali draws an edge only where it injects none."""
    return "service" in (claim.source.kind, claim.target.kind)


@dataclasses.dataclass(kw_only=True)
class GraphResult(Checked):
    """All claims after the last round. mesh: of that round. restarts: of the window."""

    claims: list[GraphRun]
    traffic: list[ClaimRun]
    look: Look
    mesh: Mesh
    restarts: int = 0

    @property
    def judged(self) -> list[ClaimRun | GraphRun]:
        """All claims after the last round."""
        return [*self.claims, *self.traffic]


def check_graph(
    claims: t.Sequence[GraphClaim],
    traffic: t.Sequence[Claim],
    namespaces: t.Sequence[str],
    settings: Settings,
    edge: Edge,
    kiali: Kiali,
) -> GraphResult:
    """Send the traffic and look, until everything holds `stable` rounds in a row or time is up.

    Time is up `timeout` seconds after the first window could have been long enough to prove anything.

    Raises:
        LabError: when the cluster's API does not answer, a source does not exist, or nothing is sent that would make
            an edge which a claim says is missing.
    """
    with concurrent.futures.ThreadPoolExecutor(settings.concurrency) as pool:
        # No proxy is asked: the graph itself is the evidence here.
        sending = ClaimRounds(traffic, settings, edge, pool)
        drawn = [GraphRun(claim, settings.phase) for claim in claims]
        _require(drawn, sending.runs, sending.mesh)
        watch = Watch(drawn, namespaces, kiali, edge.now)
        watch.begin()
        rule = Stable(settings.stable, settings.timeout)

        def look() -> list[ClaimRun | GraphRun]:
            sending.refresh()
            begin = edge.now()
            sent = sending.look()
            watch.note(begin, edge.now(), _routes(run for run in sent if run.holds))
            watch.look(functools.partial(waypoints, mesh=sending.mesh))
            # Where the graph does not come at all, a longer window would not bring it.
            waits = watch.window.needed if watch.window and not watch.last.reply.problem else 0
            rule.timeout = settings.timeout + waits
            return [*sent, *drawn]

        ended = repeat(look, rule, edge, settings.interval)
    return GraphResult(
        claims=drawn,
        traffic=sending.runs,
        look=watch.shown(),
        mesh=sending.mesh,
        rounds=ended.rounds,
        elapsed=ended.elapsed,
        converged_after=rule.converged_after,
        restarts=watch.restarts,
    )


def _routes(runs: t.Iterable[ClaimRun]) -> frozenset[Route]:
    return frozenset(route for run in runs for route in routes(run))


def _require(drawn: t.Sequence[GraphRun], sent: t.Sequence[ClaimRun], mesh: Mesh) -> None:
    """Stop before any traffic where it could prove nothing."""
    problems = uncontrolled([run.claim for run in drawn], drawn[0].phase, lambda end: bool(waypoints(end, mesh)))
    if problems:
        raise LabError(
            "\n".join(["Behind a waypoint a missing edge needs another control:", *(f"  {line}" for line in problems)])
        )
    gone = unusable(sent)
    if gone:
        lines = [f"  {item.reason}" for item in dict.fromkeys(gone)]
        raise LabError("\n".join(["The traffic can't be sent, nothing was asked:", *lines]))
    silent = unsent(drawn, _routes(sent))
    # Of a pod or a waypoint that is only starting the routes are not known yet; until they are, its claims don't hold.
    if silent and not any(_starting(run) for run in sent):
        lines = [f"  {run.claim.name}: nothing in traffic surely goes {run.claim.between}" for run in silent]
        lines += [f"  {why}" for (kind, _space), why in mesh.unread.items() if kind in ("Pod", "Service")]
        raise LabError("\n".join(["A missing edge proves nothing unless requests were sent:", *lines]))


def _starting(run: ClaimRun) -> bool:
    waypoint = run.path.waypoint
    return run.target is None or bool(waypoint and waypoint.gateway and not waypoint.programmed)
