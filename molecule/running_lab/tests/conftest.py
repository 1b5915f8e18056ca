"""The lab of the scenario, for its tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import fault_world as world
import pytest
from running_lab import Lab
from trial import Trial


@pytest.fixture(scope="session")
def lab() -> Lab:
    return Lab.at(Path(os.environ["AMBIENT_LAB_DIR"]))


@pytest.fixture(scope="session")
def faults(lab: Lab) -> Iterator[None]:
    """The namespace `faults`, and the policy in it, whose claims hold; all of it goes afterwards."""
    lab.apply(world.objects(lab))
    try:
        lab.kubectl("wait", "-n", world.NAMESPACE, "--for=condition=Ready", "pod", "--all", "--timeout=60s")
        lab.apply([world.policy()])
        holds = world.check(lab, world.CLAIMS, timeout=30.0)
        assert holds.verdict == "pass", holds.message
        yield
    finally:
        lab.kubectl("delete", "namespace", world.NAMESPACE, "--timeout=60s")


@pytest.fixture(scope="session")
def trial(lab: Lab) -> Iterator[Trial]:
    """The trial's namespaces, for the files that share them; all of them go afterwards."""
    made = Trial(lab, seed=20261126, requests=24)
    try:
        made.set_up()
        yield made
    finally:
        made.clean_up()
