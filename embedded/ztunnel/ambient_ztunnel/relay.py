"""Copying bytes both ways between two ends, with back-pressure and half-close (embedded provider alone)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from typing import Protocol, cast

from .netns import reset_on_close

log = logging.getLogger("copy")

# An end that has this many bytes to write stops the other end from reading.
HIGH_WATER = 512 * 1024
LOW_WATER = 128 * 1024


class CopyError(Exception):
    """Why a relay ended early, in the words of the access log."""


class Counter(Protocol):
    """What counts the bytes."""

    def add_request(self, size: int) -> None:
        """Bytes from the client to the server."""

    def add_response(self, size: int) -> None:
        """Bytes from the server to the client."""


class End(Protocol):
    """One side of a relay."""

    def attach(self, relay: Relay) -> None:
        """Start to deliver to `relay`."""

    def send(self, data: bytes) -> bool:
        """Take bytes; False asks the relay to stop the other end until `on_writable`."""

    def send_eof(self) -> None:
        """No more bytes will come; the other direction stays open."""

    def pause(self) -> None:
        """Stop delivering."""

    def resume(self) -> None:
        """Deliver again."""

    def reset(self) -> None:
        """Tear the end down at once, so that its peer sees an error."""

    def close(self) -> None:
        """Both directions have ended in good order."""


class Relay:
    """Couples the client's end and the server's end; `done` resolves when both directions have ended."""

    def __init__(self, client: End, server: End, counter: Counter) -> None:
        self.client = client
        self.server = server
        self._counter = counter
        self._open = 2
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start(self) -> None:
        """Let both ends deliver."""
        self.client.attach(self)
        if not self.done.done():
            self.server.attach(self)

    def on_data(self, end: End, data: bytes) -> None:
        """Bytes have arrived at `end`."""
        if self.done.done():
            return
        if end is self.client:
            self._counter.add_request(len(data))
            writable = self.server.send(data)
        else:
            self._counter.add_response(len(data))
            writable = self.client.send(data)
        if not writable:
            end.pause()

    def on_writable(self, end: End) -> None:
        """`end` has room again."""
        if not self.done.done():
            (self.server if end is self.client else self.client).resume()

    def on_eof(self, end: End) -> None:
        """The peer of `end` has finished sending."""
        if self.done.done():
            return
        (self.server if end is self.client else self.client).send_eof()
        self._open -= 1
        if self._open == 0:
            self.done.set_result(None)
            self.client.close()
            self.server.close()

    def on_finished(self, end: End) -> None:
        """The peer of `end` has sent all it had and wants no more: what is left for the other end goes out."""
        if not self.done.done():
            self.done.set_result(None)
            (self.server if end is self.client else self.client).close()

    def on_lost(self, end: End, error: str) -> None:
        """`end` broke: the other end is torn down too."""
        if self.done.done():
            return
        side = "receive" if end is self.client else "send"
        self.abort(CopyError(f"{side}: {error}"))

    def abort(self, error: Exception) -> None:
        """End now, with an error for both peers."""
        if self.done.done():
            return
        self.done.set_exception(error)
        # Whoever owns the relay awaits `done`; if it was cancelled, nobody does, and that is fine.
        self.done.exception()
        self.client.reset()
        self.server.reset()


class TcpEnd(asyncio.Protocol):
    """A TCP connection as one end of a relay."""

    def __init__(self) -> None:
        self._relay: Relay | None = None
        self._transport: asyncio.Transport | None = None
        self._writable = True
        self._eof = False
        self._lost: str | None = None
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
        self._lost = str(exc) if exc else "connection closed"
        if self._relay is not None:
            self._relay.on_lost(self, self._lost)

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
        elif self._lost is not None:
            relay.on_lost(self, self._lost)

    def send(self, data: bytes) -> bool:
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

    def reset(self) -> None:
        """Close with RST."""
        if self._transport is not None:
            sock = self._transport.get_extra_info("socket")
            if sock is not None:
                reset_on_close(sock)
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
        body += struct.pack("!BH", 0xD0, len(identity)) + identity.encode()
    return b"\r\n\r\n\x00\r\nQUIT\n" + struct.pack("!BBH", 0x21, code, len(body)) + body
