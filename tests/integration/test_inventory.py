"""An inventory without a lab is refused: a run that proves nothing must not be green."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet import play

PLAYBOOKS = ("site.yml", "playbooks/verify.yml")


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_no_such_inventory(playbook: str) -> None:
    ran = play("-i", "no-such-file.yml", playbook)
    assert (ran.returncode, "No inventory was parsed" in ran.stdout) == (1, True), ran.stdout


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_an_inventory_without_hosts(playbook: str, tmp_path: Path) -> None:
    inventory = tmp_path / "empty.yml"
    inventory.write_text("all: {}\n")
    ran = play("-i", str(inventory), playbook)
    assert (ran.returncode, "no host in the group `lab`" in ran.stdout) == (2, True), ran.stdout


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_tags_do_not_switch_it_off(playbook: str, tmp_path: Path) -> None:
    inventory = tmp_path / "others.yml"
    inventory.write_text("all: {hosts: {staging: {}}}\n")
    ran = play("-i", str(inventory), playbook, "--tags", "l7")
    assert ran.returncode == 2, ran.stdout
