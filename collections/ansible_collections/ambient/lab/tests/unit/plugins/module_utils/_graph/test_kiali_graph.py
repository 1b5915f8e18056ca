# The module as a whole: real curl, a server that plays Kubernetes, Kiali and Prometheus, and what is written down.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import pathlib
import shutil
import typing as t

import pytest
import yaml
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._graph.kiali_graph import (
    prometheus_place,
    prove_graph,
    prove_graphs,
)
from ansible_collections.ambient.lab.plugins.modules import kiali_graph
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi
from ansible_collections.ambient.lab.tests.unit.fakes.graph import Flow, graph_claim, raw_graph
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object, claim, pod
from ansible_collections.ambient.lab.tests.unit.fakes.servers import ScriptedServer

KIALI = "/api/v1/namespaces/istio-system/services/kiali:20001/proxy/kiali/api"
PROMETHEUS = "/api/v1/namespaces/istio-system/services/prometheus:9090/proxy/api/v1"
TCP = {"outcome": "edge", "protocol": "tcp"}
CLAIMS = [
    graph_claim("allowed", expect=TCP),
    graph_claim("denied", "curl-deny", before=TCP, expect="no_edge"),
]
ALLOWED = Flow("curl-allow", "sample-app-blue", mtls=100)
DENIED = Flow("curl-deny", "sample-app-blue")

needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")


def traffic(server: ScriptedServer) -> list[Object]:
    """One source gets an answer, the other one is cut off."""
    return [
        claim("allow", source={"pod": "curl-allow"}, to=server.url("ok")),
        claim("deny", source={"pod": "curl-deny"}, to=server.url("reset"), expect="denied_l4"),
    ]


def cluster(*flows: Flow, **changed: t.Any) -> FakeApi:
    """A cluster in which Kiali draws these edges, whatever it is asked, and samples come five times a second."""

    def graph(query: dict[str, str]) -> Object:
        return raw_graph(*flows, time=int(query["queryTime"]), duration=int(query["duration"].removesuffix("s")))

    items = [pod("curl-allow"), pod("curl-deny"), pod("sample-app-blue", ip="127.0.0.1")]
    ztunnel = pod("ztunnel-a", "istio-system", ip="10.0.0.1", labels={"app": "ztunnel"})
    objects = {
        "/api/v1/namespaces/default": {"metadata": {"name": "default"}},
        "/api/v1/namespaces/default/pods": {"items": items},
        "/api/v1/pods": {"items": [ztunnel]},
        f"{KIALI}/config": {"prometheus": {"globalScrapeInterval": 0.2}},
        f"{KIALI}/namespaces/graph": graph,
        f"{PROMETHEUS}/targets": {"data": {"activeTargets": [{"scrapeUrl": "http://10.0.0.1:15020/", "health": "up"}]}},
        f"{PROMETHEUS}/query": {"data": {"result": []}},
        "/api/v1/namespaces/istio-system/pods/ztunnel-a:15020/proxy/metrics": "",
    }
    return FakeApi({**objects, **changed})


def params(api: FakeApi, folder: pathlib.Path, **changed: t.Any) -> dict[str, t.Any]:
    """Parameters of kiali_graph with their defaults, as Ansible would hand them over."""
    defaults = {name: option.get("default") for name, option in kiali_graph.SPEC.items()}
    for name in ("kiali", "prometheus"):
        options: t.Any = kiali_graph.SPEC[name]["options"]
        defaults[name] = {key: option.get("default") for key, option in options.items()}
    given = {"kubeconfig": api.kubeconfig(folder), "claims": CLAIMS, "interval": 0.2, "timeout": 10}
    return {**defaults, **given, **changed}


@pytest.mark.parametrize(
    ("url", "place"),
    [
        (None, ("metrics", "istio-system", 1)),
        ("http://prometheus.monitoring:9090", ("prometheus", "monitoring", 9090)),
        ("http://prometheus.monitoring.svc.cluster.local/prefix", ("prometheus", "monitoring", 80)),
        ("http://prometheus", ("prometheus", "istio-system", 80)),
    ],
)
def test_prometheus_is_found_by_the_address_that_pods_use(url: str | None, place: tuple[str, str, int]) -> None:
    found = prometheus_place({"url": url, "service": "metrics", "namespace": "istio-system", "port": 1})
    assert (found["service"], found["namespace"], found["port"]) == place


