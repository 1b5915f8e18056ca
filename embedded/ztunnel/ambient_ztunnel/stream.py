"""One HTTP/2 CONNECT stream as an end of a relay (embedded provider alone)."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from .frames import STREAM_WINDOW, Codes
from .relay import HIGH_WATER, LOW_WATER, Loss, Relay

if TYPE_CHECKING:
    from .hbone import Connection

# What a reset means for who reads the stream, and who closes it (upstream's src/proxy/h2.rs); all others are errors.
_RESETS: dict[int, Loss] = {
    Codes.NO_ERROR: Loss(),
    Codes.CANCEL: Loss(shutdown="io error: broken pipe"),
    Codes.STREAM_CLOSED: Loss(shutdown="io error: broken pipe"),
}
_BROKEN = Loss(shutdown="io error: stream closed because of a broken pipe")


class TunnelError(Exception):
    """The tunnel's connection broke or its peer misbehaved. `untouched`: the peer has not looked at the request."""

    def __init__(self, message: str, *, untouched: bool = False) -> None:
        super().__init__(message)
        self.untouched = untouched


class Stream:
    """One CONNECT stream as an end of a relay."""

    def __init__(self, conn: Connection, stream_id: int, send_window: int) -> None:
        self.conn = conn
        self.id = stream_id
        self.send_window = send_window
        self.receive_window = STREAM_WINDOW
        self.headers: dict[str, str] = {}
        self.response: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._relay: Relay | None = None
        self._waiting = bytearray()  # while nobody takes it; one buffer, as frames may be tiny
        self._out: deque[memoryview] = deque()
        self._out_size = 0
        self._out_eof = False
        self._sent_eof = False
        self._closing = False  # RST_STREAM follows what is queued
        self._full = False
        self._got_eof = False
        self._paused = True
        self._held = 0  # bytes that count against the connection's window, and against the stream's
        self._unacked = 0
        self.lost: Loss | None = None

    # -- from the connection -------------------------------------------------------------------------------

    def on_response(self, status: str) -> None:
        """The status of the answer; ValueError if it is none. One that is 1xx is only a word before it."""
        if len(status) != 3 or not status.isdigit():
            raise ValueError(f"status {status!r}")
        if not status.startswith("1"):
            self.response.set_result(int(status))

    def on_data(self, data: bytes | memoryview, size: int, end: bool) -> Codes | None:
        """Bytes from the peer; `size` counts against its windows until they are passed on.

        Returns the code to reset the stream with, if they may not come.
        """
        self._held += size
        self._unacked += size
        self.receive_window -= size
        if self._got_eof:
            return Codes.STREAM_CLOSED
        if self.receive_window < 0:
            return Codes.FLOW_CONTROL_ERROR
        if not (self.conn.is_server or self.response.done()):  # before an answer there is none
            return Codes.PROTOCOL_ERROR
        self._got_eof = end
        if self._closing:
            self.conn.open_window(self.take_held())
        elif self._relay is None or self._paused:
            self._waiting += data
        else:
            self._deliver(self._relay, data)
        return None

    def take_held(self) -> int:
        """What counts against the connection's window, which the caller gives back."""
        held, self._held = self._held, 0
        return held

    def on_reset(self, code: Codes | int) -> None:
        """The peer has reset the stream."""
        error = f"stream error received: {code.name if isinstance(code, Codes) else code}"
        failed = f"io error: {error}"
        self.on_lost(error, _RESETS.get(code, Loss(failed, failed)), untouched=code == Codes.REFUSED_STREAM)

    def on_lost(self, error: str, loss: Loss = _BROKEN, *, untouched: bool = False) -> None:
        """The stream or its connection is gone."""
        self.lost = loss
        if not self.response.done():
            self.response.set_exception(TunnelError(error, untouched=untouched))
            self.response.exception()  # nobody may be waiting
        if self._relay is not None:
            self._deliver_waiting(self._relay)
            self._relay.on_lost(self)
        elif self.conn.is_server:
            self._waiting.clear()  # no relay will come

    # -- End -----------------------------------------------------------------------------------------------

    def attach(self, relay: Relay) -> None:
        """Deliver what has come early, then everything."""
        self._relay = relay
        self._paused = False
        self._deliver_waiting(relay)
        if self.lost is not None and not self._got_eof:
            relay.on_lost(self)

    def send(self, data: bytes | memoryview) -> bool:
        """Queue bytes and send what the peer's window allows; False when the queue is full."""
        if self.lost is None:
            self._out.append(memoryview(data))
            self._out_size += len(data)
            self.flush()
            if self._out_size > HIGH_WATER or (self._out_size and not self.conn.writable):
                self._full = True
        return not self._full

    def send_eof(self) -> None:
        """Half-close after what is queued."""
        self._out_eof = True
        if self.lost is None:
            self.flush()

    def pause(self) -> None:
        """Let the peer's window run dry."""
        self._paused = True

    def resume(self) -> None:
        """Open the peer's window again."""
        self._paused = False
        if self._relay is not None:
            self._deliver_waiting(self._relay)

    def drop(self) -> None:
        """RST_STREAM, unless both directions have ended."""
        # A server that has answered in full owes no error (RFC 9113, section 8.1).
        self.conn.reset_stream(self, Codes.NO_ERROR if self._sent_eof and self.conn.is_server else Codes.CANCEL)

    def close(self) -> None:
        """Both directions have ended; the connection forgets the stream once the queue is empty."""
        self._waiting.clear()
        if self._got_eof or self.lost is not None:
            self.conn.forget_if_finished(self)
        elif self._out:
            self._closing = True
        else:
            self.drop()

    @property
    def finished(self) -> bool:
        """True when nothing more can happen on this stream."""
        return self.lost is not None or (self._got_eof and self._sent_eof and not self._waiting)

    def flush(self) -> None:
        """Send from the queue as far as the windows and the transport allow."""
        conn = self.conn
        while self._out and conn.writable and self.lost is None:
            room = conn.room(self)
            if room <= 0:
                conn.blocked[self] = None
                break
            chunk = self._out[0]
            if len(chunk) > room:
                self._out[0] = chunk[room:]
                chunk = chunk[:room]
            else:
                self._out.popleft()
            self._out_size -= len(chunk)
            last = self._out_eof and not self._out
            conn.send_data(self, chunk, last)
            self._sent_eof |= last
        if self.lost is not None:
            return
        if self._out and not conn.writable:
            conn.blocked[self] = None
        if self._out_eof and not self._out and not self._sent_eof:
            self._sent_eof = True
            conn.send_data(self, b"", True)
        if self._full and self._out_size < LOW_WATER and conn.writable:
            self._full = False
            if self._relay is not None:
                self._relay.on_writable(self)
        if self._sent_eof:
            conn.forget_if_finished(self)
            if self._closing:
                self.drop()

    def _deliver_waiting(self, relay: Relay) -> None:
        waiting, self._waiting = self._waiting, bytearray()
        self._deliver(relay, memoryview(waiting))

    def _deliver(self, relay: Relay, data: bytes | memoryview) -> None:
        """Pass bytes on, and the end after them."""
        if data:
            relay.on_data(self, data)
        if self._got_eof:
            relay.on_eof(self)
            self.conn.forget_if_finished(self)
        if not self._paused and self.lost is None:
            self._acknowledge()

    def _acknowledge(self) -> None:
        """Give window back to the peer; that of the stream in portions of a quarter."""
        if self._held:
            self.conn.open_window(self.take_held())
        if self._unacked >= STREAM_WINDOW // 4 and not self._got_eof:
            self.conn.open_window(self._unacked, self)
            self._unacked = 0
