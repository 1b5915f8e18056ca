# Runs programs of this machine, and ends them with the play.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
import typing as t

# As a shell has them.
TIMED_OUT, CANNOT_RUN, NOT_FOUND = 124, 126, 127
GROUP_SECONDS = 10.0


class Answer(t.NamedTuple):
    """How a program ended: its exit status (127 where there is no such program) and what it wrote."""

    code: int
    out: str
    err: str


class Run(t.Protocol):
    """Runs a program to its end; the one way from here to the machine."""

    def __call__(self, *command: str, env: t.Mapping[str, str] | None = None, timeout: float | None = None) -> Answer:
        """Run a command.

        Args:
            command: program and arguments.
            env: variables on top of this process's own.
            timeout: seconds; one that takes longer counts as failed.
        """


class Programs:
    """Runs programs of this machine.

    Args:
        show: gets each line of a program's errors, at once.
    """

    def __init__(self, show: t.Callable[[str], object]) -> None:
        self._show = show

    def __call__(
        self, *command: str, env: t.Mapping[str, str] | None = None, timeout: float | None = None, given: str = ""
    ) -> Answer:
        """See Run. given: for its standard input."""
        try:
            process = subprocess.Popen(
                command, env={**os.environ, **(env or {})}, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
            return Answer(NOT_FOUND if missing else CANNOT_RUN, "", f"{command[0]}: {error.strerror}")
        lines: list[str] = []
        timer = threading.Timer(timeout or threading.TIMEOUT_MAX, _end, (process,))
        reader = threading.Thread(target=self._read, args=(process.stderr, lines))
        with process:
            try:
                timer.start()
                reader.start()
                with contextlib.suppress(BrokenPipeError), t.cast("t.IO[str]", process.stdin) as stdin:
                    stdin.write(given)
                out = process.stdout.read() if process.stdout else ""
                reader.join()
            except BaseException:
                # A play that is ended, or a task's timeout, takes its command along.
                _end(process)
                raise
            finally:
                timer.cancel()
        if process.returncode:
            _await_group(process.pid)
        if timeout and process.returncode == -signal.SIGTERM:
            return Answer(TIMED_OUT, out, f"{command[0]} did not answer in {timeout:.0f} s")
        return Answer(process.returncode, out, "".join(lines))

    def _read(self, stream: t.Iterable[str] | None, lines: list[str]) -> None:
        for line in stream or ():
            lines.append(line)
            self._show(line)


def _await_group(group: int) -> None:
    """Wait until what a failed program began has ended: kind does not wait for a second node when the first fails."""
    deadline = time.monotonic() + GROUP_SECONDS
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.05)


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
