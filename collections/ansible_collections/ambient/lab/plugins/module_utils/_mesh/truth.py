# Logic with a third value: None means that nobody can know.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import typing as t

Truth: t.TypeAlias = "bool | None"


def every(values: t.Iterable[Truth]) -> Truth:
    """False where one is false, else None where one is unknown."""
    known = list(values)
    return False if False in known else None if None in known else True


def some(values: t.Iterable[Truth]) -> Truth:
    """True where one is true, else None where one is unknown."""
    known = list(values)
    return True if True in known else None if None in known else False


def negated(value: Truth) -> Truth:
    """The opposite; unknown stays unknown."""
    return None if value is None else not value


def holds(wanted: t.Sequence[str], unwanted: t.Sequence[str], fits: t.Callable[[str], Truth]) -> Truth:
    """Whether one of the values that are wanted fits, if there are any, and none of those that are not."""
    return every((some(map(fits, wanted)) if wanted else True, negated(some(map(fits, unwanted)))))


def first(results: t.Sequence[Truth], why_not: t.Callable[[], str]) -> Match:
    """Whether any of a policy's rules matches; why_not: says it of the first one."""
    if True in results:
        return Match(True, results.index(True))
    return Match(some(results), why_not=why_not() if results else "it has no rule")


@dataclasses.dataclass(frozen=True)
class Match:
    """Whether a policy matches.

    Attributes:
        truth: None where nobody can know.
        rule: number of the first rule that does, -1 where none surely does.
        why_not: what of its first rule does not fit; "" where it matches, or has no rule.
    """

    truth: Truth
    rule: int = -1
    why_not: str = ""
