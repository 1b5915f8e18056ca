# Figures of a convergence from synthetic answers: a table of courses, and laws that hold for any course.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Expectation
from ansible_collections.ambient.lab.plugins.module_utils._convergence.figures import (
    MAX_CHANGES,
    Limits,
    Moments,
    Run,
    Timed,
    analyse,
    clock_offset,
    fits,
    judge_runs,
    quantiles,
    spacing,
)
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen, probe_error
from ansible_collections.ambient.lab.plugins.module_utils._results.codec import plain
from hypothesis import given
from hypothesis import strategies as st

OPEN = Expectation("allowed")
SHUT = Expectation("denied_l4")
SEEN = {
    "o": Seen("allowed", 200, 0),
    "x": Seen("denied_l4", 0, 56),
    "5": Seen("unroutable", 503, 0),
    # The application has answered these: with another status, without an end, and broken off.
    "e": Seen("allowed", 500, 0),
    "s": Seen("timeout", 200, 28),
    "b": Seen("probe_error", 200, 56, "reset"),
    "t": Seen("timeout", 0, 28),
    "?": probe_error("no curl"),
}


def course(text: str, first: float = -0.4, step: float = 0.1) -> list[Timed]:
    """One answer per letter, each 0.1 s after the one before it; each takes 0.01 s."""
    starts = [round(first + step * number, 6) for number in range(len(text))]
    return [Timed(start, start + 0.01, SEEN[letter]) for start, letter in zip(starts, text, strict=True)]


@pytest.mark.parametrize(
    ("text", "first_new", "last_old", "accepted", "ready", "flaps", "problem"),
    [
        # The change is accepted with the fifth answer (0.0), and ready with the seventh (0.2).
        ("ooooxxxxxx", 0.0, 0.0, 0, 0, 0, ""),
        ("ooooooxxxx", 0.2, 0.1, 1, 0, 0, ""),
        ("ooooooooxx", 0.4, 0.3, 3, 1, 0, ""),
        ("oooooxoxox", 0.1, 0.4, 2, 1, 2, ""),
        ("oooooo5xxx", 0.3, 0.1, 1, 0, 0, ""),
        ("ooooeeexxx", 0.3, 0.2, 2, 0, 0, ""),
        ("ooooosbtxx", 0.4, 0.2, 2, 0, 0, "0.30 s after the change it saw timeout 000/28, neither"),
        ("oooooxxxe5", 0.1, 0.4, 1, 1, 1, "at the end it still saw unroutable 503/0, not denied_l4"),
        ("oooooooo5x", 0.5, 0.3, 3, 1, 0, "0.40 s after the change it saw unroutable 503/0, neither"),
        ("ooooxxxxx?", 0.0, 0.0, 0, 0, 1, "at the end it still saw probe_error (no curl)"),
        ("oooooooooo", None, 0.5, 5, 3, 0, "at the end it still saw allowed 200/0, not denied_l4"),
        ("oxooxxxxxx", 0.0, 0.0, 0, 0, 0, "before the change it saw denied_l4 000/56, not allowed"),
        ("oooo", None, 0.0, 0, 0, 0, "no answers after the change"),
        ("", None, 0.0, 0, 0, 0, "no answers before the change"),
    ],
)
def test_courses(
    text: str, first_new: float | None, last_old: float, accepted: int, ready: int, flaps: int, problem: str
) -> None:
    run = analyse(OPEN, SHUT, course(text), Moments(-0.02, 0.2))
    assert run.first_new == pytest.approx(first_new)
    assert run.last_old == pytest.approx(last_old)
    assert (run.stale_after_accepted, run.stale_after_ready, run.flaps) == (accepted, ready, flaps)
    assert run.problem.startswith(problem)
    assert bool(run.problem) == bool(problem)
    assert run.requests == len(text)


def test_what_is_opened_again_is_late_only_where_it_is_still_denied() -> None:
    """An application that answers 500 is reached, and a denial by another status is a denial."""
    old = Expectation("denied_l7", frozenset({403}))
    seen = [Seen("denied_l7", 403, 0), Seen("denied_l7", 401, 0), Seen("allowed", 500, 0), Seen("allowed", 200, 0)]
    answers = [Timed(start, start + 0.01, seen[number]) for number, start in enumerate((-0.1, 0.1, 0.2, 0.3))]
    run = analyse(old, OPEN, answers, Moments(-0.02, 0.25))
    assert (run.stale_after_accepted, run.last_old, run.first_new) == (1, 0.1, 0.3)


