# The measurement as a whole: a real loop, an API on the loopback whose policy switches what a server answers.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import pathlib
import threading
import typing as t

import pytest
import yaml
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.modules import policy_convergence as module
from ansible_collections.ambient.lab.tests.unit.fakes import report as fakes
from ansible_collections.ambient.lab.tests.unit.fakes.convergence import (
    DRY_RUN,
    SPEC,
    Object,
    Switched,
    World,
    claims_of,
    measure,
    params,
)
from ansible_collections.ambient.lab.tests.unit.fakes.objects import claim
from ansible_collections.ambient.lab.tests.unit.fakes.program import returned, start


def test_a_policy_that_works_at_once(tmp_path: pathlib.Path) -> None:
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"role": fakes.l7()}))
    with Switched() as opened:
        server = t.cast("Switched", opened)
        world = World(server)
        claims = claims_of(server, leaks_after_ready=0)
        found = measure(world, tmp_path, claims, repeats=2, results_file=str(results), section="role")
    assert (found["changed"], world.policy) == (False, None)
    conv = found["convergence"]
    assert (conv["verdict"], conv["reason"], conv["policy"], conv["repeats"]) == ("pass", "", "default/p", 2)
    assert conv["resolution"] >= 0.05
    for name, old, new in (("apply", "allowed", "denied_l4"), ("remove", "denied_l4", "allowed")):
        direction = conv["directions"][name]
        assert direction["ready"]["max"] >= 0
        stays, cut = direction["pairs"]
        assert (cut["old"], cut["new"], cut["from"]) == (old, new, "default/curl")
        assert (cut["stale_after_accepted"], cut["stale_after_ready"], cut["flaps"]) == (0, 0, 0)
        assert len(cut["runs"]) == 2
        assert [text.split(" ")[0] for _at, text in cut["runs"][0]["changes"]] == [old, new]
        assert (stays["old"], stays["new"], stays["flaps"]) == ("allowed", "allowed", 0)
    assert conv["requests"] == sum(pair["requests"] for item in conv["directions"].values() for pair in item["pairs"])
    kept = json.loads(results.read_text())["role"]
    assert (kept["convergence"], len(kept["after"]["claims"])) == (conv, 5)
    documented = yaml.safe_load(module.RETURN)
    assert set(documented["convergence"]["contains"]) == set(conv)


def test_a_policy_that_leaks_after_every_proxy_has_it(tmp_path: pathlib.Path) -> None:
    with Switched() as opened:
        server = t.cast("Switched", opened)
        world = World(server, late=0.4)
        with pytest.raises(LabError) as caught:
            measure(world, tmp_path, claims_of(server, leaks_after_ready=0), settle=1.2)
    conv = caught.value.result["convergence"]
    cut = conv["directions"]["apply"]["pairs"][1]
    assert cut["verdict"] == "fail"
    assert cut["stale_after_ready"] > 0
    assert cut["first_new"]["max"] > 0.2
    assert abs(cut["last_old"]["max"] - cut["first_new"]["max"]) <= 2 * conv["resolution"]
    # What is opened late is no leak.
    assert conv["directions"]["remove"]["pairs"][1]["verdict"] == "pass"
    lines = caught.value.message.splitlines()
    assert lines[0].startswith("default/p did not converge as the claims say (1 repeats, ")
    assert any("requests leaked after every proxy had it (leaks_after_ready: 0)" in line for line in lines)
    assert world.policy is None


@pytest.mark.parametrize(
    ("final_state", "there", "changed", "sent"),
    [
        (None, False, False, ["PATCH", "DELETE"]),
        (None, True, False, ["DELETE", "PATCH", "DELETE", "POST"]),
        ("present", False, True, ["PATCH", "DELETE", "PATCH"]),
        ("present", True, False, ["DELETE", "PATCH", "DELETE", "POST"]),
        ("absent", True, True, ["DELETE", "PATCH", "DELETE"]),
        ("absent", False, False, ["PATCH", "DELETE"]),
    ],
)
def test_final_states(
    tmp_path: pathlib.Path, final_state: str | None, there: bool, changed: bool, sent: list[str]
) -> None:
    with Switched() as opened:
        server = t.cast("Switched", opened)
        world = World(server, spec=SPEC if there else None)
        claims = claims_of(server)
        foreseen = measure(world, tmp_path, claims, check=True, final_state=final_state)
        assert (foreseen["changed"], world.sent, len(server.requests)) == (changed, [], 0)
        found = measure(world, tmp_path, claims, final_state=final_state, settle=0.2)
    assert (found["changed"], world.sent) == (changed, sent)
    assert (world.policy is not None) == (final_state == "present" or (final_state is None and there))


