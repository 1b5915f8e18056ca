"""The graph page in a real browser, against a server with the routes and answers of Kiali v1.89.0."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import pytest
from ambient_embedded import cache
from ambient_embedded.npm import Npm
from browser import GraphPage, browser, graph_page
from console_server import Answer, Graph, Kiali, digest, edge, graph, node
from playwright.sync_api import Browser

Open = Callable[..., AbstractContextManager[GraphPage]]
NOTHING = graph([], [])
PLAIN, HALF = {"-": 100.0}, {"200": 50.0, "403": 50.0}
ALLOW, DENY, LEGACY = node("curl-allow"), node("curl-deny"), node("legacy", isOutOfMesh=True)
SERVICE, APP = node("sample-app", kind="service"), node("sample-app")
CURL, WAYPOINT = node("curl", "layer7"), node("waypoint", "layer7", isWaypoint=True)
SERVICE7, APP7 = node("sample-app", "layer7", "service"), node("sample-app", "layer7")
REFUSED = edge(DENY, SERVICE7, "http", 0.5, {"403": 100.0})
MIXED = edge(CURL, SERVICE7, "http", 4.25, HALF)


def lab(rate: float = 1234.5) -> Graph:
    """Layer 4 as ztunnel counts it, with a client outside the mesh, and layer 7 as the waypoint does.

    :param rate: of curl-allow, in bytes per second.
    """
    four = [edge(ALLOW, SERVICE, "tcp", rate, PLAIN), edge(LEGACY, SERVICE, "tcp", 80, PLAIN, mtls=0)]
    seven = [MIXED, edge(CURL, SERVICE7, "tcp", 2500, PLAIN), edge(SERVICE7, WAYPOINT, "tcp", 2500, PLAIN), REFUSED]
    inner = [edge(SERVICE, APP, "tcp", rate + 80, PLAIN), edge(SERVICE7, APP7, "http", 4.25, HALF)]
    return graph([ALLOW, LEGACY, SERVICE, APP, DENY, CURL, SERVICE7, WAYPOINT, APP7], [*four, *seven, *inner])


@pytest.fixture(scope="session")
def console(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page with its library, built as for the lab."""
    folder = tmp_path_factory.mktemp("console")
    tool = Npm(folder, folder / "work")
    cache.build(folder, [*tool.console.needs, tool.console], lambda _: None)
    return tool.console.folder(folder)


# Ends with this file: Playwright keeps an event loop running, beside which no other test could have one.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as running:
        yield running


@pytest.fixture
def kiali(console: Path) -> Iterator[Kiali]:
    server = Kiali(console)
    with server.serve():
        yield server


@pytest.fixture
def visit(kiali: Kiali, chromium: Browser) -> Open:
    """Open the page with the given query; without one it does not refresh by itself."""

    def opened(query: str = "?refresh=0", path: str = "", **options: Any) -> AbstractContextManager[GraphPage]:
        return graph_page(chromium, f"{kiali.address}{path}{query}", **options)

    return opened


def ids(answer: Graph) -> tuple[set[str], set[str]]:
    """The ids of an answer's nodes and edges."""
    elements = answer["elements"]
    return {one["data"]["id"] for one in elements["nodes"]}, {one["data"]["id"] for one in elements["edges"]}


def press(page: GraphPage) -> None:
    page.page.get_by_role("button", name="Refresh now").click()


def again(page: GraphPage, act: Callable[[GraphPage], object] = press) -> None:
    """Have the page ask once more and wait until it has drawn the answer."""
    time = page.page.locator("#facts").inner_text()
    act(page)
    page.page.wait_for_function("time => document.getElementById('facts').innerText !== time", arg=time)
    page.wait("ready")


@pytest.mark.parametrize("answer", [NOTHING, lab(), graph([APP], [edge(APP, APP, "tcp", 1, PLAIN)])])
def test_nodes_edges_and_rows_are_those_of_the_answer(kiali: Kiali, visit: Open, answer: Graph) -> None:
    kiali.graph = (200, answer)
    with visit() as page:
        assert page.drawn() == ids(answer)
        assert set(page.table()) == set(page.labels()) == ids(answer)[1]
        assert set(page.positions()) == ids(answer)[0]
        assert not page.error()
        assert not page.complaints


