"""The project's screen output: a failure is its message alone, and a task that tries again is silent; -v shows all.

The last line says how long the run took.
"""

from __future__ import annotations

import json
import re
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
    ("task", "arguments", "said"),
    [
        (FAILING, (), f"fatal: [localhost]: {WORDS}"),
        (FAILING, ("-v",), "fatal: [localhost]: FAILED! =>"),
        # Each item of a loop fails by itself; the whole of it has nothing to add.
        ({**FAILING, "loop": [1]}, (), "failed: [localhost] (item=1) =>"),
    ],
)
def test_a_failure_is_its_message(tmp_path: Path, task: object, arguments: tuple[str, ...], said: str) -> None:
    lines = shown(tmp_path, task, *arguments).splitlines()
    assert [line.strip() for line in lines if line.startswith(("fatal: ", "failed: "))] == [said]
    # The whole result has the expression that was evaluated, for example.
    assert any("assertion" in line for line in lines) is not said.endswith(WORDS)


def test_a_message_does_not_drive_the_terminal(tmp_path: Path) -> None:
    task = {"ansible.builtin.fail": {"msg": "one\n  \x1b[2Jtwo\x07"}}
    assert "fatal: [localhost]: one\n   [2Jtwo \n" in shown(tmp_path, task)


def test_the_last_line_is_the_time(tmp_path: Path) -> None:
    assert re.search(r"^PLAY RECAP .*\n\nTook \d+ s\n\Z", shown(tmp_path, WAITING), re.M | re.S)


@pytest.mark.parametrize(("value", "is_shown"), [("1", False), ("9", True)])
def test_a_check_of_arguments_is_shown_where_it_fails(tmp_path: Path, value: str, is_shown: bool) -> None:
    task = {"ansible.builtin.import_role": {"name": "cluster", "tasks_from": "verify"}}
    facts = "cluster_name=none lab_dir=/none embedded_cache_dir=/none istio_namespace=istio-system"
    printed = shown(tmp_path, task, "-e", f"{facts} cluster_workers={value}")
    assert ("Validating arguments" in printed) is is_shown, printed
    assert ("value of cluster_workers must be one of" in printed) is is_shown
