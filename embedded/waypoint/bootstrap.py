#!/usr/bin/python3
# For the embedded provider alone: derives the waypoint's Envoy bootstrap template from Istio's.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Leave out what only Istio's Envoy has; point `xds-grpc` at the relay's socket, `prometheus_stats` at the exporter's.

The source is tools/packaging/common/envoy_bootstrap.json, a Go text/template that pilot-agent renders. It is
changed as text and every change must fit: another Istio's template fails the image build, not a pod.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from ambient_waypoint.paths import AGENT_SOCKET, METRICS_SOCKET, RELAY_SOCKET

TEMPLATE = Path("tools/packaging/common/envoy_bootstrap.json")
# The workload discovery extension and its statistics; a block without another template action inside.
METADATA_DISCOVERY = re.compile(r"[ \t]*\{\{-? if \.metadata_discovery \}\}(?:(?!\{\{).)*\{\{-? end \}\}\n?", re.DOTALL)
SOCKET_PATH = re.compile(r'("path"\s*:\s*"\{\{ \.config\.ConfigPath \}\}/)' + re.escape(AGENT_SOCKET) + '"')
# The address of the cluster behind :15090, Envoy's admin interface.
STATS_ADDRESS = re.compile(
    r'("cluster_name"\s*:\s*"prometheus_stats",(?:(?!"cluster_name"|"socket_address").)*)'
    r'"socket_address"\s*:\s*\{[^{}]*"\{\{ \.localhost \}\}"[^{}]*\{\{ \.config\.ProxyAdminPort \}\}\s*\}',
    re.DOTALL,
)
# No upstream Envoy has a type of this package, so one that is left would stop Envoy at its start.
ISTIO_TYPE = re.compile(r"type\.googleapis\.com/((?:io\.)?istio\.[\w.]+|stats\.PluginConfig)")


class TemplateError(Exception):
    """The template is not what this script knows how to change."""


def derive(template: str) -> str:
    """Return the template for upstream Envoy; raises TemplateError when a change does not fit."""
    template, blocks = METADATA_DISCOVERY.subn("", template)
    if not blocks or ".metadata_discovery" in template:
        raise TemplateError("the blocks `if .metadata_discovery` are missing or have another shape")
    template, sockets = SOCKET_PATH.subn(rf'\g<1>{RELAY_SOCKET}"', template)
    if sockets != 1:
        raise TemplateError(f"expected one socket path ConfigPath/{AGENT_SOCKET}, found {sockets}")
    pipe = f'"pipe": {{"path": "{{{{ .config.ConfigPath }}}}/{METRICS_SOCKET}"}}'
    template, clusters = STATS_ADDRESS.subn(rf"\g<1>{pipe}", template)
    if clusters != 1:
        raise TemplateError(f"expected one cluster prometheus_stats at the admin interface, found {clusters}")
    if left := ISTIO_TYPE.search(template):
        raise TemplateError(f"it configures {left[1]}, which only Istio's Envoy has")
    return template


def main() -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--istio", type=Path, required=True, help="folder of the Go module istio.io/istio")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    source = arguments.istio / TEMPLATE
    try:
        arguments.out.write_text(derive(source.read_text()))
    except (OSError, TemplateError) as error:
        print(f"Cannot derive Envoy's bootstrap template from {source}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
