# Kiali over HTTP: through the Kubernetes API or at its own address, and what every bad answer means.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import pathlib
import urllib.parse

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._cluster.channel import Answer
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import Kube, Web
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._common.rounds import Retry
from ansible_collections.ambient.lab.plugins.module_utils._graph.http import Kiali, service_proxy, understand
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi
from ansible_collections.ambient.lab.tests.unit.fakes.graph import raw_graph

BASE = "/api/v1/namespaces/istio-system/services/kiali:20001/proxy/kiali"
WHERE = {"namespace": "istio-system", "service": "kiali", "port": 20001, "web_root": "/kiali"}
STATUS = {"kind": "Status", "apiVersion": "v1", "message": 'no endpoints available for service "kiali"'}


def test_through_the_kubernetes_api(tmp_path: pathlib.Path) -> None:
    with FakeApi({f"{BASE}/api/namespaces/graph": raw_graph(), f"{BASE}/api/config": {"x": 1}}) as api:
        kiali = Kiali(Kube(api.kubeconfig(tmp_path), None), service_proxy(WHERE))
        assert kiali.config().body == {"x": 1}
        reply = kiali.graph(["default", "layer7"], 100, 107, True)
        kiali.graph(["default"], 100, 107, False)
    assert (reply.body, reply.problem, reply.reached) == (raw_graph(), "", True)
    assert reply.date is not None
    path, headers = api.asked[-2]
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(path).query))
    assert {key: query[key] for key in ("namespaces", "duration", "queryTime", "injectServiceNodes")} == {
        "namespaces": "default,layer7",
        "duration": "7s",
        "queryTime": "107",
        "injectServiceNodes": "true",
    }
    assert (query["graphType"], query["ambientTraffic"], query["waypoints"]) == ("workload", "total", "true")
    assert "securityPolicy" in query["appenders"].split(",")
    assert "injectServiceNodes=false" in api.asked[-1][0]
    # A cookie would tie the answer to a session, in which later versions keep graphs.
    assert "cookie" not in headers
    assert headers["accept"].startswith("application/json")


def test_at_its_own_address_without_the_users_credentials() -> None:
    with FakeApi({}) as api:
        reply = Kiali(Web(f"{api.url}/kiali/"), "").config()
    assert "authorization" not in api.asked[0][1]
    assert api.asked[0][0] == "/kiali/api/config"
    assert reply.retry is Retry.POINTLESS


def test_nobody_answers(tmp_path: pathlib.Path) -> None:
    with FakeApi({}) as api:
        config = api.kubeconfig(tmp_path)
    reply = Kiali(Kube(config, None), BASE).config()
    assert reply.problem.startswith(f"The cluster does not answer at {api.url}")
    assert not reply.reached
    with pytest.raises(LabError, match=f"Nobody answers at {api.url}/kiali: "):
        Web(f"{api.url}/kiali").ask("/api/config")
    assert not Kiali(Web(api.url), "").config().reached


@pytest.mark.parametrize(
    ("where", "path"),
    [
        (WHERE, BASE),
        ({**WHERE, "web_root": "/"}, BASE.removesuffix("/kiali")),
        ({**WHERE, "web_root": "a/b/"}, BASE.removesuffix("/kiali") + "/a/b"),
        ({key: text for key, text in WHERE.items() if key != "web_root"}, BASE.removesuffix("/kiali")),
    ],
)
def test_service_proxy(where: dict[str, object], path: str) -> None:
    assert service_proxy(where) == path


@pytest.mark.parametrize(
    ("status", "body", "problem", "reached", "pointless"),
    [
        (200, {"a": 1}, "", True, False),
        (200, [], "Kiali answered with something else than a JSON object", True, False),
        (200, "<html>", "Kiali answered with something else than a JSON object", True, False),
        (302, "", "Kiali answered HTTP 302: no reason given", True, False),
        (401, {"error": "no"}, "Kiali asks for a login (HTTP 401); it must allow anonymous access", True, True),
        (
            403,
            {"error": "Requested namespace [x] is not accessible."},
            "Kiali answered HTTP 403: Requested namespace [x] is not accessible.",
            True,
            False,
        ),
        (503, {"error": "dial tcp"}, "Kiali answered HTTP 503: dial tcp", True, False),
        (500, "gone", "Kiali answered HTTP 500: gone", True, False),
        (503, STATUS, "the Kubernetes API could not reach Kiali, HTTP 503: no endpoints available", False, False),
        (404, STATUS, "the Kubernetes API could not reach Kiali, HTTP 404", False, False),
        (403, STATUS, "the Kubernetes API could not reach Kiali, HTTP 403", False, True),
    ],
)
def test_understand(status: int, body: object, problem: str, reached: bool, pointless: bool) -> None:
    data = json.dumps(body).encode() if not isinstance(body, str) or body == "gone" else body.encode()
    reply = understand(Answer(status, {"date": "Fri, 15 Jan 2027 08:00:00 GMT"}, data), "Kiali")
    assert reply.problem.startswith(problem)
    assert bool(reply.problem) == bool(problem)
    assert (reply.reached, reply.retry) == (reached, Retry.unless(pointless))
    # Only the server that was asked tells the time.
    assert reply.date == (1_800_000_000.0 if reached else None)


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_an_answer_without_a_time(date: str | None) -> None:
    headers = {} if date is None else {"date": date}
    assert understand(Answer(200, headers, b'{"a": 1}'), "Kiali").date is None


def test_a_long_refusal_is_cut() -> None:
    reply = understand(Answer(500, {}, json.dumps({"error": "x\n" * 1000}).encode()), "Kiali")
    assert len(reply.problem) < 340
    assert "\n" not in reply.problem
