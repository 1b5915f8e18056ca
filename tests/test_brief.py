"""The project's screen output: a failure is its message alone, and a task that tries again is silent; -v shows all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fleet import play

WORDS = "the message alone"
RETRYING = "RETRYING: [localhost]: Wait (1 retries left)"
FAILING = {"name": "Fail", "ansible.builtin.assert": {"that": False, "fail_msg": WORDS}}
WAITING = {
    "name": "Wait",
    "ansible.builtin.debug": {"msg": WORDS},
    "until": False,
    "retries": 1,
    "delay": 0,
    "register": "told",
    "failed_when": False,
}


def shown(folder: Path, task: object, *arguments: str) -> str:
    """What a playbook of one task prints."""
    playbook = folder / "brief.json"
    playbook.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [task]}]))
    return play("-i", "localhost,", "-c", "local", *arguments, str(playbook)).stdout


@pytest.mark.parametrize(("arguments", "is_shown"), [((), False), (("-v",), True)])
def test_a_wait_is_silent(tmp_path: Path, arguments: tuple[str, ...], is_shown: bool) -> None:
    printed = shown(tmp_path, WAITING, *arguments)
    assert "TASK [Wait]" in printed
    assert (RETRYING in printed) is is_shown


@pytest.mark.parametrize(
    ("task", "arguments", "is_brief"),
    [(FAILING, (), True), (FAILING, ("-v",), False), ({**FAILING, "loop": [1]}, (), False)],
)
def test_a_failure_is_its_message(tmp_path: Path, task: object, arguments: tuple[str, ...], is_brief: bool) -> None:
    lines = shown(tmp_path, task, *arguments).splitlines()
    assert (f"fatal: [localhost]: {WORDS}" in lines) is is_brief
    # Nothing else of the result: the expression that was evaluated, for example.
    assert any("assertion" in line for line in lines) is not is_brief