def test_the_table_says_what_the_picture_shows(kiali: Kiali, visit: Open) -> None:
    kiali.graph = (200, lab())
    with visit() as page:
        table, labels = page.table(), page.labels()
    four = digest(ALLOW["id"], SERVICE["id"], "tcp")
    where = ["curl-allow workload · default", "sample-app service · default"]
    assert table[four] == [*where, "TCP", "1.23 kB/s", "none", "no codes", "100 %"]
    assert labels[four] == "TCP 1.23 kB/s"
    where = ["curl workload · layer7", "sample-app service · layer7"]
    assert table[MIXED["id"]] == [*where, "HTTP", "4.25 requests/s", "50 %", "200: 50 %, 403: 50 %", "100 %"]
    assert labels[MIXED["id"]] == "HTTP 4.25 requests/s | 50 % errors: 403"
    assert table[REFUSED["id"]][3:] == ["0.5 requests/s", "100 %", "403: 100 %", "100 %"]
    legacy = table[digest(LEGACY["id"], SERVICE["id"], "tcp")]
    assert (legacy[0], legacy[-1]) == ("legacy workload, not in the mesh · default", "not reported")
    assert table[digest(SERVICE7["id"], WAYPOINT["id"], "tcp")][1] == "waypoint waypoint · layer7"


def test_the_labs_namespaces_are_chosen_where_nobody_has(kiali: Kiali, visit: Open) -> None:
    with visit() as page:
        shown = page.words()
    asked = kiali.asked[0]
    assert (asked["namespaces"], asked["duration"], asked["graphType"]) == ("default,layer7", "60s", "workload")
    assert asked["injectServiceNodes"] == "true"
    assert {"securityPolicy", "ambient"} <= set(asked["appenders"].split(","))
    assert "No traffic seen in default and layer7 in the last 1 min" in shown
    assert "every 15 seconds" in shown


def test_pickers_decide_what_is_asked_and_the_link_keeps_it(kiali: Kiali, visit: Open, chromium: Browser) -> None:
    with visit() as page:
        page.page.locator("summary").click()
        again(page, lambda page: page.page.get_by_label("istio-system").check())
        again(page, lambda page: page.page.get_by_label("default").uncheck())
        again(page, lambda page: page.page.get_by_label("Last").select_option("10s"))
        link = page.page.url
    assert kiali.asked[-1]["namespaces"] == "istio-system,layer7"
    assert kiali.asked[-1]["duration"] == "10s"
    with graph_page(chromium, link) as page:
        assert page.page.get_by_label("Last").input_value() == "10s"
        assert page.page.get_by_label("Refresh every").input_value() == "0"
        assert page.page.locator("#chosen").inner_text() == "istio-system, layer7"
    assert kiali.asked[-1] == kiali.asked[-2]


def test_a_link_may_name_what_is_not_there(kiali: Kiali, visit: Open) -> None:
    with visit("?namespaces=gone&duration=7y&refresh=0") as page:
        assert "There is no namespace gone." in page.words()
        assert page.page.get_by_label("Last").input_value() == "60s"
        assert not kiali.asked
        page.page.locator("summary").click()
        again(page, lambda page: page.page.get_by_label("default").check())
        assert kiali.asked[-1]["namespaces"] == "default"


def test_new_rates_move_no_node_and_newcomers_are_drawn(kiali: Kiali, visit: Open) -> None:
    kiali.graph = (200, lab())
    with visit() as page:
        before = page.positions()
        kiali.graph = (200, lab(98765432.1))
        again(page)
        assert page.labels()[digest(ALLOW["id"], SERVICE["id"], "tcp")] == "TCP 98.8 MB/s"
        assert page.positions() == before
        kiali.graph = (200, graph([ALLOW, DENY, SERVICE, APP], [edge(DENY, SERVICE, "tcp", 1, PLAIN)]))
        again(page)
        assert page.drawn() == ids(kiali.graph[1])
        kiali.graph = (200, graph([ALLOW, DENY, SERVICE, APP], [edge(ALLOW, SERVICE, "tcp", 1, PLAIN)]))
        again(page)
        assert page.drawn() == ids(kiali.graph[1])
        kiali.graph = (200, lab())
        again(page)
        assert page.positions() == before


