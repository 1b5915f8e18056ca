# Says on the user's screen what a long wait waits for, while it waits.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import contextvars
import typing as t

from .text import printable

# Seconds between two lines of one wait; shorter waits say nothing.
SECONDS = 10
_MAX = 200
Tell = t.Callable[[str], None]
_tell: contextvars.ContextVar[Tell | None] = contextvars.ContextVar("tell", default=None)


@contextlib.contextmanager
def told(tell: Tell) -> t.Iterator[None]:
    """Give what happens meanwhile to somebody who can show it: a module of its own process can't."""
    token = _tell.set(tell)
    try:
        yield
    finally:
        _tell.reset(token)


def say(text: str) -> None:
    """Show a line."""
    if tell := _tell.get():
        line = printable(text)
        tell(line if len(line) <= _MAX else f"{line[:_MAX].rpartition(' ')[0]} ...")


class Progress:
    """What one wait says."""

    def __init__(self) -> None:
        self._next = float(SECONDS)

    def note(self, text: str, at: float, timeout: float | None = None) -> None:
        """Say what is waited for or done, unless something was said a moment ago.

        Args:
            text: for people; "" for nothing.
            at: seconds since the start.
            timeout: when the wait ends, in seconds since the start; None where that is not known.
        """
        if text and at >= self._next:
            self._next = at + SECONDS
            of = "" if timeout is None else f" of {timeout:.0f}"
            say(f"{at:.0f} s{of}: {text}")
