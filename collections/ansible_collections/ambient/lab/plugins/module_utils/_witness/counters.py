# Reads the counters with which ztunnel and a waypoint count what they refused.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import dataclasses
import re
import typing as t

# istio.io, "Istio Standard Metrics"; ztunnel has the first since 1.29 (istio/ztunnel#1695).
DENIED = "istio_tcp_connections_failed_total"
REQUESTS = "istio_requests_total"
_SINCE = (1, 29)
_BUILD = "istio_build"
# Where each kind of proxy exports them: ztunnel itself, and pilot-agent's merge of Envoy's statistics.
METRICS_PORT = 15020
METRICS_PATH = {"ztunnel": "/metrics", "waypoint": "/stats/prometheus"}
LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')

# A number may stand before a time stamp (Prometheus' text format) or an exemplar (OpenMetrics).
_SAMPLE = re.compile(r'\w+\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\}\s+([-+.\w]+)')
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})\b")

Labels = frozenset[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Counters:
    """What a proxy has counted so far.

    version: of its build, "" where it does not say. known: it has such a counter.
    """

    values: t.Mapping[Labels, float] = dataclasses.field(default_factory=dict)
    version: str = ""
    known: bool = False

    def since(self, before: Counters) -> list[tuple[dict[str, str], float]]:
        """What was added, per labels; a proxy that has restarted meanwhile begins at nothing."""
        old = {labels: before.values.get(labels, 0.0) for labels in self.values}
        added = {labels: value - (old[labels] if value >= old[labels] else 0) for labels, value in self.values.items()}
        return [(dict(labels), more) for labels, more in added.items() if more > 0]


def parse_counters(text: str, kind: str) -> Counters:
    """The refusals in metrics of Prometheus' text format; kind: ztunnel or waypoint."""
    name = DENIED if kind == "ztunnel" else REQUESTS
    values: dict[Labels, float] = {}
    version = ""
    known = False
    for line in text.splitlines():
        if line.startswith(_BUILD + "{"):
            version = dict(LABEL.findall(line)).get("tag", version)
        # The TYPE line is there before anything was counted; the text format may leave `_total` out of it.
        elif line.startswith((f"# TYPE {name}", f"# TYPE {name.removesuffix('_total')} ")):
            known = True
        elif line.startswith(name + "{"):
            known = True
            labels, sample = dict(LABEL.findall(line)), _SAMPLE.match(line)
            if sample and _refusal(labels, kind):
                with contextlib.suppress(ValueError):
                    values[frozenset(labels.items())] = float(sample[1])
    return Counters(values, version, known or (kind == "ztunnel" and _counts(version)))


def _counts(version: str) -> bool:
    """Whether ztunnel has the counter: a client library may leave a metric out until there is something to count."""
    match = _VERSION.match(version)
    return match is not None and (int(match[1]), int(match[2])) >= _SINCE


def _refusal(labels: t.Mapping[str, str], kind: str) -> bool:
    if kind == "ztunnel":
        return labels.get("response_flags") == "DENY" and labels.get("reporter") == "destination"
    # An external authorizer refuses with any status, and says so in the flags (Envoy, UnauthorizedExternalService);
    # of gRPC the refusal is in its own status (PERMISSION_DENIED).
    refused = labels.get("response_flags") == "UAEX" or labels.get("grpc_response_status") == "7"
    served = labels.get("response_code", "").startswith("2") and not refused
    return not served and labels.get("reporter") == "waypoint"
