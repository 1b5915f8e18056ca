# Draws a traffic graph as an SVG picture that is readable on light and dark pages, and without colours.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import datetime
import itertools
import math
import typing as t
import xml.etree.ElementTree as ET

from .._common.text import printable
from .layout import Grid, Layout, Point, arrange
from .model import Edge, Graph, Node
from .parse import End

INK, FAINT, PAPER = "#1f2328", "#59636e", "#ffffff"
FILL = {"workload": "#eaf2fb", "service": "#eef7ee", "waypoint": "#f6effb", "outside": "#f6f8fa"}
STROKE = {"workload": "#1f5fa8", "service": "#1a7f37", "waypoint": "#6639ba", "outside": "#59636e"}
# A line's kind: its colour, its dashes and its width, which say the same without it, as the lab's graph page has them
# (embedded/kiali/console).
LINE = {
    "tcp": ("#1f5fa8", "7 4", "2"),
    "http": ("#1a7f37", "", "2"),
    "refused": ("#b42318", "", "4"),
    "absent": ("#59636e", "2 6", "2"),
}
MEANING = {
    "tcp": "bytes (ztunnel)",
    "http": "requests (waypoint)",
    "refused": "some answered 4xx or 5xx",
    "absent": "no traffic",
}
FONT = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"
SIZE, LETTER, MARGIN, HEAD, ROW = 13, 7.3, 28.0, 66.0, 17.0


@dataclasses.dataclass(frozen=True)
class Line:
    """What is drawn between two nodes, one line for all protocols; texts: of its label."""

    source: str
    target: str
    kind: str
    texts: tuple[str, ...]

    @property
    def colour(self) -> str:
        """Of the line and its label."""
        return LINE[self.kind][0]


@dataclasses.dataclass(frozen=True)
class Box:
    """A rectangle's place, in pixels."""

    x: float
    y: float
    width: float
    height: float

    def overlaps(self, other: Box) -> bool:
        """Whether the two share any place."""
        apart_x = self.x + self.width <= other.x or other.x + other.width <= self.x
        return not (apart_x or self.y + self.height <= other.y or other.y + other.height <= self.y)


def draw(graph: Graph, absent: t.Sequence[tuple[End, End]], title: str) -> str:
    """The picture as a whole SVG document. The same graph gives the same text.

    Args:
        graph: of Kiali.
        absent: pairs between which there is no traffic; their nodes are drawn even if they have none at all.
        title: above the picture.
    """
    nodes = _nodes(graph, absent)
    lines = _lines(graph, absent, nodes)
    words = [text for line in lines for text in line.texts]
    names = [part for node in nodes.values() for part in (node.name, _caption(node))]
    grid = Grid(
        width=max([120.0, *(len(name) * LETTER + 28 for name in names)]),
        height=48.0,
        gap=max([90.0, *(len(word) * LETTER + 110 for word in words)]),
        pitch=48.0 + 40.0,
    )
    layout = arrange(list(nodes), [(line.source, line.target) for line in lines], grid)
    used = [kind for kind in LINE if any(line.kind == kind for line in lines)]
    width = 2 * MARGIN + max(layout.width, len(title) * 10.5, sum(map(_legend_width, used)), 420.0)
    height = HEAD + layout.height + 3 * MARGIN
    svg = _svg(width, height, title, graph, lines, nodes)
    moved = ET.SubElement(
        svg, "g", {"transform": f"translate({_n((width - layout.width) / 2)} {_n(HEAD + MARGIN / 2)})"}
    )
    _draw_lines(moved, lines, layout)
    for name, node in nodes.items():
        place = layout.nodes[name]
        _draw_node(moved, node, Box(place.x, place.y, grid.width, grid.height))
    _draw_legend(svg, used, height - MARGIN)
    ET.indent(svg)
    return ET.tostring(svg, encoding="unicode") + "\n"


def _nodes(graph: Graph, absent: t.Sequence[tuple[End, End]]) -> dict[str, Node]:
    """The nodes with traffic and those without, by an id of their own, in a stable order."""
    found = [node for node in graph.nodes if any(node in (edge.source, edge.target) for edge in graph.edges)]
    for end in [end for pair in absent for end in pair]:
        if not any(node.is_end(end) for node in found):
            found.append(Node(f"absent {end}", end.kind, end.namespace, end.name))
    found.sort(key=lambda node: (node.namespace, node.name, node.kind, node.id))
    return {node.id: node for node in found}


