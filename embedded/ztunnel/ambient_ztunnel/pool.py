"""Pooled HBONE connections of one pod (embedded provider alone)."""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass

from .certs import CertificateError, CertificateManager, peer_identity
from .context import HANDSHAKE_TIMEOUT
from .hbone import Connection, Headers
from .identity import Identity
from .metrics import Flag
from .model import IP
from .netns import Netns, os_error
from .stream import Stream, TunnelError

log = logging.getLogger("proxy.pool")

STREAMS_PER_CONNECTION = 100
IDLE_TIMEOUT = 300.0  # seconds without a stream before a connection is closed
ATTEMPTS = 3  # a peer may refuse a stream, or say that it goes, just when its connection is picked


class OpenError(Exception):
    """No tunnel; `flag` is the metric's response flag."""

    def __init__(self, message: str, flag: str = Flag.CONNECT) -> None:
        super().__init__(message)
        self.flag = flag


@dataclass(frozen=True, slots=True)
class Key:
    """What a pooled connection must agree in; the network namespace is the pool's own."""

    source: Identity
    sans: tuple[Identity, ...]
    ip: IP
    port: int


class Pool:
    """Connections by key; a connection carries many streams."""

    def __init__(self, netns: Netns, certs: CertificateManager) -> None:
        self._netns = netns
        self._certs = certs
        self._connections: dict[Key, list[Connection]] = {}
        self._connecting: dict[Key, asyncio.Task[Connection]] = {}
        self._reapers: set[asyncio.Task[None]] = set()

    async def open(self, key: Key, headers: Headers) -> Stream:
        """A CONNECT stream that the peer has accepted. Raises OpenError.

        One that the peer may have acted on is not asked for again: its application would see a connection too many
        (RFC 9110, section 9.2.2; RFC 9113, section 8.7).
        """
        for attempt in range(1, ATTEMPTS + 1):
            conn = await self._connection(key)
            stream: Stream | None = None
            try:
                stream = conn.connect(headers)
                status = await stream.response
            except TunnelError as error:
                if attempt == ATTEMPTS or not error.untouched:
                    raise OpenError(f"h2 failed: {error}", Flag.H2) from error
                continue
            except asyncio.CancelledError:
                if stream is not None:
                    conn.reset_stream(stream)
                raise
            if status == 200:
                return stream
            conn.reset_stream(stream)
            raise OpenError(f"http status: {_status_text(status)}")
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Let every connection end with its last stream."""
        tasks = [*self._reapers, *self._connecting.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connections in self._connections.values():
            for conn in connections:
                conn.drain()

    def abort(self) -> None:
        """Tear every connection down."""
        for connections in list(self._connections.values()):
            for conn in list(connections):
                conn.abort("connection closed")

    async def _connection(self, key: Key) -> Connection:
        """A connection with room for one more stream, which the caller opens at once. Raises OpenError."""
        while True:
            for conn in self._connections.get(key, ()):
                if conn.alive and _has_room(conn):
                    return conn
            # All who wait share one attempt, and its error.
            task = self._connecting.get(key)
            if task is None:
                task = self._connecting[key] = asyncio.create_task(self._connect(key))
                task.add_done_callback(lambda _: self._connecting.pop(key))
            conn = await asyncio.shield(task)
            if not conn.alive or not conn.streams or _has_room(conn):
                return conn

    async def _connect(self, key: Key) -> Connection:
        """TCP, TLS, identity check, HTTP/2 preface; into the pool. Raises OpenError."""

        def check(tls: ssl.SSLObject) -> Identity:
            peer = peer_identity(tls)
            if peer not in key.sans:
                expected = ",".join(map(str, key.sans))
                said = f"peer did not present the expected SAN ({expected}), got {peer}"
                raise ValueError(f"invalid peer certificate: Other(OtherError(identity verification error: {said}))")
            if tls.selected_alpn_protocol() != "h2":
                raise ValueError("peer does not speak HTTP/2")
            return peer

        try:
            certificate = await self._certs.fetch(key.source)
        except CertificateError as error:
            raise OpenError(f"identity error: {error}", Flag.IDENTITY) from error
        try:
            sock = await self._netns.connect(key.ip, key.port)
        except TimeoutError as error:
            said = "connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008"
            raise OpenError(f"{said}: {os_error(error)}", Flag.NETWORK_POLICY) from error
        except OSError as error:
            raise OpenError(f"io error: {os_error(error)}") from error
        conn = Connection(check)
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: conn,
                sock=sock,
                ssl=certificate.client,
                server_hostname="",
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT,
            )
        except (OSError, ssl.SSLError) as error:
            sock.close()
            raise OpenError(f"io error: {os_error(error)}") from error
        if conn.refused:
            raise OpenError(f"io error: {conn.refused}")
        self._connections.setdefault(key, []).append(conn)
        reaper = asyncio.create_task(self._reap(key, conn))
        self._reapers.add(reaper)
        reaper.add_done_callback(self._reapers.discard)
        return conn

    async def _reap(self, key: Key, conn: Connection) -> None:
        """Forget a connection that has ended, end one that is idle."""
        loop = asyncio.get_running_loop()
        while not conn.closed.done():
            wait = conn.idle_since + IDLE_TIMEOUT - loop.time()
            if conn.streams:
                wait = IDLE_TIMEOUT
            elif wait <= 0:
                conn.drain()
                wait = IDLE_TIMEOUT
            await asyncio.wait([conn.closed], timeout=wait)
        self._connections[key].remove(conn)
        if not self._connections[key]:
            del self._connections[key]


def _has_room(conn: Connection) -> bool:
    return len(conn.streams) < STREAMS_PER_CONNECTION and conn.capacity() > 0


def _status_text(status: int) -> str:
    """A status as Rust's `http` crate prints it."""
    names = {
        400: "Bad Request",
        401: "Unauthorized",
        403: "Forbidden",
        404: "Not Found",
        503: "Service Unavailable",
    }
    return f"{status} {names.get(status, '')}".rstrip()
