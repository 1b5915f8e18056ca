"""The report's page in a real browser: a file, with and without scripts, by mouse and by keyboard, light and dark."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from ansible_collections.ambient.lab.plugins.plugin_utils._report.page import page
from ansible_collections.ambient.lab.tests.unit.fakes import report as fakes
from ansible_collections.ambient.lab.tests.unit.fakes.reported import report
from browser import browser
from playwright.sync_api import Browser, Page

CLUSTERS = {
    "one": {"istio-ambient": fakes.lab()},
    "broken": {"istio-ambient": fakes.lab(broken=True)},
    "fleet": {"staging": fakes.lab(), "production": fakes.lab(broken=True), "edge": {"l4_authz": fakes.l4()}},
    "many": {"shop": fakes.many(200)},
    "hostile": {"x": {fakes.HOSTILE: fakes.section(fakes.claim(fakes.HOSTILE, None, fakes.denial(fakes.HOSTILE)))}},
}
POST = "POST is refused by the waypoint"
# WCAG 2.2, success criterion 1.4.3: text against what is behind it.
CONTRAST = 4.5
# Every element with text of its own: its colour, and the first background behind it that is not transparent.
COLOURS = """() => {
  const found = [];
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !one.checkVisibility() || one.closest("figure, .sr, script, style")) continue;
    let behind = one;
    while (behind && getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
    const style = getComputedStyle(one);
    found.push([
      one.closest("svg") ? style.fill : style.color,
      getComputedStyle(behind ?? document.body).backgroundColor,
      one.textContent.trim().slice(0, 40),
    ]);
  }
  return found;
}"""


@dataclass
class Opened:
    """The open page, what it asked for, and what the browser complained about."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def claim(self, name: str) -> Any:
        """The row of a claim."""
        return self.page.locator("details.claim").filter(has=self.page.locator("summary", has_text=name)).first

    def shown(self) -> list[str]:
        """Names of the claims that can be seen."""
        names = self.page.locator("details.claim:visible > summary > .name")
        return [" ".join(text.split()) for text in names.all_text_contents()]


# Ends with this file: Playwright keeps an event loop running, beside which no other test could have one.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where each page lies, by its name."""
    folder = tmp_path_factory.mktemp("pages")
    addresses = {}
    for name, clusters in CLUSTERS.items():
        file = folder / f"{name}.html"
        file.write_text(page(report(**clusters)), encoding="utf-8")
        addresses[name] = file.as_uri()
    return addresses


@contextmanager
def visit(running: Browser, address: str, **options: Any) -> Iterator[Opened]:
    """The page in a fresh profile. Nothing that it does may make the browser complain or ask for anything else."""
    context = running.new_context(viewport={"width": 1280, "height": 800}, **options)
    try:
        opened = Opened(context.new_page())
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        opened.page.on("console", lambda message: opened.complaints.append(message.text))
        opened.page.on("dialog", lambda dialog: opened.complaints.append(f"dialog {dialog.message}"))
        opened.page.goto(address)
        yield opened
        assert opened.complaints == []
        assert [url for url in opened.requests if url.split("#")[0] not in (address, "data:,")] == []
    finally:
        context.close()


