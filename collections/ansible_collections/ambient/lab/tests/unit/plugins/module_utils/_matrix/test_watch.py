# When a matrix counts as seen: rounds, proofs, flapping, and answers that say nothing.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._check.rounds import Settings
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Claim
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen, probe_error
from ansible_collections.ambient.lab.plugins.module_utils._matrix.plan import Pair
from ansible_collections.ambient.lab.plugins.module_utils._matrix.watch import MAX_PROOFS, Observed, Proof, watch
from ansible_collections.ambient.lab.tests.unit.fakes.objects import claim, claims

OK = Seen("allowed", 200, 0)
BUSY = Seen("allowed", 503, 0)
CUT = Seen("denied_l4", 0, 56)
SLOW = Seen("timeout", 0, 28)
LOST = probe_error("pod default/curl is gone")
CLAIMS = claims(claim("a"), claim("b"))


class World:
    """Answers by round; a round takes a second, and so does a proof."""

    def __init__(self, answers: t.Callable[[int], list[Seen]], proof: t.Callable[[int, Claim], Proof]) -> None:
        self._answers, self._proof = answers, proof
        self.clock = 0.0
        self.rounds = 0
        self.proven: list[list[str]] = []

    def ask(self) -> list[Seen]:
        self.clock += 1
        self.rounds += 1
        return self._answers(self.rounds)

    def prove(self, claims: t.Sequence[Claim]) -> list[Proof]:
        self.clock += 1
        self.rounds += 1
        self.proven.append([f"{item.name}: {item.after}" for item in claims])
        seen = dict(zip(("a", "b"), self._answers(self.rounds), strict=True))
        return [dataclasses.replace(self._proof(self.rounds, item), seen=seen[item.name]) for item in claims]

    def now(self) -> float:
        return self.clock

    def sleep(self, seconds: float) -> None:
        self.clock += seconds


def watched(
    answers: t.Callable[[int], list[Seen]],
    proof: t.Callable[[int, Claim], Proof] = lambda number, item: Proof("application"),
    http: tuple[bool, bool] = (True, True),
    **settings: t.Any,
) -> tuple[World, Observed]:
    """Watch two cells."""
    world = World(answers, proof)
    chosen = Settings(**{"stable": 2, "timeout": 20.0, "interval": 0.5, **settings})
    pairs = [Pair(item, "", "", http=known) for item, known in zip(CLAIMS, http, strict=True)]
    return world, watch(pairs, chosen, world, world)


def by_ztunnel(number: int, item: Claim) -> Proof:
    """A proof in which ztunnel names its policy."""
    return Proof("ztunnel", "default/p") if item.after.outcome == "denied_l4" else Proof("application")


def test_two_rounds_that_agree_are_enough() -> None:
    world, seen = watched(lambda number: [OK, CUT], by_ztunnel)
    assert (seen.rounds, seen.elapsed) == (2, 2.5)
    assert world.proven == [["a: allowed HTTP 200", "b: denied_l4"]]
    assert [str(cell.state) for cell in seen.cells] == ["allowed HTTP 200", "denied_l4 by default/p"]
    assert [cell.decided_by for cell in seen.cells] == ["application", "ztunnel"]
    assert seen.cells[1].state.exits == frozenset({56})


def test_a_cell_that_can_not_be_asked_ends_like_the_others() -> None:
    world, seen = watched(lambda number: [OK, LOST])
    assert (len(world.proven), seen.cells[1].seen) == (1, LOST)
    world, seen = watched(lambda number: [OK, LOST if number < 3 else CUT], by_ztunnel)
    assert seen.cells[1].seen == CUT
    assert world.proven[-1] == ["a: allowed HTTP 200", "b: denied_l4"]


@pytest.mark.parametrize(
    ("policy", "named"),
    [
        ("istio-system/istio_converted_static_strict", "PeerAuthentication STRICT, which refuses plain text"),
        ("default/converted_peer_authentication_no-plain-text", "PeerAuthentication default/no-plain-text"),
        ("default/istio_allow_waypoint_default_wp", "istiod's own default/istio_allow_waypoint_default_wp"),
    ],
)
def test_a_policy_of_istiods_own_is_named_by_what_it_is_made_of(policy: str, named: str) -> None:
    _world, seen = watched(lambda number: [OK, CUT], lambda number, item: Proof("ztunnel", policy))
    assert str(seen.cells[1].state) == f"denied_l4 by {named}"


