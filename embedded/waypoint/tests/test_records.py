# For the embedded provider alone: which label of Istio's gets which value, from a record of Envoy's request log.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tables; the expectations are those of Istio's stats filter as a waypoint runs it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ambient_waypoint.metrics import RequestMetrics
from ambient_waypoint.records import LABELS, Malformed, Request, parse
from prometheus_client.parser import text_string_to_metric_families

PRINCIPAL = "spiffe://cluster.local/ns/layer7/sa/curl"
BAGGAGE = (
    "k8s.cluster.name=Kubernetes,k8s.namespace.name=claimed,k8s.deployment.name=curl,"
    "service.name=curl-app,service.version=v2,cloud.region=,cloud.availability_zone="
)
RECORD: dict[str, Any] = {
    "response_code": 200,
    "response_flags": "-",
    "milliseconds": 3,
    "request_bytes": 92,
    "response_bytes": 145,
    "content_type": None,
    "grpc_status": None,
    "peer_principal": PRINCIPAL,
    "local_principal": "spiffe://cluster.local/ns/layer7/sa/waypoint",
    "baggage": BAGGAGE,
    "services": [{"host": "app.layer7.svc.cluster.local", "name": "app", "namespace": "layer7"}],
    "endpoint": "app-v1;layer7;app;v1;Kubernetes",
}
SOURCE = {
    "source_workload": "curl",
    "source_canonical_service": "curl-app",
    "source_canonical_revision": "v2",
    "source_workload_namespace": "layer7",
    "source_principal": PRINCIPAL,
    "source_app": "curl-app",
    "source_version": "v2",
    "source_cluster": "Kubernetes",
}
SERVICE = {
    "destination_service": "app.layer7.svc.cluster.local",
    "destination_service_name": "app",
    "destination_service_namespace": "layer7",
}
DESTINATION = {
    "destination_workload": "app-v1",
    "destination_workload_namespace": "layer7",
    "destination_principal": "unknown",
    "destination_app": "app",
    "destination_version": "v1",
    "destination_canonical_service": "app",
    "destination_canonical_revision": "v1",
    "destination_cluster": "Kubernetes",
}
ANSWER = {
    "request_protocol": "http",
    "response_code": "200",
    "grpc_response_status": "",
    "response_flags": "-",
    "connection_security_policy": "mutual_tls",
}
NOBODY = dict.fromkeys(DESTINATION, "unknown")


def parsed(**changes: Any) -> Request:
    return parse(json.dumps({**RECORD, **changes}).encode())


def labels(**changes: Any) -> dict[str, str]:
    return dict(zip(LABELS, parsed(**changes).labels, strict=True))


