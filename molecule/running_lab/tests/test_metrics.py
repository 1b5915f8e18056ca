"""The proxies count what the client sent: no request more, none less, and Prometheus has the same numbers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families
from running_lab import Lab

PROMETHEUS = "/api/v1/namespaces/istio-system/services/prometheus:9090/proxy/api/v1/query?query="
ZTUNNEL, WAYPOINT = "/metrics", "/stats/prometheus"


class Answer(NamedTuple):
    """What curl says of one request: HTTP code, exit code, bytes on the wire."""

    code: int
    exit: int
    request: int
    response: int


def burst(lab: Lab, namespace: str, pod: str, method: str, number: int) -> list[Answer]:
    """Send requests in one exec, a fresh connection each."""
    shown = "%{http_code} %{exitcode} %{size_request} %{size_header} %{size_download}"
    options = f"-s -o /dev/null -X {method} -H 'Connection: close' -w '{shown}\\n'"
    script = f"curl {options} 'http://sample-app:8080/?[1-{number}]' || true"
    rows = lab.kubectl("exec", "-n", namespace, pod, "--", "sh", "-c", script).splitlines()
    numbers = [[int(word) for word in row.split()] for row in rows]
    return [Answer(code, ended, request, header + body) for code, ended, request, header, body in numbers]


def codes(answers: list[Answer]) -> list[int]:
    return [answer.code for answer in answers]


def proxy_metrics(lab: Lab, namespace: str, selector: str, path: str) -> list[str]:
    """The text of each proxy's metrics, asked of its pod."""
    pods = lab.get("pods", "-n", namespace, "-l", selector)["items"]
    at = f"/api/v1/namespaces/{namespace}/pods"
    return [lab.kubectl("get", "--raw", f"{at}/{pod['metadata']['name']}:15020/proxy{path}") for pod in pods]


def total(texts: list[str], name: str, **labels: str) -> float:
    """The sum of a counter's series with these labels."""
    return sum(
        sample.value
        for text in texts
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def in_prometheus(lab: Lab, name: str, **labels: str) -> float:
    """The same sum, as Prometheus has it."""
    selector = ",".join(f'{key}="{value}"' for key, value in labels.items())
    query = f"sum({name}%7B{selector}%7D)".replace('"', "%22")
    result = json.loads(lab.kubectl("get", "--raw", PROMETHEUS + query))["data"]["result"]
    return float(result[0]["value"][1]) if result else 0.0


def settled(value: Callable[[], float], wanted: float) -> float:
    """The value once it is the wanted one, or what it is after ten seconds."""
    deadline = time.monotonic() + 10
    while (seen := value()) != wanted and time.monotonic() < deadline:
        time.sleep(0.2)
    return seen


@pytest.mark.parametrize("reporter", ["source", "destination"])
def test_ztunnel_counts_every_connection_and_no_other(lab: Lab, reporter: str) -> None:
    """40 requests on 40 connections: opened and closed rise by 40, and the bytes by what 40 requests have."""
    labels = {"reporter": reporter, "source_workload": "curl-allow", "destination_workload": "sample-app-blue"}

    def count(name: str) -> float:
        return total(proxy_metrics(lab, "istio-system", "app=ztunnel", ZTUNNEL), name, **labels)

    opened, closed = "istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total"
    # "Received" and "sent" are the server's words: L4 bytes are those of the request, and those of the response.
    received, sent = "istio_tcp_received_bytes_total", "istio_tcp_sent_bytes_total"
    before = {name: count(name) for name in (opened, closed, received, sent)}
    answers = burst(lab, "default", "curl-allow", "GET", 40)
    assert codes(answers) == [200] * 40
    assert settled(lambda: count(closed) - before[closed], 40) == 40
    assert count(opened) - before[opened] == 40
    assert count(received) - before[received] == sum(answer.request for answer in answers)
    assert count(sent) - before[sent] == sum(answer.response for answer in answers)
    assert settled(lambda: in_prometheus(lab, closed, **labels), before[closed] + 40) == before[closed] + 40


def test_ztunnel_counts_every_denial_and_no_byte(lab: Lab) -> None:
    """20 denied requests: 20 denials, and no byte has passed."""
    labels = {"reporter": "destination", "source_workload": "curl-deny"}
    denied = {**labels, "response_flags": "DENY"}

    def count(name: str, wanted: dict[str, str]) -> float:
        return total(proxy_metrics(lab, "istio-system", "app=ztunnel", ZTUNNEL), name, **wanted)

    failed, received = "istio_tcp_connections_failed_total", "istio_tcp_received_bytes_total"
    before = count(failed, denied), count(received, labels)
    answers = burst(lab, "default", "curl-deny", "GET", 20)
    assert {(answer.code, answer.exit) for answer in answers} <= {(0, 52), (0, 56)}
    assert settled(lambda: count(failed, denied) - before[0], 20) == 20
    assert count(received, labels) == before[1]


def test_the_waypoint_counts_every_request_by_its_code(lab: Lab) -> None:
    """30 GETs and 20 POSTs: 30 more of 200, 20 more of 403, each with the client that sent it."""
    name = "istio_requests_total"
    source = {"reporter": "waypoint", "source_workload": "curl", "source_workload_namespace": "layer7"}
    source["source_principal"] = "spiffe://cluster.local/ns/layer7/sa/curl"
    source["destination_service_name"] = "sample-app"
    passed, denied = {**source, "response_code": "200"}, {**source, "response_code": "403"}

    def count(labels: dict[str, str]) -> float:
        selector = "gateway.networking.k8s.io/gateway-name=waypoint"
        return total(proxy_metrics(lab, "layer7", selector, WAYPOINT), name, **labels)

    before = count(passed), count(denied)
    assert codes(burst(lab, "layer7", "curl", "GET", 30)) == [200] * 30
    assert codes(burst(lab, "layer7", "curl", "POST", 20)) == [403] * 20
    assert settled(lambda: count(passed) - before[0], 30) == 30
    assert settled(lambda: count(denied) - before[1], 20) == 20
    assert settled(lambda: in_prometheus(lab, name, **passed), before[0] + 30) == before[0] + 30
    assert settled(lambda: in_prometheus(lab, name, **denied), before[1] + 20) == before[1] + 20
