# Lays out tables, and failures on one screen, for a terminal.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import textwrap
import typing as t

WIDTH = 100
MAX_SHOWN = 6
_GAP = "  "


def printable(text: str) -> str:
    """One line without control characters: what a cluster says must not drive the terminal."""
    plain = text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)
    return " ".join(plain.split())


def printable_lines(text: str) -> str:
    """The text without control characters; its lines, and the spaces in them, stay."""
    return "\n".join("".join(char if char.isprintable() else " " for char in line) for line in text.split("\n"))


def place_of(error: Exception) -> str:
    """Where YAML is none, for a message: the parser's own words quote the text, in which a secret may stand."""
    mark = getattr(error, "problem_mark", None)
    return f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def table(header: t.Sequence[str], rows: t.Sequence[t.Sequence[str]], width: int = WIDTH) -> list[str]:
    """Lines of a table; the first column takes what the others leave, and long cells are wrapped.

    Args:
        header: column titles.
        rows: cells, as many as titles.
        width: characters a line may have at most, as far as the columns after the first allow.
    """
    columns = range(len(header))
    widths = [max(len(line[column]) for line in (header, *rows)) for column in columns]
    spare = width - len(_GAP) * (len(header) - 1)
    if sum(widths) > spare:
        # The last columns give way too where they are very long, so that the first one stays readable.
        limit = max(16, (spare - 30) // max(1, len(header) - 1))
        widths[1:] = [min(size, max(limit, len(title))) for size, title in zip(widths[1:], header[1:], strict=True)]
    widths[0] = min(widths[0], max(20, spare - sum(widths[1:])))
    lines: list[str] = []
    for row in (header, *rows):
        cells = [
            textwrap.wrap(cell, size, break_on_hyphens=False) or [""] for cell, size in zip(row, widths, strict=True)
        ]
        for number in range(max(len(cell) for cell in cells)):
            parts = [cell[number] if number < len(cell) else "" for cell in cells]
            padded = [part.ljust(size) for part, size in zip(parts, widths, strict=True)]
            lines.append(_GAP.join(padded).rstrip())
        if row is header:
            lines.append(_GAP.join("-" * size for size in widths))
    return lines


@dataclasses.dataclass(frozen=True)
class Row:
    """A claim that did not hold: its line in the failure's table, why, and the command to look further."""

    claim: str
    expected: str
    seen: str
    where: str
    why: str
    look: str


def screen(head: str, where: str, rows: t.Sequence[Row]) -> str:
    """A head line, a table of the first rows, each reason once, and at most two commands.

    Args:
        where: title of the last column.
    """
    shown = rows[:MAX_SHOWN]
    cells = [[row.claim, row.expected, row.seen, row.where] for row in shown]
    lines = [head, "", *table(["CLAIM", "EXPECTED", "SEEN", where], cells), ""]
    reasons: dict[str, str] = {}
    for row in shown:
        reasons.setdefault(row.why, row.claim)
    for reason, name in reasons.items():
        lines.append(f"why:  {name}: {reason}" if len(reasons) > 1 else f"why:  {reason}")
    for command in [look for look in dict.fromkeys(row.look for row in shown) if look][:2]:
        lines.append(f"look: {command}")
    if len(rows) > len(shown):
        lines.append(f"({len(rows) - len(shown)} more: run again with -v)")
    return "\n".join(lines)


def shorten(reason: str, flapped: t.Sequence[t.Any]) -> str:
    """A reason of a few lines at most; flapped: how the answer changed, where it did."""
    text = reason or "the answer changed before it was stable"
    if flapped:
        changes = [f"{change.outcome} at {change.at:g} s" for change in flapped[-4:]]
        text += f"; it flapped: {', '.join(changes)}"
    return text if len(text) <= 4 * WIDTH else text[: 4 * WIDTH] + "..."
