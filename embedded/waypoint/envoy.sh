#!/bin/sh
# For the embedded provider alone: /usr/local/bin/envoy of the waypoint image; pilot-agent calls it as it calls Envoy.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
PYTHONPATH=/opt/app:/opt/site-packages exec /usr/bin/python3 -m ambient_waypoint "$@"
