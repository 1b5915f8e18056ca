# For the embedded provider alone: gives the waypoint tests their generated message classes.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The classes are generated into a folder of this test run, before a test module imports them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent
_generated = tempfile.TemporaryDirectory(prefix="waypoint-protos-")
sys.path[:0] = [_generated.name, str(TESTS), str(TESTS.parent)]
subprocess.run([sys.executable, TESTS.parent / "generate_protos.py", "--out", _generated.name], check=True)
