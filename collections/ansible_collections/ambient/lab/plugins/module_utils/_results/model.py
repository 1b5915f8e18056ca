# What checks return, results.json keeps, and report.json has.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .measured import Convergence, Lint, Matrix, Mutation, Verdict

Phase = t.Literal["before", "after"]
PHASES: tuple[Phase, ...] = ("before", "after")


@dataclasses.dataclass(frozen=True)
class Statement:
    """What one witness says of one probe.

    Attributes:
        witness: its kind, for example ztunnel log.
        where: the pod or object, "" for none.
        said: its words, in one line.
        supports: whether it bears out what the client saw; null where it could not tell.
    """

    witness: str
    where: str
    said: str
    supports: bool | None

    def __str__(self) -> str:
        return f"{self.witness}{f' of {self.where}' if self.where else ''}: {self.said}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """A change of a claim's answer.

    Attributes:
        at: seconds since the beginning of the check.
        http_code: null where there is none.
    """

    at: float
    outcome: str
    verdict: Verdict
    http_code: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class EdgeSeen:
    """An edge of Kiali's graph.

    Attributes:
        rate: bytes per second of tcp, else requests per second.
        codes: HTTP statuses, "-" for no response.
        errors: percent of the traffic.
        mtls: percent of the traffic; null where Kiali does not know.
    """

    protocol: str
    rate: float
    codes: list[str] = dataclasses.field(default_factory=list)
    errors: float = 0.0
    mtls: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """What was seen. A module returns the answer's headers and the begin of its body beside it; they are never kept.

    Attributes:
        outcome: in words of the mesh.
        text: the outcome with its codes, for people.
        http_code: of curl; null where nothing was sent.
        exit_code: of curl; null where nothing was sent.
        errormsg: of curl.
        edges: of Kiali's graph.
        problem: why there is no graph to look at.
    """

    outcome: str
    text: str
    http_code: int | None = None
    exit_code: int | None = None
    errormsg: str = ""
    edges: list[EdgeSeen] = dataclasses.field(default_factory=list)
    problem: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """One claim in one phase.

    Attributes:
        from_: who calls.
        source: as the claim names it; a pod's name may be a new one.
        path: same node, cross node, or same or cross node; null where nobody knows.
        by: the policy that the claim names.
        expected: in this phase.
        predicted: what the cluster's objects say that the request meets; "" where nobody asked them.
        prediction: why.
        surprise: how the answer differs from a sure prediction.
        reason: why the claim does not hold.
        control: how the same round showed the path alive, where it had to.
        decided_by: ztunnel, waypoint, application, network or kiali; "-" where nobody could tell.
        policy: that decided, where a witness names it.
        likely_cause: what in the cluster's objects probably explains it.
        flapped: it held once, and then did not.
    """

    name: str
    from_: str
    to: str
    expected: str
    seen: Seen
    verdict: Verdict
    source: str = ""
    path: str | None = None
    by: str | None = None
    predicted: str = ""
    prediction: str = ""
    surprise: str = ""
    reason: str = ""
    control: str | None = None
    decided_by: str = "-"
    policy: str | None = None
    witnesses: list[Statement] = dataclasses.field(default_factory=list)
    likely_cause: str = ""
    flapped: bool = False
    history: list[Change] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProxySeen:
    """A proxy that was asked.

    Attributes:
        proxy: namespace/pod.
        kind: ztunnel or waypoint.
        version: "" where it is not known.
        wording: of its log; "" where it is not known.
    """

    proxy: str
    kind: str
    version: str
    wording: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One check of a list of claims.

    Attributes:
        at: when it ended, ISO 8601 in UTC.
        verdict: the worst; fail also where all claims held in the last round, but not long enough together.
        elapsed: seconds.
        converged_after: seconds until the first of the rounds in which all claims held; null where they did not.
    """

    at: str
    verdict: Verdict
    rounds: int
    elapsed: float
    converged_after: float | None
    claims: list[ClaimResult]
    proxies: list[ProxySeen] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphCheck(Check):
    """One check of Kiali's graph.

    Attributes:
        window: in seconds; null where Kiali gave no answer.
        restarts: how often the window began anew, because it held something that must not be there.
        graph: Kiali's answer.
    """

    window: int | None
    restarts: int
    graph: dict[str, t.Any] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphPhases:
    """The last check of Kiali's graph in each phase, unless the claims were checked again after it."""

    before: GraphCheck | None = None
    after: GraphCheck | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the results, for example of one role.

    Attributes:
        before: the last check of the claims before the policy; one begins all of the section's checks anew.
        after: the last one after it.
    """

    before: Check | None = None
    after: Check | None = None
    graph: GraphPhases = GraphPhases()
    convergence: Convergence | None = None
    matrix: Matrix | None = None
    mutation: Mutation | None = None
    lint: Lint | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """How many claims and measured pairs have which verdict.

    Attributes:
        unstable: sections whose claims all held at last, but not long enough together.
        unchecked: claims that were checked on another cluster, or before the policy, and not here and now.
    """

    pass_: int = 0
    fail: int = 0
    error: int = 0
    unstable: int = 0
    unchecked: int = 0

    def __add__(self, other: Counts) -> Counts:
        names = [field.name for field in dataclasses.fields(self)]
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """One cluster.

    Attributes:
        at: when it was checked for the last time, ISO 8601 in UTC; "" where nobody knows.
        sections: its results, as results.json has them.
    """

    name: str
    verdict: Verdict
    counts: Counts
    at: str
    sections: dict[str, Section]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What was proven about who may call whom, on one cluster or on many. All texts are single lines."""

    title: str
    verdict: Verdict
    counts: Counts
    at: str
    clusters: list[Cluster]
