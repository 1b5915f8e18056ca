# Draws how fast a policy took hold: a line per pair, from the moment the API accepted the change.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import math
import typing as t
import xml.etree.ElementTree as ET

from ansible_collections.ambient.lab.plugins.plugin_utils._report.model import Object

MAX_PAIRS = 24
LEFT, RIGHT, TOP, ROW, WIDTH = 250.0, 130.0, 26.0, 34.0, 900.0
PLOT = WIDTH - LEFT - RIGHT
LETTERS = 32
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


def chart(measured: Object, direction: str) -> str:
    """The pairs of one direction as SVG, the slowest first; "" where there are none.

    Its colours are classes of the page.

    Args:
        measured: a convergence of the report.
        direction: apply or remove.
    """
    pairs = [pair for pair in measured["pairs"] if pair["direction"] == direction]
    pairs = sorted(pairs, key=lambda pair: -_latest([pair]))[:MAX_PAIRS]
    if not pairs:
        return ""
    ready = measured["ready"].get(direction)
    step, last = ticks(max(_latest(pairs), *_values(ready), 0.001))
    height = TOP + ROW * len(pairs) + 30
    size = {"viewBox": f"0 0 {WIDTH:g} {height:g}", "role": "img", "class": "chart"}
    svg = ET.Element("svg", size)
    ET.SubElement(
        svg, "title"
    ).text = f"Seconds after the API accepted the change until the answers changed, {direction}"
    bottom = TOP + ROW * len(pairs)
    for number in range(round(last / step) + 1):
        x = place(number * step, last)
        _line(svg, "tick", x, TOP - 6, x, bottom)
        _text(svg, f"{number * step:g} s", x, bottom + 18, "axis", "middle")
    if ready and ready["p50"] is not None:
        _draw_ready(svg, ready, last, bottom)
    for number, pair in enumerate(pairs):
        _draw_pair(svg, pair, TOP + ROW * (number + 0.5), last)
    return ET.tostring(svg, encoding="unicode")


def ticks(largest: float) -> tuple[float, float]:
    """Distance of the marks on the axis, and its end, in seconds: round steps, at most six."""
    power = 10.0 ** math.floor(math.log10(largest / 4))
    step = next(factor * power for factor in STEPS if largest / (factor * power) <= 6)
    return step, step * math.ceil(largest / step)


def place(seconds: float, last: float) -> float:
    """Where a moment stands on the axis, in pixels."""
    return LEFT + PLOT * seconds / last


def _values(measured: Object | None) -> list[float]:
    return [value for value in (measured or {}).values() if value is not None] or [0.0]


def _latest(pairs: t.Sequence[Object]) -> float:
    return max(value for pair in pairs for key in ("first_new", "last_old") for value in _values(pair[key]))


def _draw_ready(svg: ET.Element, ready: Object, last: float, bottom: float) -> None:
    """A band from the usual to the latest moment at which every proxy had the policy."""
    start = place(ready["p50"], last)
    end = place(ready["max"] if ready["max"] is not None else ready["p50"], last)
    size = {"x": _n(start), "y": _n(TOP - 6), "width": _n(max(1.5, end - start)), "height": _n(bottom - TOP + 6)}
    ET.SubElement(svg, "rect", {**size, "class": "band"})
    _line(svg, "ready", start, TOP - 6, start, bottom)
    _text(svg, "ready", start, TOP - 11, "word", "middle")


def _draw_pair(svg: ET.Element, pair: Object, y: float, last: float) -> None:
    name = pair["name"]
    shown = name if len(name) <= LETTERS else name[: LETTERS - 1] + "\u2026"
    group = ET.SubElement(svg, "g")
    ET.SubElement(group, "title").text = name
    _text(group, shown, LEFT - 12, y + 4, "name", "end")
    _line(group, "lane", LEFT, y, LEFT + PLOT, y)
    for key, offset in (("first_new", -6.0), ("last_old", 6.0)):
        measured = pair[key]
        if not measured or measured["p50"] is None:
            continue
        runs = [run[key] for run in pair["runs"] if run[key] is not None]
        for moment in runs or [value for value in measured.values() if value is not None]:
            _dot(group, key, place(moment, last), y + offset)
        middle = place(measured["p50"], last)
        _line(group, f"p50 {key}", middle, y + offset - 6, middle, y + offset + 6)
    word = "leaks" if pair["leaks"] else "late"
    _text(group, f"{pair['stale_after_accepted']} {word}", WIDTH - 4, y - 2, "count", "end")
    _text(group, f"{pair['stale_after_ready']} after ready", WIDTH - 4, y + 12, "count", "end")


def _dot(parent: ET.Element, key: str, x: float, y: float) -> None:
    """A ring is the first new answer, a filled diamond the last old one: they differ without colour."""
    if key == "first_new":
        ET.SubElement(parent, "circle", {"cx": _n(x), "cy": _n(y), "r": "4", "class": key})
        return
    corners = [(x, y - 5), (x + 5, y), (x, y + 5), (x - 5, y)]
    ET.SubElement(parent, "polygon", {"points": " ".join(f"{_n(a)},{_n(b)}" for a, b in corners), "class": key})


def _line(parent: ET.Element, kind: str, x1: float, y1: float, x2: float, y2: float) -> None:
    ET.SubElement(parent, "line", {"x1": _n(x1), "y1": _n(y1), "x2": _n(x2), "y2": _n(y2), "class": kind})


def _text(parent: ET.Element, text: str, x: float, y: float, kind: str, anchor: str) -> None:
    ET.SubElement(parent, "text", {"x": _n(x), "y": _n(y), "class": kind, "text-anchor": anchor}).text = text


def _n(number: float) -> str:
    return f"{round(number, 1):g}"