def test_it_refreshes_by_itself(kiali: Kiali, visit: Open) -> None:
    with visit("?refresh=1") as page:
        again(page, lambda page: None)
        kiali.graph = (200, lab())
        page.page.wait_for_function("count => window.ambientGraph.edges.length === count", arg=8)


def test_the_newest_choice_wins_over_a_slow_answer(kiali: Kiali, visit: Open) -> None:
    released = threading.Event()

    def answer(query: dict[str, str]) -> Answer:
        if query["duration"] == "3600s":
            released.wait(30)
            return 200, lab()
        return 200, NOTHING

    kiali.graph = answer
    with visit() as page:
        with page.page.expect_request("**duration=3600s**"):
            page.page.get_by_label("Last").select_option("3600s")
        assert page.wait("loading") == "loading"
        given_up: list[str] = []
        page.page.on("requestfailed", lambda request: given_up.append(request.url))
        again(page, lambda page: page.page.get_by_label("Last").select_option("10s"))
        released.set()
        assert ["duration=3600s" in address for address in given_up] == [True]
        assert page.drawn() == (set(), set())
        assert kiali.asked[-1]["duration"] == "10s"


PROMETHEUS = {"error": "Post http://prometheus:9090/api/v1/query: connection refused"}
STATUS = {"kind": "Status", "message": "no endpoints available for service kiali"}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((503, PROMETHEUS), "Kiali gets no answer from Prometheus: Post http://prometheus:9090"),
        ((500, {"error": "nil map", "detail": "stack"}), "Kiali answers with status 500: nil map"),
        ((403, "no access"), "Kiali answers with status 403: no access"),
        ((503, STATUS), "Kiali cannot be reached, status 503: no endpoints available"),
    ],
)
def test_an_error_is_said_and_leaves_the_picture(kiali: Kiali, visit: Open, answer: Answer, words: str) -> None:
    kiali.graph = (200, lab())
    with visit() as page:
        drawn, table, positions = page.drawn(), page.table(), page.positions()
        kiali.graph = answer
        press(page)
        page.wait("error")
        assert words in page.error()
        assert "The picture is still the one of" in page.error()
        assert "the last 1 min in default and layer7" in page.error()
        assert (page.drawn(), page.table(), set(page.positions())) == (drawn, table, set(positions))
        kiali.graph = (200, lab(2))
        press(page)
        page.wait("ready")
        assert not page.error()
        assert page.labels()[digest(ALLOW["id"], SERVICE["id"], "tcp")] == "TCP 2 B/s"
        assert page.positions() == positions


def test_a_page_that_begins_with_an_error_recovers(kiali: Kiali, visit: Open) -> None:
    there, kiali.namespaces = kiali.namespaces, (500, {"error": "the API server is away"})
    with visit("?refresh=1") as page:
        assert "the API server is away" in page.error()
        assert "nothing to draw yet" in page.error()
        kiali.namespaces, kiali.graph = there, (200, lab())
        page.wait("ready")
        assert page.drawn() == ids(lab())


def test_a_lost_connection_is_said(kiali: Kiali, visit: Open) -> None:
    with visit() as page:
        page.page.context.set_offline(True)
        press(page)
        page.wait("error")
        assert "Kiali cannot be reached" in page.error()


def focused(page: GraphPage) -> str:
    """What has the focus: its id, value or text."""
    found = page.page.evaluate(
        "(one => one === document.body ? 'BODY' : one.id || one.value || one.innerText)(document.activeElement)"
    )
    return str(found)


def test_the_keyboard_reaches_everything(kiali: Kiali, visit: Open) -> None:
    kiali.graph = (200, graph([ALLOW, SERVICE], [edge(ALLOW, SERVICE, "tcp", 1, PLAIN)]))
    with visit() as page:
        keys = page.page.keyboard
        keys.press("Tab")
        assert focused(page).startswith("Namespaces")
        keys.press("Enter")
        order = []
        for _ in range(11):
            keys.press("Tab")
            order.append(focused(page))
    menu = ["default", "istio-system", "layer7"]
    picture = ["closer", "farther", "fit"]
    assert order[:10] == [*menu, "duration", "refresh", "now", *picture, "curl-allow"]
    assert order[10] == "BODY"  # the end of the page


