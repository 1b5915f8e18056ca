# Places the nodes of a graph in columns from left to right, and leads the lines between them.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import collections
import dataclasses
import itertools
import typing as t

# Rounds in which each column is sorted by its neighbours; more change nothing in graphs of this size.
SWEEPS = 4

Pair = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Point:
    """A place, in pixels from the upper left corner."""

    x: float
    y: float


@dataclasses.dataclass(frozen=True)
class Grid:
    """Measures in pixels: size of a node, space between columns, and distance from row to row."""

    width: float
    height: float
    gap: float
    pitch: float


@dataclasses.dataclass(frozen=True)
class Layout:
    """Upper left corners of the nodes; for each pair the points of its line, from its source to its target."""

    nodes: dict[str, Point]
    lines: list[list[Point]]
    width: float
    height: float


def arrange(nodes: t.Sequence[str], pairs: t.Sequence[Pair], grid: Grid) -> Layout:
    """Lay out a graph in layers. The same input gives the same picture.

    Args:
        nodes: in the order that decides where nothing else does.
        pairs: source and target of each line; none twice, and none from a node to itself.
    """
    turned = _turned(nodes, pairs)
    forward = [(pair[1], pair[0]) if pair in turned else pair for pair in pairs]
    # Column of each node: one more than the last of those that lead to it.
    depth = dict.fromkeys(nodes, 0)
    for _step in nodes:
        for source, target in forward:
            depth[target] = max(depth[target], depth[source] + 1)
    # The pair's ends, and between them a place in each column that its line passes.
    chains = [
        [source, *(f"\0{number} {column}" for column in range(depth[source] + 1, depth[target])), target]
        for number, (source, target) in enumerate(forward)
    ]
    columns = _columns(nodes, chains, depth)
    tallest = max((len(column) for column in columns), default=0)
    places = {
        name: Point(number * (grid.width + grid.gap), ((tallest - len(column)) / 2 + row) * grid.pitch)
        for number, column in enumerate(columns)
        for row, name in enumerate(column)
    }
    lines = _lines(chains, places, grid)
    return Layout(
        {name: places[name] for name in nodes},
        [line[::-1] if pair in turned else line for pair, line in zip(pairs, lines, strict=True)],
        max(0.0, len(columns) * (grid.width + grid.gap) - grid.gap),
        max(0.0, tallest * grid.pitch - (grid.pitch - grid.height)),
    )


def _turned(nodes: t.Sequence[str], pairs: t.Sequence[Pair]) -> set[Pair]:
    """Pairs that would close a circle; they are laid out the other way round."""
    following = collections.defaultdict(list)
    for source, target in pairs:
        following[source].append(target)
    turned: set[Pair] = set()
    done: set[str] = set()
    for first in nodes:
        trail: list[tuple[str, t.Iterator[str]]] = [(first, iter(following[first]))] if first not in done else []
        while trail:
            node, rest = trail[-1]
            for target in rest:
                if target in [name for name, _rest in trail]:
                    turned.add((node, target))
                elif target not in done:
                    trail.append((target, iter(following[target])))
                    break
            else:
                done.add(node)
                trail.pop()
    return turned


def _columns(nodes: t.Sequence[str], chains: t.Sequence[list[str]], depth: t.Mapping[str, int]) -> list[list[str]]:
    columns: list[list[str]] = [[] for _column in range(max(depth.values(), default=-1) + 1)]
    for name in nodes:
        columns[depth[name]].append(name)
    before, after = collections.defaultdict(list), collections.defaultdict(list)
    for chain in chains:
        for column, name in enumerate(chain[1:-1], depth[chain[0]] + 1):
            columns[column].append(name)
        for left, right in itertools.pairwise(chain):
            after[left].append(right)
            before[right].append(left)
    for _sweep in range(SWEEPS):
        for number in range(1, len(columns)):
            columns[number] = _sorted(columns[number], columns[number - 1], before)
        for number in range(len(columns) - 2, -1, -1):
            columns[number] = _sorted(columns[number], columns[number + 1], after)
    return columns


def _sorted(column: list[str], beside: list[str], neighbours: t.Mapping[str, list[str]]) -> list[str]:
    """The column in the order of its neighbours' mean row; who has none stays where it is."""
    rows = {name: row for row, name in enumerate(beside)}

    def mean(item: tuple[int, str]) -> tuple[float, int]:
        row, name = item
        near = [rows[other] for other in neighbours.get(name, []) if other in rows]
        return (sum(near) / len(near) if near else float(row), row)

    return [name for _row, name in sorted(enumerate(column), key=mean)]


def _lines(chains: t.Sequence[list[str]], places: t.Mapping[str, Point], grid: Grid) -> list[list[Point]]:
    leaving, arriving = _ports(chains, places, 0, grid), _ports(chains, places, -1, grid)
    lines = []
    for number, chain in enumerate(chains):
        points = [Point(places[chain[0]].x + grid.width, leaving[number])]
        for name in chain[1:-1]:
            middle = places[name].y + grid.height / 2
            points += [Point(places[name].x, middle), Point(places[name].x + grid.width, middle)]
        lines.append([*points, Point(places[chain[-1]].x, arriving[number])])
    return lines


def _ports(chains: t.Sequence[list[str]], places: t.Mapping[str, Point], end: int, grid: Grid) -> dict[int, float]:
    """Heights at which lines leave (end 0) or reach (end -1) their nodes, in the order of where they go."""
    at = collections.defaultdict(list)
    for number, chain in enumerate(chains):
        at[chain[end]].append((places[chain[1 if end == 0 else -2]].y, number))
    heights = {}
    for name, lines in at.items():
        for place, (_height, number) in enumerate(sorted(lines), 1):
            heights[number] = places[name].y + grid.height * place / (len(lines) + 1)
    return heights
