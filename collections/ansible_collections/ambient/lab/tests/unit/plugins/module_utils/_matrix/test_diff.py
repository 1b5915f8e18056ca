# The difference of two matrices: by table, and for whatever two matrices there may be.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import DEFAULT_CODES, EXPECTABLE
from ansible_collections.ambient.lab.plugins.module_utils._matrix.diff import (
    KINDS,
    Change,
    State,
    compare,
    difference,
    stated,
)
from ansible_collections.ambient.lab.plugins.module_utils._results.codec import plain
from ansible_collections.ambient.lab.tests.unit.fakes.objects import claim, claims
from hypothesis import given
from hypothesis import strategies as some

OPEN = State("allowed", frozenset({200}))
ANY_2XX = State("allowed", frozenset(range(200, 300)))
CLOSED = State("denied_l4", policy="default/p")
NAMELESS = State("denied_l4")


@pytest.mark.parametrize(
    ("was", "now", "kind"),
    [
        (OPEN, OPEN, ""),
        (ANY_2XX, State("allowed", frozenset({204})), ""),
        (OPEN, State("allowed", frozenset({204})), "changed"),
        (OPEN, CLOSED, "closed"),
        (CLOSED, OPEN, "opened"),
        (CLOSED, State("tls"), "opened"),
        (State("tls"), CLOSED, "closed"),
        (State("tls"), OPEN, "changed"),
        (CLOSED, State("denied_l7", frozenset({403})), "changed"),
        (CLOSED, State("timeout"), "changed"),
        (State("timeout"), OPEN, "changed"),
        (CLOSED, NAMELESS, ""),
        (NAMELESS, CLOSED, ""),
        (CLOSED, State("denied_l4", policy="default/other"), "changed"),
        (State("denied_l4", exits=frozenset({52})), State("denied_l4", exits=frozenset({56})), "changed"),
        (State("denied_l4"), State("denied_l4", exits=frozenset({56})), ""),
        (OPEN, State("allowed", frozenset({200}), unclear="it flaps"), "changed"),
    ],
)
def test_compare(was: State, now: State, kind: str) -> None:
    assert compare(was, now) == kind


def test_a_difference_names_the_policy_that_it_is_about() -> None:
    was = {"a": CLOSED, "b": OPEN, "c": OPEN, "d": OPEN, "e": OPEN, "f": NAMELESS}
    now = {"a": OPEN, "b": CLOSED, "c": OPEN, "g": CLOSED, "f": CLOSED}
    found = difference(was, now, {"d": "its Service is gone"}, {"e": "no curl"})
    assert found.same == ("c", "f")
    assert str(found) == "1 opened, 1 closed, 1 unprobed, 1 added, 1 gone"
    assert [(change.kind, change.name, change.policy, change.reason) for change in found.changes] == [
        ("opened", "a", "default/p", ""),
        ("closed", "b", "default/p", ""),
        ("unprobed", "e", None, "no curl"),
        ("added", "g", "default/p", "the file does not have it"),
        ("gone", "d", None, "its Service is gone"),
    ]
    assert plain(found.of("closed")[0].kept()) == {
        "name": "b",
        "was": "allowed HTTP 200",
        "now": "denied_l4 by default/p",
        "policy": "default/p",
        "reason": "",
    }


def test_a_change_of_policies_shows_the_one_of_now() -> None:
    change = Change("a", "changed", CLOSED, State("denied_l4", policy="default/other"))
    assert change.policy == "default/other"
    assert Change("a", "opened", NAMELESS, OPEN).policy is None


def test_a_claim_states_what_it_expects() -> None:
    (plain, exact) = claims(
        claim("a"), claim("b", expect={"outcome": "denied_l7", "exit_code": 0}, by="default/p", before="timeout")
    )
    assert stated(plain) == ANY_2XX
    assert str(stated(plain)) == "allowed"
    assert stated(exact) == State("denied_l7", frozenset({403}), frozenset({0}), "default/p")
    assert str(stated(exact)) == "denied_l7 HTTP 403 by default/p"
    assert str(State("timeout", unclear="it flaps")) == "timeout (it flaps)"


@some.composite
def states(draw: some.DrawFn) -> State:
    outcome = draw(some.sampled_from([*EXPECTABLE, "probe_error"]))
    codes = draw(some.frozensets(some.integers(200, 599), min_size=1, max_size=3)) if outcome in DEFAULT_CODES else None
    policy = draw(some.none() | some.sampled_from(["default/p", "default/q"]))
    return State(
        outcome, codes, draw(some.none() | some.just(frozenset({56}))), policy, draw(some.sampled_from(["", "x"]))
    )


matrices = some.dictionaries(some.sampled_from("abcdefgh"), states())


@given(matrices)
def test_a_matrix_does_not_differ_from_itself(matrix: dict[str, State]) -> None:
    found = difference(matrix, matrix)
    assert found.changes == ()
    assert set(found.same) == set(matrix)
    assert str(found) == ""


@given(matrices, matrices, some.sets(some.sampled_from("abcdefgh")))
def test_every_name_has_one_place(was: dict[str, State], now: dict[str, State], unprobed: set[str]) -> None:
    found = difference(was, now, {}, dict.fromkeys(unprobed, "no curl"))
    places = [*found.same, *(change.name for kind in KINDS for change in found.of(kind))]
    assert len(places) == len(set(places))
    assert set(places) == set(was) | set(now)
    assert len(found.changes) == sum(len(found.of(kind)) for kind in KINDS)
    assert {change.name for change in found.of("added")} == set(now) - set(was)
    one_sided = {change.name for kind in ("gone", "unprobed") for change in found.of(kind)}
    assert one_sided == set(was) - set(now)
    assert {change.name for change in found.of("unprobed")} == (set(was) - set(now)) & unprobed


@given(matrices, matrices)
def test_what_opens_one_way_closes_the_other(was: dict[str, State], now: dict[str, State]) -> None:
    there, back = difference(was, now), difference(now, was)
    for one, other in (("opened", "closed"), ("closed", "opened"), ("added", "gone"), ("gone", "added")):
        assert {change.name for change in there.of(one)} == {change.name for change in back.of(other)}
    named = {change.name: change.policy for change in there.of("opened")}
    assert named == {change.name: change.policy for change in back.of("closed")}
