"""Whether the scenario kind says that it is skipped, or fails: it must not be green where it proved nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fleet import Ran, play

DOWN = "Cannot connect to the Docker daemon"


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """The scenario's first step, on a machine with helm, kind, kubectl, and a docker that `up` lets answer."""
    for name in ("kind", "kubectl", "helm"):
        (tmp_path / name).write_text("#!/bin/sh\necho v3.22.0\n")
    (tmp_path / "docker").write_text(f'#!/bin/sh\n[ -e {tmp_path}/up ] || {{ echo "{DOWN}" >&2; exit 1; }}\n')
    for program in tmp_path.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{Path(sys.executable).parent}:/usr/bin:/bin")

    def run(*arguments: str, required: str = "") -> Ran:
        lab = ("-e", "@molecule/vars/kind.yml", "-e", f"lab_dir={tmp_path}/lab")
        return play("molecule/kind/can_run.yml", *lab, *arguments, AMBIENT_KIND_REQUIRED=required)

    return run


def test_it_is_skipped_only_where_kind_cannot_run_and_nobody_minds(step: Callable[..., Ran], tmp_path: Path) -> None:
    """An engine that dies in the middle of it is no reason, and a module that crashes is none."""
    skipped = step()
    assert (skipped.returncode, "SKIPPED, kind cannot run here" in skipped.stdout) == (0, True), skipped.stdout
    required = step(required="1")
    assert (required.returncode, "make test KIND_ENGINE=" in required.stdout) == (2, True), required.stdout
    (tmp_path / "lab").mkdir()
    died = step()
    assert (died.returncode, DOWN in died.stdout) == (2, True), died.stdout
    (tmp_path / "lab").rmdir()
    crashed = step("-e", "ansible_python_interpreter=/bin/false")
    assert (crashed.returncode, "SKIPPED" in crashed.stdout) == (2, False), crashed.stdout
    (tmp_path / "up").touch()
    there = step()
    assert (there.returncode, "SKIPPED" in there.stdout) == (0, False), there.stdout
