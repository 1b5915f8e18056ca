"""Copying bytes both ways between two ends, with back-pressure and half-close (embedded provider alone)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from dataclasses import dataclass
from typing import Protocol, cast

from .netns import os_error

# An end that has this many bytes to write stops the other end from reading.
HIGH_WATER = 512 * 1024
LOW_WATER = 128 * 1024


# A peer may close as it likes (upstream's src/copy.rs, ignore_io_errors).
_IGNORED = {errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN}


class CopyError(Exception):
    """Why a relay ended badly, in the words of the access log."""


@dataclass(frozen=True, slots=True)
class Loss:
    """How an end was lost: the error for who reads from it, and for who closes it. "": none, just an end."""

    read: str = ""
    shutdown: str = ""


class Counter(Protocol):
    """What counts the bytes."""

    def add_request(self, size: int) -> None:
        """Bytes from the client to the server."""

    def add_response(self, size: int) -> None:
        """Bytes from the server to the client."""


class End(Protocol):
    """One side of a relay."""

    lost: Loss | None

    def attach(self, relay: Relay) -> None:
        """Start to deliver to `relay`."""

    def send(self, data: bytes | memoryview) -> bool:
        """Take bytes; False asks the relay to stop the other end until `on_writable`."""

    def send_eof(self) -> None:
        """No more bytes will come; the other direction stays open."""

    def pause(self) -> None:
        """Stop delivering."""

    def resume(self) -> None:
        """Deliver again."""

    def drop(self) -> None:
        """Let go at once, whatever is still to be sent."""

    def close(self) -> None:
        """Both directions have ended."""


class Relay:
    """Couples the client's end and the server's end; `done` resolves when both directions have ended.

    Each direction lives on its own, as upstream's (src/copy.rs, copy_bidirectional): an end that is lost is
    the end of what it sends, so the other one gets FIN, and of what it should get, once there is any.
    """

    def __init__(self, client: End, server: End, counter: Counter) -> None:
        self.client = client
        self.server = server
        self._counter = counter
        self._errors: dict[int, str] = {}  # of the directions that have ended, by the end that was read
        self._paused: set[int] = set()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start(self) -> None:
        """Let both ends deliver."""
        self.client.attach(self)
        if not self.done.done():
            self.server.attach(self)

    def on_data(self, end: End, data: bytes | memoryview) -> None:
        """Bytes have arrived at `end`."""
        if self.done.done() or id(end) in self._errors:
            return
        other = self._other(end)
        if other.lost is not None:
            self._end(end)
            return
        if end is self.client:
            self._counter.add_request(len(data))
        else:
            self._counter.add_response(len(data))
        if not other.send(data):
            self._paused.add(id(end))
            end.pause()

    def on_writable(self, end: End) -> None:
        """`end` has room again."""
        if not self.done.done():
            other = self._other(end)
            self._paused.discard(id(other))
            other.resume()

    def on_eof(self, end: End) -> None:
        """The peer of `end` has finished sending."""
        self._end(end)

    def on_lost(self, end: End) -> None:
        """`end` broke."""
        self._end(end, end.lost.read if end.lost else "")
        if id(self._other(end)) in self._paused:
            self._end(self._other(end))  # what waits to be sent never will be

    def abort(self, error: Exception) -> None:
        """End both directions now."""
        if self.done.done():
            return
        self.done.set_exception(error)
        # Whoever owns the relay awaits `done`; if it was cancelled, nobody does, and that is fine.
        self.done.exception()
        self.client.drop()
        self.server.drop()

    def _other(self, end: End) -> End:
        return self.server if end is self.client else self.client

    def _end(self, end: End, error: str = "") -> None:
        """Nothing more will be read from `end`: pass that on."""
        if self.done.done() or id(end) in self._errors:
            return
        direction = "send" if end is self.client else "receive"
        other = self._other(end)
        if other.lost is None:
            other.send_eof()
        elif other.lost.shutdown:
            direction, error = f"while closing connection: {direction}", other.lost.shutdown
        self._errors[id(end)] = f"{direction}: {error}" if error else ""
        if len(self._errors) < 2:
            return
        error = self._errors[id(self.client)] or self._errors[id(self.server)]
        if error:
            self.done.set_exception(CopyError(error))
            self.done.exception()
        else:
            self.done.set_result(None)
        self.client.close()
        self.server.close()


class TcpEnd(asyncio.Protocol):
    """A TCP connection as one end of a relay."""

    def __init__(self) -> None:
        self._relay: Relay | None = None
        self._transport: asyncio.Transport | None = None
        self._writable = True
        self._eof = False
        self.lost: Loss | None = None
        self._early: list[bytes] = []

    @classmethod
    async def open(cls, sock: socket.socket) -> TcpEnd:
        """Take over a connected socket. Nothing is read before the relay starts."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = cls()
        try:
            await loop.connect_accepted_socket(lambda: end, sock)
        except BaseException:
            sock.close()
            raise
        return end

    # -- asyncio.Protocol ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        self._transport.set_write_buffer_limits(high=HIGH_WATER, low=LOW_WATER)
        self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        if self._relay is not None:
            self._relay.on_data(self, data)
        else:
            # uvloop starts to read after connection_made, whatever that has asked for.
            self._early.append(data)
            self.pause()

    def eof_received(self) -> bool:
        self._eof = True
        if self._relay is not None:
            self._relay.on_eof(self)
        return True  # keep the other direction open

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self._relay is not None:
            self._relay.on_writable(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.lost = Loss()
        if isinstance(exc, OSError) and exc.errno not in _IGNORED:
            self.lost = Loss(read=f"io error: {os_error(exc)}")
        if self._relay is not None:
            self._relay.on_lost(self)

    # -- End -----------------------------------------------------------------------------------------------

    def attach(self, relay: Relay) -> None:
        """Start to deliver."""
        self._relay = relay
        self.resume()
        early, self._early = self._early, []
        for data in early:
            relay.on_data(self, data)
        if self._eof:
            relay.on_eof(self)
        elif self.lost is not None:
            relay.on_lost(self)

    def send(self, data: bytes | memoryview) -> bool:
        """Write; False when the buffer is full."""
        if self._transport is not None:
            self._transport.write(data)
        return self._writable

    def send_eof(self) -> None:
        """Half-close after what is buffered."""
        if self._transport is not None and self._transport.can_write_eof():
            with contextlib.suppress(OSError, RuntimeError):
                self._transport.write_eof()

    def pause(self) -> None:
        """Stop reading."""
        if self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._transport is not None and not self._eof and not self._transport.is_reading():
            self._transport.resume_reading()

    def drop(self) -> None:
        """Close now: the kernel sends FIN, or RST if the peer has sent what nobody has read."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close after what is buffered."""
        if self._transport is not None:
            self._transport.close()


def proxy_header(source: tuple[str, int], target: tuple[str, int], identity: str) -> bytes:
    """A PROXY protocol v2 header with the source's identity in TLV 0xD0 (workload.proto).

    Format: haproxy's proxy-protocol.txt, section 2.2.
    """
    family = socket.AF_INET6 if ":" in source[0] or ":" in target[0] else socket.AF_INET
    code = 0x21 if family == socket.AF_INET6 else 0x11

    def raw(ip: str) -> bytes:
        mapped = f"::ffff:{ip}" if family == socket.AF_INET6 and ":" not in ip else ip
        return socket.inet_pton(family, mapped)

    body = raw(source[0]) + raw(target[0]) + struct.pack("!HH", source[1], target[1])
    if identity:
        name = identity.encode()
        body += struct.pack("!BH", 0xD0, len(name)) + name
    return b"\r\n\r\n\x00\r\nQUIT\n" + struct.pack("!BBH", 0x21, code, len(body)) + body
