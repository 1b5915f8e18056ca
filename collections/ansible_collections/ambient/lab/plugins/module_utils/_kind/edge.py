# The machine under the code of kind: programs, and ports that are free.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import threading
import time
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._kind.engine import CANNOT_RUN, NOT_FOUND, Answer
from ansible_collections.ambient.lab.plugins.module_utils._kind.words import progress

Show = t.Callable[[str], None]
TIMED_OUT = 124
GROUP_SECONDS = 10.0


class Programs:
    """Runs programs of this machine.

    Args:
        show: gets the lines of progress of a command that is `shown`.
    """

    def __init__(self, show: Show) -> None:
        self._show = show

    def __call__(
        self, *command: str, env: t.Mapping[str, str] | None = None, timeout: float | None = None, shown: bool = False
    ) -> Answer:
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
        reader = threading.Thread(target=self._read, args=(process.stderr, lines, shown))
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

    def _read(self, stream: t.Iterable[str] | None, lines: list[str], shown: bool) -> None:
        for line in stream or ():
            lines.append(line)
            if shown and (text := progress(line)):
                self._show(text)


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


def port_problem(address: str, port: int) -> str | None:
    """Why nobody can listen on a TCP port of an address of this machine; None where one can, or only the engine may."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
            listener.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return "something listens there already"
            if error.errno == errno.EADDRNOTAVAIL:
                return f"{address} is no address of this machine, see cluster_listen_address"
        return None
