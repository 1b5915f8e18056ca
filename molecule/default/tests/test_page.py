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


def refreshed(opened: GraphPage) -> dict[str, Any]:
    """Ask for the graph once more; Kiali's answer, once the page shows it."""
    with opened.page.expect_response(lambda response: "/graph?" in response.url) as answer:
        opened.page.get_by_role("button", name="Refresh now").click()
    elements = answer.value.json()["elements"]
    nodes = sorted(node["data"]["id"] for node in elements["nodes"])
    opened.page.wait_for_function(
        "wanted => window.ambientGraph.nodes.toSorted().join() === wanted", arg=",".join(nodes)
    )
    return dict(elements)


@pytest.mark.parametrize(("namespace", "protocols"), [("default", {"TCP"}), ("layer7", {"HTTP", "TCP"})])
def test_the_page_draws_what_kiali_answers(lab: Lab, chromium: Browser, namespace: str, protocols: set[str]) -> None:
    """Nodes and edges are those of the answer; both are kept in the lab's folder, side by side."""
    address = f"{lab.url('32766')}/kiali/?namespaces={namespace}&duration=300s&refresh=0"
    with graph_page(chromium, address) as opened:
        assert opened.error() == ""
        elements = refreshed(opened)
        nodes, edges = opened.drawn()
        assert nodes == {node["data"]["id"] for node in elements["nodes"]}
        assert edges == {edge["data"]["id"] for edge in elements["edges"]}
        table = opened.table()
        assert set(table) == edges
        assert {row[2] for row in table.values()} == protocols
        assert opened.complaints == []
        assert {request for request in opened.requests if not request.startswith(lab.url("32766"))} == set()
        report = lab.folder / "report"
        report.mkdir(exist_ok=True)
        opened.screenshot(report / f"page-{namespace}.png")
        (report / f"page-{namespace}.json").write_text(json.dumps(elements, indent=1), encoding="utf-8")


def test_a_denial_at_the_waypoint_can_be_read_on_the_page(lab: Lab, chromium: Browser) -> None:
    """The 403s are on the client's edge to the Service, and on no edge behind it."""
    lab.kubectl("exec", "-n", "layer7", "curl", "--", "curl", "-s", "-X", "POST", "http://sample-app:8080/?[1-5]")
    with graph_page(chromium, f"{lab.url('32766')}/kiali/?namespaces=layer7&duration=300s&refresh=0") as opened:
        rows = {(row[0].split()[0], row[1].split()[0], row[2]): row for row in opened.table().values()}
        assert "403" in rows["curl", "sample-app", "HTTP"][5]
        assert "403" not in rows["sample-app", "sample-app-blue", "HTTP"][5]
