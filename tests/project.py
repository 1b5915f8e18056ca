"""Where the project's files are, and how the tests read them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
COLLECTION = ROOT / "collections/ansible_collections/ambient/lab"
# What the embedded cluster is built of, as the inventory has it; AMBIENT_LAB_CACHE names another folder for the tests.
CACHE = Path(
    os.environ.get("AMBIENT_LAB_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~root/.cache") / "ambient-lab"
).expanduser()
ROLES = ("cluster", "istio_ambient", "kiali", "sample_app", "l4_authz", "l7_waypoint")
# Those that the roles of the story share, and the part that runs only when its tag asks for it.
SHARED = ("lab", "policy_proof")
OPTIONAL = ("bypass",)


def tracked(*patterns: str) -> list[str]:
    """The project's own files by git's patterns, as paths from its root: those of the last commit, and new ones."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    shown = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    return [path for path in shown.splitlines() if (ROOT / path).is_file()]


def load(path: Path) -> Any:
    """Return the first YAML document of a file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def defaults(role: str) -> dict[str, Any]:
    """Return a role's default variables, templates unrendered."""
    loaded: dict[str, Any] = load(ROOT / "roles" / role / "defaults" / "main.yml")
    return loaded


def options(role: str) -> dict[str, dict[str, Any]]:
    """Return the options that a role's argument specification accepts."""
    loaded = load(ROOT / "roles" / role / "meta" / "argument_specs.yml")
    found: dict[str, dict[str, Any]] = loaded["argument_specs"]["main"]["options"]
    return found
