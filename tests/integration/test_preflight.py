"""A run that would do nothing is refused: without a lab, or with a tag or a variable that nobody knows."""

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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tags", "l44"), "tag l44: did you mean l4?"),
        (("--skip-tags", "kialli", "--check"), "tag kialli: did you mean kiali?"),
        (("-e", "l4_authz_timout=5"), "variable l4_authz_timout: did you mean l4_authz_timeout?"),
        (("-e", "cluster_nmae=docs"), "variable cluster_nmae: did you mean cluster_name?"),
        (("--limit", "localhost", "-e", "colour=blue"), "variable colour"),
    ],
)
def test_what_nobody_knows_is_refused(arguments: tuple[str, ...], words: str) -> None:
    ran = play("playbooks/verify.yml", *arguments)
    assert (ran.returncode, words in ran.stdout) == (2, True), ran.stdout


def test_what_the_inventory_uses_is_known(tmp_path: Path) -> None:
    inventory = tmp_path / "labs.yml"
    inventory.write_text(
        'lab: {hosts: {one: {ansible_connection: local, lab_dir: "/none/{{ stage }}", cluster_name: x}}}\n'
    )
    ran = play("-i", str(inventory), "playbooks/verify.yml", "-e", "stage=docs")
    assert (ran.returncode, "No lab in /none/docs" in ran.stdout) == (2, True), ran.stdout


def test_a_limit_to_other_hosts_does_not_switch_it_off(tmp_path: Path) -> None:
    inventory = tmp_path / "labs.yml"
    inventory.write_text("lab: {hosts: {one: {ansible_connection: local}, two: {}}}\n")
    ran = play("-i", str(inventory), "playbooks/verify.yml", "--limit", "one", "--tags", "l44")
    assert (ran.returncode, "tag l44" in ran.stdout) == (2, True), ran.stdout