def _lines(graph: Graph, absent: t.Sequence[tuple[End, End]], nodes: t.Mapping[str, Node]) -> list[Line]:
    pairs: dict[tuple[str, str], list[Edge]] = {}
    for edge in graph.edges:
        # There is no room for a line from a node to itself.
        if edge.source.id != edge.target.id:
            pairs.setdefault((edge.source.id, edge.target.id), []).append(edge)
    lines = [_line(pair, sorted(edges, key=lambda edge: edge.protocol)) for pair, edges in pairs.items()]
    for source, target in absent:
        ids = [next(key for key, node in nodes.items() if node.is_end(end)) for end in (source, target)]
        if tuple(ids) not in pairs:
            lines.append(Line(ids[0], ids[1], "absent", ("no traffic",)))
    order = {name: place for place, name in enumerate(nodes)}
    return sorted(dict.fromkeys(lines), key=lambda line: (order[line.source], order[line.target]))


def _line(pair: tuple[str, str], edges: t.Sequence[Edge]) -> Line:
    kind = "tcp" if all(edge.protocol == "tcp" for edge in edges) else "http"
    if any(edge.errors > 0 or (edge.protocol == "http" and max(edge.codes, default="") >= "4") for edge in edges):
        kind = "refused"
    return Line(*pair, kind, tuple(_text(edge) for edge in edges))


def _text(edge: Edge) -> str:
    return printable(f"{edge} ({edge.errors:.0f}% errors)" if edge.errors else str(edge))


def _kind(node: Node) -> str:
    if node.outside or node.kind not in ("workload", "service"):
        return "outside"
    return "waypoint" if node.waypoint else node.kind


def _caption(node: Node) -> str:
    kind = "waypoint" if node.waypoint else node.kind
    return printable(f"{kind}, {node.namespace}" + (" (outside)" if node.outside else ""))


def _svg(
    width: float, height: float, title: str, graph: Graph, lines: t.Sequence[Line], nodes: t.Mapping[str, Node]
) -> ET.Element:
    when = datetime.datetime.fromtimestamp(graph.time, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    caption = f"Kiali's graph of the {graph.duration} s before {when}"
    svg = ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "width": _n(width),
            "height": _n(height),
            "viewBox": f"0 0 {_n(width)} {_n(height)}",
            "role": "img",
            "font-family": FONT,
            "font-size": str(SIZE),
        },
    )
    ET.SubElement(svg, "title").text = printable(title)
    told = [f"{nodes[line.source].name} to {nodes[line.target].name}: {', '.join(line.texts)}" for line in lines]
    ET.SubElement(svg, "desc").text = printable("; ".join([caption, *told]))
    _rect(svg, Box(0.5, 0.5, width - 1, height - 1), {"rx": "8", "fill": PAPER, "stroke": "#d1d9e0"})
    _write(svg, printable(title), MARGIN, 36, {"font-size": "18", "font-weight": "600"})
    _write(svg, caption if lines else f"{caption}: no traffic", MARGIN, 56, {"fill": FAINT})
    return svg


def _write(parent: ET.Element, text: str, x: float, y: float, style: t.Mapping[str, str]) -> None:
    ET.SubElement(parent, "text", {"x": _n(x), "y": _n(y), "fill": INK, **style}).text = text


def _rect(parent: ET.Element, box: Box, style: t.Mapping[str, str]) -> None:
    size = {"x": _n(box.x), "y": _n(box.y), "width": _n(box.width), "height": _n(box.height)}
    ET.SubElement(parent, "rect", {**size, **style})


def _polygon(parent: ET.Element, corners: t.Iterable[tuple[float, float]], style: t.Mapping[str, str]) -> None:
    ET.SubElement(parent, "polygon", {"points": " ".join(f"{_n(x)},{_n(y)}" for x, y in corners), **style})


def _stroke(parent: ET.Element, path: str, kind: str) -> None:
    colour, dashes, width = LINE[kind]
    style = {"fill": "none", "stroke": colour, "stroke-width": width}
    ET.SubElement(parent, "path", {"d": path, **style, **({"stroke-dasharray": dashes} if dashes else {})})


