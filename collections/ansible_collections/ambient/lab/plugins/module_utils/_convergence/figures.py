# Figures of a policy's convergence from the answers of probes that ran meanwhile. Pure: knows no cluster and no clock.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import itertools
import math
import typing as t

from .._check.run import traffic_of
from .._claims.parse import DENIALS, Expectation
from .._curl.outcomes import Seen, classify
from .._curl.script import TICK, Record, lacks, read_marks
from .._results import measured as results

# The clock of /proc/uptime goes in steps of a hundredth of a second (proc(5)).
CLOCK_STEP = 0.01
# Changes of answer that a result keeps per run.
MAX_CHANGES = 50


@dataclasses.dataclass(frozen=True)
class Timed:
    """What one request saw. start: not later than it really began; end: not earlier than it really ended; in seconds.

    In a stream, start goes by the pod's clock and end by ours. Later both count from when the API accepted the change,
    and are negative before it. number: of the request.
    """

    start: float
    end: float
    seen: Seen
    number: int = 0


@dataclasses.dataclass(frozen=True)
class Stream:
    """What a loop said. ticks: of each, when it began by the pod's clock, and when that was heard by ours."""

    ticks: list[tuple[float, float]]
    answers: list[Timed]
    problem: str = ""


def parse_stream(nonce: str, pieces: t.Sequence[tuple[float, bytes]]) -> Stream:
    """Read what a loop said.

    Of the requests of a tick, one starts when the one before it is through: its start is the tick's, plus the times
    that those before it took. That leaves out what curl itself needs, so that no start is too late.

    Args:
        nonce: as given to build_script.
        pieces: of its output, each with the time of our clock when it was heard; the last line may be cut.
    """
    ticks: list[tuple[float, float]] = []
    answers: list[Timed] = []
    problem = ""
    start = 0.0
    for mark in read_marks(nonce, pieces):
        if mark.kind == TICK and mark.about.isdecimal():
            start = int(mark.about) * CLOCK_STEP
            ticks.append((start, mark.at))
        elif mark.kind == "missing":
            problem = lacks(mark)
        elif mark.kind == "end" and mark.about.isdecimal() and ticks:
            answers.append(Timed(start, mark.at, classify(mark.record), int(mark.about)))
            start += mark.record.elapsed if isinstance(mark.record, Record) else 0.0
    return Stream(ticks, answers, problem)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a claim demands. leaks_*: stale requests allowed where the change is to deny; converges_within: seconds."""

    leaks_after_ready: int | None = None
    leaks_after_accepted: int | None = None
    converges_within: float | None = None

    def as_dict(self) -> dict[str, t.Any]:
        """Those that are set."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Moments:
    """Seconds after the API accepted the change. sent: when it was asked to; ready: the barrier, None if never."""

    sent: float
    ready: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(results.Run):
    """Figures of one pair in one run, with what its judgement needs.

    failed: probes after the acceptance that nobody knows the answer of. problem: why the run does not hold; broken: it
    proves nothing.
    """

    requests: int
    failed: int = 0
    problem: str = ""
    broken: bool = False

    def kept(self) -> results.Run:
        """As results have it."""
        return results.Run(
            **{field.name: _rounded(getattr(self, field.name)) for field in dataclasses.fields(results.Run)}
        )


def fits(expect: Expectation, seen: Seen) -> bool:
    """Whether an answer is the expected one."""
    return traffic_of(expect, seen).passed


def analyse(old: Expectation, new: Expectation, answers: t.Sequence[Timed], moments: Moments) -> Run:
    """Figures of one pair from all answers of a run.

    A request is stale when it started after the moment, and was still answered as if nothing had changed. Where the old
    answer is the new one, the policy does not concern the pair: every other answer is a flap, and there is nothing to
    wait for.

    Args:
        old: what was answered before the change.
        new: what must be answered after it.
        answers: in any order.
        moments: of the change.
    """
    ordered = sorted(answers, key=lambda answer: answer.start)
    steady = old == new
    # A request that was under way when the change was asked for may see the one answer or the other.
    before = [answer for answer in ordered if answer.end <= moments.sent]
    after = [answer for answer in ordered if answer.end > moments.sent]
    fresh = [answer.start for answer in after if fits(new, answer.seen)]
    stale = [answer.start for answer in after if not steady and _stale(old, new, answer.seen)]
    ready = math.inf if moments.ready is None else moments.ready
    run = Run(
        first_new=max(0.0, fresh[0]) if fresh else None,
        last_old=max([0.0, *stale]),
        stale_after_accepted=sum(start > 0 for start in stale),
        stale_after_ready=sum(start > ready for start in stale),
        flaps=_flaps(new, ordered if steady else after),
        ready=moments.ready,
        requests=len(ordered),
        changes=_changes(ordered),
        failed=sum(answer.start > 0 and answer.seen.outcome == "probe_error" for answer in after),
    )
    problem, broken = _problem(old, new, before, after, ready)
    return dataclasses.replace(run, problem=problem, broken=broken)