def test_the_keyboard_works_everything(kiali: Kiali, visit: Open) -> None:
    kiali.graph = (200, lab())
    with visit() as page:
        keys = page.page.keyboard
        keys.press("Tab")
        keys.press("Enter")
        keys.press("Tab")
        again(page, lambda _: keys.press("Space"))
        assert kiali.asked[-1]["namespaces"] == "layer7"
        assert focused(page) == "default"  # an answer takes nobody's focus
        keys.press("Escape")
        assert not page.page.locator("#choices").is_visible()
        assert focused(page).startswith("Namespaces")
        keys.press("Tab")
        again(page, lambda _: keys.press("ArrowDown"))
        assert kiali.asked[-1]["duration"] == "300s"
        row = page.page.locator("#rows button").first
        row.focus()
        keys.press("Enter")
        kiali.graph = (200, graph([ALLOW, DENY, SERVICE, APP], [edge(ALLOW, SERVICE, "tcp", 1, PLAIN)]))
        again(page, lambda page: page.page.evaluate("document.getElementById('now').click()"))
        assert focused(page) == "curl-allow"
        assert page.page.locator("#rows [aria-pressed=true]").inner_text() == "curl-allow"


@pytest.mark.parametrize("path", ["", "console/graph/namespaces"])
def test_everything_comes_from_the_pages_own_origin(kiali: Kiali, visit: Open, path: str) -> None:
    """Wherever Kiali serves the page, its addresses lead below the web root; its policy lets nothing else in."""
    kiali.graph = (200, lab())
    with visit(path=path) as page:
        again(page, lambda page: page.page.get_by_label("Last").select_option("10s"))
        assert page.page.url.startswith(f"{kiali.address}{path}?")
        assert not [address for address in page.requests if not address.startswith((kiali.address, "data:"))]
        assert not page.complaints
        with pytest.raises(Exception, match="Failed to fetch"):
            page.page.evaluate("fetch('http://localhost:1/')")
        assert "Content Security Policy" in page.complaints[0]


CONTRAST = """names => {
  const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const luminance = (name) => {
    paint.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
    paint.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...paint.getImageData(0, 0, 1, 1).data].map((part) => part / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [dark, light] = names.map(luminance).sort((one, other) => one - other);
  return (light + 0.05) / (dark + 0.05);
}"""
TEXTS = [("text", "ground"), ("muted", "lane"), ("failed", "surface"), ("text", "failed-fill")]
LINES = [(name, "lane") for name in ("http", "tcp", "failed", "workload", "service", "waypoint", "focus")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_contrast_as_wcag_asks(visit: Open, scheme: Literal["light", "dark"]) -> None:
    """WCAG 2.2, 1.4.3 and 1.4.11: 4.5 to 1 for text, 3 to 1 for what is drawn."""
    with visit(scheme=scheme) as page:
        for wanted, pairs in ((4.5, TEXTS), (3.0, LINES)):
            for pair in pairs:
                assert page.page.evaluate(CONTRAST, pair) >= wanted, pair


@pytest.mark.parametrize("size", [(390, 844), (640, 400)])
def test_a_narrow_page_can_be_read(kiali: Kiali, visit: Open, size: tuple[int, int]) -> None:
    """On a telephone, and at 200 %: every column is in sight, and the picture's words are not too small."""
    kiali.graph = (200, lab())
    with visit(size=size) as page:
        asked = page.page.eval_on_selector_all
        assert asked("html, .scroll", "all => all.every(one => one.scrollWidth <= innerWidth)")
        titles = asked("#rows tr:first-child td", "all => all.map(one => one.dataset.title)")
        assert titles == ["To", "Protocol", "Rate", "Errors", "Responses", "Mutual TLS"]
        assert asked(".label.edge", "all => Math.min(...all.map(one => one.getBoundingClientRect().height))") > 10
        # The traffic's beginning is in sight.
        assert asked(".label", "all => Math.min(...all.map(one => one.getBoundingClientRect().left))") > 0