def luminance(colour: str) -> float:
    """Of an opaque sRGB colour as CSS writes it (WCAG 2.2, relative luminance)."""
    parts = [float(number) / 255 for number in re.findall(r"[\d.]+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["broken", "fleet", "hostile"])
def test_all_text_can_be_read(chromium: Browser, pages: dict[str, str], name: str, scheme: str) -> None:
    with visit(chromium, pages[name], color_scheme=scheme) as opened:
        opened.page.locator("details.claim > summary").first.click()
        found = opened.page.evaluate(COLOURS)
    assert len(found) > 30
    for colour, behind, text in found:
        light, dark = sorted((luminance(colour), luminance(behind)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= CONTRAST, (text, colour, behind)


@pytest.mark.parametrize("scripts", [True, False])
def test_a_claim_opens_on_click_and_by_keyboard(chromium: Browser, pages: dict[str, str], scripts: bool) -> None:
    with visit(chromium, pages["broken"], java_script_enabled=scripts) as opened:
        row = opened.claim(POST)
        witness = row.get_by_text("HTTP 200 from the application")
        assert not witness.is_visible()
        row.locator("summary").click()
        assert witness.is_visible()
        assert "likely cause" in row.inner_text()
        opened.page.keyboard.press("Enter")
        assert not witness.is_visible()
        opened.page.keyboard.press("Space")
        assert witness.is_visible()


def test_every_claim_is_reached_by_keyboard_and_shows_where_one_is(chromium: Browser, pages: dict[str, str]) -> None:
    with visit(chromium, pages["one"]) as opened:
        reached, outlined = set(), set()
        for _step in range(60):
            opened.page.keyboard.press("Tab")
            tag, text, outline = opened.page.evaluate(
                "() => { const one = document.activeElement;"
                "return [one.tagName, one.innerText, getComputedStyle(one).outlineStyle]; }"
            )
            if tag == "BODY":
                break
            outlined.add(outline)
            if tag == "SUMMARY":
                reached.add(text)
        assert {name for name in opened.shown() if any(name in " ".join(text.split()) for text in reached)} == set(
            opened.shown()
        )
        assert outlined == {"solid"}


def test_a_cell_says_what_it_is_and_leads_to_its_claim(chromium: Browser, pages: dict[str, str]) -> None:
    with visit(chromium, pages["broken"]) as opened:
        grid = opened.page.get_by_role("table", name="Outcomes of l7_waypoint on istio-ambient")
        row = grid.get_by_role("row").filter(has_text="POST")
        assert " ".join(row.inner_text().split()) == (
            "POST http://sample-app:8080/ before: allowed 200/0\u2192 after: allowed 200/0 FAIL"
        )
        row.get_by_role("link").click()
        claim = opened.claim(POST)
        assert claim.get_attribute("open") is not None
        box = claim.bounding_box()
        assert box
        assert 0 <= box["y"] < 800
        claim.locator("summary").click()
        opened.page.evaluate("scrollTo(0, 0)")
        row.get_by_role("link").click()
        assert claim.get_attribute("open") is not None, "the same link opens it again"


def test_outcomes_and_verdicts_differ_without_colour(chromium: Browser, pages: dict[str, str]) -> None:
    """Each has a word and a symbol of its own."""
    script = "all => all.map(one => [one.textContent.trim(), one.querySelector('use').getAttribute('href')])"
    with visit(chromium, pages["broken"]) as opened:
        chips = {tuple(pair) for pair in opened.page.eval_on_selector_all("footer .chip", script)}
        assert {symbol for _word, symbol in chips} == {"#i-allowed", "#i-denied", "#i-broken"}
        badges = {tuple(pair) for pair in opened.page.eval_on_selector_all(".badge", script)}
        assert badges == {
            ("pass", "#i-pass"),
            ("fail", "#i-fail"),
            ("error", "#i-error"),
        }


def test_the_filters_work_without_scripts(chromium: Browser, pages: dict[str, str]) -> None:
    with visit(chromium, pages["fleet"], java_script_enabled=False) as opened:
        everything = opened.shown()
        assert not opened.page.get_by_label("find claims").is_visible(), "what needs a script is not offered"
        opened.page.get_by_label("only what does not hold").check()
        assert len(opened.shown()) == 2
        opened.page.get_by_label("only what does not hold").uncheck()
        opened.page.get_by_label("only where clusters differ").check()
        assert (len(opened.shown()), len(everything)) == (5, 8)


def test_many_claims_are_found_by_words(chromium: Browser, pages: dict[str, str]) -> None:
    with visit(chromium, pages["many"]) as opened:
        opened.page.get_by_label("find claims").fill("client 7 service 12")
        assert opened.shown() == ["client 7 to service 12"]
        opened.page.get_by_role("button", name="open all").click()
        assert opened.page.locator("details.claim[open]").count() == 1
        opened.page.get_by_label("find claims").fill("zzz")
        assert opened.page.get_by_text("No claim matches.").is_visible()
        opened.page.get_by_label("find claims").fill("")
        assert len(opened.shown()) == 200
        assert opened.page.locator("table.grid tr").count() == 21
        assert opened.page.locator(".letters").first.inner_text().split() == [
            "A",
            "allowed",
            "D4",
            "denied_l4",
            "T",
            "timeout",
        ]


def test_it_is_complete_without_scripts(chromium: Browser, pages: dict[str, str]) -> None:
    with visit(chromium, pages["fleet"], java_script_enabled=False) as opened:
        text = opened.page.locator("body").inner_text()
        assert "2 of 31 checks do not hold." in text
        assert opened.page.locator("figure svg").count() == 6
        assert opened.page.get_by_role("heading", name="Observed matrix of staging, production").is_visible()


@pytest.mark.parametrize("width", [390, 640, 1280])
@pytest.mark.parametrize("name", ["fleet", "hostile"])
def test_only_tables_scroll_sideways(chromium: Browser, pages: dict[str, str], name: str, width: int) -> None:
    with visit(chromium, pages[name]) as opened:
        opened.page.set_viewport_size({"width": width, "height": 700})
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        titles = opened.page.locator("header thead").bounding_box()
        assert titles
        assert titles["height"] < 80, "no word is written letter by letter"


def test_a_script_in_a_name_does_not_run(chromium: Browser, pages: dict[str, str]) -> None:
    with visit(chromium, pages["hostile"]) as opened:
        assert opened.page.locator("img").count() == 0
        assert opened.shown()[0].startswith("<script>alert(1)</script><img src=x onerror=alert(2)>")
