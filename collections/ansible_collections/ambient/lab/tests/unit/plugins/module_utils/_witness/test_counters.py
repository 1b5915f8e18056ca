# What proxies count: ztunnel's OpenMetrics, a waypoint's merged text, versions without a counter, restarts.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import math

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._witness.counters import Counters, parse_counters
from hypothesis import given, settings
from hypothesis import strategies as st

ZTUNNEL = """# HELP istio_build Istio component build info.
# TYPE istio_build gauge
istio_build{component="ztunnel",tag="1.29.1"} 1
# HELP istio_tcp_connections_failed The total number of TCP connections that failed to establish (unstable).
# TYPE istio_tcp_connections_failed counter
istio_tcp_connections_failed_total{reporter="destination",source_workload="curl",response_flags="DENY"} 3
istio_tcp_connections_failed_total{reporter="source",source_workload="curl",response_flags="DENY"} 30
istio_tcp_connections_failed_total{reporter="destination",source_workload="curl",response_flags="CONNECT"} 300
# TYPE istio_tcp_connections_closed counter
istio_tcp_connections_closed_total{reporter="destination",source_workload="curl",response_flags="DENY"} 3000
# EOF
"""
WAYPOINT = """# TYPE istio_build gauge
istio_build{component="proxy",tag="1.31.0-distroless"} 1
# TYPE istio_requests_total counter
istio_requests_total{reporter="waypoint",source_workload="curl",response_code="403"} 2
istio_requests_total{reporter="waypoint",source_workload="curl",response_code="200"} 20
istio_requests_total{reporter="source",source_workload="curl",response_code="403"} 200
istio_requests_total{reporter="waypoint",source_workload="curl",response_code="503"} 2000
"""
CURL = {"reporter": "destination", "source_workload": "curl", "response_flags": "DENY"}


def counter(value: str, name: str = "istio_tcp_connections_failed_total", workload: str = "curl") -> str:
    """A sample of refusals."""
    return f'{name}{{reporter="destination",source_workload="{workload}",response_flags="DENY"}} {value}\n'


def test_ztunnel() -> None:
    found = parse_counters(ZTUNNEL, "ztunnel")
    assert (found.values, found.version, found.known) == ({frozenset(CURL.items()): 3.0}, "1.29.1", True)


def test_waypoint() -> None:
    found = parse_counters(WAYPOINT, "waypoint")
    values = {dict(labels)["response_code"]: value for labels, value in found.values.items()}
    assert (values, found.version, found.known) == ({"403": 2.0, "503": 2000.0}, "1.31.0-distroless", True)


@pytest.mark.parametrize(
    ("labels", "counts"),
    [
        ('response_code="302",response_flags="UAEX"', 1),
        ('response_code="200",response_flags="UAEX"', 1),
        ('response_code="200",response_flags="-",grpc_response_status="7"', 1),
        ('response_code="200",response_flags="-",grpc_response_status="0"', 0),
        ('response_code="204",response_flags="-"', 0),
    ],
)
def test_a_waypoint_refuses_with_any_status(labels: str, counts: int) -> None:
    """An external authorizer does, and gRPC has its own."""
    line = f'istio_requests_total{{reporter="waypoint",source_workload="curl",{labels}}} 2\n'
    assert len(parse_counters(line, "waypoint").values) == counts


@pytest.mark.parametrize(
    ("metrics", "known"),
    [
        ("", False),
        ('istio_build{component="ztunnel",tag="1.28.4"} 1\n', False),
        ('istio_build{component="ztunnel",tag="unknown"} 1\n', False),
        ('istio_build{component="ztunnel",tag="1.9.9"} 1\n', False),
        # A newer client library leaves out what has counted nothing (prometheus/client_rust#279).
        ('istio_build{component="ztunnel",tag="1.29.0"} 1\n', True),
        ('istio_build{component="ztunnel",tag="1.31-alpha.1"} 1\n', True),
        ('istio_build{component="ztunnel",tag="2.0.0"} 1\n', True),
        ("# TYPE istio_tcp_connections_failed counter\n", True),
        ("# TYPE istio_tcp_connections_failed_total counter\n", True),
        (counter("1"), True),
        ("# TYPE istio_tcp_connections_failed_other counter\n", False),
        ("# TYPE istio_tcp_connections_closed counter\n", False),
    ],
)
def test_whether_this_version_counts(metrics: str, known: bool) -> None:
    assert parse_counters(metrics, "ztunnel").known is known


def test_a_waypoint_counts_where_it_has_counted_anything() -> None:
    assert not parse_counters("", "waypoint").known
    assert parse_counters('istio_requests_total{response_code="200"} 1\n', "waypoint").known


@pytest.mark.parametrize(
    ("before", "after", "added"),
    [
        ("", "2", [2.0]),
        ("2", "2", []),
        ("2", "5", [3.0]),
        ("2.0", "2.5e0", [0.5]),
        # The proxy has begun anew.
        ("100", "4", [4.0]),
        ("100", "0", []),
        ("100", "", []),
    ],
)
def test_what_was_added(before: str, after: str, added: list[float]) -> None:
    old = parse_counters(counter(before) if before else "", "ztunnel")
    new = parse_counters(counter(after) if after else "", "ztunnel")
    assert [value for _labels, value in new.since(old)] == added
    assert all(labels == CURL for labels, _value in new.since(old))


def test_what_was_added_is_kept_apart_by_labels() -> None:
    old = parse_counters(counter("5") + counter("7", workload="other"), "ztunnel")
    new = parse_counters(counter("5") + counter("8", workload="other"), "ztunnel")
    assert [(labels["source_workload"], value) for labels, value in new.since(old)] == [("other", 1.0)]


@pytest.mark.parametrize(
    "line",
    [
        counter("3 1767225600000"),
        counter('3 # {trace_id="9"} 1.0 1767225600.0'),
        counter("3"),
        counter("3").replace("} 3", "}   3  "),
    ],
)
def test_the_number_is_the_first_thing_after_the_labels(line: str) -> None:
    assert list(parse_counters(line, "ztunnel").values.values()) == [3.0]


@pytest.mark.parametrize("name", [r"a\"b", r"a\\", r"a\",response_flags=\"-\"} 9", "a} 9", "a # b", "", "名"])
def test_hostile_labels(name: str) -> None:
    found = parse_counters(counter("3", workload=name), "ztunnel")
    assert [dict(labels)["source_workload"] for labels in found.values] == [name]
    assert list(found.values.values()) == [3.0]


@pytest.mark.parametrize("value", ["", "x", "1.2.3", "--1", "# 3"])
def test_no_number(value: str) -> None:
    assert parse_counters(counter(value), "ztunnel").values == {}


@pytest.mark.parametrize("value", ["NaN", "+Inf"])
def test_numbers_that_do_not_rise(value: str) -> None:
    found = parse_counters(counter(value), "ztunnel")
    assert all(not math.isfinite(number) for number in found.values.values())
    assert found.since(found) == []


@settings(max_examples=100, deadline=None)
@given(st.text(), st.sampled_from(["ztunnel", "waypoint"]))
def test_no_text_is_too_strange(text: str, kind: str) -> None:
    for metrics in (
        text,
        f"istio_build{{{text}",
        f'istio_build{{tag="{text}"}} 1',
        counter(text),
        counter("3", workload=text),
        f"istio_requests_total{{{text}",
        f'istio_requests_total{{reporter="waypoint",response_code="403"}} {text}',
    ):
        found = parse_counters(metrics, kind)
        assert found.since(Counters()) == found.since(Counters())
