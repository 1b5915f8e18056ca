"""The collection knows nothing of this repository, and documents the contract of the program in embedded/."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from ansible_collections.ambient.lab.plugins.action.embedded_cluster import _contract
from ansible_collections.ambient.lab.plugins.modules import embedded_cluster
from project import COLLECTION, ROOT

CONTRACT = json.loads((ROOT / "embedded/ambient_embedded/contract.json").read_text(encoding="utf-8"))
# Playbooks, roles, their variables and tags, and the docs of this repository.
OURS = re.compile(
    r"site\.yml|playbooks/|docs/(?!\w+\.schema\.json)[a-z-]+[./]|\bmake (up|down|build|clean)"
    r"|--tags [`<{]*\w|\brole( C\(| `|'s name)"
    r"|\b(cluster|embedded|istio_ambient|l4_authz|l7_waypoint)_(provider=|istio|\w+_dir)"
)


def test_the_collection_says_nothing_of_this_repository() -> None:
    """Whoever has installed it alone has neither its playbooks nor its roles."""
    files = [path for path in (COLLECTION / "plugins").rglob("*") if path.suffix in (".py", ".j2")]
    text = {path: re.sub(r"https?://\S+", "", path.read_text(encoding="utf-8")) for path in files}
    assert [(path.name, found[0]) for path, words in text.items() for found in OURS.finditer(words)] == []


def without_words(options: dict[str, Any]) -> dict[str, Any]:
    """Documented options as an argument spec has them."""
    found = {}
    for name, option in options.items():
        kept = {key: value for key, value in option.items() if key not in ("description", "suboptions", "sample")}
        nested = {"options": without_words(option["suboptions"])} if "suboptions" in option else {}
        found[name] = kept | nested
    return found


def test_the_documented_options_are_those_of_the_contract() -> None:
    documented = without_words(yaml.safe_load(embedded_cluster.DOCUMENTATION)["options"])
    del documented["source"]
    # Ansible's own check mode.
    assert {**documented, "check": {"type": "bool", "default": False}} == CONTRACT["options"]


def test_the_documented_answer_is_that_of_the_contract() -> None:
    answer = {name: {**value, "returned": "O(state=present)"} for name, value in CONTRACT["answer"].items()}
    assert without_words(yaml.safe_load(embedded_cluster.RETURN)) == answer


def test_the_documentation_says_which_state_needs_what() -> None:
    words = {
        name: str(option["description"])
        for name, option in yaml.safe_load(embedded_cluster.DOCUMENTATION)["options"].items()
    }
    documented = {
        name: set(re.findall(r"O\(state=(\w+)\)", text.partition("Required when")[2])) for name, text in words.items()
    }
    needed = {name: {state for _key, state, names in CONTRACT["required_if"] if name in names} for name in words}
    assert documented == needed


@pytest.mark.parametrize("source", ["", "/nowhere"])
def test_a_source_that_is_not_the_project_is_named(source: str) -> None:
    with pytest.raises(AnsibleActionFail, match="source must be the folder of the project ambient-embedded"):
        _contract(source)
