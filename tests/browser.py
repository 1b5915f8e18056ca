"""The graph page of the lab's Kiali in a real browser: what it has drawn, what it says, a picture of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
State = Literal["loading", "ready", "error"]


def chromium() -> str:
    """The browser's program; CHROMIUM names another one. Raises RuntimeError where there is none."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        message = "no Chromium found: apt-get install chromium, or name one with CHROMIUM=/path/to/it"
        raise RuntimeError(message)
    return found


@dataclass
class GraphPage:
    """The open page.

    :param requests: address of everything that it has asked for.
    :param complaints: what the browser's console says that is an error or a warning.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def wait(self, *states: State) -> str:
        """Wait until the page is in one of the states; which one. Raises TimeoutError after 30 seconds."""
        selector = ", ".join(f'html[data-state="{state}"]' for state in states)
        self.page.wait_for_selector(selector, state="attached")
        return self.page.locator("html").get_attribute("data-state") or ""

    def drawn(self) -> tuple[set[str], set[str]]:
        """Ids of the nodes and of the edges that Cytoscape holds."""
        found = self.page.evaluate("window.ambientGraph")
        return set(found["nodes"]), set(found["edges"])

    def positions(self) -> dict[str, tuple[float, float]]:
        """Id of each drawn node, and where the middle of its words stands on the page, in pixels."""
        script = "all => all.map(one => [one.dataset.id, one.getBoundingClientRect()])"
        boxes = self.page.eval_on_selector_all(".label:not(.edge):not(.lane)", script)
        return {name: (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for name, box in boxes}

    def labels(self) -> dict[str, str]:
        """Id and words of every edge in the picture."""
        script = "all => all.map(one => [one.dataset.id, [...one.children].map(line => line.textContent).join(' | ')])"
        return dict(self.page.eval_on_selector_all(".label.edge", script))

    def table(self) -> dict[str, list[str]]:
        """Id of each edge in the table, and the text of its cells in the order of the columns."""
        script = "all => all.map(one => [one.dataset.id, [...one.cells].map(cell => cell.innerText)])"
        rows = self.page.eval_on_selector_all("#rows tr", script)
        return {name: [" ".join(cell.split()) for cell in cells] for name, cells in rows}

    def error(self) -> str:
        """The message that is shown; empty where nothing is wrong."""
        alert = self.page.locator("#error")
        return alert.inner_text() if alert.is_visible() else ""

    def words(self) -> str:
        """What stands in the place of a picture."""
        return self.page.locator("#words").inner_text()

    def screenshot(self, file: Path) -> None:
        """The whole page as PNG."""
        self.page.screenshot(path=file, full_page=True)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium, with a home of its own that goes with it; root has no sandbox."""
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="ambient-lab-") as home, sync_playwright() as playwright:
        homes = {"HOME": home, "XDG_CACHE_HOME": f"{home}/.cache", "XDG_CONFIG_HOME": f"{home}/.config"}
        running = playwright.chromium.launch(executable_path=chromium(), args=arguments, env={**os.environ, **homes})
        try:
            yield running
        finally:
            running.close()


@contextlib.contextmanager
def graph_page(
    running: Browser, address: str, *, scheme: Literal["light", "dark"] = "light", size: tuple[int, int] = (1280, 800)
) -> Iterator[GraphPage]:
    """The page at an address, in a fresh profile; it has answered, with a graph or an error."""
    context = running.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    try:
        opened = GraphPage(context.new_page())
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        opened.page.on(
            "console",
            lambda message: opened.complaints.append(message.text) if message.type in ("error", "warning") else None,
        )
        opened.page.goto(address)
        opened.wait("ready", "error")
        yield opened
    finally:
        context.close()
