"""HTTP/2 CONNECT tunnels over one TLS connection, client and server side (embedded provider alone).

HBONE is described in istio.io/istio architecture/ambient/ztunnel.md: mTLS, HTTP/2, one CONNECT stream per
TCP connection.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import ssl
from collections.abc import Callable, Sequence
from typing import cast

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import hyperframe.frame

from .identity import Identity
from .relay import HIGH_WATER, LOW_WATER
from .stream import STREAM_WINDOW, Stream, TunnelError

log = logging.getLogger("proxy.h2")

# As upstream's defaults (src/config.rs, src/proxy/h2.rs and h2/server.rs).
CONNECTION_WINDOW = 16 * 1024 * 1024
FRAME_SIZE = 1024 * 1024
MAX_STREAMS = 200
MAX_HEADERS = 64 * 1024  # bytes
PING_INTERVAL = 10.0  # seconds
PING_TIMEOUT = 20.0
LAST_STREAM = 2**31 - 1  # "all streams so far" in a GOAWAY (RFC 9113, section 6.8)
CONFIG = {"header_encoding": "utf-8", "validate_inbound_headers": False, "validate_outbound_headers": False}
Codes = h2.errors.ErrorCodes
Setting = h2.settings.SettingCodes
Headers = list[tuple[str, str]]


class _Http2(h2.connection.H2Connection):
    """h2 ends everything at a GOAWAY; here the open streams go on (RFC 9113, section 6.8)."""

    def _receive_goaway_frame(
        self, frame: hyperframe.frame.GoAwayFrame
    ) -> tuple[list[hyperframe.frame.Frame], list[h2.events.Event]]:
        event = h2.events.ConnectionTerminated()
        event.error_code = frame.error_code
        event.last_stream_id = frame.last_stream_id
        return [], [event]


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
        self._h2 = _Http2(
            h2.config.H2Configuration(client_side=on_request is None, **CONFIG)  # type: ignore[arg-type]
        )
        # Huffman coding saves bytes that cost nothing on one machine, and takes long in Python.
        encode = self._h2.encoder.encode
        self._h2.encoder.encode = functools.partial(encode, huffman=False)  # type: ignore[method-assign]
        self._on_request = on_request
        self._transport: asyncio.Transport | None = None
        self._write_scheduled = False
        self._unacked = 0
        self._timer: asyncio.TimerHandle | None = None
        self.streams: dict[int, Stream] = {}
        self.blocked: set[Stream] = set()
        self.writable = True
        self.draining = False
        self.reserved = 0  # streams that a pool has promised on this connection
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.idle_since = asyncio.get_running_loop().time()

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
        settings = {
            Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            Setting.MAX_FRAME_SIZE: FRAME_SIZE,
            Setting.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            Setting.MAX_HEADER_LIST_SIZE: MAX_HEADERS,
            Setting.ENABLE_PUSH: 0,
        }
        if self._on_request is not None:
            del settings[Setting.ENABLE_PUSH]
            # RFC 8441; Envoy asks for it although a plain CONNECT does not need it.
            settings[Setting.ENABLE_CONNECT_PROTOCOL] = 1
        self._h2.local_settings = h2.settings.Settings(client=self._on_request is None, initial_values=settings)
        self._h2.max_inbound_frame_size = FRAME_SIZE
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW - 65535)
        self._write()
        self._timer = asyncio.get_running_loop().call_later(PING_INTERVAL, self._ping)

    def data_received(self, data: bytes) -> None:
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            self._write()
            self.abort(f"h2 failed: {error}")
            return
        for event in events:
            self._handle(event)
        if self._unacked >= CONNECTION_WINDOW // 4:
            self._h2.increment_flow_control_window(self._unacked)
            self._unacked = 0
        self._write()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self._flush_blocked()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._end(str(exc) if exc else "connection closed")

    # -- for streams ---------------------------------------------------------------------------------------

    def room(self, stream_id: int) -> int:
        """How many bytes may be sent on a stream in one frame now."""
        try:
            return min(self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size)
        except h2.exceptions.H2Error:
            return 0

    def send_data(self, stream_id: int, data: bytes | memoryview, end: bool) -> None:
        """Put one DATA frame into the outgoing buffer."""
        try:
            self._h2.send_data(stream_id, data, end_stream=end)
        except h2.exceptions.H2Error as error:
            self._lose(stream_id, f"h2 failed: {error}")

    def open_window(self, size: int, stream_id: int) -> None:
        """Let the peer send `size` more bytes on a stream."""
        try:
            self._h2.increment_flow_control_window(size, stream_id)
        except h2.exceptions.H2Error:
            return  # the stream has ended meanwhile
        self.schedule_write()

    def reset_stream(self, stream: Stream, code: Codes = Codes.CANCEL) -> None:
        """End a stream with RST_STREAM."""
        if self.streams.pop(stream.id, None) is not None:
            try:
                self._h2.reset_stream(stream.id, code)
            except h2.exceptions.H2Error:
                log.debug("stream %d had ended", stream.id)
            self.schedule_write()
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
            asyncio.get_running_loop().call_soon(self._write)

    # -- for owners ----------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """True while new streams may be opened."""
        return self._transport is not None and not self.draining

    @property
    def is_server(self) -> bool:
        """True for the end that was connected to."""
        return self._on_request is not None

    def capacity(self) -> int:
        """How many more streams the peer takes."""
        return self._h2.remote_settings.max_concurrent_streams - len(self.streams) - self.reserved

    def connect(self, headers: Headers) -> Stream:
        """Open a CONNECT stream; its `response` resolves to the status. Raises TunnelError."""
        if not self.alive:
            raise TunnelError("connection closed")
        try:
            stream = Stream(self, self._h2.get_next_available_stream_id())
            self._h2.send_headers(stream.id, headers)
        except h2.exceptions.H2Error as error:
            raise TunnelError(f"h2 failed: {error}") from error
        self.streams[stream.id] = stream
        self.schedule_write()
        return stream

    def respond(self, stream: Stream, status: int, headers: Sequence[tuple[str, str]] = ()) -> bool:
        """Answer a CONNECT: 200 opens the tunnel, all else ends the stream. False if it is gone."""
        if stream.id not in self.streams or self._transport is None:
            return False
        try:
            self._h2.send_headers(stream.id, [(":status", str(status)), *headers], end_stream=status != 200)
        except h2.exceptions.H2Error:
            return False
        self.schedule_write()
        if status != 200:
            self.streams.pop(stream.id, None)
            self._after_stream(stream)
        return True

    def drain(self) -> None:
        """Send GOAWAY: no new streams; the connection closes with its last stream."""
        if self._transport is None or self.draining:
            return
        self.draining = True
        # close_connection() would end h2's state machine, and with it the streams that are still open.
        self._write()
        goaway = hyperframe.frame.GoAwayFrame(0, last_stream_id=LAST_STREAM, error_code=Codes.NO_ERROR)
        self._transport.write(goaway.serialize())
        self._close_if_idle()

    def abort(self, error: str) -> None:
        """Tear everything down."""
        if self._transport is not None:
            self._transport.abort()
        self._end(error)

    # -- internal ------------------------------------------------------------------------------------------

    def _handle(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.DataReceived():
                flow = event.flow_controlled_length or 0
                self._unacked += flow
                stream = self.streams.get(event.stream_id or 0)
                if stream is not None:
                    stream.on_data(bytes(event.data or b""), flow)
            case h2.events.StreamEnded():
                stream = self.streams.get(event.stream_id or 0)
                if stream is not None:
                    stream.on_eof()
                    self.forget_if_finished(stream)
            case h2.events.WindowUpdated():
                if event.stream_id:
                    stream = self.streams.get(event.stream_id)
                    if stream is not None and stream in self.blocked:
                        self.blocked.discard(stream)
                        stream.flush()
                else:
                    self._flush_blocked()
            case h2.events.RemoteSettingsChanged():
                self._flush_blocked()
            case h2.events.RequestReceived():
                self._request(event)
            case h2.events.ResponseReceived():
                stream = self.streams.get(event.stream_id or 0)
                if stream is not None and not stream.response.done():
                    headers = _as_dict(event.headers)
                    stream.response.set_result(int(headers.get(":status", "0")))
            case h2.events.StreamReset():
                stream = self.streams.pop(event.stream_id or 0, None)
                if stream is not None:
                    stream.on_reset(event.error_code or Codes.NO_ERROR)
                    self._after_stream(stream)
            case h2.events.PingAckReceived():
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = asyncio.get_running_loop().call_later(PING_INTERVAL, self._ping)
            case h2.events.ConnectionTerminated():
                self.draining = True
                last = event.last_stream_id or 0
                for stream_id in [known for known in self.streams if known > last and self._on_request is None]:
                    self._lose(stream_id, "connection is going away")
                self._close_if_idle()

    def _request(self, event: h2.events.RequestReceived) -> None:
        assert self._on_request is not None
        stream = Stream(self, event.stream_id or 0)
        stream.headers = _as_dict(event.headers)
        self.streams[stream.id] = stream
        if self.draining:
            self.reset_stream(stream, Codes.REFUSED_STREAM)
        else:
            self._on_request(stream)

    def _lose(self, stream_id: int, error: str) -> None:
        stream = self.streams.pop(stream_id, None)
        if stream is not None:
            stream.on_lost(error)
            self._after_stream(stream)

    def _after_stream(self, stream: Stream) -> None:
        self.blocked.discard(stream)
        self.idle_since = asyncio.get_running_loop().time()
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self.draining and not self.streams and not self.reserved and self._transport is not None:
            self._h2.close_connection()
            self._write()
            if self._transport is not None:
                self._transport.close()

    def _flush_blocked(self) -> None:
        blocked, self.blocked = self.blocked, set()
        for stream in blocked:
            stream.flush()

    def _ping(self) -> None:
        """Ask whether the peer is still there: one that has vanished closes nothing."""
        if self._transport is not None:
            self._h2.ping(bytes(8))
            self._write()
            self._timer = asyncio.get_running_loop().call_later(PING_TIMEOUT, self._give_up)

    def _give_up(self) -> None:
        log.warning("HBONE ping timeout/error")
        self.abort("ping timeout")

    def _write(self) -> None:
        self._write_scheduled = False
        data = self._h2.data_to_send()
        if data and self._transport is not None:
            self._transport.write(data)

    def _end(self, error: str) -> None:
        self.draining = True
        if self._timer is not None:
            self._timer.cancel()
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            stream.on_lost(error)
        if not self.closed.done():
            self.closed.set_result(None)


def _as_dict(headers: object) -> dict[str, str]:
    """Header fields by name; the first of several counts for pseudo headers, others are joined."""
    found: dict[str, str] = {}
    for name, value in headers or ():  # type: ignore[attr-defined]
        found[name] = f"{found[name]},{value}" if name in found and not name.startswith(":") else value
    return found
