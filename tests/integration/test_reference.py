"""The reference pages are what the roles and the collection say of themselves, and ansible-doc shows it."""

from __future__ import annotations

import json
import subprocess

import generate_reference
import pytest
from project import COLLECTION, ROLES, ROOT


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    return {path.name: text for path, text in generate_reference.pages().items()}


@pytest.mark.parametrize("name", ["roles.md", "modules.md"])
def test_the_pages_are_fresh(name: str, generated: dict[str, str]) -> None:
    written = (generate_reference.REFERENCE / name).read_text(encoding="utf-8")
    assert written == generated[name], "run python docs/generate_reference.py"


def test_ansible_doc_knows_every_role() -> None:
    command = ["ansible-doc", "--json", "--type", "role", *ROLES]
    shown = json.loads(subprocess.run(command, cwd=ROOT, check=True, text=True, capture_output=True).stdout)
    assert set(shown) == set(ROLES)
    for role, documented in shown.items():
        assert documented["entry_points"].keys() >= {"main", "verify", "cleanup"}, role


def test_ansible_doc_knows_every_plugin() -> None:
    documented = generate_reference.documented()
    modules = {f"module/ambient.lab.{path.stem}" for path in (COLLECTION / "plugins/modules").glob("*.py")}
    assert set(documented) == modules | {"callback/ambient.lab.brief"}
    for name, entry in documented.items():
        assert entry["doc"]["short_description"], name