def test_a_dry_run_is_another_policy_than_the_one_that_is_given(tmp_path: pathlib.Path) -> None:
    """Its spec is the same, but it denies nobody."""
    with Switched() as opened:
        server = t.cast("Switched", opened)
        world = World(server, spec=SPEC)
        assert world.policy is not None
        world.policy["metadata"] |= DRY_RUN
        claims = claims_of(server)
        assert measure(world, tmp_path, claims, check=True, final_state="present")["changed"] is True
        found = measure(world, tmp_path, claims, final_state="present", settle=0.2)
    assert (found["changed"], world.sent) == (True, ["DELETE", "PATCH", "DELETE", "PATCH"])
    assert not set(DRY_RUN) & set(world.policy["metadata"])


def test_the_policy_is_given_back_when_something_fails(tmp_path: pathlib.Path) -> None:
    other = {**SPEC, "rules": [{"to": [{"operation": {"ports": ["9090"]}}]}]}
    with Switched() as opened:
        server = t.cast("Switched", opened)
        world = World(server, spec=other)
        world.accepted = False
        with pytest.raises(LabError, match="The API refused to apply the policy with HTTP 403"):
            measure(world, tmp_path, claims_of(server))
        assert world.policy is not None
        assert world.policy["spec"] == other
        count = len(server.requests)
        threading.Event().wait(0.5)
        assert len(server.requests) == count, "a loop was left behind"


class Deaf(World):
    """Its ztunnel never gets the policy."""

    def dump(self, _query: object) -> Object:
        """What ztunnel has."""
        return {"policies": []}


@pytest.mark.parametrize(("final_state", "changed"), [(None, False), ("absent", True)])
def test_the_policy_is_given_back_as_it_was(tmp_path: pathlib.Path, final_state: str | None, changed: bool) -> None:
    """Also where it fails while another policy is there that says the same."""
    ours = {"labels": {"app.kubernetes.io/managed-by": "ambient-lab"}, "annotations": {"why": "because"}}
    with Switched() as opened:
        server = t.cast("Switched", opened)
        world = Deaf(server, spec=SPEC)
        assert world.policy is not None
        world.policy["metadata"] |= ours
        with pytest.raises(LabError, match="apply: the barrier was not reached") as caught:
            measure(world, tmp_path, claims_of(server), timeout=1, settle=0.2, final_state=final_state)
    assert caught.value.result["changed"] is changed
    if changed:
        assert world.policy is None
    else:
        assert world.policy is not None
        assert {key: world.policy["metadata"].get(key) for key in ours} == ours


def test_a_failure_says_what_it_has_changed(tmp_path: pathlib.Path) -> None:
    with Switched() as opened:
        server = t.cast("Switched", opened)
        world = World(server)
        claims = [claim("wrong", to=server.url("proxy_403"), expect="denied_l4")]
        with world.served() as api:
            given = params(api, tmp_path, claims, settle=0.2, final_state="present")
            ok, told = returned(start(module, given))
    assert (ok, told["failed"], told["changed"]) == (False, True, True)
    assert "convergence" not in told


def test_what_others_keep_meanwhile_stays(tmp_path: pathlib.Path) -> None:
    results = tmp_path / "results.json"

    class Busy(World):
        def _patch(self, body: Object) -> Object | int:
            results.write_text(json.dumps({"other": {}}))
            return super()._patch(body)

    with Switched() as opened:
        server = t.cast("Switched", opened)
        claims = claims_of(server)
        measure(Busy(server), tmp_path, claims, settle=0.2, results_file=str(results), section="role")
    assert set(json.loads(results.read_text())) == {"other", "role"}


def test_answers_that_are_not_as_before_prove_nothing(tmp_path: pathlib.Path) -> None:
    with Switched() as opened:
        server = t.cast("Switched", opened)
        claims = [claim("wrong", to=server.url("proxy_403"), expect="denied_l4")]
        with pytest.raises(LabError, match="before the change it saw denied_l7 403/0, not allowed") as caught:
            measure(World(server), tmp_path, claims, settle=0.2)
    assert caught.value.result["convergence"]["verdict"] == "error"


def test_nothing_is_changed_where_a_source_can_not_probe(tmp_path: pathlib.Path) -> None:
    with Switched() as opened:
        server = t.cast("Switched", opened)
        world = World(server)
        bad = claim("cut", source={"pod": "nobody"}, expect="denied_l4")
        with pytest.raises(LabError, match="nothing was changed: pod default/nobody does not exist"):
            measure(world, tmp_path, [bad])
        assert world.sent == []
