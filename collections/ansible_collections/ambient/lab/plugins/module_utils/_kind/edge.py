# Runs programs, and shows what kind is at.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._kind.engine import CANNOT_RUN, NOT_FOUND, Answer

Show = t.Callable[[str], None]
TIMED_OUT = 124
GROUP_SECONDS = 10.0
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Programs:
    """Runs programs of this machine.

    Args:
        show: gets the steps that kind prints, as they begin or fail.
    """

    def __init__(self, show: Show) -> None:
        self._show = show

    def __call__(self, *command: str, env: t.Mapping[str, str] | None = None, timeout: float | None = None) -> Answer:
        """See engine.Run."""
        try:
            process = subprocess.Popen(
                command, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL,
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
            if text := progress(line):
                self._show(text)


def progress(line: str) -> str | None:
    """What kind begins with, or has failed with; None for a line that says nothing more."""
    found = re.match(r"([•✗]) (.+)", COLOUR.sub("", line).strip())
    if not found:
        return None
    # kind decorates its steps with pictures.
    text = found[2].encode("ascii", "ignore").decode().rstrip(" .")
    return text if found[1] == "•" else f"failed: {text}"


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
