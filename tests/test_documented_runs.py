"""Every ansible-playbook command in the documentation asks for tags and variables that there are."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
import yaml
from ansible_collections.ambient.lab.plugins.plugin_utils._run.validate_run import Known, problems
from project import ROOT, tracked

# After a prompt stands a run that is shown with how it ends.
COMMAND = re.compile(r"(?<!\$ )ansible-playbook ((?:-i \S+ )?(?:site|playbooks/\w+)\.yml[^`#\n|;]*)")
VARIABLES = ("lab", "kind", "existing")
# In a process of its own, because Ansible changes how collections are imported.
KNOWN = """
import json, os, sys
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.vars.manager import VariableManager
from ansible.plugins.loader import init_plugin_loader
init_plugin_loader([os.path.abspath("collections")])
from ansible_collections.ambient.lab.plugins.plugin_utils._run.validate_run import known_of, playbook_plays, specified
loader = DataLoader()
inventory = InventoryManager(loader, ["inventory/hosts.yml"])
manager = VariableManager(loader, inventory)
shared = manager.get_vars(host=inventory.get_host("localhost"))
for path in sys.argv[1:]:
    known = known_of(playbook_plays([path], manager, loader), specified(["roles"]), shared)
    print(json.dumps([path, sorted(known.tags), sorted(known.variables), known.types]))
"""
COMMANDS = {
    f"{path}: {found.strip()}"
    for path in tracked("*.md")
    for found in COMMAND.findall((ROOT / path).read_text(encoding="utf-8").replace("\\\n", " "))
}


@pytest.fixture(scope="module")
def known() -> dict[str, Known]:
    """What each playbook can be asked for."""
    playbooks = [path for path in tracked("site.yml", "playbooks/*.yml") if path.count("/") < 2]
    shown = subprocess.run([sys.executable, "-c", KNOWN, *playbooks], cwd=ROOT, check=True, capture_output=True).stdout
    lines = [json.loads(line) for line in shown.splitlines()]
    return {path: Known(set(tags), set(names), types) for path, tags, names, types in lines}


def asked(words: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Tags and extra variables of a command."""
    tags: list[str] = []
    variables: dict[str, Any] = {}
    for option, value in itertools.pairwise(words):
        if option in ("--tags", "--skip-tags", "-t"):
            tags += value.split(",")
        elif option == "-e" and not value.startswith("@"):
            given = yaml.safe_load(value) if value.startswith("{") else dict([value.split("=", 1)])
            variables |= given
    return tags, variables


def test_documented_commands_ask_for_what_there_is(known: dict[str, Known]) -> None:
    found = {}
    for command in COMMANDS:
        words = shlex.split(command, comments=True)
        playbook = next(word for word in words if word in known)
        if lines := problems(known[playbook], *asked(words)):
            found[command] = lines
    assert found == {}


@pytest.mark.parametrize("name", VARIABLES)
def test_the_scenarios_variables_are_known(name: str, known: dict[str, Known]) -> None:
    variables = yaml.safe_load((ROOT / f"molecule/vars/{name}.yml").read_text(encoding="utf-8"))
    assert problems(known["site.yml"], [], variables) == []


def test_all_playbooks_check_what_they_are_asked_for(known: dict[str, Known]) -> None:
    """A playbook that began otherwise would take a spelling mistake for nothing to do."""
    for path in known:
        plays = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
        if path != "playbooks/preflight.yml":
            assert plays[0]["ansible.builtin.import_playbook"].endswith("preflight.yml"), path
