# Why an edge is missing: facts from a server that plays Kubernetes and Prometheus, and the first broken part of them.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import pathlib
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import Kube
from ansible_collections.ambient.lab.plugins.module_utils._graph.diagnose import Places, diagnose
from ansible_collections.ambient.lab.plugins.module_utils._graph.facts import (
    Facts,
    Gatherer,
    Pair,
    Proxy,
    has_series,
)
from ansible_collections.ambient.lab.plugins.module_utils._graph.http import Reply
from ansible_collections.ambient.lab.plugins.module_utils._graph.parse import End
from ansible_collections.ambient.lab.plugins.module_utils._graph.traffic import nodes_of
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import mesh_of
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object, pod

CURL, APP = End("workload", "default", "curl"), End("workload", "default", "sample-app")
SERVICE = End("service", "default", "sample-app")
L4, L7 = Pair.of(CURL, APP, "tcp"), Pair.of(CURL, SERVICE, "http")
KIALI = {"namespace": "istio-system", "service": "kiali", "port": 20001, "web_root": "/kiali"}
PROMETHEUS = {"namespace": "istio-system", "service": "prometheus", "port": 9090}
PLACES = Places("kubectl --context lab", KIALI, PROMETHEUS)
GRAPH = {"namespaces": "default", "duration": "5s"}

GOOD = Reply({"x": 1}, reached=True)
ZTUNNEL = Proxy("istio-system", "ztunnel-a", True, ("up", ""), True)
WAYPOINT = Proxy("default", "waypoint-a", True, ("up", ""), True)
WELL = Facts(GOOD, proxies=(ZTUNNEL,), increase=12.0)


def but(**changed: t.Any) -> Facts:
    """Facts of a lab in which all is well but for something."""
    return dataclasses.replace(WELL, **changed)


def proxy(**changed: t.Any) -> tuple[Proxy, ...]:
    """A ztunnel that is well but for something."""
    return (dataclasses.replace(ZTUNNEL, **changed),)


PROM = "kubectl --context lab get --raw "
PROM_PATH = "/api/v1/namespaces/istio-system/services/prometheus:9090/proxy/api/v1"


@pytest.mark.parametrize(
    ("facts", "pair", "answered", "words", "look", "telemetry"),
    [
        (
            but(kiali=Reply(problem="no endpoints"), prometheus="gone"),
            L4,
            True,
            "Kiali (istio-system/kiali) does not answer: no endpoints",
            "kubectl --context lab -n istio-system describe service kiali",
            True,
        ),
        # Kiali refuses because Prometheus is gone: that is the part to look at.
        (
            but(kiali=Reply(problem="Kiali answered HTTP 503: dial", reached=True), prometheus="gone", endpoints=0),
            L4,
            True,
            "Prometheus (istio-system/prometheus) does not answer: gone; 0 of its endpoints are ready",
            "kubectl --context lab -n istio-system describe service prometheus",
            True,
        ),
        (
            but(kiali=Reply(problem="Kiali answered HTTP 500: panic", reached=True)),
            L4,
            True,
            "Kiali answered HTTP 500: panic",
            "kubectl --context lab -n istio-system logs service/kiali --tail=20",
            True,
        ),
        (
            but(proxies=()),
            L4,
            True,
            "there is no ztunnel pod",
            "kubectl --context lab get pods -A -l app=ztunnel",
            True,
        ),
        (
            but(proxies=()),
            L7,
            True,
            "there is no waypoint pod in namespace default",
            "kubectl --context lab -n default get gateways,pods",
            True,
        ),
        (
            but(proxies=proxy(scraped=None)),
            L4,
            True,
            "Prometheus has no target for ztunnel istio-system/ztunnel-a",
            f"{PROM}'{PROM_PATH}/targets?state=active'",
            True,
        ),
        (
            but(proxies=proxy(scraped=("down", "connection refused"), ready=False)),
            L4,
            True,
            "Prometheus' target ztunnel istio-system/ztunnel-a (not ready) is down: connection refused",
            f"{PROM}'{PROM_PATH}/targets?state=active'",
            True,
        ),
        (
            but(proxies=proxy(scraped=("unknown", ""))),
            L4,
            True,
            "Prometheus' target ztunnel istio-system/ztunnel-a has not been scraped yet: no error given",
            f"{PROM}'{PROM_PATH}/targets?state=active'",
            True,
        ),
        (
            but(proxies=proxy(exports=None, problem="HTTP 503")),
            L4,
            True,
            "ztunnel istio-system/ztunnel-a does not hand out its metrics: HTTP 503",
            "kubectl --context lab -n istio-system describe pod ztunnel-a",
            True,
        ),
        (
            but(proxies=proxy(exports=False)),
            L4,
            True,
            "requests from default/curl to default/sample-app were answered, but ztunnel istio-system/ztunnel-a has no "
            "istio_tcp_received_bytes_total of them",
            f"{PROM}/api/v1/namespaces/istio-system/pods/ztunnel-a:15020/proxy/metrics"
            " | grep istio_tcp_received_bytes_total",
            True,
        ),
        (
            but(proxies=(dataclasses.replace(WAYPOINT, exports=False),)),
            L7,
            True,
            "(did they go through the waypoint? the Service needs istio.io/use-waypoint)",
            f"{PROM}/api/v1/namespaces/default/pods/waypoint-a:15020/proxy/stats/prometheus"
            " | grep istio_requests_total",
            True,
        ),
        # Nothing was answered: that is the traffic's fault, or the policy's, and not the telemetry's.
        (
            but(proxies=proxy(exports=False)),
            L4,
            False,
            "no request from default/curl to default/sample-app was answered, and ztunnel",
            "",
            False,
        ),
        (
            but(increase=None),
            L4,
            True,
            "exports istio_tcp_received_bytes_total of this pair, but Prometheus has no series of it",
            "",
            True,
        ),
        (but(increase=0.0), L4, True, "but Prometheus saw no increase in the window of it", "", True),
        (but(increase=0.0), L4, False, "no request from default/curl to default/sample-app was answered", "", False),
        (
            WELL,
            L4,
            True,
            "Prometheus has istio_tcp_received_bytes_total of this pair (up by 12 in the window), but Kiali does not",
            f"{PROM}'/api/v1/namespaces/istio-system/services/kiali:20001/proxy/kiali/api/namespaces/graph"
            "?namespaces=default&duration=5s'",
            True,
        ),
        # One proxy that exports it is enough, but each must be scraped.
        (but(proxies=(ZTUNNEL, *proxy(exports=False))), L4, True, "but Kiali does not draw it", "", True),
        (but(proxies=(ZTUNNEL, *proxy(scraped=None))), L4, True, "Prometheus has no target", "", True),
    ],
)
def test_the_first_broken_part(
    facts: Facts, pair: Pair, answered: bool, words: str, look: str, telemetry: bool
) -> None:
    finding = diagnose(pair, facts, PLACES, answered, GRAPH)
    assert words in finding.text
    assert finding.telemetry is telemetry
    assert finding.look == look if look else finding.look.startswith("kubectl --context lab ")


