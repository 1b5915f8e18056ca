# The picture's layout: columns by who calls whom, lines that end at their nodes, circles, and long ways round.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import itertools
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._graph.layout import Grid, Layout, Point, arrange

GRID = Grid(width=100, height=40, gap=60, pitch=70)


def columns(layout: Layout) -> dict[str, int]:
    """Column of each node."""
    return {name: round(place.x / (GRID.width + GRID.gap)) for name, place in layout.nodes.items()}


@pytest.mark.parametrize(
    ("nodes", "pairs", "expected"),
    [
        ("ab", [("a", "b")], {"a": 0, "b": 1}),
        ("abc", [("a", "b"), ("b", "c"), ("a", "c")], {"a": 0, "b": 1, "c": 2}),
        # The name does not decide, the direction does.
        ("abc", [("c", "b"), ("b", "a")], {"c": 0, "b": 1, "a": 2}),
        ("abc", [], {"a": 0, "b": 0, "c": 0}),
        # Circles of two and three begin where the order says.
        ("ab", [("a", "b"), ("b", "a")], {"a": 0, "b": 1}),
        ("abc", [("a", "b"), ("b", "c"), ("c", "a")], {"a": 0, "b": 1, "c": 2}),
    ],
)
def test_columns(nodes: str, pairs: list[tuple[str, str]], expected: dict[str, int]) -> None:
    assert columns(arrange(list(nodes), pairs, GRID)) == expected


def test_an_empty_graph() -> None:
    assert arrange([], [], GRID) == Layout({}, [], 0, 0)


NODES = list("abcdefg")
PAIRS = [pair for pair in itertools.permutations(NODES, 2) if (ord(pair[0]) * 7 + ord(pair[1]) * 3) % 4 == 0]


def test_lines_begin_and_end_at_their_nodes() -> None:
    layout = arrange(NODES, PAIRS, GRID)
    for (source, target), line in zip(PAIRS, layout.lines, strict=True):
        assert _touches(layout.nodes[source], line[0])
        assert _touches(layout.nodes[target], line[-1])
        # Two points for each column that is passed, so that pieces and passages take turns.
        assert len(line) % 2 == 0


def _touches(place: Point, end: Point) -> bool:
    return end.x in (place.x, place.x + GRID.width) and place.y < end.y < place.y + GRID.height


def test_nothing_lies_on_something_else() -> None:
    layout = arrange(NODES, PAIRS, GRID)
    assert len(set(layout.nodes.values())) == len(NODES)
    ends = [(line[0], line[-1]) for line in layout.lines]
    assert len({point for pair in ends for point in pair}) == 2 * len(PAIRS)
    for place in layout.nodes.values():
        assert 0 <= place.x <= layout.width - GRID.width
        assert 0 <= place.y <= layout.height - GRID.height
    inner = [point for line in layout.lines for point in line[1:-1]]
    for place in layout.nodes.values():
        covered = [
            point
            for point in inner
            if place.x < point.x < place.x + GRID.width and place.y < point.y < place.y + GRID.height
        ]
        assert not covered


def test_a_line_of_a_circle_runs_back() -> None:
    layout = arrange(["a", "b"], [("a", "b"), ("b", "a")], GRID)
    there, back = layout.lines
    assert there[0].x < there[-1].x
    assert back[0].x > back[-1].x


def test_a_line_goes_round_the_nodes_between_its_ends() -> None:
    layout = arrange(["a", "b", "c"], [("a", "b"), ("b", "c"), ("a", "c")], GRID)
    around = layout.lines[2]
    assert len(around) == 4
    assert not layout.nodes["b"].y <= around[1].y <= layout.nodes["b"].y + GRID.height
    # Level through the column of b, and inside the picture.
    left = layout.nodes["b"].x
    assert (around[1].x, around[2].x, around[1].y) == (left, left + GRID.width, around[2].y)
    assert 0 < around[1].y < layout.height


def test_the_only_line_is_in_the_middle() -> None:
    layout = arrange(["a", "b"], [("a", "b")], GRID)
    assert layout.lines == [[Point(GRID.width, GRID.height / 2), Point(GRID.width + GRID.gap, GRID.height / 2)]]


def test_a_long_way_passes_each_column() -> None:
    layout = arrange(list("abcd"), [("a", "b"), ("b", "c"), ("c", "d"), ("a", "d")], GRID)
    step = GRID.width + GRID.gap
    assert [point.x for point in layout.lines[3]] == [
        GRID.width, step, step + GRID.width, 2 * step, 2 * step + GRID.width, 3 * step,
    ]  # fmt: skip


def test_neighbours_decide_the_order() -> None:
    pairs = [("a", "z"), ("b", "y"), ("c", "x")]
    layout = arrange(["a", "b", "c", "x", "y", "z"], pairs, GRID)
    assert _crossings(layout, pairs) == 0


def _crossings(layout: Layout, pairs: t.Sequence[tuple[str, str]]) -> int:
    rows = [(layout.nodes[source].y, layout.nodes[target].y) for source, target in pairs]
    return sum((one[0] - other[0]) * (one[1] - other[1]) < 0 for one, other in itertools.combinations(rows, 2))


def test_ports_do_not_cross_at_a_node() -> None:
    layout = arrange(["a", "x", "y"], [("a", "y"), ("a", "x")], GRID)
    to_y, to_x = layout.lines
    assert (to_y[0].y < to_x[0].y) == (layout.nodes["y"].y < layout.nodes["x"].y)
