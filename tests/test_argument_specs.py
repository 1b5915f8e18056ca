"""A role's variables are written down in three places, and say the same in each."""

from __future__ import annotations

import re

import pytest
from project import ROLES, ROOT, defaults, options

TABLE = re.compile(r"^\| variable \|.*\n((?:\|.*\n)+)", re.MULTILINE | re.IGNORECASE)
ROW = re.compile(r"^\| `([a-z0-9_]+)` \|", re.MULTILINE)


@pytest.mark.parametrize("role", ROLES)
def test_defaults_equal_argument_specs(role: str) -> None:
    """Every option has a default; both files agree on it, and on which variables there are."""
    specified = {name: option["default"] for name, option in options(role).items()}
    assert defaults(role) == specified


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_carries_the_roles_prefix_and_a_description(role: str) -> None:
    """No role's public variable can be taken for another's; `cluster_` is the prefix of the role cluster."""
    for name, option in options(role).items():
        assert name.startswith((f"{role}_", "lab_dir", "embedded_") if role == "cluster" else f"{role}_")
        assert option["description"]
        assert option["type"]


def test_documented_variables_are_the_roles_variables() -> None:
    """docs/variables.md has a row for every variable of every role, and no other."""
    tables = TABLE.findall((ROOT / "docs/variables.md").read_text(encoding="utf-8"))
    documented = {name for table in tables for name in ROW.findall(table)}
    assert documented == {name for role in ROLES for name in options(role)}
