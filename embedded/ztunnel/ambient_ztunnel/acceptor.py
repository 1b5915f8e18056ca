"""Taking connections from a listening socket, within what this process can hold (embedded provider alone)."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Callable

log = logging.getLogger("proxy")

BURST = 64
PAUSE = 0.2  # seconds that a listener rests when a connection cannot be taken
QUIET = 10.0  # seconds between two lines about that
# A pod's share of this process's descriptors: a flood of one pod leaves the others theirs.
SHARE = 8


def fair_share() -> int:
    """How many connections one pod may hold."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // SHARE


class Acceptor:
    """A listener; owns its socket. `taken` gets each connection, and `full` says when no more may come.

    The kernel keeps those that are not taken in its queue. Upstream logs a failure and tries again at once
    (src/proxy/inbound.rs): with no descriptor left that is a busy loop, in which nothing else gets on here.
    """

    def __init__(
        self, sock: socket.socket, taken: Callable[[socket.socket], None], full: Callable[[], bool] = lambda: False
    ) -> None:
        self._sock = sock
        self._taken = taken
        self._full = full
        self._loop = asyncio.get_running_loop()
        self._said = -QUIET
        self._resume: asyncio.TimerHandle | None = None
        self._loop.add_reader(sock, self._accept)

    def close(self) -> None:
        """Stop listening."""
        if self._resume is not None:
            self._resume.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()

    def _accept(self) -> None:
        for _ in range(BURST):
            if self._full():
                self._pause("too many connections to this pod")
                return
            try:
                client, _ = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(error)
                return
            client.setblocking(False)
            self._taken(client)

    def _pause(self, reason: object) -> None:
        if self._loop.time() - self._said >= QUIET:
            self._said = self._loop.time()
            log.error("failed TCP handshake: %s", reason)
        self._loop.remove_reader(self._sock)
        self._resume = self._loop.call_later(PAUSE, self._loop.add_reader, self._sock, self._accept)
