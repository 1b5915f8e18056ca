# For the embedded provider alone: gives the waypoint tests their generated message classes and a running waypoint.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The classes are generated into a folder of this test run, before a test module imports them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
_generated = tempfile.TemporaryDirectory(prefix="waypoint-protos-")
sys.path[:0] = [_generated.name, str(TESTS), str(TESTS.parent)]
subprocess.run([sys.executable, TESTS.parent / "generate_protos.py", "--out", _generated.name], check=True)


@pytest.fixture
def waypoint(tmp_path: Path) -> Iterator[Any]:
    """A waypoint_running.Waypoint that answers; its module needs the classes generated above."""
    from waypoint_running import Waypoint

    running = Waypoint(tmp_path)
    try:
        running.wait_ready()
        yield running
    finally:
        running.stop()