def test_a_probe_that_failed_is_no_proof_that_nothing_leaked() -> None:
    run = analyse(OPEN, SHUT, course("ooooo?xxxx"), Moments(-0.02, 0.2))
    assert (run.failed, run.stale_after_accepted, run.problem) == (1, 0, "")
    for limits in (Limits(leaks_after_accepted=0), Limits(converges_within=1)):
        assert judge_runs(SHUT, OPEN, limits, [run])[0] == "error"
    assert judge_runs(SHUT, OPEN, Limits(leaks_after_ready=0), [run]) == ("pass", "")


def test_a_request_under_way_at_the_change_may_see_either_answer() -> None:
    early = Timed(-0.05, 0.03, SEEN["x"])
    run = analyse(OPEN, SHUT, [*course("oooo"), early, *course("xx", 0.1)], Moments(-0.02, 0.2))
    assert (run.first_new, run.problem) == (0.0, "")
    # One that had ended by then may not.
    ended = Timed(-0.05, -0.03, SEEN["x"])
    run = analyse(OPEN, SHUT, [*course("oooo"), ended, *course("xx", 0.1)], Moments(-0.02, 0.2))
    assert run.broken


def test_a_pair_that_the_policy_does_not_concern_must_not_change() -> None:
    run = analyse(OPEN, OPEN, course("oooooooooo"), Moments(-0.02, 0.2))
    assert (run.first_new, run.last_old, run.stale_after_accepted, run.flaps, run.problem) == (0.0, 0.0, 0, 0, "")
    run = analyse(OPEN, OPEN, course("oooooxoooo"), Moments(-0.02, 0.2))
    assert (run.flaps, run.problem) == (1, "0.10 s after the change it saw denied_l4 000/56, not allowed")


def test_without_the_barrier_nothing_is_stale_after_it() -> None:
    run = analyse(OPEN, SHUT, course("oooooooooo"), Moments(-0.02, None))
    assert (run.stale_after_accepted, run.stale_after_ready, run.ready) == (5, 0, None)


def test_changes_are_kept_and_bounded() -> None:
    run = analyse(OPEN, SHUT, course("ooooooxxxx"), Moments(-0.02, 0.2))
    assert run.changes == [[-0.4, "allowed 200"], [0.2, "denied_l4"]]
    run = analyse(OPEN, SHUT, course("oooo" + "ox" * 100), Moments(-0.02, 0.2))
    assert len(run.changes) == MAX_CHANGES
    assert plain(run.kept())["changes"] == run.changes


answers = st.lists(
    st.builds(
        lambda start, took, letter: Timed(start, start + took, SEEN[letter]),
        st.floats(-2, 5),
        st.floats(0.001, 0.5),
        st.sampled_from("oooxxx5?esbt"),
    ),
    max_size=40,
)
moments = st.builds(Moments, st.floats(-0.2, -0.001), st.none() | st.floats(0, 3))


@given(answers, moments)
def test_laws_of_any_course(given_answers: list[Timed], at: Moments) -> None:
    run = analyse(OPEN, SHUT, given_answers, at)
    assert run == analyse(OPEN, SHUT, list(reversed(given_answers)), at) or _ties(given_answers)
    assert run.requests == len(given_answers)
    assert 0 <= run.stale_after_ready <= run.stale_after_accepted <= run.requests
    assert run.first_new is None or run.first_new >= 0
    assert (run.stale_after_accepted > 0) == (run.last_old > 0)
    assert run.flaps <= run.requests
    if not run.problem:
        # What passes has ended with the new answer, and had the old one before.
        ordered = sorted(given_answers, key=lambda item: item.start)
        assert fits(SHUT, ordered[-1].seen)
        assert run.first_new is not None
        assert all(fits(OPEN, item.seen) for item in ordered if item.end <= at.sent)


