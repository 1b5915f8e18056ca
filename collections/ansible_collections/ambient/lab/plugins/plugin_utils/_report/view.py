# Puts the results of one cluster or of many together for people: who agrees, who differs, what the policy did.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._common.text import printable
from ansible_collections.ambient.lab.plugins.module_utils._results.measured import Convergence, Verdict
from ansible_collections.ambient.lab.plugins.module_utils._results.model import (
    PHASES,
    Check,
    ClaimResult,
    Cluster,
    Counts,
    GraphPhases,
    Report,
    Section,
)

WORST: tuple[Verdict, ...] = ("pass", "fail", "error")
SHUT = ("denied_l4", "denied_l7", "denied_upstream", "no_edge")
OPEN = ("allowed", "edge")


@dataclasses.dataclass(frozen=True)
class Row:
    """A claim on one cluster. unchecked: Kiali's graph was not looked at since the last check of the claims."""

    kind: str
    before: ClaimResult | None
    after: ClaimResult | None
    unchecked: bool = False

    @property
    def current(self) -> ClaimResult:
        """What holds now: after the policy, or before it where nobody has looked after it."""
        return t.cast("ClaimResult", self.after or self.before)

    @property
    def sides(self) -> tuple[ClaimResult | None, ClaimResult | None]:
        """Before and after."""
        return self.before, self.after

    @property
    def verdict(self) -> Verdict:
        """The worst of both phases."""
        return worst(one.verdict for one in self.sides if one)

    @property
    def change(self) -> str | None:
        """What the policy did: closed, opened, changed; None where nothing, or where one side was not looked at."""
        if not self.before or not self.after or self.before.seen.outcome == self.after.seen.outcome:
            return None
        for word, was, now in (("closed", OPEN, SHUT), ("opened", SHUT, OPEN)):
            if self.before.seen.outcome in was and self.after.seen.outcome in now:
                return word
        return "changed"

    @property
    def decided(self) -> tuple[str, str | None]:
        """Who decided after the policy, and by which policy."""
        return (self.after.decided_by, self.after.policy) if self.after else ("-", None)

    @property
    def state(self) -> tuple[t.Any, ...]:
        """What must be the same on every cluster."""
        seen = self.current.seen
        return self.verdict, self.change, self.unchecked, seen.outcome, seen.http_code


@dataclasses.dataclass(frozen=True)
class Alike:
    """Clusters on which a claim is the same. row: of the first of them; None where it was not checked."""

    clusters: tuple[str, ...]
    row: Row | None


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim on all clusters. rows: by cluster, where it was checked. alike: the same, in groups."""

    section: str
    kind: str
    name: str
    rows: dict[str, Row]
    alike: list[Alike]

    @property
    def key(self) -> tuple[str, str, str]:
        """What names it."""
        return self.section, self.kind, self.name

    @property
    def verdict(self) -> Verdict:
        """The worst of all clusters."""
        return worst(row.verdict for row in self.rows.values())

    @property
    def differs(self) -> bool:
        """Whether it is not the same everywhere."""
        return len(self.alike) > 1

    def on(self, cluster: str) -> Row | None:
        """The claim on one cluster; None where it was not checked there."""
        return self.rows.get(cluster)


@dataclasses.dataclass(frozen=True)
class Group:
    """Clusters that are alike in all claims. unlike: the claims in which they differ from the largest group."""

    clusters: tuple[str, ...]
    unlike: list[Claim]


def report_of(title: str, given: t.Mapping[str, dict[str, Section]]) -> Report:
    """The report of some clusters' results, by their names."""
    names = {cluster: printable(cluster) for cluster in given}
    found = claims_of({names[cluster]: sections for cluster, sections in given.items()})
    clusters = [_cluster(names[cluster], sections, found) for cluster, sections in given.items()]
    return Report(
        title=printable(title),
        verdict=worst(cluster.verdict for cluster in clusters),
        counts=sum((cluster.counts for cluster in clusters), Counts()),
        at=max((cluster.at for cluster in clusters), default=""),
        clusters=clusters,
    )


def worst(verdicts: t.Iterable[Verdict]) -> Verdict:
    """The one that counts: an error before a failure before a pass."""
    return max(verdicts, key=WORST.index, default="pass")


