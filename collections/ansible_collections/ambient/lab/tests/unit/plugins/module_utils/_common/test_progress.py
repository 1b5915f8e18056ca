# What a long wait says while it waits.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.ambient.lab.plugins.module_utils._common.errors import Slow
from ansible_collections.ambient.lab.plugins.module_utils._common.progress import told
from ansible_collections.ambient.lab.plugins.module_utils._common.rounds import Reason, Wait, repeat


class _Clock:
    """A clock on which only pauses take time."""

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


def test_a_wait_says_every_ten_seconds_what_it_waits_for() -> None:
    lines: list[str] = []
    clock = _Clock()

    def look() -> list[Reason]:
        if 11 < clock.at < 14:
            raise Slow("the API does not answer")
        left = ["pod a: is\x1b not ready", "pod b: " + "long " * 99] if clock.at < 20 else ["pod b: " + "long " * 99]
        return [Reason(text) for text in left] if clock.at < 28 else []

    with told(lines.append):
        repeat(look, Wait[list[Reason]](60, lambda left: left), clock, 1)
    assert [line[:47] for line in lines] == [
        "10 s of 60: pod a: is not ready (and 1 more)",
        "20 s of 60: pod b: long long long long long lon",
    ]
    assert lines[1].endswith("long ...")


def test_a_short_wait_says_nothing() -> None:
    lines: list[str] = []
    clock = _Clock()
    with told(lines.append):
        repeat(lambda: clock.at, Wait[float](60, lambda at: [Reason("not yet")] if at < 9 else []), clock, 1)
    assert lines == []


def test_a_wait_for_an_answer_says_that() -> None:
    lines: list[str] = []
    clock = _Clock()

    def look() -> bool:
        if clock.at < 11:
            raise Slow("the API does not answer")
        return True

    with told(lines.append):
        repeat(look, Wait[bool](60, lambda _there: []), clock, 1)
    assert lines == ["10 s of 60: the API does not answer"]