@pytest.mark.parametrize(
    ("reply", "look"),
    [
        (Reply(problem="refused"), "curl -sS http://localhost:28080/kiali/healthz"),
        (Reply(problem="HTTP 500", reached=True), "curl -sS http://localhost:28080/kiali/api/status"),
    ],
)
def test_a_kiali_at_its_own_address(reply: Reply, look: str) -> None:
    places = dataclasses.replace(PLACES, url="http://localhost:28080/kiali/")
    assert diagnose(L4, but(kiali=reply), places, True, GRAPH).look == look


LINE = (
    'istio_tcp_received_bytes_total{reporter="source",source_workload="curl",source_workload_namespace="default",'
    'destination_workload="sample-app",destination_workload_namespace="default",destination_service_name="sample-app",'
    'destination_service_namespace="default"} 92'
)


@pytest.mark.parametrize(
    ("text", "pair", "found"),
    [
        (LINE, L4, True),
        (f"# HELP x\n# TYPE x\nother 1\n{LINE}\n", L4, True),
        (LINE, Pair.of(CURL, SERVICE, None), True),
        (LINE, Pair.of(SERVICE, APP, "tcp"), True),
        (LINE, L7, False),
        (L4.selector + " 1", L4, True),
        (LINE.replace('source_workload="curl"', 'source_workload="curl2"'), L4, False),
        (LINE.replace('source_workload="curl"', 'x_source_workload="curl"'), L4, False),
        (LINE.replace("_bytes_total{", "_bytes_total_more{"), L4, False),
        ("", L4, False),
    ],
)
def test_has_series(text: str, pair: Pair, found: bool) -> None:
    assert has_series(text, pair) is found


def test_the_selector_for_prometheus() -> None:
    assert L7.selector == (
        'istio_requests_total{source_workload="curl",source_workload_namespace="default",'
        'destination_service_name="sample-app",destination_service_namespace="default"}'
    )


def target(address: str, health: str = "up", error: str = "") -> Object:
    """An active target as Prometheus lists it."""
    return {"scrapeUrl": f"http://{address}:15020/metrics", "health": health, "lastError": error}


def node_pod(name: str, namespace: str, node: str, address: str, **fields: t.Any) -> Object:
    """A pod on a node."""
    item = pod(name, namespace, ip=address, **fields)
    item["spec"]["nodeName"] = node
    return item


