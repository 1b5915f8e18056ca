"""A role's variables are written down in two places, which agree; the reference is generated of them."""

from __future__ import annotations

import re

import pytest
from project import OPTIONAL, ROLES, ROOT, SHARED, defaults, load, options, tracked

# Both ways to write it: a mapping in one line, and keys in lines of their own.
CALL = re.compile(r"\bname: ([a-z0-9_]+)(?:, |\n +)tasks_from: ([a-z]+)")


@pytest.mark.parametrize("role", [*ROLES, *OPTIONAL, *SHARED])
def test_defaults_equal_argument_specs(role: str) -> None:
    """Both files agree on which variables of the role there are; a long default stands in defaults/main.yml alone."""
    specified = {name: option for name, option in options(role).items() if not option.get("required")}
    assert set(defaults(role)) == set(specified)
    for name, default in defaults(role).items():
        assert specified[name].get("default", default) == default
        assert "default" in specified[name] or isinstance(default, list | dict), name


@pytest.mark.parametrize("role", [*ROLES, *OPTIONAL])
def test_what_a_role_takes_from_the_inventory_is_specified(role: str) -> None:
    """A variable of inventory/group_vars that a role's files name is an option of it, and no other is."""
    shared = {name for name in load(ROOT / "inventory/group_vars/all.yml") if not name.startswith("__")} - {"lab"}
    files = [path for path in (ROOT / "roles" / role).rglob("*") if path.is_file() and path.parent.name != "meta"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    named = {name for name in shared if re.search(rf"\b{name}\b", text)}
    required = {name for name, option in options(role).items() if option.get("required") and name in shared}
    # What a shared role takes, its users take.
    for other in SHARED:
        if re.search(rf"(?:include|import)_role: {{name: {other}\b", text):
            named |= shared & set(options(other))
    assert required == named


@pytest.mark.parametrize("role", [*ROLES, *OPTIONAL])
def test_every_variable_carries_the_roles_prefix_and_a_description(role: str) -> None:
    """No role's public variable can be taken for another's; `cluster_` is the prefix of the role cluster."""
    for name, option in options(role).items():
        assert name.startswith(f"{role}_") or option["required"]
        assert option["description"]
        assert option["type"]


@pytest.mark.parametrize("role", [*ROLES, *OPTIONAL])
def test_every_entry_point_checks_the_same_variables(role: str) -> None:
    """What playbooks and other roles call with tasks_from is specified, and so is what every role has."""
    specified = load(ROOT / "roles" / role / "meta/argument_specs.yml")["argument_specs"]
    assert set(specified) == {"main", "verify", "cleanup"} | called(role)
    for name, entry in specified.items():
        assert entry["options"].items() >= options(role).items(), name
        assert (ROOT / "roles" / role / f"tasks/{name}.yml").is_file()


def called(role: str) -> set[str]:
    """The entry points of a role that files outside of it name."""
    found = set()
    for path in tracked("*.yml"):
        if not path.startswith(f"roles/{role}/"):
            for name, entry in CALL.findall((ROOT / path).read_text(encoding="utf-8")):
                found |= {entry} if name == role else set()
    return found