def _ties(items: list[Timed]) -> bool:
    return len({item.start for item in items}) < len(items)


@given(answers, moments, st.floats(0.1, 3))
def test_a_later_barrier_finds_no_more_leaks(given_answers: list[Timed], at: Moments, later: float) -> None:
    early = analyse(OPEN, SHUT, given_answers, Moments(at.sent, 0.0))
    late = analyse(OPEN, SHUT, given_answers, Moments(at.sent, later))
    assert late.stale_after_ready <= early.stale_after_ready == early.stale_after_accepted


def run_of(**fields: t.Any) -> Run:
    return Run(**{
        "first_new": 0.1, "last_old": 0.05, "stale_after_accepted": 0, "stale_after_ready": 0, "flaps": 0,
        "ready": 0.3, "requests": 9, "changes": [], **fields,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "fields", "verdict", "words"),
    [
        (Limits(), {}, "pass", ""),
        (Limits(), {"stale_after_ready": 3, "stale_after_accepted": 9}, "pass", ""),
        (Limits(leaks_after_ready=0), {"stale_after_ready": 1}, "fail", "1 requests leaked after every proxy had it"),
        (Limits(leaks_after_ready=1), {"stale_after_ready": 1}, "pass", ""),
        (Limits(leaks_after_accepted=0), {"stale_after_accepted": 2}, "fail", "(leaks_after_accepted: 0)"),
        (Limits(converges_within=0.2), {"last_old": 0.25}, "fail", "converged after 0.25 s (converges_within: 0.2)"),
        (Limits(converges_within=0.2), {"first_new": 0.2}, "pass", ""),
        (Limits(), {"problem": "it leaks"}, "fail", "it leaks (in 1 of 2 runs)"),
        (Limits(), {"problem": "no curl", "broken": True}, "error", "no curl (in 1 of 2 runs)"),
    ],
)
def test_verdicts(limits: Limits, fields: dict[str, t.Any], verdict: str, words: str) -> None:
    found, reason = judge_runs(SHUT, OPEN, limits, [run_of(), run_of(**fields)])
    assert found == verdict
    assert words in reason
    assert bool(reason) == (verdict != "pass")


def test_what_is_opened_late_is_no_leak() -> None:
    strict = Limits(leaks_after_ready=0, leaks_after_accepted=0)
    stale = run_of(stale_after_ready=1, stale_after_accepted=1)
    assert judge_runs(OPEN, SHUT, strict, [stale]) == ("pass", "")
    assert judge_runs(SHUT, OPEN, strict, [stale])[0] == "fail"
    assert judge_runs(SHUT, OPEN, strict, [])[0] == "error"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], None),
        ([None], None),
        ([0.5], {"p50": 0.5, "p99": 0.5, "max": 0.5}),
        ([3.0, 1.0, 2.0, None], {"p50": 2.0, "p99": 3.0, "max": 3.0}),
        ([number / 100 for number in range(1, 201)], {"p50": 1.0, "p99": 1.98, "max": 2.0}),
    ],
)
def test_quantiles(values: list[float | None], expected: dict[str, float] | None) -> None:
    assert plain(quantiles(values)) == expected


def test_clocks() -> None:
    # The pod's clock is 100 s behind, and output is heard 0.002 s later at best.
    assert clock_offset([(1.0, 101.2), (2.0, 102.002), (3.0, 103.5)]) == pytest.approx(100.002)
    assert spacing([(1.0, 0), (1.1, 0), (1.2, 0), (9.0, 0)]) == pytest.approx(0.1)
    assert spacing([(1.0, 0)]) == 0
    assert spacing([]) == 0


def test_codes_count() -> None:
    assert fits(OPEN, Seen("allowed", 204, 0))
    assert not fits(OPEN, Seen("allowed", 500, 0))
    assert fits(Expectation("denied_l7"), Seen("denied_l7", 403, 0))
    assert not fits(Expectation("denied_l4", None, frozenset({56})), Seen("denied_l4", 0, 52))
    # Of gRPC the refusal is in its own status.
    assert fits(Expectation("denied_l7"), Seen("denied_l7", 200, 0, headers={"grpc-status": "7"}))
