# The user's policy while it is away: whatever ends the module, it is given back or named with its file.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import pathlib
import signal
import time
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kept import Kept, as_new
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._convergence.policy_convergence import policy_convergence
from ansible_collections.ambient.lab.plugins.modules import policy_convergence as module
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi
from ansible_collections.ambient.lab.tests.unit.fakes.convergence import (
    DEFINITION,
    DRY_RUN,
    POLICIES,
    SPEC,
    Object,
    Switched,
    World,
    claims_of,
    measure,
    params,
)
from ansible_collections.ambient.lab.tests.unit.fakes.program import start


def ended(api: FakeApi, world: World, tmp_path: pathlib.Path, claims: list[Object], number: signal.Signals) -> int:
    """What a module returns that gets a signal as soon as it has taken the policy away."""
    with start(module, params(api, tmp_path, claims, repeats=50)) as program:
        while not world.sent:
            assert program.poll() is None, program.communicate()
            time.sleep(0.01)
        program.send_signal(number)
        program.communicate(timeout=30)
    return int(program.returncode)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_module_that_is_ended_gives_the_policy_back(
    tmp_path: pathlib.Path, state_folder: pathlib.Path, number: signal.Signals
) -> None:
    with Switched() as opened:
        server = t.cast("Switched", opened)
        world = World(server, spec=SPEC)
        with world.served() as api:
            assert ended(api, world, tmp_path, claims_of(server), number) == 128 + number
    assert world.policy is not None
    assert world.policy["spec"] == SPEC
    assert list(state_folder.iterdir()) == []


def test_a_module_that_is_killed_leaves_the_policy_in_a_file(
    tmp_path: pathlib.Path, state_folder: pathlib.Path
) -> None:
    with Switched() as opened:
        server = t.cast("Switched", opened)
        world = World(server, spec=SPEC)
        assert world.policy is not None
        world.policy["metadata"] |= DRY_RUN
        with world.served() as api:
            assert ended(api, world, tmp_path, claims_of(server), signal.SIGKILL) == -signal.SIGKILL
            (file,) = state_folder.iterdir()
            assert (file.stat().st_mode & 0o777, state_folder.stat().st_mode & 0o777) == (0o600, 0o700)
            kept = json.loads(file.read_text())
            assert kept == {**DEFINITION, "metadata": {"name": "p", "namespace": "default", **DRY_RUN}}
            # The next run says so, and changes nothing.
            given, sent = params(api, tmp_path, claims_of(server), settle=0.2), list(world.sent)
            for check in (True, False):
                with pytest.raises(LabError, match="has not given it back") as caught:
                    policy_convergence(given, check)
                assert f"replace --force -f {file}`" in caught.value.message
            assert world.sent == sent
            # Once somebody has given it back, the file is of no use any more.
            world._put(kept)
            server.answer = "reset"
            policy_convergence(given, False)
    assert world.policy["metadata"]["annotations"] == DRY_RUN["annotations"]
    assert list(state_folder.iterdir()) == []


@pytest.mark.parametrize("results", [False, True])
def test_a_policy_that_can_not_be_given_back_is_named_with_its_file(
    tmp_path: pathlib.Path, state_folder: pathlib.Path, results: bool
) -> None:
    with Switched() as opened:
        server = t.cast("Switched", opened)
        world = World(server, spec=SPEC)
        world.objects[f"POST {POLICIES}"] = (500, {"message": "etcd is gone"})
        changed: Object = {"results_file": str(tmp_path / "results.json"), "section": "s"} if results else {}
        with pytest.raises(LabError, match="HTTP 500: etcd is gone\ndefault/p was not given back") as caught:
            measure(world, tmp_path, claims_of(server), settle=0.2, **changed)
    assert world.policy is None
    (file,) = (tmp_path if results else state_folder).glob("policy_default_p_*.json")
    assert str(file) in caught.value.message
    assert json.loads(file.read_text())["spec"] == SPEC


def test_nothing_is_removed_that_can_not_be_kept(tmp_path: pathlib.Path) -> None:
    (tmp_path / "state").touch()
    with Switched() as opened:
        server = t.cast("Switched", opened)
        world = World(server, spec=SPEC)
        with pytest.raises(LabError, match=r"can't be kept in .* Nothing was changed"):
            measure(world, tmp_path, claims_of(server))
    assert world.sent == []


def test_a_kept_policy_that_is_none(tmp_path: pathlib.Path, state_folder: pathlib.Path) -> None:
    kept = Kept(str(state_folder), "https://api", "default/p", "kubectl")
    state_folder.mkdir(parents=True)
    for content in ("{", "[]", "{}"):
        pathlib.Path(kept.path).write_text(content)
        with pytest.raises(LabError, match="can't be read"):
            kept.require_none({"metadata": {}})


def test_an_object_is_given_back_without_what_the_api_set() -> None:
    policy = {"kind": "K", "metadata": {"name": "p", "uid": "1", "annotations": {"a": "b"}}, "status": {}, "spec": {}}
    assert as_new(policy) == {"kind": "K", "metadata": {"name": "p", "annotations": {"a": "b"}}, "spec": {}}