@pytest.mark.parametrize(("stable", "rounds"), [(1, 2), (2, 2), (3, 3), (5, 5)])
def test_stable_is_the_number_of_rounds(stable: int, rounds: int) -> None:
    assert watched(lambda number: [OK, OK], stable=stable)[1].rounds == rounds


def test_an_answer_that_settles_is_waited_for() -> None:
    _engine, seen = watched(lambda number: [OK, SLOW if number < 3 else CUT], by_ztunnel, stable=3)
    assert seen.rounds == 5
    assert [cell.state.outcome for cell in seen.cells] == ["allowed", "denied_l4"]
    assert [cell.flapped for cell in seen.cells] == [(), ()]


def test_another_answer_to_the_proof_is_one_more_round() -> None:
    world, seen = watched(lambda number: [OK, SLOW if number == 2 else CUT], by_ztunnel)
    assert len(world.proven) == 3
    assert seen.rounds == 4
    assert str(seen.cells[1].state) == "denied_l4 by default/p"


def test_a_pair_that_flaps_is_no_claim() -> None:
    _engine, seen = watched(lambda number: [OK, CUT if number % 2 else OK], by_ztunnel)
    assert seen.elapsed >= 20
    assert str(seen.cells[0].state) == "allowed HTTP 200"
    assert seen.cells[1].flapped
    assert seen.cells[1].state.unclear.startswith("it flaps: ")
    assert "denied_l4 000/56" in seen.cells[1].state.unclear


def test_a_status_that_varies_gives_a_list_of_codes() -> None:
    _engine, seen = watched(lambda number: [OK, OK if number % 2 else BUSY])
    assert seen.cells[1].flapped == ()
    assert str(seen.cells[1].state) == "allowed HTTP 200|503"


def test_a_probe_that_fails_is_no_claim_and_needs_no_proof() -> None:
    world, seen = watched(lambda number: [LOST, OK])
    assert set(map(tuple, world.proven)) == {("b: allowed HTTP 200",)}
    assert seen.cells[0].state.unclear == "pod default/curl is gone"
    world, seen = watched(lambda number: [LOST, LOST])
    assert world.proven == []
    assert [bool(cell.state.unclear) for cell in seen.cells] == [True, True]


def test_a_denial_that_nobody_bears_out_is_tried_again_and_no_claim() -> None:
    def silent(number: int, item: Claim) -> Proof:
        return Proof(problem="nothing shows the path alive")

    world, seen = watched(lambda number: [OK, CUT], silent)
    assert len(world.proven) == MAX_PROOFS
    # An answer of the application needs nobody's word.
    assert [cell.state.unclear for cell in seen.cells] == ["", "nothing shows the path alive"]


def test_a_block_that_nobody_can_prove_is_no_claim_and_not_tried_again() -> None:
    def unproven(number: int, item: Claim) -> Proof:
        return Proof(problem="" if item.after.outcome == "allowed" else "nothing shows who blocks it")

    world, seen = watched(lambda number: [OK, SLOW], unproven)
    assert len(world.proven) == 1
    assert seen.cells[1].state.unclear == "nothing shows who blocks it"


def test_a_proof_that_comes_late_counts() -> None:
    _engine, seen = watched(
        lambda number: [OK, CUT],
        lambda number, item: Proof(problem="log is late") if number == 2 else by_ztunnel(number, item),
    )
    assert seen.cells[1].state.unclear == ""


@pytest.mark.parametrize(
    ("answer", "proof", "unclear"),
    [
        (OK, Proof("application"), ""),
        (CUT, Proof("ztunnel"), ""),
        (CUT, Proof("-"), "no proxy says that it denied this"),
        (SLOW, Proof("network"), "no proxy says that it denied this"),
        (Seen("probe_error", 0, 1), Proof(), "answered, but speaks no HTTP"),
        (LOST, Proof(), "pod default/curl is gone"),
    ],
)
def test_ports_that_may_speak_no_http(answer: Seen, proof: Proof, unclear: str) -> None:
    _engine, seen = watched(lambda number: [answer, OK], lambda number, item: proof, (False, True))
    assert unclear in seen.cells[0].state.unclear
    assert bool(unclear) == bool(seen.cells[0].state.unclear)


def test_time_that_is_up_ends_it_with_what_is_known() -> None:
    world, seen = watched(lambda number: [OK, CUT], by_ztunnel, timeout=0.0, stable=4)
    assert (world.rounds, seen.rounds) == (2, 2)
    assert [cell.state.unclear for cell in seen.cells] == ["", ""]
