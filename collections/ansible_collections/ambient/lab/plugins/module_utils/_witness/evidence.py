# What the proxies said in one round about who was refused, in a form in which it can be looked up.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .logs import Connection, Denial, Request
from .proxies import Proxy

Risen = list[tuple[dict[str, str], float]]
# A refusal by the destination's side, the line that reports it, and who wrote it.
Refusal = tuple["Said", Connection, Denial]


@dataclasses.dataclass(frozen=True)
class Said:
    """One proxy in one round.

    log_problem, counter_problem: why it could not be read, "" where it could. gap: lines may be missing.
    logs_access: it has logged a connection of anybody since the check began.
    risen: what its counters of refusals added, by labels. version: of its build, wording: of its log (WORDINGS).
    """

    proxy: Proxy
    connections: tuple[Connection, ...] = ()
    requests: t.Mapping[str, Request] = dataclasses.field(default_factory=dict)
    risen: Risen = dataclasses.field(default_factory=list)
    log_problem: str = ""
    counter_problem: str = ""
    gap: bool = False
    logs_access: bool = True
    version: str = ""
    wording: str = ""

    def counted(self, **labels: str) -> float:
        """How many refusals with these labels were counted in the round."""
        return sum(added for found, added in self.risen if labels.items() <= found.items())


class Evidence:
    """All proxies in one round; problem: why they could not even be found, "" where they could."""

    def __init__(self, said: t.Sequence[Said] = (), problem: str = "") -> None:
        self.said, self.problem = tuple(said), problem
        self._lines: dict[str, list[tuple[Said, Connection]]] = {}
        self._refusals: dict[tuple[str, tuple[str, ...]], list[Refusal]] = {}
        for item in self.said:
            for connection in item.connections:
                # A pod's address comes without the brackets that IPv6 has before a port.
                for key in (connection.source, connection.source.rpartition(":")[0].strip("[]")):
                    self._lines.setdefault(key, []).append((item, connection))

    @property
    def names_nothing(self) -> bool:
        """Whether a ztunnel's log is worded as of a version that names no policy."""
        return any(item.wording in ("plain", "old") for item in self.said)

    def ztunnels(self, nodes: t.Collection[str]) -> list[Said]:
        """The ztunnels of these nodes."""
        return [item for item in self.said if item.proxy.kind == "ztunnel" and item.proxy.node in nodes]

    def waypoints(self, addresses: t.Collection[str]) -> list[Said]:
        """The waypoint pods with these addresses."""
        return [item for item in self.said if item.proxy.kind == "waypoint" and item.proxy.address in addresses]

    def lines(self, source: str) -> list[tuple[Said, Connection]]:
        """Lines of connections from an `ip:port`, or from an `ip`, and who logged them."""
        return self._lines.get(source, [])

    def refusals(self, source: str, targets: tuple[str, ...]) -> list[Refusal]:
        """What ztunnels of the destination's side say that they refused of a source; the same is said once.

        source: an `ip:port`, or an `ip`. targets: `ip:port` of the destination, or `ip:` for any port.
        """
        if (source, targets) not in self._refusals:
            found: dict[tuple[str, str, Denial], Refusal] = {}
            for said, line in self.lines(source):
                named = line.target in targets or f"{line.target.rpartition(':')[0]}:" in targets
                refusal = line.denial if line.direction != "outbound" and named else None
                if refusal:
                    found.setdefault((str(said.proxy), line.identity, refusal), (said, line, refusal))
            self._refusals[source, targets] = list(found.values())
        return self._refusals[source, targets]
