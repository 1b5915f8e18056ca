# Parses claims about Kiali's traffic graph strictly: whatever is wrong is said before any traffic.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import math
import typing as t

from .._claims.fields import Problem, codes_of, dns_name, label_of, mapping, parse_list, require_none, text_of
from .._common.errors import LabError

# Which proxy counts what (istio.io, standard metrics; ztunnel reports L4 only).
REPORTER = {"tcp": "ztunnel", "http": "waypoint", "grpc": "waypoint"}
# What a claim says in its place.
COUNTED_AS = {"ztunnel": "tcp", "waypoint": "http or grpc"}
PHASES = ("before", "after")
OUTCOMES = ("edge", "no_edge")
REQUIRED_KEYS = ("name", "from", "to", "expect")
CLAIM_KEYS = (*REQUIRED_KEYS, "before")
END_KEYS = ("workload", "service", "namespace")
EXPECT_KEYS = ("outcome", "protocol", "min_rate", "codes", "mtls")
EDGE_ONLY = ("min_rate", "codes", "mtls")


@dataclasses.dataclass(frozen=True)
class End:
    """A node of the graph, as a claim names it. kind: workload or service."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        name = f"{self.namespace}/{self.name}"
        return name if self.kind == "workload" else f"service {name}"

    @classmethod
    def read(cls, text: str) -> End:
        """An end as it was written."""
        kind, _space, name = text.rpartition(" ")
        return cls(kind or "workload", *name.split("/", 1))


@dataclasses.dataclass(frozen=True)
class EdgeExpectation:
    """What the graph must show. min_rate: bytes per second of tcp, requests per second of http and grpc."""

    outcome: str
    protocol: str | None = None
    min_rate: float | None = None
    codes: frozenset[int] | None = None
    mtls: bool | None = None

    def __str__(self) -> str:
        parts = [self.outcome, self.protocol or ""]
        if self.min_rate is not None:
            parts.append(f">= {self.min_rate:g}" + (" B/s" if self.protocol == "tcp" else "/s"))
        if self.codes is not None:
            parts += [str(code) for code in sorted(self.codes)]
        if self.mtls is not None:
            parts.append("mTLS" if self.mtls else "no mTLS")
        return " ".join(part for part in parts if part)


@dataclasses.dataclass(frozen=True)
class GraphClaim:
    """Between which two nodes the graph shows traffic, or none, before and after the policy."""

    name: str
    source: End
    target: End
    after: EdgeExpectation
    before: EdgeExpectation

    def expected(self, phase: str) -> EdgeExpectation:
        """Expectation of the phase before or after."""
        return self.before if phase == "before" else self.after

    def protocol(self, phase: str) -> str | None:
        """Protocol that the claim is about: its expectation's, or the one of the other phase."""
        other = "after" if phase == "before" else "before"
        return self.expected(phase).protocol or self.expected(other).protocol

    @property
    def between(self) -> str:
        """Both ends for a table; the namespace once where it is the same."""
        target = self.target
        here = "service " if target.kind == "service" else ""
        shown = f"{here}{target.name}" if target.namespace == self.source.namespace else str(target)
        return f"{self.source} -> {shown}"


def parse_graph_claims(raw: object, namespace: str, namespaces: t.Sequence[str]) -> tuple[GraphClaim, ...]:
    """Turn the user's list into claims.

    Args:
        raw: the list as Ansible hands it over.
        namespace: namespace of names that have none.
        namespaces: of which Kiali is asked; it draws what has an end in one of them.

    Raises:
        LabError: with one line per problem, naming the claim, the key and what is allowed.
    """

    def parse(item: object, number: int) -> GraphClaim:
        claim = _claim(item, number, namespace)
        if not {claim.source.namespace, claim.target.namespace} & set(namespaces):
            text = f"{claim.between} has no end in namespaces ({', '.join(namespaces)}), so Kiali would not draw it"
            raise Problem(label_of(item, number), "to", text)
        return claim

    claims = parse_list(raw, parse)
    # What is behind a waypoint only the cluster knows.
    require_none([line for phase in PHASES for line in uncontrolled(claims, phase, lambda _end: False)])
    return claims


def reporters(claim: GraphClaim, phase: str, behind_waypoint: bool) -> list[str]:
    """The kinds of proxies of which one would have counted the edge that a claim says is missing.

    A claim without a protocol says that there is no edge at all. ztunnel counts whatever is carried, and a waypoint on
    the way the requests in it; which of the two Kiali draws depends on its version.
    """
    protocol = claim.expected(phase).protocol
    if protocol:
        return [REPORTER[protocol]]
    known = REPORTER[claim.protocol(phase) or "tcp"]
    return ["ztunnel", "waypoint"] if behind_waypoint or known == "waypoint" else ["ztunnel"]


