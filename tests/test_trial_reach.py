"""The trial of changes and mutants, against the model itself: each pair alone meets what its class was said to meet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen
from ansible_collections.ambient.lab.plugins.module_utils._mesh.folder import assembled, read_objects
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh
from ansible_collections.ambient.lab.plugins.module_utils._mesh.predictions import predict
from ansible_collections.ambient.lab.plugins.module_utils._mesh.valid import problems
from running_lab import Lab
from trial import Asking, path_at
from trial_reach import ReachTrial
from trial_world import objects

Object = dict[str, Any]


def world() -> list[Object]:
    """The trial's world with addresses, as a cluster gives them."""
    found = objects({"app": "app", "curl": "curl"})
    for number, item in enumerate(found):
        if item["kind"] == "Pod":
            item["status"] = {"podIP": f"10.244.0.{number}"}
        if item["kind"] == "Service":
            item["spec"].setdefault("clusterIP", f"10.96.0.{number}")
    return read_objects([("world.yaml", yaml.safe_dump_all(found))], "the world")[0]


class Predicted(ReachTrial):
    """A lab in which everything is as predicted."""

    def __init__(self, seed: int) -> None:
        super().__init__(Lab(Path(), {"kubeconfig": None}), seed)
        self.world = world()

    def replace(self, policies: list[Object]) -> int:
        """Take what the API would take."""
        refused = [item for item in policies if item["kind"] == "AuthorizationPolicy" and any(problems(item))]
        self.there = {path_at(item): item for item in policies if item not in refused}
        return len(refused)

    def await_status(self) -> None:
        """Nobody need be waited for."""

    def mesh(self) -> Mesh:
        """Made of the policies that are there."""
        return assembled([*self.world, *self.there.values()])

    def measure(self, mesh: Mesh, asked: list[Asking]) -> list[Seen]:
        """What is predicted of each request alone."""
        pods = [(mesh.get("Pod", space, name), request, space) for (name, space), request in asked]
        return [Seen(predict(mesh, *one)[1].outcome, 0, 0) for one in pods]


@pytest.fixture(name="trial")
def fixture_trial(monkeypatch: pytest.MonkeyPatch) -> Predicted:
    monkeypatch.setattr("trial.KubeEdge", lambda *_: None)
    monkeypatch.setattr("trial_reach.time.sleep", lambda _seconds: None)
    return Predicted(3)


def test_changes_are_predicted_by_classes_as_by_pairs(trial: Predicted) -> None:
    for number in range(25):
        trial.change(number)
    assert trial.differences == []
    assert min(trial.opened, trial.closed) > 50


def test_mutants_turn_the_claims_red_that_they_are_said_to(trial: Predicted) -> None:
    assert sum(trial.mutate(number, 10) for number in range(200_000, 200_004)) > 10
    assert trial.differences == []
