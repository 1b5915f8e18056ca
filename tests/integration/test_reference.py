"""ansible-doc shows every role and every plugin: it is the reference, and nothing else says the same."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from project import COLLECTION, ROLES, ROOT


def shown(kind: str, *names: str) -> dict[str, Any]:
    """What ansible-doc says of roles or plugins, by name."""
    command = ["ansible-doc", "--json", "--type", kind, *names]
    ran = subprocess.run(command, cwd=ROOT, check=True, text=True, capture_output=True)
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def test_ansible_doc_knows_every_role() -> None:
    found = shown("role", *ROLES)
    assert set(found) == set(ROLES)
    for role, documented in found.items():
        assert documented["entry_points"].keys() >= {"main", "verify", "cleanup"}, role


def test_ansible_doc_knows_every_plugin() -> None:
    modules = {f"ambient.lab.{path.stem}" for path in (COLLECTION / "plugins/modules").glob("*.py")}
    found = shown("module", *modules) | shown("callback", "ambient.lab.brief")
    assert set(found) == modules | {"ambient.lab.brief"}
    for name, entry in found.items():
        assert entry["doc"]["short_description"], name
