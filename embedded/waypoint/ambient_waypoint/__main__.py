# For the embedded provider alone: `python3 -m ambient_waypoint` is what the waypoint image runs as `envoy`.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Entry point; all arguments are Envoy's."""

from __future__ import annotations

import sys

from ambient_waypoint.launcher import main

sys.exit(main(sys.argv[1:]))
