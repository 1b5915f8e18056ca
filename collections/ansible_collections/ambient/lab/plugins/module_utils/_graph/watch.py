# Looks at Kiali's graph from round to round, in a window that begins anew where something has spoilt it.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import functools
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._check.judge import Verdict
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._graph.http import Reply
from ansible_collections.ambient.lab.plugins.module_utils._graph.judge import WaypointsOf, judge_all
from ansible_collections.ambient.lab.plugins.module_utils._graph.model import Graph, parse_graph
from ansible_collections.ambient.lab.plugins.module_utils._graph.parse import GraphClaim
from ansible_collections.ambient.lab.plugins.module_utils._graph.run import EdgesSeen, GraphRun, Judged
from ansible_collections.ambient.lab.plugins.module_utils._graph.traffic import Route
from ansible_collections.ambient.lab.plugins.module_utils._graph.window import Sending, ServerClock, Window, covered

# Seconds between two samples of Prometheus, where Kiali does not say (Kiali's own default, handlers/config.go).
DEFAULT_SCRAPE = 15.0
NO_DATE = "Kiali's answer has no Date header, so that its window can't be placed"


class KialiApi(t.Protocol):
    """The two questions to Kiali; nothing is raised, the reply says what went wrong."""

    def config(self) -> Reply:
        """Kiali's configuration."""

    def graph(self, namespaces: t.Sequence[str], start: int, end: int, inject: bool) -> Reply:
        """The graph of a window, with or without Services between the workloads."""


@dataclasses.dataclass(frozen=True)
class Look:
    """One look at the graph: what Kiali said last.

    window: of the answer, until `end` (Unix time). answer: raw, for the pictures. Both None where there is none.
    """

    reply: Reply
    window: Window | None = None
    end: int = 0
    answer: dict[str, t.Any] | None = None


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
        kiali: KialiApi,
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

        judge_all(self._runs, seen, functools.partial(self._covered, window=window, end=end), waypoints)
        if not window.proves(end):
            self._wait()
        return Look(reply, window, end, reply.body)

    def _covered(self, claim: GraphClaim, window: Window, end: int) -> bool:
        return covered(self._sent.get((claim.source, claim.target), []), window, end)

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