def _draw_node(parent: ET.Element, node: Node, box: Box) -> None:
    kind = _kind(node)
    style = {"fill": FILL[kind], "stroke": STROKE[kind], "stroke-width": "1.5"}
    if kind == "outside":
        style["stroke-dasharray"] = "4 3"
    if kind == "waypoint":
        left, right, bottom, middle = box.x, box.x + box.width, box.y + box.height, box.y + box.height / 2
        corners = [
            (left, middle), (left + 14, box.y), (right - 14, box.y),
            (right, middle), (right - 14, bottom), (left + 14, bottom),
        ]  # fmt: skip
        _polygon(parent, corners, style)
    else:
        _rect(parent, box, {"rx": _n(box.height / 2) if kind == "service" else "6", **style})
    centre = box.x + box.width / 2
    _write(parent, printable(node.name), centre, box.y + 21, {"text-anchor": "middle", "font-weight": "600"})
    _write(parent, _caption(node), centre, box.y + 38, {"text-anchor": "middle", "fill": FAINT, "font-size": "11"})


def _draw_lines(parent: ET.Element, lines: t.Sequence[Line], layout: Layout) -> None:
    placed: list[Box] = []
    for line, points in zip(lines, layout.lines, strict=True):
        _stroke(parent, _path(points), line.kind)
        tip, back = points[-1], 9.0 if points[-1].x >= points[-2].x else -9.0
        corners = [(tip.x, tip.y), (tip.x - back, tip.y - 5), (tip.x - back, tip.y + 5)]
        _polygon(parent, corners, {"fill": line.colour})
        placed.append(_free_place(line, points, placed))
    # Labels come last, so that no line crosses them.
    for line, box in zip(lines, placed, strict=True):
        _rect(parent, box, {"rx": "4", "fill": PAPER})
        for number, text in enumerate(line.texts):
            style = {"text-anchor": "middle", "fill": line.colour}
            _write(parent, text, box.x + box.width / 2, box.y + 14 + number * ROW, style)


def _path(points: t.Sequence[Point]) -> str:
    """Curves that leave and reach each column level."""
    parts = [f"M{_n(points[0].x)} {_n(points[0].y)}"]
    for start, end in itertools.pairwise(points):
        middle = _n((start.x + end.x) / 2)
        parts.append(f"C{middle} {_n(start.y)} {middle} {_n(end.y)} {_n(end.x)} {_n(end.y)}")
    return " ".join(parts)


def _free_place(line: Line, points: t.Sequence[Point], placed: t.Sequence[Box]) -> Box:
    """Where on its line a label covers no other; where it always does, in the middle."""
    # Every second piece runs between columns, the others pass one.
    number = (len(points) // 4) * 2
    start, end = points[number], points[number + 1]
    width = max(len(text) for text in line.texts) * LETTER + 10
    height = len(line.texts) * ROW + 2
    boxes = []
    for share in (0.5, 0.4, 0.6, 0.3, 0.7):
        # A cubic curve whose inner points lie level with its ends.
        rise = 3 * share**2 - 2 * share**3
        x, y = start.x + (end.x - start.x) * share, start.y + (end.y - start.y) * rise
        boxes.append(Box(x - width / 2, y - height / 2, width, height))
    boxes += [dataclasses.replace(boxes[0], y=boxes[0].y + shift * height) for shift in (1, -1, 2, -2)]
    return next((box for box in boxes if not any(box.overlaps(other) for other in placed)), boxes[0])


def _legend_width(kind: str) -> float:
    return len(MEANING[kind]) * LETTER + 60


def _draw_legend(parent: ET.Element, used: t.Sequence[str], y: float) -> None:
    x = MARGIN
    for kind in used:
        _stroke(parent, f"M{_n(x)} {_n(y)} h30", kind)
        _write(parent, MEANING[kind], x + 38, y + 4, {"fill": FAINT})
        x += _legend_width(kind)


def _n(number: float) -> str:
    """A number with one digit after the point at most, the same on every machine."""
    rounded = math.floor(number * 10 + 0.5) / 10
    return f"{rounded:g}"
