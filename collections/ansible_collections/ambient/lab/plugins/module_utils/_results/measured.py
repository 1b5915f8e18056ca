# What is measured or found beside the claims: how fast a policy takes hold, the matrix, the model's word on both.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

Verdict = t.Literal["pass", "fail", "error"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantiles:
    """Of measured seconds."""

    p50: float
    p99: float
    max: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A pair in one run; times in seconds after the API accepted the change.

    Attributes:
        first_new: null where no new answer came.
        ready: when every proxy had the policy; null for never.
        changes: start and text of each answer that differs from the one before it.
    """

    first_new: float | None
    last_old: float
    stale_after_accepted: int
    stale_after_ready: int
    flaps: int
    ready: float | None
    changes: list[list[t.Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """A claim while its policy is applied, or removed.

    Attributes:
        old: what is answered before the change.
        new: what must be answered after it.
        stale_after_accepted: old answers to requests that began after the API accepted the change.
        stale_after_ready: old answers to requests that began after every proxy had it.
        flaps: how often the answer went away from the new one again.
        limits: what the claim demands.
        leaks: whether an old answer lets pass what is to be denied; any other is only late.
    """

    name: str
    from_: str
    to: str
    old: str
    new: str
    first_new: Quantiles | None
    last_old: Quantiles | None
    stale_after_accepted: int
    stale_after_ready: int
    flaps: int
    requests: int
    limits: dict[str, float]
    verdict: Verdict
    reason: str
    leaks: bool
    runs: list[Run]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Direction:
    """One way of a change. ready: seconds until every proxy had it."""

    ready: Quantiles | None
    pairs: list[Pair]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convergence:
    """How fast a policy took hold.

    Attributes:
        rate: requests per claim and second.
        resolution: of the measurement, in seconds.
        requests: sent in all.
        directions: apply and remove.
    """

    policy: str
    at: str
    verdict: Verdict
    reason: str
    repeats: int
    rate: float
    resolution: float
    requests: int
    directions: dict[str, Direction]

    @property
    def pairs(self) -> list[Pair]:
        """Of both directions."""
        return [pair for direction in self.directions.values() for pair in direction.pairs]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatrixCell:
    """One request of a matrix."""

    name: str
    from_: str
    to: str
    method: str
    outcome: str
    http_code: int | None = None
    exit_code: int | None = None
    decided_by: str = "-"
    policy: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """A request that is not as the claims file says.

    Attributes:
        was: null where the file does not have it.
        now: null where it is not there any more.
    """

    name: str
    was: str | None
    now: str | None
    policy: str | None
    reason: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unprobed:
    """A source that nobody asks for, and why."""

    source: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unclear:
    """A request that nothing can be said of, and why."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Skipped:
    """What is not a part of the matrix, and why."""

    what: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matrix:
    """Who may call whom, as it was observed or predicted, and what differs from the claims file."""

    at: str
    namespaces: list[str]
    cells: list[MatrixCell]
    methods: list[str] = dataclasses.field(default_factory=list)
    unprobed: list[Unprobed] = dataclasses.field(default_factory=list)
    unclear: list[Unclear] = dataclasses.field(default_factory=list)
    left_out: list[Skipped] = dataclasses.field(default_factory=list)
    opened: list[Difference] = dataclasses.field(default_factory=list)
    closed: list[Difference] = dataclasses.field(default_factory=list)
    changed: list[Difference] = dataclasses.field(default_factory=list)
    added: list[Difference] = dataclasses.field(default_factory=list)
    gone: list[Difference] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mutation:
    """Which weaker policies the claims would notice, by the model.

    Attributes:
        score: percent; null where nothing could be judged.
    """

    at: str
    min_score: int
    score: int | None
    counts: dict[str, int]
    summary: list[str]
    missing_claims: list[dict[str, t.Any]]


@dataclasses.dataclass(frozen=True)
class Finding:
    """What is wrong with a policy.

    Attributes:
        rule: of the lint.
        severity: "error" where it never does what it says, "warning" where it does more or less than it seems.
        policy: namespace/name; "" for the mesh as a whole.
        place: file:line, "" where it comes from no file.
        effect: what it does, in words.
        mend: what to write instead.
    """

    rule: str
    severity: str
    policy: str
    place: str
    effect: str
    mend: str

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        name = f"{self.policy}: " if self.policy else ""
        return f"{where}{self.severity}: {name}{self.effect} [{self.rule}]\n  mend: {self.mend}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lint:
    """What the lint found in the policies. policies: how many there are."""

    at: str
    policies: int
    findings: list[Finding]
