"""The versions that the programs name; and what the go command may leave on the machine: nothing."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from ambient_embedded import gobuild
from ambient_embedded.gobuild import Go
from ambient_embedded.parts import Bill
from ambient_embedded.tools import EMBEDDED


def required(module: str, name: str) -> str:
    """The version of a module that another one's go.mod asks for."""
    found = re.search(rf"^\s*{name} (\S+)", (EMBEDDED / module / "go.mod").read_text(), re.MULTILINE)
    assert found
    return found[1]


def test_programs_say_the_versions_that_they_are_built_of() -> None:
    assert required("go", "k8s.io/kubernetes") == gobuild.KUBERNETES_VERSION
    assert required("go", "istio.io/istio").endswith(f"-{gobuild.ISTIO_VERSION.rpartition('.')[2]}")
    major, minor, patch = gobuild.PROMETHEUS_VERSION.split(".")
    assert required("go", "github.com/prometheus/prometheus") == f"v0.{major}{minor:0>2}.{patch}"
    assert required("go/kiali", "github.com/kiali/kiali") == gobuild.KIALI_VERSION


@pytest.mark.usefixtures("programs")
def test_the_go_command_keeps_no_counters(bill: Bill, tmp_path: Path) -> None:
    """It counts its calls below the user's settings, by a child that may outlive it."""
    (tmp_path / "go.mod").write_text("module example.org/none\n")
    command, environment = Go(bill.cache, tmp_path / "work").command(tmp_path, "env", "GOFLAGS")
    subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True, timeout=60)
    settings = Path(environment["XDG_CONFIG_HOME"])
    assert [path.name for path in settings.rglob("*") if path.is_file()] == ["mode"]