@needs_curl
def test_a_check_from_parameters_to_results(tmp_path: pathlib.Path) -> None:
    results = tmp_path / "results.json"

    def scraped(_query: object) -> Object:
        # Another check ends meanwhile.
        results.write_text(json.dumps({"other": {}}))
        return {"prometheus": {"globalScrapeInterval": 0.2}}

    with ScriptedServer() as server, cluster(ALLOWED, **{f"{KIALI}/config": scraped}) as api:
        kept = {"results_file": str(results), "section": "role"}
        allow, deny = traffic(server)
        # The claims are those of curl_outcomes, which judges `by`; here nobody is asked for it.
        deny["by"] = "elsewhere/nobody-has-it"
        given = params(api, tmp_path, traffic=[allow, deny], **kept)
        returned = prove_graph(given, check_mode=False, verbose=False)
        requests = len(server.requests)
    assert (returned["verdict"], returned["changed"]) == ("pass", False)
    assert [item["seen"]["text"] for item in returned["claims"]] == ["tcp 92 B/s mTLS", "no edge"]
    assert returned["claims"][1]["control"].startswith("the same window has default/curl-allow")
    assert returned["graph"] == {"nodes": 2, "edges": 1}
    assert requests == 2 * returned["rounds"]
    assert [item["seen"]["outcome"] for item in returned["traffic"]] == ["allowed", "denied_l4"]
    assert [item["by"] for item in returned["traffic"]] == [None, None]
    assert not [path for path, _headers in api.asked if "elsewhere" in path]
    documented = yaml.safe_load(kiali_graph.RETURN)
    assert set(documented) - {"checks"} == set(returned) - {"changed"}
    written = json.loads(results.read_text())
    section = written["role"]
    assert "other" in written
    assert section["graph"]["after"]["claims"] == returned["claims"]
    assert [item["decided_by"] for item in returned["claims"]] == ["kiali", "kiali"]
    assert (section["graph"]["before"], len(section["graph"]["after"]["graph"]["elements"]["edges"])) == (None, 1)
    # Each question to Kiali is about what came after the first one.
    asked = [path for path, _headers in api.asked if "/namespaces/graph" in path]
    assert all("queryTime=" in path and "duration=" in path for path in asked)
    assert all("namespaces=default&" in path for path in asked)


@needs_curl
@pytest.mark.parametrize("fails", [False, True])
def test_several_checks_at_the_same_time(tmp_path: pathlib.Path, fails: bool) -> None:
    """Each in its own section; one that fails is told, and keeps no other from its end."""
    results = tmp_path / "results.json"
    wrong = [graph_claim("wrong", expect={**TCP, "mtls": False})]
    with ScriptedServer() as server, cluster(ALLOWED) as api:
        one = {"namespace": "default", "namespaces": None, "claims": CLAIMS, "traffic": traffic(server)}
        checks = [{**one, "section": "first"}, {**one, "section": "second", **({"claims": wrong} if fails else {})}]
        given = params(api, tmp_path, claims=[], checks=checks, results_file=str(results), timeout=1)
        if fails:
            with pytest.raises(LabError) as caught:
                prove_graphs(given, check_mode=False, verbose=False)
            assert caught.value.message.startswith("1 of 3 claims of second did not hold on Kiali's graph")
            assert caught.value.result == {"verdict": "fail"}
        else:
            returned = prove_graphs(given, check_mode=False, verbose=False)
            assert [check["verdict"] for check in returned["checks"]] == [returned["verdict"]] * 2 == ["pass"] * 2
        with pytest.raises(LabError, match="belong into checks"):
            prove_graphs({**given, "claims": CLAIMS}, check_mode=False, verbose=False)
    written = json.loads(results.read_text())
    assert {name: part["graph"]["after"]["verdict"] for name, part in written.items()} == {
        "first": "pass",
        "second": "fail" if fails else "pass",
    }


@needs_curl
def test_check_mode_looks_and_writes_nothing(tmp_path: pathlib.Path) -> None:
    results = tmp_path / "results.json"
    with ScriptedServer() as server, cluster(ALLOWED, DENIED) as api:
        given = params(api, tmp_path, traffic=traffic(server)[:1], phase="before", claims=CLAIMS[:1])
        given |= {"namespaces": ["default", "layer7"], "results_file": str(results), "section": "role"}
        returned = prove_graph(given, check_mode=True, verbose=True)
    assert any("namespaces=default%2Clayer7&" in path for path, _headers in api.asked)
    assert returned["verdict"] == "pass"
    assert len(returned["graph"]["elements"]["edges"]) == 2
    assert not results.exists()


