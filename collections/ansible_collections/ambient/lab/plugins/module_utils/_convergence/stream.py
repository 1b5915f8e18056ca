# Reads when each request of a loop began, and what it saw, from the marks of the loop's script.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen, classify
from ansible_collections.ambient.lab.plugins.module_utils._curl.script import TICK, Record, lacks, read_marks

# The clock of /proc/uptime goes in steps of a hundredth of a second (proc(5)).
CLOCK_STEP = 0.01


@dataclasses.dataclass(frozen=True)
class Heard:
    """One answer of the loop: to which request, and what it saw.

    start: when the request began, by the pod's clock; at: when the answer was heard, by ours. In seconds.
    """

    number: int
    start: float
    at: float
    seen: Seen


@dataclasses.dataclass(frozen=True)
class Stream:
    """What a loop said. ticks: of each, when it began by the pod's clock, and when that was heard by ours."""

    ticks: list[tuple[float, float]]
    answers: list[Heard]
    problem: str = ""


def parse_stream(nonce: str, pieces: t.Sequence[tuple[float, bytes]]) -> Stream:
    """Read what a loop said.

    Of the requests of a tick, one starts when the one before it is through: its start is the tick's, plus the times
    that those before it took. That leaves out what curl itself needs, so that no start is too late.

    Args:
        nonce: as given to build_script.
        pieces: of its output, each with the time of our clock when it was heard; the last line may be cut.
    """
    ticks: list[tuple[float, float]] = []
    answers: list[Heard] = []
    problem = ""
    start = 0.0
    for mark in read_marks(nonce, pieces):
        if mark.kind == TICK and mark.about.isdecimal():
            start = int(mark.about) * CLOCK_STEP
            ticks.append((start, mark.at))
        elif mark.kind == "missing":
            problem = lacks(mark)
        elif mark.kind == "end" and mark.about.isdecimal() and ticks:
            answers.append(Heard(int(mark.about), start, mark.at, classify(mark.record)))
            start += mark.record.elapsed if isinstance(mark.record, Record) else 0.0
    return Stream(ticks, answers, problem)
