"""What the go command may leave on the machine: nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ambient_embedded.gobuild import Go
from ambient_embedded.parts import Bill


@pytest.mark.usefixtures("programs")
def test_the_go_command_keeps_no_counters(bill: Bill, tmp_path: Path) -> None:
    """It counts its calls below the user's settings, by a child that may outlive it."""
    (tmp_path / "go.mod").write_text("module example.org/none\n")
    command, environment = Go(bill.cache, tmp_path / "work").command(tmp_path, "env", "GOFLAGS")
    subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True, timeout=60)
    settings = Path(environment["XDG_CONFIG_HOME"])
    assert [path.name for path in settings.rglob("*") if path.is_file()] == ["mode"]