def test_every_label_of_an_answered_request() -> None:
    assert labels() == {"reporter": "waypoint", **SOURCE, **SERVICE, **DESTINATION, **ANSWER}
    assert parsed() == Request(parsed().labels, 3, 92, 145)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {"response_code": 403, "endpoint": None},
            {**SOURCE, **SERVICE, **NOBODY, "response_code": "403"},
            id="denied: no endpoint, but the service of the route",
        ),
        pytest.param(
            {"response_code": 503, "response_flags": "UH", "endpoint": None},
            {**SERVICE, **NOBODY, "response_code": "503", "response_flags": "UH"},
            id="no healthy endpoint",
        ),
        pytest.param({"response_code": 0, "response_flags": "DC"}, {"response_code": "0"}, id="the client went away"),
        pytest.param({"response_code": None}, {"response_code": "0"}, id="no code"),
        pytest.param(
            {"services": None},
            dict.fromkeys(SERVICE, "unknown"),
            id="a cluster of no service (the client's Host header does not count)",
        ),
        pytest.param(
            {"services": [{"host": "app.layer7.svc"}]},
            {
                "destination_service": "app.layer7.svc",
                "destination_service_name": "app",
                "destination_service_namespace": "unknown",
            },
            id="a service without a name",
        ),
        pytest.param({"services": []}, {"destination_service": "unknown"}, id="no service in the list"),
        pytest.param(
            {"endpoint": "app;layer7;app;;Kubernetes"},
            {"destination_canonical_revision": "latest", "destination_version": "latest"},
            id="istiod leaves the revision latest out",
        ),
        pytest.param({"endpoint": "app;layer7"}, NOBODY, id="an endpoint with too few parts"),
        pytest.param(
            {"baggage": "-"},
            {
                "source_workload": "unknown",
                "source_canonical_service": "unknown",
                "source_canonical_revision": "latest",
                "source_workload_namespace": "layer7",
                "source_principal": PRINCIPAL,
                "source_app": "unknown",
                "source_version": "unknown",
                "source_cluster": "unknown",
            },
            id="a peer that sends no baggage",
        ),
        pytest.param(
            {"peer_principal": None},
            {
                "source_principal": "unknown",
                "source_workload_namespace": "claimed",
                "connection_security_policy": "none",
            },
            id="no identity",
        ),
        pytest.param(
            {"local_principal": None},
            {"source_principal": PRINCIPAL, "connection_security_policy": "none"},
            id="no own identity",
        ),
        pytest.param(
            {"baggage": "k8s.pod.name=p, service.name = s ,app.name=a,app.version=9,nonsense,=x"},
            {
                "source_workload": "p",
                "source_canonical_service": "s",
                "source_app": "a",
                "source_version": "9",
            },
            id="baggage with spaces, an app and members that are none",
        ),
        pytest.param({"baggage": "k8s.cronjob.name=c"}, {"source_workload": "c"}, id="cronjob"),
        pytest.param({"baggage": "k8s.job.name=j"}, {"source_workload": "j"}, id="job"),
        pytest.param({"baggage": "k8s.service.name=s"}, {"source_workload": "unknown"}, id="not a workload"),
    ],
)
def test_labels(changes: dict[str, Any], expected: dict[str, str]) -> None:
    found = labels(**changes)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("content_type", "protocol"),
    [
        ("application/grpc", "grpc"),
        ("application/grpc+", "grpc"),
        ("application/grpc-", "http"),
        ("application/grpc;", "http"),
        ("text/plain", "http"),
        (None, "http"),
    ],
)
def test_grpc_is_known_by_its_content_type(content_type: str | None, protocol: str) -> None:
    found = labels(content_type=content_type, grpc_status=7)
    assert found["request_protocol"] == protocol
    assert found["grpc_response_status"] == ("7" if protocol == "grpc" else "")


def test_grpc_without_a_status() -> None:
    found = labels(content_type="application/grpc")
    assert (found["request_protocol"], found["grpc_response_status"]) == ("grpc", "")


WRONG: list[dict[str, object]] = [
    {"response_code": "200"},
    {"response_code": True},
    {"milliseconds": 1.5},
    {"response_flags": 1},
    {"baggage": []},
    {"services": "app"},
    {"services": ["app"]},
    {"services": [{"host": 1}]},
    {"endpoint": {}},
]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"garbage",
        b'{"response_code":200',
        b"\xff\xfe",
        b"[]",
        b"{}",
        json.dumps({**RECORD, "more": 1}).encode(),
        *(json.dumps({**RECORD, **change}).encode() for change in WRONG),
    ],
)
def test_other_lines_are_malformed(line: bytes) -> None:
    with pytest.raises(Malformed):
        parse(line)


def values(metrics: RequestMetrics) -> dict[str, float]:
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_malformed_lines_are_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    metrics = RequestMetrics()
    for line in (b"one", b"two", json.dumps(RECORD).encode()):
        metrics.count(line)
    assert [record.getMessage() for record in caplog.records if "b'one'" in record.getMessage()] == caplog.messages
    assert len(caplog.messages) == 1
    found = values(metrics)
    assert found["ambient_lab_waypoint_malformed_records_total"] == 2
    assert found["istio_requests_total"] == 1


def test_sizes_and_durations_are_summed_and_an_unknown_duration_is_left_out() -> None:
    metrics = RequestMetrics()
    for milliseconds in (3, None, 4):
        metrics.count(json.dumps({**RECORD, "milliseconds": milliseconds}).encode())
    found = values(metrics)
    assert found["istio_request_duration_milliseconds_sum"] == 7
    assert found["istio_request_duration_milliseconds_count"] == 2
    assert (found["istio_request_bytes_sum"], found["istio_response_bytes_sum"]) == (3 * 92, 3 * 145)
    assert found["istio_request_bytes_count"] == found["istio_requests_total"] == 3