def rows(section: Section) -> dict[tuple[str, str], Row]:
    """The claims of a section, by kind and name."""
    found = _rows("curl", section)
    for key, row in _rows("graph", section.graph).items():
        found[key] = dataclasses.replace(row, unchecked=row.after is None and section.after is not None)
    return found


def _rows(kind: str, phases: Section | GraphPhases) -> dict[tuple[str, str], Row]:
    before = {claim.name: claim for claim in phases.before.claims} if phases.before else {}
    found = {}
    for claim in phases.after.claims if phases.after else ():
        # What was claimed before of another source or request says nothing.
        old = before.get(claim.name)
        is_same = old and (old.to, old.source) == (claim.to, claim.source)
        found[kind, claim.name] = Row(kind, old if is_same else None, claim)
    return found or {(kind, name): Row(kind, claim, None) for name, claim in before.items()}


def checks(section: Section) -> list[Check]:
    """The last checks, of the claims and of Kiali's graph."""
    return [check for phases in (section, section.graph) if (check := phases.after or phases.before)]


def claims_of(given: t.Mapping[str, dict[str, Section]]) -> list[Claim]:
    """All claims of some clusters' results, section by section."""
    names = dict.fromkeys(name for sections in given.values() for name in sections)
    found = []
    for name in names:
        all_rows = {cluster: rows(sections.get(name, Section())) for cluster, sections in given.items()}
        for key in dict.fromkeys(key for listed in all_rows.values() for key in listed):
            mine = {cluster: listed[key] for cluster, listed in all_rows.items() if key in listed}
            alike: dict[t.Any, list[str]] = {}
            for cluster in given:
                alike.setdefault(mine[cluster].state if cluster in mine else None, []).append(cluster)
            groups = [Alike(tuple(clusters), mine.get(clusters[0])) for clusters in alike.values()]
            found.append(Claim(name, *key, mine, groups))
    return found


def groups_of(report: Report, claims: t.Sequence[Claim]) -> list[Group]:
    """The clusters that are alike, the largest group first."""
    alike: dict[tuple[int, ...], list[str]] = {}
    for cluster in report.clusters:
        places = [[cluster.name in one.clusters for one in claim.alike].index(True) for claim in claims]
        alike.setdefault(tuple(places), []).append(cluster.name)
    ordered = sorted(alike.items(), key=lambda item: -len(item[1]))
    usual = ordered[0][0]
    return [
        Group(
            tuple(clusters), [claim for claim, here, there in zip(claims, places, usual, strict=True) if here != there]
        )
        for places, clusters in ordered
    ]


def beyond_its_pairs(measured: Convergence) -> bool:
    """Whether a measurement as a whole is worse than its pairs, for example because a proxy never had the policy."""
    return WORST.index(measured.verdict) > WORST.index(worst(pair.verdict for pair in measured.pairs))


def verdicts(section: Section) -> list[Verdict]:
    """Of all that counts in a section."""
    found = [row.verdict for row in rows(section).values()]
    if measured := section.convergence:
        found += [pair.verdict for pair in measured.pairs] + [measured.verdict] * beyond_its_pairs(measured)
    return found


def is_unstable(section: Section) -> bool:
    """Whether a section fails although each claim's last answer was as expected: they did not hold long enough."""
    return worst(check.verdict for check in checks(section)) != "pass" and worst(verdicts(section)) == "pass"


def verdict_of(section: Section) -> Verdict:
    """The worst of a section."""
    return worst([*(check.verdict for check in checks(section)), *verdicts(section)])


def _cluster(name: str, sections: dict[str, Section], claims: t.Sequence[Claim]) -> Cluster:
    found = [verdict for section in sections.values() for verdict in verdicts(section)]
    here = [claim.on(name) for claim in claims]
    dated = [
        one.at
        for section in sections.values()
        for one in (*checks(section), section.convergence, section.matrix)
        if one
    ]
    counts = Counts(
        pass_=found.count("pass"),
        fail=found.count("fail"),
        error=found.count("error"),
        unstable=sum(map(is_unstable, sections.values())),
        unchecked=sum(row is None or row.unchecked for row in here),
    )
    verdict = worst(map(verdict_of, sections.values()))
    return Cluster(name=name, verdict=verdict, counts=counts, at=max(dated, default=""), sections=sections)


def phases_of(row: Row) -> list[tuple[str, ClaimResult | None]]:
    """Both phases of a claim, with what was seen."""
    return list(zip(PHASES, row.sides, strict=True))
