# Texts that stand for all others: one for each way in which the patterns of policies can match together.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import functools
import heapq
import re
import string
import typing as t

# Stands where a pattern takes anything; another text does where some pattern would fit it.
OTHER = "any-other"
# Steps of a pattern beside characters that must be there: one character or any number, of any kind or not a slash.
ONE, ANY, PART, PARTS = "\0", "\1", "\2", "\3"
SEGMENT = PART + PARTS
_WILD = re.compile(f"[{ONE}{ANY}{PART}{PARTS}]")
_ODD = string.ascii_lowercase[::-1] + string.digits + "~$+,;=@_!"
_SAMPLE = re.compile(rf"([a-z0-9]){OTHER}\1|{OTHER}")
# So many places in patterns are looked at: about a second.
_MAX = 150_000
# What the next characters of a path may make of what stands there: a segment that is empty, `.` or `..`.
_END = re.compile(r"/?\.{0,2}$")

Items = frozenset[tuple[int, int]]


class TooManyError(Exception):
    """There are more ways in which patterns match than anybody can look at; the message says of what."""


def like_glob(pattern: str, one: str = ONE, any_: str = ANY) -> str:
    """Steps of a pattern with one star at one end."""
    if pattern == "*":
        return one + any_
    if pattern.startswith("*"):
        return any_ + pattern[1:]
    return pattern[:-1] + any_ if pattern.endswith("*") else pattern


def like_path(pattern: str) -> str:
    """Steps of a pattern of paths: in a template `{*}`, and a star, are a segment, `{**}` any number of them."""
    if "{*}" not in pattern and "{**}" not in pattern:
        return like_glob(pattern)
    return pattern.replace("{**}", ANY).replace("{*}", SEGMENT).replace("*", SEGMENT)


def samples(
    patterns: t.Iterable[str],
    fits: t.Callable[[str], t.Hashable],
    seeds: t.Iterable[str] = (),
    shape: str = ONE + ANY,
    avoid: re.Pattern[str] | None = None,
) -> list[str]:
    """A text for each way in which patterns can match together.

    Args:
        patterns: their steps.
        fits: which of them fit a text, and whatever else sets texts apart.
        seeds: texts that people know: they come before others that match alike.
        shape: steps that all texts take.
        avoid: what no text has, but for seeds.

    Raises:
        TooManyError: when there are too many ways.
    """
    listed = dict.fromkeys(patterns)
    wild = [text for text in listed if _WILD.search(text)]
    free = next((char for char in _ODD if not any(char in text for text in (shape, *wild))), None)
    if free is None:
        raise TooManyError(f"patterns with all of {_ODD}")
    told: dict[t.Hashable, str] = {}
    exact = [text for text in listed if text not in wild and not (avoid and avoid.search(text))]
    for text in (*seeds, *(text for text in exact if takes(shape, text))):
        told.setdefault(fits(text), text)
    for word in _words([shape, *wild], free, avoid):
        found = fits(word)
        if found not in told:
            texts = [word.replace(free, other) for other in (OTHER, f"{free}{OTHER}{free}")]
            told[found] = next((text for text in texts if fits(text) == found), word)
    return list(told.values())


def unnamed(fitting: t.Callable[[str], bool]) -> str:
    """A text that no pattern fits, where there is one."""
    return next((text for text in (OTHER, *(f"{char}{OTHER}{char}" for char in _ODD)) if not fitting(text)), OTHER)


def said(text: str) -> str:
    """A sample for people."""
    return _SAMPLE.sub("any other", text)


def takes(pattern: str, text: str) -> bool:
    """Whether the steps of a pattern lead through a text."""
    return _expression(pattern).fullmatch(text) is not None


@functools.lru_cache(4096)
def _expression(pattern: str) -> re.Pattern[str]:
    steps = {ONE: ".", ANY: ".*", PART: "[^/]", PARTS: "[^/]*"}
    return re.compile("".join(steps.get(step) or re.escape(step) for step in pattern), re.DOTALL)


def _words(patterns: t.Sequence[str], free: str, avoid: re.Pattern[str] | None) -> list[str]:
    """The shortest text of the first pattern for each set of others that fit it, with the free character where it may.

    All patterns are read at once, character by character: how far each of them can be is a state, and there are few.
    """
    start = _closed(patterns, ((number, 0) for number in range(len(patterns))))
    heap: list[tuple[int, int, str, Items]] = [(0, 0, "", start)]
    seen: set[tuple[t.Any, ...]] = set()
    found: dict[frozenset[int], tuple[int, int, str]] = {}
    read = 0
    while heap:
        length, runs, word, items = heapq.heappop(heap)
        ends = _END.search(word)
        key = items, word.endswith(free), ends and ends[0]
        if key in seen:
            continue
        seen.add(key)
        read += len(items)
        if read > _MAX:
            raise TooManyError(f"{len(patterns) - 1} patterns that match in too many ways together")
        fitting = frozenset(number for number, at in items if at == len(patterns[number]))
        if 0 in fitting and not (avoid and avoid.search(word)):
            found[fitting] = min(found.get(fitting, (length, runs, word)), (length, runs, word))
        steps = {patterns[number][at] for number, at in items if at < len(patterns[number])}
        slash = {"/"} if steps & {PART, PARTS} else set()
        for char in {free, *slash, *steps} - {ONE, ANY, PART, PARTS}:
            after, text = _after(patterns, items, char), word + char
            if not any(number == 0 for number, _at in after) or (avoid and avoid.search(f"{text}-")):
                continue
            new = char == free and not word.endswith(free)
            heapq.heappush(heap, (length + (char != free), runs - new, text, after))
    return [word for _length, _runs, word in found.values()]


def _closed(patterns: t.Sequence[str], items: t.Iterable[tuple[int, int]]) -> Items:
    """Where patterns can be without reading on: behind any number of characters there may be none."""
    found: set[tuple[int, int]] = set()
    for number, at in items:
        found.add((number, at))
        while patterns[number][at : at + 1] in (ANY, PARTS):
            at += 1
            found.add((number, at))
    return frozenset(found)


def _after(patterns: t.Sequence[str], items: Items, char: str) -> Items:
    found = []
    for number, at in items:
        step = patterns[number][at : at + 1]
        if step in (char, ONE) or (step == PART and char != "/"):
            found.append((number, at + 1))
        elif step == ANY or (step == PARTS and char != "/"):
            found.append((number, at))
    return _closed(patterns, found)