def api(**changed: t.Any) -> FakeApi:
    """A cluster with two nodes and its Prometheus; the metrics of ztunnel-b are not to be had."""
    objects: dict[str, t.Any] = {
        "/api/v1/pods": lambda query: {"items": ZTUNNELS if query.get("labelSelector") == "app=ztunnel" else []},
        "/api/v1/namespaces/default/pods": lambda query: {"items": WAYPOINTS if "labelSelector" in query else APPS},
        f"{PROM_PATH}/targets": {"data": {"activeTargets": [target("10.0.0.1"), target("10.0.0.2", "down", "why")]}},
        f"{PROM_PATH}/query": lambda query: {"data": {"result": [{"value": [query["time"], "7"]}]}},
        "/api/v1/namespaces/istio-system/pods/ztunnel-a:15020/proxy/metrics": LINE,
        "/api/v1/namespaces/istio-system/pods/ztunnel-b:15020/proxy/metrics": (503, {}),
        "/api/v1/namespaces/default/pods/waypoint-a:15020/proxy/stats/prometheus": LINE,
    }
    return FakeApi({**objects, **changed})


ZTUNNELS = [
    node_pod("ztunnel-a", "istio-system", "one", "10.0.0.1"),
    node_pod("ztunnel-b", "istio-system", "two", "10.0.0.2", ready=False),
]
WAYPOINTS = [node_pod("waypoint-a", "default", "one", "10.0.0.3")]
APPS = [node_pod("curl", "default", "one", "10.0.0.4"), node_pod("other", "default", "two", "10.0.0.5")]


def gather(
    cluster: FakeApi, folder: pathlib.Path, *pairs: Pair, window: tuple[int, int] | None = (100, 105)
) -> list[Facts]:
    """Facts of some pairs."""
    with cluster:
        gatherer = Gatherer(Kube(cluster.kubeconfig(folder), None), PROMETHEUS, GOOD, window)
        mesh = mesh_of(*({**item, "kind": "Pod"} for item in APPS))
        return [gatherer.facts(pair, nodes_of((pair.source, pair.target), mesh)) for pair in pairs]


def test_facts_of_the_proxies_on_the_way(tmp_path: pathlib.Path) -> None:
    cluster = api()
    l4, l7, far = gather(cluster, tmp_path, L4, L7, Pair.of(End("workload", "default", "other"), APP, "tcp"))
    assert (l4.proxies, l4.increase) == ((ZTUNNEL,), 7.0)
    assert l7.proxies == (dataclasses.replace(WAYPOINT, scraped=None, exports=False),)
    assert far.proxies == (Proxy("istio-system", "ztunnel-b", False, ("down", "why"), None, "HTTP 503"),)
    asked = [path for path, _headers in cluster.asked if "/query" not in path]
    assert len(asked) == len(set(asked)), "each fact is asked once"
    assert any("%5B5s%5D" in path and "time=105" in path for path, _headers in cluster.asked)


def test_all_ztunnels_where_nobody_knows_the_nodes(tmp_path: pathlib.Path) -> None:
    (facts,) = gather(api(), tmp_path, Pair.of(End("workload", "default", "gone"), APP, "tcp"))
    assert [item.pod for item in facts.proxies] == ["ztunnel-a", "ztunnel-b"]


def test_several_targets_of_a_pod(tmp_path: pathlib.Path) -> None:
    targets = [target("10.0.0.1", "down", "x"), target("10.0.0.1"), target("10.0.0.9")]
    (facts,) = gather(api(**{f"{PROM_PATH}/targets": {"data": {"activeTargets": targets}}}), tmp_path, L4)
    assert facts.proxies[0].scraped == ("up", "")


@pytest.mark.parametrize("result", [{"data": {"result": []}}, 503, {}])
def test_no_series(tmp_path: pathlib.Path, result: object) -> None:
    assert gather(api(**{f"{PROM_PATH}/query": result}), tmp_path, L4)[0].increase is None


def test_no_window(tmp_path: pathlib.Path) -> None:
    assert gather(api(), tmp_path, L4, window=None)[0].increase is None


def test_a_prometheus_that_does_not_answer(tmp_path: pathlib.Path) -> None:
    slices = {"items": [{"endpoints": [{"conditions": {"ready": False}}, {}]}, {"endpoints": None}]}
    status = {"kind": "Status", "apiVersion": "v1", "message": "no endpoints"}
    path = "/apis/discovery.k8s.io/v1/namespaces/istio-system/endpointslices"
    (facts,) = gather(api(**{f"{PROM_PATH}/targets": (503, status), path: slices}), tmp_path, L4)
    assert facts.prometheus == "the Kubernetes API could not reach Prometheus, HTTP 503: no endpoints"
    assert facts.endpoints == 1
