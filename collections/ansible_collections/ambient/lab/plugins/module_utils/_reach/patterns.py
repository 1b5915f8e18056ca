# Texts that stand for all others: what a policy's patterns can tell apart, one of each.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import itertools
import typing as t

# Stands where a pattern takes anything; no policy names it.
OTHER = "any-other"
_MAX_TEMPLATES = 200


def filled(pattern: str, other: str = OTHER) -> str:
    """A text that a pattern with stars takes; without any, the pattern."""
    return pattern.replace("*", other)


def samples(patterns: t.Collection[str], seeds: t.Sequence[str], start: str = "") -> list[str]:
    """Texts that show every way in which patterns (exact, `x*`, `*x`) may match together, the seeds first.

    Which prefixes a text has follows from the longest of them, and likewise for suffixes. So the texts of all pairs of
    them are enough.

    Args:
        patterns: of a policy's values.
        seeds: texts that people know; the first one stands for what no pattern names, where it can.
        start: of every text.
    """
    exact = [text for text in patterns if "*" not in text]
    heads = ["", *(text[:-1] for text in patterns if text.endswith("*") and len(text) > 1)]
    tails = ["", *(text[1:] for text in patterns if text.startswith("*") and len(text) > 1)]
    joined = [f"{head or start}{middle}{tail}" for head in heads for tail in tails for middle in (OTHER, "")]
    return [text for text in dict.fromkeys([*seeds, *exact, *joined]) if text and text.startswith(start)]


def paths(patterns: t.Collection[str]) -> list[str]:
    """Paths for patterns of paths, which may be templates (`{*}` is one segment, `{**}` any number)."""
    templates = [text for text in patterns if "{" in text]
    plain = [text for text in patterns if "{" not in text]
    segments = [*dict.fromkeys(part for text in patterns for part in text.split("/") if part and not {*part} & {*"{*"})]
    made: list[str] = []
    for template in templates:
        parts = template.replace("{**}", "\0").replace("{*}", "\1").replace("*", "\1")
        any_of = {"\1": ["x", *segments], "\0": ["x", "", "x/y", *segments]}
        choices = [any_of.get(part, [part]) for part in parts]
        made += map("".join, itertools.islice(itertools.product(*choices), _MAX_TEMPLATES))
    return samples([*plain, *dict.fromkeys(made)], ["/"], "/")
