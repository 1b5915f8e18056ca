"""Where the project's files are, and how the tests read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
ROLES = ("cluster", "istio_ambient", "kiali", "sample_app", "l4_authz", "l7_waypoint")


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
