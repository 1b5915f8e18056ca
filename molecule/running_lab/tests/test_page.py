"""The page that this lab's own Kiali serves, in a real browser: it draws what Kiali answered, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from browser import GraphPage, browser, graph_page
from playwright.sync_api import Browser
from running_lab import Lab


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as running:
        yield running


def send(lab: Lab, namespace: str, pod: str, method: str = "GET") -> None:
    """Requests for three seconds, so that Prometheus sees a counter rise."""
    options = ["-s", "-o", "/dev/null", "-X", method, "--rate", "5/s"]
    lab.kubectl("exec", "-n", namespace, pod, "--", "curl", *options, "http://sample-app:8080/?[1-15]")


def refreshed(opened: GraphPage) -> dict[str, Any]:
    """Ask for the graph once more; Kiali's answer, once the page shows it."""
    with opened.page.expect_response(lambda response: "/graph?" in response.url) as answer:
        opened.page.get_by_role("button", name="Refresh now").click()
    elements = answer.value.json()["elements"]
    ids = sorted(edge["data"]["id"] for edge in elements["edges"])
    shown = "wanted => window.ambientGraph.edges.toSorted().join() === wanted"
    opened.page.wait_for_function(shown, arg=",".join(ids))
    return dict(elements)


def edges_of(opened: GraphPage, protocol: str) -> dict[str, list[str]]:
    """Rows of the page's table by "from -> to", once there are some; asked for ten times at most."""
    for _ in range(10):
        rows = {
            f"{row[0].split()[0]} -> {row[1].split()[0]}": row for row in opened.table().values() if row[2] == protocol
        }
        if rows:
            return rows
        refreshed(opened)
        opened.page.wait_for_timeout(500)
    return {}


@pytest.mark.parametrize(
    ("namespace", "pod", "protocol"), [("default", "curl-allow", "TCP"), ("layer7", "curl", "HTTP")]
)
def test_the_page_draws_what_kiali_answers(
    lab: Lab, chromium: Browser, namespace: str, pod: str, protocol: str
) -> None:
    """Nodes and edges are those of the answer; both are kept in the lab's folder, side by side."""
    send(lab, namespace, pod)
    address = f"{lab.url('32766')}/kiali/?namespaces={namespace}&duration=300s&refresh=0"
    with graph_page(chromium, address) as opened:
        assert f"{pod} -> sample-app" in edges_of(opened, protocol)
        elements = refreshed(opened)
        nodes, edges = opened.drawn()
        assert nodes == {node["data"]["id"] for node in elements["nodes"]}
        assert edges == {edge["data"]["id"] for edge in elements["edges"]}
        assert set(opened.table()) == edges
        assert opened.error() == ""
        assert opened.complaints == []
        assert [request for request in opened.requests if not request.startswith(lab.url("32766"))] == []
        report = lab.folder / "report"
        report.mkdir(exist_ok=True)
        opened.screenshot(report / f"page-{namespace}.png")
        (report / f"page-{namespace}.json").write_text(json.dumps(elements, indent=1), encoding="utf-8")


def test_a_denial_at_the_waypoint_can_be_read_on_the_page(lab: Lab, chromium: Browser) -> None:
    """The 403s are on the client's edge to the Service, and on no edge behind it."""
    send(lab, "layer7", "curl", "POST")
    send(lab, "layer7", "curl", "GET")
    with graph_page(chromium, f"{lab.url('32766')}/kiali/?namespaces=layer7&duration=300s&refresh=0") as opened:
        rows = edges_of(opened, "HTTP")
        assert {"curl -> sample-app", "sample-app -> sample-app-blue"} <= rows.keys()
        assert "403" in rows["curl -> sample-app"][5]
        assert "403" not in rows["sample-app -> sample-app-blue"][5]
