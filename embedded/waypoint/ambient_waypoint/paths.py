# For the embedded provider alone: names that the image build and the running waypoint share.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The sockets and the FIFO lie in pilot-agent's ConfigPath (/etc/istio/proxy), an emptyDir that user 1337 may write."""

from __future__ import annotations

from typing import Final

# pilot/cmd/pilot-agent/options/agent.go: the socket on which pilot-agent serves xDS.
AGENT_SOCKET: Final = "XDS"
RELAY_SOCKET: Final = "XDS-relay"
# A FIFO: Envoy writes a line for each request, the exporter counts it.
REQUEST_LOG: Final = "requests"
# The exporter answers `/stats/prometheus` here, in the place of Envoy's admin interface.
METRICS_SOCKET: Final = "metrics"
UPSTREAM_ENVOY: Final = "/usr/local/bin/envoy-upstream"
# Kubernetes shows the last bytes of this file as the reason of the container's end.
TERMINATION_LOG: Final = "/dev/termination-log"
