# For the embedded provider alone: the waypoint's request metrics, under Istio's names and labels.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Names, types and units: istio.io "Istio Standard Metrics"; what the labels mean is in records.py."""

from __future__ import annotations

import logging
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest

from ambient_waypoint.records import LABELS, Malformed, parse

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

LOG = logging.getLogger("waypoint-metrics")
# Envoy's own (source/common/stats/histogram_impl.cc), for milliseconds and bytes alike.
BUCKETS: Final = (0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5, 1.8e6, 3.6e6)
SHOWN: Final = 200  # bytes of a malformed record in the log


class RequestMetrics:
    """Counts requests; how many series there are is bounded by sources x destinations x response codes."""

    def __init__(self) -> None:
        self.counted = 0
        self._registry = CollectorRegistry()

        def histogram(name: str, about: str) -> Histogram:
            return Histogram(name, about, LABELS, buckets=BUCKETS, registry=self._registry)

        self._requests = Counter("istio_requests_total", "Requests.", LABELS, registry=self._registry)
        self._milliseconds = histogram("istio_request_duration_milliseconds", "Duration of requests.")
        self._received = histogram("istio_request_bytes", "Size of requests on the wire.")
        self._sent = histogram("istio_response_bytes", "Size of responses on the wire.")
        self._malformed = Counter(
            "ambient_lab_waypoint_malformed_records_total",
            "Lines of Envoy's request log that could not be read; each may be a request that was not counted.",
            registry=self._registry,
        )
        self._malformed_seen = False

    def count(self, line: bytes) -> None:
        """Count the request of one record; a malformed one is counted as such and logged the first time."""
        try:
            request = parse(line)
        except Malformed as error:
            self._malformed.inc()
            if not self._malformed_seen:
                self._malformed_seen = True
                LOG.error("a record of the request log cannot be read (%s): %r", error, line[:SHOWN])
            return
        self.counted += 1
        self._requests.labels(*request.labels).inc()
        if request.milliseconds is not None:
            self._milliseconds.labels(*request.labels).observe(request.milliseconds)
        self._received.labels(*request.labels).observe(request.request_bytes)
        self._sent.labels(*request.labels).observe(request.response_bytes)

    def exposition(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        return generate_latest(self._registry)
