"""No Python of the project goes without types: every file is given to mypy, and mypy is strict."""

from __future__ import annotations

import subprocess
import tomllib

from project import ROOT, tracked

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]


def checked() -> list[str]:
    """The folders that `make lint` gives to mypy: those of pyproject.toml, and those it names itself."""
    shown = subprocess.run(
        ["make", "--dry-run", "--always-make", "lint"], cwd=ROOT, text=True, capture_output=True, check=True
    ).stdout
    runs = [line.split() for line in shown.splitlines() if "mypy" in line.split()]
    named = [folder for run in runs for folder in run[run.index("mypy") + 1 :]]
    # Without arguments mypy reads the list of pyproject.toml.
    return [*named, *(SETTINGS["files"] if ["mypy"] in runs else [])]


def test_every_file_is_checked() -> None:
    folders = checked()
    left = [path for path in tracked("*.py") if not path.startswith(tuple(f"{folder}/" for folder in folders))]
    assert not left


def test_the_checks_are_strict() -> None:
    assert SETTINGS["strict"] is True
    loose = {key for override in SETTINGS["overrides"] for key in override} - {"module", "ignore_missing_imports"}
    assert not loose