def may_control(claim: GraphClaim, other: GraphClaim, phase: str, reporter: str) -> bool:
    """Whether an edge of the other claim may show that a kind of proxy counts what this claim is about.

    The two share an end: the same destination, or the same source. A waypoint stands for one namespace, so that one of
    another namespace says nothing of it.
    """
    expect = other.expected(phase)
    if expect.outcome != "edge" or (expect.protocol and REPORTER[expect.protocol] != reporter):
        return False
    if other.target == claim.target:
        return True
    same_place = other.target.namespace == claim.target.namespace
    return other.source == claim.source and (reporter == "ztunnel" or same_place)


def uncontrolled(claims: t.Sequence[GraphClaim], phase: str, behind_waypoint: t.Callable[[End], bool]) -> list[str]:
    """One line for each absence that no other claim could give a meaning.

    Args:
        claims: all of them.
        phase: before or after.
        behind_waypoint: whether requests to an end may go through a waypoint.
    """
    key = "expect" if phase == "after" else "before"
    problems = []
    for number, claim in enumerate(claims, 1):
        if claim.expected(phase).outcome == "edge":
            continue
        for reporter in reporters(claim, phase, behind_waypoint(claim.target)):
            if not any(may_control(claim, other, phase, reporter) for other in claims):
                problems.append(
                    f"claim {number} ({claim.name!r}): {key}: an edge may also be missing because nothing is counted; "
                    f"add a claim whose {key} is an edge of {COUNTED_AS[reporter]}, which {reporter} counts, "
                    f"to {claim.target} or from {claim.source}"
                )
    return problems


def parse_end(value: object, label: str, key: str, namespace: str) -> End:
    """A workload by its name, or a dict of exactly one of workload and service, and a namespace."""
    fields = {"workload": value} if isinstance(value, str) else mapping(value, label, key, END_KEYS)
    chosen = [kind for kind in ("workload", "service") if kind in fields]
    if len(chosen) != 1:
        raise Problem(label, key, "needs exactly one of workload, service")
    name = dns_name(fields[chosen[0]], label, f"{key}.{chosen[0]}")
    return End(chosen[0], dns_name(fields.get("namespace", namespace), label, f"{key}.namespace"), name)


def parse_pairs(raw: object, namespace: str) -> list[tuple[End, End]]:
    """Pairs of ends, each a dict of from and to.

    Raises:
        LabError: when one is none.
    """
    pairs = []
    for number, item in enumerate(raw if isinstance(raw, list) else [], 1):
        label = f"absent {number}"
        try:
            fields = mapping(item, label, "edge", ("from", "to"))
            source, target = (parse_end(fields.get(key), label, key, namespace) for key in ("from", "to"))
        except Problem as problem:
            raise LabError(str(problem)) from problem
        pairs.append((source, target))
    return pairs


def _claim(item: object, number: int, namespace: str) -> GraphClaim:
    label = label_of(item, number)
    fields = mapping(item, label, "claim", CLAIM_KEYS, required=REQUIRED_KEYS)
    after = _expectation(fields["expect"], label, "expect")
    before = after if after.outcome == "edge" else EdgeExpectation("edge", after.protocol)
    return GraphClaim(
        name=text_of(fields["name"], label, "name"),
        source=parse_end(fields["from"], label, "from", namespace),
        target=parse_end(fields["to"], label, "to", namespace),
        after=after,
        before=_expectation(fields["before"], label, "before") if "before" in fields else before,
    )


def _expectation(value: object, label: str, key: str) -> EdgeExpectation:
    fields = {"outcome": value} if isinstance(value, str) else mapping(value, label, key, EXPECT_KEYS)
    outcome, protocol = fields.get("outcome"), fields.get("protocol")
    if outcome not in OUTCOMES:
        raise Problem(label, key, f"unknown outcome {outcome!r}; allowed are {', '.join(OUTCOMES)}")
    if protocol is not None and protocol not in REPORTER:
        raise Problem(label, f"{key}.protocol", f"unknown protocol {protocol!r}; allowed are {', '.join(REPORTER)}")
    given = [name for name in EDGE_ONLY if name in fields]
    if outcome == "no_edge" and given:
        raise Problem(label, f"{key}.{given[0]}", "an edge that is not there has none, leave it out")
    codes = codes_of(fields, "codes", range(100, 600), label, key)
    if codes is not None and protocol not in (None, "http"):
        raise Problem(label, f"{key}.codes", f"{protocol} has no HTTP status, leave codes out")
    mtls = fields.get("mtls")
    if mtls is not None and not isinstance(mtls, bool):
        raise Problem(label, f"{key}.mtls", f"must be true or false, not {mtls!r}")
    protocol = "http" if codes is not None else protocol
    return EdgeExpectation(outcome, protocol, _rate(fields, protocol, label, f"{key}.min_rate"), codes, mtls)


def _rate(fields: dict[str, t.Any], protocol: str | None, label: str, key: str) -> float | None:
    if "min_rate" not in fields:
        return None
    value = fields["min_rate"]
    try:
        # Ansible templating may hand a number over as text.
        rate = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        rate = math.nan
    if not 0 <= rate < math.inf:
        raise Problem(label, key, f"must be a number from 0, not {value!r}")
    if protocol is None:
        raise Problem(label, key, "needs a protocol: it is bytes per second of tcp, but requests per second of http")
    return rate