@needs_curl
def test_an_edge_that_must_not_be_there(tmp_path: pathlib.Path) -> None:
    results = tmp_path / "results.json"
    with ScriptedServer() as server, cluster(ALLOWED, DENIED) as api:
        given = params(api, tmp_path, traffic=traffic(server), timeout=0, section="role", results_file=str(results))
        with pytest.raises(LabError) as caught:
            prove_graph(given, check_mode=False, verbose=False)
    lines = caught.value.message.splitlines()
    assert lines[0].startswith("1 of 4 claims of role did not hold on Kiali's graph (after the policy, ")
    assert lines[2].split() == ["CLAIM", "EXPECTED", "SEEN", "BETWEEN"]
    assert lines[4].split()[:5] == ["denied", "no_edge", "tcp", "92", "B/s"]
    assert "why:  expected no_edge, saw tcp 92 B/s" in lines
    assert "/kiali/api/namespaces/graph?namespaces=default" in lines[-1]
    assert len(lines) < 20
    section = json.loads(results.read_text())["role"]["graph"]["after"]
    assert (section["verdict"], section["claims"][1]["decided_by"]) == ("fail", "-")


@needs_curl
def test_broken_telemetry_is_an_error_with_its_first_broken_part(tmp_path: pathlib.Path) -> None:
    with ScriptedServer() as server, cluster() as api:
        given = params(api, tmp_path, traffic=traffic(server), timeout=0)
        with pytest.raises(LabError) as caught:
            prove_graph(given, check_mode=False, verbose=True)
    words = "were answered, but ztunnel istio-system/ztunnel-a has no istio_tcp_received_bytes_total of them"
    assert words in caught.value.message
    assert "| grep istio_tcp_received_bytes_total" in caught.value.message
    assert "allowed  edge tcp  no edge (no proof)" in caught.value.message
    result = caught.value.result
    assert (result["verdict"], [item["verdict"] for item in result["claims"]]) == ("error", ["error", "error"])
    assert words in result["claims"][0]["likely_cause"]
    assert result["claims"][1]["likely_cause"].endswith("'allowed' does not hold")


@needs_curl
def test_kiali_at_its_own_address(tmp_path: pathlib.Path) -> None:
    graph = {"/kiali/api/namespaces/graph": 500, "/kiali/api/config": 500}
    with ScriptedServer() as server, cluster() as api, FakeApi(graph) as kiali:
        given = params(api, tmp_path, traffic=traffic(server), url=f"{kiali.url}/kiali", timeout=0)
        with pytest.raises(LabError) as caught:
            prove_graph(given, check_mode=False, verbose=False)
    assert "Kiali asks for a login" in caught.value.message
    assert {path.split("?")[0] for path, _headers in kiali.asked} == {"/kiali/api/config"}
    assert not [path for path, _headers in api.asked if "kiali" in path]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"claims": []}, "claims is empty"),
        ({"claims": CLAIMS[1:]}, "add a claim whose expect is an edge of tcp"),
        ({"traffic": []}, "denied: nothing in traffic surely goes default/curl-deny -> sample-app-blue"),
        ({"traffic": [claim(expect="open")]}, "traffic: Invalid claims"),
        ({"traffic": [claim(source={"pod": "gone"})]}, "pod default/gone does not exist"),
        ({"namespaces": ["Default"]}, "namespaces: 'Default' is not a namespace's name"),
        ({"namespaces": ["layer7"]}, "has no end in namespaces (layer7)"),
        ({"url": "kiali:20001"}, "url: 'kiali:20001' is no address of Kiali"),
        ({"url": "http://user@host/"}, "is no address of Kiali"),
        ({"stable": 0}, "stable must be at least 1"),
        ({"interval": -1}, "interval must be from 0 to 3600 seconds"),
        ({"results_file": "/nowhere/results.json"}, "needs section"),
        ({"results_file": "/nowhere/results.json", "section": "x"}, "the folder of /nowhere/results.json"),
        ({"kubeconfig": "/nowhere/kubeconfig"}, "Can't use kubeconfig /nowhere/kubeconfig"),
    ],
)
def test_wrong_input_fails_before_any_traffic(tmp_path: pathlib.Path, changed: dict[str, t.Any], words: str) -> None:
    with ScriptedServer() as server, cluster() as api:
        arguments = {**params(api, tmp_path, traffic=traffic(server)), **changed}
        with pytest.raises(LabError) as caught:
            prove_graph(arguments, check_mode=False, verbose=False)
        assert server.requests == []
        assert not [path for path, _headers in api.asked if "kiali" in path]
    assert words in caught.value.message
