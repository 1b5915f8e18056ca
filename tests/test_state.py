"""tests/state.py, which proves that nothing is left behind, sees what is left."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import state


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[int]:
    """A process named "stray" whose parent has ended; its number."""
    stray = tmp_path / "stray"
    stray.symlink_to(shutil.which("sleep") or "")
    ran = subprocess.run(["sh", "-c", f"{stray} 60 >&- 2>&- & echo $!"], capture_output=True, text=True, check=True)
    yield int(ran.stdout)
    os.kill(int(ran.stdout), signal.SIGKILL)


def test_what_is_left_on_the_machine_is_seen(orphan: int) -> None:
    """A process whose parent has ended, a file, and a port."""
    status = Path(f"/proc/{orphan}/status")
    assert "PPid:\t1\n" in status.read_text()
    with socket.create_server(("127.0.0.1", 0)) as server, tempfile.NamedTemporaryFile(dir="/tmp") as file:
        port = server.getsockname()[1]
        there = state.host()
    found = {line.rpartition(": ")[0] for line in state.differences(state.host(), there)}
    ports = {f"+ network listening: 127.0.0.1:{port}"} if shutil.which("ss") else set()
    assert found >= {f"+ file {file.name}"} | ports
    assert there["process stray (child of PID 1)"] == "1 run"
