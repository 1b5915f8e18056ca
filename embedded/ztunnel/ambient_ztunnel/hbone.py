"""HTTP/2 CONNECT tunnels over one TLS connection, client and server side (embedded provider alone).

HBONE is described in istio.io/istio architecture/ambient/ztunnel.md: mTLS, HTTP/2, one CONNECT stream per
TCP connection.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import hpack

from . import frames
from .context import HANDSHAKE_TIMEOUT
from .frames import CONNECTION_WINDOW, DEFAULT_WINDOW, MAX_ID, MAX_STREAMS, MAX_WINDOW, Codes, Malformed, ProtocolError
from .identity import Identity
from .relay import HIGH_WATER, LOW_WATER
from .stream import Stream, TunnelError

log = logging.getLogger("proxy.h2")

PING_INTERVAL = 10.0  # seconds
PING_TIMEOUT = 20.0
FIRST_STREAMS = 100  # that a peer is taken to allow until it says so (RFC 9113, section 6.5.2)
MAX_ANSWERS = 1000  # that may wait for a peer which does not read
Headers = list[tuple[str, str]]
Fields = Iterable[tuple[bytes, bytes]]


class Connection(asyncio.Protocol):
    """One HTTP/2 connection. With `on_request` it is a server.

    `check` gets the TLS object after the handshake and returns the peer's identity, or raises ValueError to
    refuse it.
    """

    def __init__(
        self, check: Callable[[ssl.SSLObject], Identity], on_request: Callable[[Stream], None] | None = None
    ) -> None:
        self._check = check
        self.peer: Identity | None = None
        self.refused = ""
        self._on_request = on_request
        self.is_server = on_request is not None
        self._transport: asyncio.Transport | None = None
        self._reader = frames.Reader(self.is_server)
        self._decoder = hpack.Decoder(frames.MAX_HEADERS)
        self._out: list[bytes | memoryview] = []
        # RFC 7541, section 4.2: a peer with a small table hears that ours has no entries.
        self._table_size = b"\x20"
        self._write_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._last_id = 0  # of the newest stream
        self._send_window = DEFAULT_WINDOW
        self._receive_window = CONNECTION_WINDOW
        self._unacked = 0
        self._peer_window = DEFAULT_WINDOW  # of a new stream
        self._peer_frame = 16384
        self._peer_streams = FIRST_STREAMS
        self.streams: dict[int, Stream] = {}
        self.blocked: dict[Stream, None] = {}  # those that wait for room, in the order in which they get it
        self.writable = True
        self._answers = 0
        self.draining = False
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.idle_since = self._loop.time()

    # -- asyncio.Protocol ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        try:
            self.peer = self._check(transport.get_extra_info("ssl_object"))
        except ValueError as error:
            self.refused = str(error)
            cast(asyncio.Transport, transport).abort()
            return
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        self._transport.set_write_buffer_limits(high=2 * HIGH_WATER, low=LOW_WATER)
        self._transport.write(frames.opening(self.is_server))
        self._timer = self._loop.call_later(HANDSHAKE_TIMEOUT, self._give_up)  # until the peer's SETTINGS

    def data_received(self, data: bytes) -> None:
        if self._transport is None:  # refused, or failed
            return
        try:
            for frame in self._reader.feed(data):
                self._handle(*frame)
                if self._transport is None:
                    return
        except (ProtocolError, hpack.HPACKError) as error:
            code = error.code if isinstance(error, ProtocolError) else Codes.COMPRESSION_ERROR
            self._fail(f"h2 failed: {error}", code)
            return
        self._write()

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self._answers = 0
        self._flush_blocked()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._end(str(exc) if exc else "connection closed")

    # -- for streams ---------------------------------------------------------------------------------------

    def room(self, stream: Stream) -> int:
        """How many bytes may be sent on a stream in one frame now."""
        return min(self._send_window, stream.send_window, self._peer_frame)

    def send_data(self, stream: Stream, data: bytes | memoryview, end: bool) -> None:
        """Put one DATA frame into the outgoing buffer."""
        size = len(data)
        self._out.append(frames.head(size, frames.DATA, frames.END_STREAM if end else 0, stream.id))
        if size:
            self._out.append(data)
            self._send_window -= size
            stream.send_window -= size
        self.schedule_write()

    def open_window(self, size: int, stream: Stream | None = None) -> None:
        """Let the peer send `size` more bytes, on a stream or on the whole connection."""
        if stream is None:
            self._unacked += size
            # In small portions once others hold the rest: it would never come to a quarter.
            if self._unacked < min(CONNECTION_WINDOW // 4, max(1, self._receive_window)):
                return
            size, self._unacked = self._unacked, 0
            self._receive_window += size
        else:
            stream.receive_window += size
        self._send(frames.WINDOW_UPDATE, stream.id if stream else 0, frames.numbers(size))

    def reset_stream(self, stream: Stream, code: Codes = Codes.CANCEL) -> None:
        """End a stream with RST_STREAM."""
        if self.streams.pop(stream.id, None) is not None:
            self._answer(frames.pack(frames.RST_STREAM, 0, stream.id, frames.numbers(code)))
            stream.on_lost("stream reset")
            self._after_stream(stream)

    def forget_if_finished(self, stream: Stream) -> None:
        """Drop the bookkeeping of a stream that has ended both ways."""
        if stream.finished and self.streams.pop(stream.id, None) is not None:
            self._after_stream(stream)

    def schedule_write(self) -> None:
        """Write once per turn of the event loop, however many frames there are."""
        if not self._write_scheduled and self._transport is not None:
            self._write_scheduled = True
            self._loop.call_soon(self._write)

    # -- for owners ----------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """True while new streams may be opened."""
        return self._transport is not None and not self.draining and self._last_id < MAX_ID

    def capacity(self) -> int:
        """How many more streams the peer takes."""
        return self._peer_streams - len(self.streams)

    def connect(self, headers: Headers) -> Stream:
        """Open a CONNECT stream; its `response` resolves to the status. Raises TunnelError."""
        if not self.alive:
            raise TunnelError("connection closed", untouched=True)
        self._last_id += 2 if self._last_id else 1
        stream = Stream(self, self._last_id, self._peer_window)
        self.streams[stream.id] = stream
        self._send_headers(stream, headers, False)
        return stream

    def respond(self, stream: Stream, status: int, headers: Sequence[tuple[str, str]] = ()) -> bool:
        """Answer a CONNECT: 200 opens the tunnel, all else ends the stream. False if it is gone."""
        if stream.id not in self.streams or self._transport is None:
            return False
        self._send_headers(stream, [(":status", str(status)), *headers], status != 200)
        self._answer(b"")
        if status != 200 and self.streams.pop(stream.id, None) is not None:
            self._after_stream(stream)
        return True

    def drain(self) -> None:
        """Send GOAWAY: no new streams; the connection closes with its last stream."""
        if self._transport is None or self.draining:
            return
        self.draining = True
        # "All streams so far" of the peer's, and a server opens none (RFC 9113, section 6.8).
        self._send(frames.GOAWAY, 0, frames.numbers(MAX_ID if self.is_server else 0, Codes.NO_ERROR))
        self._write()
        self._close_if_idle()

    def abort(self, error: str) -> None:
        """Tear everything down."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        self._end(error)

    # -- frames --------------------------------------------------------------------------------------------

    def _handle(self, kind: int, flags: int, stream_id: int, payload: bytes | memoryview, size: int) -> None:
        stream = self.streams.get(stream_id)
        if stream is None and kind in frames.OF_OPEN_STREAMS and self._never_opened(stream_id):
            raise ProtocolError("a frame on a stream that nobody has opened")
        if kind == frames.DATA:
            self._receive_window -= size
            if self._receive_window < 0:
                raise ProtocolError("more than the connection's window", Codes.FLOW_CONTROL_ERROR)
            if stream is None:  # reset here, and the peer did not know yet
                self.open_window(size)
            else:
                self._data(stream, payload, size, bool(flags & frames.END_STREAM))
        elif kind == frames.HEADERS:
            self._headers(flags, stream_id, stream, cast(Fields, self._decoder.decode(bytes(payload), raw=True)))
        elif kind == frames.WINDOW_UPDATE:
            self._window_update(stream_id, stream, frames.number(payload) & MAX_WINDOW)
        elif kind == frames.RST_STREAM:
            if stream is not None:
                del self.streams[stream_id]
                code = frames.number(payload)
                stream.on_reset(Codes(code) if code <= Codes.HTTP_1_1_REQUIRED else code)
                self._after_stream(stream)
        elif kind == frames.SETTINGS:
            if not flags & frames.ACK:
                self._settings(payload)
        elif kind == frames.PING:
            if flags & frames.ACK:
                self._ping_later()
            else:
                self._answer(frames.pack(frames.PING, frames.ACK, 0, bytes(payload)))
        elif kind == frames.GOAWAY:
            self.draining = True
            last = frames.number(payload) & MAX_ID
            for gone in [stream for known, stream in self.streams.items() if known > last and not self.is_server]:
                del self.streams[gone.id]
                gone.on_lost("connection is going away", untouched=True)
                self._after_stream(gone)
            self._close_if_idle()

    def _never_opened(self, stream_id: int) -> bool:
        """True for streams to come, and for even numbers: they are for pushes (RFC 9113, section 5.1.1)."""
        return stream_id > self._last_id or (stream_id > 0 and stream_id % 2 == 0)

    def _data(self, stream: Stream, payload: bytes | memoryview, size: int, end: bool) -> None:
        code = stream.on_data(payload, size, end)
        if code is not None:
            self.reset_stream(stream, code)

    def _headers(self, flags: int, stream_id: int, stream: Stream | None, decoded: Fields) -> None:
        end = bool(flags & frames.END_STREAM)
        if stream is None and self.is_server and stream_id > self._last_id and stream_id % 2:
            self._last_id = stream_id
            self._request(Stream(self, stream_id, self._peer_window), end, decoded)
        elif stream is None and (self._never_opened(stream_id) or (self.is_server and not end)):
            # To a stream that was reset here, an answer may come late, or what ends it (RFC 9113, section 5.1).
            raise ProtocolError("headers on a stream that is not open", Codes.STREAM_CLOSED)
        elif stream is not None:
            try:
                if not self.is_server and not stream.response.done():
                    stream.on_response(frames.fields(decoded, frames.RESPONSE)[":status"])
                elif not end:
                    raise Malformed("headers within a tunnel")
            except (Malformed, KeyError, ValueError) as error:
                log.debug("stream %d: %s", stream_id, error)
                self.reset_stream(stream, Codes.PROTOCOL_ERROR)
            else:
                if end:
                    self._data(stream, b"", 0, True)

    def _request(self, stream: Stream, end: bool, decoded: Fields) -> None:
        assert self._on_request is not None
        code = Codes.REFUSED_STREAM if self.draining or len(self.streams) >= MAX_STREAMS else None
        self.streams[stream.id] = stream
        try:
            stream.headers = frames.fields(decoded, frames.REQUEST)
        except Malformed as error:
            log.debug("stream %d: %s", stream.id, error)
            code = Codes.PROTOCOL_ERROR
        if code is not None:
            self.reset_stream(stream, code)
            return
        if end:
            stream.on_data(b"", 0, True)
        self._on_request(stream)

    def _window_update(self, stream_id: int, stream: Stream | None, size: int) -> None:
        if stream_id == 0:
            self._send_window += size
            if not size or self._send_window > MAX_WINDOW:
                raise ProtocolError("a window is wrong", Codes.FLOW_CONTROL_ERROR if size else Codes.PROTOCOL_ERROR)
            self._flush_blocked()
        elif stream is not None:
            stream.send_window += size
            if not size or stream.send_window > MAX_WINDOW:
                self.reset_stream(stream, Codes.FLOW_CONTROL_ERROR if size else Codes.PROTOCOL_ERROR)
            elif stream in self.blocked:
                del self.blocked[stream]
                stream.flush()

    def _settings(self, payload: bytes | memoryview) -> None:
        for key, value in frames.settings(payload):
            if key == 3:
                self._peer_streams = value
            elif key == 4:
                more, self._peer_window = value - self._peer_window, value
                for stream in self.streams.values():
                    stream.send_window += more
                    if stream.send_window > MAX_WINDOW:
                        raise ProtocolError("a window is too large", Codes.FLOW_CONTROL_ERROR)
            elif key == 5:
                self._peer_frame = value
        self._answer(frames.pack(frames.SETTINGS, frames.ACK, 0))
        self._ping_later()
        self._flush_blocked()

    # -- internal ------------------------------------------------------------------------------------------

    def _send(self, kind: int, stream_id: int, payload: bytes) -> None:
        self._out.append(frames.pack(kind, 0, stream_id, payload))
        self.schedule_write()

    def _answer(self, frame: bytes) -> None:
        """Queue what the peer's own frames cause. One that asks and never reads would fill the memory."""
        self._out.append(frame)
        self.schedule_write()
        if not self.writable:
            self._answers += 1
            if self._answers == MAX_ANSWERS:
                self._fail("h2 failed: the peer does not read", Codes.ENHANCE_YOUR_CALM)

    def _send_headers(self, stream: Stream, headers: Sequence[tuple[str, str]], end: bool) -> None:
        block, self._table_size = self._table_size + frames.encode(headers), b""
        self._out += frames.block_frames(block, stream.id, self._peer_frame, end)
        self.schedule_write()

    def _after_stream(self, stream: Stream) -> None:
        self.blocked.pop(stream, None)
        self.open_window(stream.take_held())
        self.idle_since = self._loop.time()
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self.draining and not self.streams and self._transport is not None:
            self._send(frames.GOAWAY, 0, frames.numbers(self._last_id if self.is_server else 0, Codes.NO_ERROR))
            self._write()
            self._transport.close()

    def _flush_blocked(self) -> None:
        for stream in list(self.blocked):
            if self._send_window <= 0 or not self.writable:
                break
            if stream in self.blocked:
                del self.blocked[stream]
                stream.flush()

    def _ping_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(PING_INTERVAL, self._ping)

    def _ping(self) -> None:
        """Ask whether the peer is still there: one that has vanished closes nothing."""
        if self._transport is not None:
            self._send(frames.PING, 0, bytes(8))
            self._timer = self._loop.call_later(PING_TIMEOUT, self._give_up)

    def _give_up(self) -> None:
        log.warning("HBONE ping timeout/error")
        self.abort("ping timeout")

    def _write(self) -> None:
        self._write_scheduled = False
        if self._out and self._transport is not None:
            data, self._out = b"".join(self._out), []
            self._transport.write(data)

    def _fail(self, error: str, code: Codes) -> None:
        """End the connection and say why."""
        self._send(frames.GOAWAY, 0, frames.numbers(self._last_id if self.is_server else 0, code))
        self._write()
        self.abort(error)

    def _end(self, error: str) -> None:
        self.draining = True
        if self._timer is not None:
            self._timer.cancel()
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            stream.on_lost(error)
        if not self.closed.done():
            self.closed.set_result(None)