def _stale(old: Expectation, new: Expectation, seen: Seen) -> bool:
    """Whether an answer is of before the change, whatever its status: an application's 500 has leaked like its 200."""
    if fits(new, seen):
        return False
    # A status comes through even where the answer breaks off or does not end.
    began = seen.outcome == "allowed" or (seen.outcome in ("probe_error", "timeout") and seen.http_code > 0)
    return seen.outcome == old.outcome or (new.outcome in DENIALS and began)


def _flaps(new: Expectation, answers: t.Sequence[Timed]) -> int:
    """How often the answer went away from the new one again."""
    good = [fits(new, answer.seen) for answer in answers]
    return sum(here and not there for here, there in itertools.pairwise(good))


def _changes(answers: t.Sequence[Timed]) -> list[list[t.Any]]:
    """Every change of answer: when the first request with it started, and what it saw."""
    changes: list[list[t.Any]] = []
    for answer in answers:
        text = answer.seen.outcome + (f" {answer.seen.http_code}" if answer.seen.http_code else "")
        if not changes or changes[-1][1] != text:
            changes.append([answer.start, text])
    return [[_rounded(start), text] for start, text in changes[:MAX_CHANGES]]


def _problem(
    old: Expectation, new: Expectation, before: t.Sequence[Timed], after: t.Sequence[Timed], ready: float
) -> tuple[str, bool]:
    """Why a run proves nothing (True), or shows that the pair did not converge (False)."""
    if not before or not after:
        return f"no answers {'before' if not before else 'after'} the change", True
    wrong = next((answer.seen for answer in before if not fits(old, answer.seen)), None)
    if wrong is not None:
        return f"before the change it saw {wrong}, not {old}", True
    last = after[-1].seen
    if not fits(new, last):
        return f"at the end it still saw {last}, not {new}", last.outcome == "probe_error"
    odd = [answer for answer in after if not fits(new, answer.seen) and not fits(old, answer.seen)]
    # While the change spreads, a pair that it concerns may see something else.
    late = next((answer for answer in odd if old == new or answer.start > ready), None)
    if late is not None:
        wanted = f"not {new}" if old == new else f"neither {old} nor {new}"
        broken = late.seen.outcome == "probe_error"
        return f"{max(0.0, late.start):.2f} s after the change it saw {late.seen}, {wanted}", broken
    return "", False


def quantiles(values: t.Iterable[float | None]) -> results.Quantiles | None:
    """p50, p99 and the greatest of the values that are there (nearest rank), in seconds; None where none is."""
    ordered = sorted(value for value in values if value is not None)
    if not ordered:
        return None
    ranks = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    found = {name: round(ordered[max(0, math.ceil(rank * len(ordered)) - 1)], 3) for name, rank in ranks.items()}
    return results.Quantiles(**found)


def judge_runs(
    new: Expectation, old: Expectation, limits: Limits, runs: t.Sequence[Run]
) -> tuple[results.Verdict, str]:
    """Verdict of a pair over all runs of a direction, and why: pass, fail (a demand broken), error (no proof)."""
    kinds: tuple[tuple[results.Verdict, bool], ...] = (("error", True), ("fail", False))
    for kind, broken in kinds:
        bad = [run for run in runs if run.problem and run.broken is broken]
        if bad:
            often = f" (in {len(bad)} of {len(runs)} runs)" if len(runs) > 1 else ""
            return kind, bad[0].problem + often
    if not runs:
        return "error", "there was no run"
    # A stale answer leaks only where the change is to deny.
    for key, moment in (("ready", "every proxy had it"), ("accepted", "the API accepted it")):
        allowed = getattr(limits, f"leaks_after_{key}")
        worst = max(getattr(run, f"stale_after_{key}") for run in runs)
        if new.outcome in DENIALS and old != new and allowed is not None and worst > allowed:
            return "fail", f"{worst} requests leaked after {moment} (leaks_after_{key}: {allowed})"
    if limits.converges_within is not None:
        worst_time = max(max(run.first_new or 0.0, run.last_old) for run in runs)
        if worst_time > limits.converges_within:
            return "fail", f"converged after {worst_time:.2f} s (converges_within: {limits.converges_within:g})"
    failed = sum(run.failed for run in runs)
    if failed and (limits.leaks_after_accepted, limits.converges_within) != (None, None):
        return "error", f"{failed} probes failed after the API accepted it, and may have got the old answer"
    return "pass", ""


def clock_offset(ticks: t.Iterable[tuple[float, float]]) -> float:
    """What to add to the pod's clock to get ours: the least delay heard is the nearest to none at all.

    Args:
        ticks: of each, the pod's clock when it was said, and ours when it was heard; at least one.
    """
    return min(heard - said for said, heard in ticks)


def spacing(ticks: t.Sequence[tuple[float, float]]) -> float:
    """Usual seconds between two ticks; 0 where there are not two."""
    gaps = sorted(there[0] - here[0] for here, there in itertools.pairwise(ticks))
    return gaps[len(gaps) // 2] if gaps else 0.0


def _rounded(value: t.Any) -> t.Any:
    return round(value, 3) if isinstance(value, float) else value
