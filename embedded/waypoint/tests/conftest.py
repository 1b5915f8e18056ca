# For the embedded provider alone: gives the waypoint's tests the generated message classes, as the image build does.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The classes are generated into a folder of this test run, before a test module imports them."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

WAYPOINT = Path(__file__).parents[1]
sys.path.insert(0, str(WAYPOINT))

from generate_protos import generate  # noqa: E402

_generated = tempfile.TemporaryDirectory(prefix="waypoint-protos-")
GENERATED = Path(_generated.name)
sys.path.insert(0, str(GENERATED))
if generate(GENERATED) != 0:
    raise RuntimeError("protoc failed")
