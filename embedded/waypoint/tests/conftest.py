# For the embedded provider alone: gives the waypoint tests their generated message classes.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The classes are generated into a folder of this test run, before a test module imports them."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from generate_protos import generate  # noqa: E402

_generated = tempfile.TemporaryDirectory(prefix="waypoint-protos-")
sys.path.insert(0, _generated.name)
if generate(Path(_generated.name)) != 0:
    message = "protoc failed"
    raise RuntimeError(message)
