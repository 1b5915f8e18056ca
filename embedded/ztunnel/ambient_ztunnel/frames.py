"""HTTP/2 frames, as far as CONNECT tunnels need them (RFC 9113, RFC 7541; embedded provider alone).

The library hpack decodes; what is sent is literal fields, which need no table and no Huffman coding: bytes cost
nothing on one machine.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

# As upstream's defaults (src/config.rs, src/proxy/h2.rs and h2/server.rs).
STREAM_WINDOW = 4 * 1024 * 1024  # bytes a peer may send on one stream before they are passed on
CONNECTION_WINDOW = 16 * 1024 * 1024
FRAME_SIZE = 1024 * 1024
MAX_STREAMS = 200
MAX_HEADERS = 64 * 1024  # bytes of a header block, decoded or not; and of any other frame that is no DATA
MAX_CONTINUATIONS = 64  # an empty one costs its sender nearly nothing
MAX_WINDOW = MAX_ID = 2**31 - 1
DEFAULT_WINDOW = 65535

_HEAD = struct.Struct("!HBBBL")
_NUMBER = struct.Struct("!L")
_SETTING = struct.Struct("!HL")
# RFC 9113, section 6: sizes of frames that have but one. Frames of these kinds belong to the connection, or never do.
_SIZES = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}
_OF_CONNECTION = {SETTINGS, PING, GOAWAY}
_OF_STREAM = {DATA, HEADERS, PRIORITY, RST_STREAM, CONTINUATION}
OF_OPEN_STREAMS = {DATA, RST_STREAM, WINDOW_UPDATE}
REQUEST = frozenset({b":method", b":authority", b":scheme", b":path", b":protocol"})
RESPONSE = frozenset({b":status"})
_NAME = re.compile(rb":?[!#$%&'*+\-.^_`|~0-9a-z]+")
_IN_VALUES = re.compile(rb"[\0\r\n]")
# RFC 7541, appendix A.
_STATIC = {":authority": b"\x01", ":method": b"\x02", ":status": b"\x08"}
_STATUS_200 = b"\x88"

# Kind, flags, stream, payload, and what counts against the windows.
Frame = tuple[int, int, int, bytes | memoryview, int]


class Codes(IntEnum):
    """Error codes (RFC 9113, section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class ProtocolError(Exception):
    """The peer broke a rule, and the connection must end with this code."""

    def __init__(self, message: str, code: Codes = Codes.PROTOCOL_ERROR) -> None:
        super().__init__(message)
        self.code = code


class Malformed(Exception):
    """A message that its stream alone pays for."""


def pack(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return head(len(payload), kind, flags, stream_id) + payload


def head(size: int, kind: int, flags: int, stream_id: int) -> bytes:
    """The nine bytes before a payload of `size`."""
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream_id)


def numbers(*values: int) -> bytes:
    """Numbers of 32 bits, as in WINDOW_UPDATE, RST_STREAM and GOAWAY."""
    return b"".join(map(_NUMBER.pack, values))


def number(payload: bytes | memoryview, at: int = 0) -> int:
    """A number of 32 bits."""
    return int(_NUMBER.unpack_from(payload, at)[0])


def opening(server: bool) -> bytes:
    """What an end sends first: its settings, and a connection's window that is larger than all begin with."""
    settings = {3: MAX_STREAMS, 4: STREAM_WINDOW, 5: FRAME_SIZE, 6: MAX_HEADERS}
    # A client wants no pushes. RFC 8441: Envoy asks for extended CONNECT although a plain one does not need it.
    settings |= {8: 1} if server else {2: 0}
    packed = b"".join(_SETTING.pack(*item) for item in settings.items())
    more = pack(WINDOW_UPDATE, 0, 0, numbers(CONNECTION_WINDOW - DEFAULT_WINDOW))
    return (b"" if server else PREFACE) + pack(SETTINGS, 0, 0, packed) + more


def settings(payload: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """What a SETTINGS frame sets; raises ProtocolError."""
    for key, value in _SETTING.iter_unpack(payload):
        if key == 4 and value > MAX_WINDOW:
            raise ProtocolError("a window is too large", Codes.FLOW_CONTROL_ERROR)
        if (key == 5 and not 2**14 <= value < 2**24) or (key in (2, 8) and value > 1):
            raise ProtocolError("a setting is out of bounds")
        yield key, value


def _string(text: str) -> bytes:
    """RFC 7541, section 5.2, without Huffman coding."""
    raw = text.encode()
    size = len(raw)
    if size < 127:
        return bytes([size]) + raw
    size -= 127
    prefix = bytearray(b"\x7f")
    while size > 127:
        prefix.append(size & 127 | 128)
        size >>= 7
    prefix.append(size)
    return bytes(prefix) + raw


def encode(headers: Iterable[tuple[str, str]]) -> bytes:
    """A block of literal fields without indexing (RFC 7541, section 6.2.2)."""
    block = b""
    for name, value in headers:
        if name == ":status" and value == "200":
            block += _STATUS_200
        else:
            block += (_STATIC.get(name) or b"\0" + _string(name)) + _string(value)
    return block


def block_frames(block: bytes, stream_id: int, limit: int, end: bool) -> Iterator[bytes]:
    """A header block in frames of `limit` bytes."""
    kind, flags = HEADERS, END_STREAM if end else 0
    while kind == HEADERS or block:
        part, block = block[:limit], block[limit:]
        yield pack(kind, flags if block else flags | END_HEADERS, stream_id, part)
        kind, flags = CONTINUATION, 0


def fields(decoded: Iterable[tuple[bytes, bytes]], pseudo: frozenset[bytes]) -> dict[str, str]:
    """Header fields by name, those of one name joined. Raises Malformed (RFC 9113, sections 8.2 and 8.3)."""
    found: dict[str, str] = {}
    regular = False
    for name, value in decoded:
        if not _NAME.fullmatch(name) or _IN_VALUES.search(value):
            raise Malformed("characters that are not allowed in headers")
        key, text = name.decode("latin-1"), value.decode("latin-1")
        if name[0] == 0x3A:  # ":"
            if regular or key in found or name not in pseudo:
                raise Malformed(f"pseudo header {key}")
        else:
            regular = True
            if key in found:
                text = f"{found[key]},{text}"
        found[key] = text
    return found


class Reader:
    """Cuts what comes into frames.

    DATA is passed on as it comes, in parts; a header block comes whole, as one HEADERS frame. So what is held
    here is `MAX_HEADERS` bytes at most.
    """

    def __init__(self, server: bool) -> None:
        self._rest = b""
        self._preface = server
        self._first = True
        self._left = 0  # bytes of a DATA frame that are still to come, and of its padding
        self._padding = 0
        self._stream = 0
        self._flags = 0
        self._block: list[bytes] = []

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Every frame that `data` completes; raises ProtocolError."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at = 0
        if self._preface:
            if data[: len(PREFACE)] != PREFACE[: len(data)]:
                raise ProtocolError("no HTTP/2 preface")
            if len(data) < len(PREFACE):
                self._rest = data
                return
            self._preface = False
            at = len(PREFACE)
        view = memoryview(data)
        while True:
            there = len(data) - at
            if self._left:
                part = min(self._left, there)
                if not part:
                    break
                self._left -= part
                yield DATA, 0 if self._left else self._flags, self._stream, view[at : at + part], part
                at += part
            elif self._padding:
                part = min(self._padding, there)
                if not part:
                    break
                self._padding -= part
                at += part
            elif there < 9:
                break
            else:
                high, low, kind, flags, stream_id = _HEAD.unpack_from(data, at)
                size, stream_id = high << 8 | low, stream_id & MAX_ID
                self._check(kind, flags, stream_id, size)
                if kind == DATA:
                    padded = 1 if flags & PADDED else 0
                    if there < 9 + padded:
                        break
                    counted = self._data(flags, stream_id, size, data[at + 9] + 1 if padded else 0)
                    at += 9 + padded
                    if counted or not self._left:
                        yield DATA, 0 if self._left else flags, stream_id, b"", counted
                elif there < 9 + size:
                    break
                else:
                    payload = data[at + 9 : at + 9 + size]
                    at += 9 + size
                    if kind in (HEADERS, CONTINUATION):
                        block = self._headers(kind, flags, stream_id, payload)
                        if block is not None:
                            yield HEADERS, self._flags, stream_id, block, 0
                    else:
                        yield kind, flags, stream_id, payload, 0
        self._rest = data[at:]

    def _check(self, kind: int, flags: int, stream_id: int, size: int) -> None:
        if self._first:
            if kind != SETTINGS or flags & ACK:
                raise ProtocolError("no SETTINGS at the start")
            self._first = False
        if self._block and (kind != CONTINUATION or stream_id != self._stream):
            raise ProtocolError("a header block is not finished")
        if size > (FRAME_SIZE if kind == DATA else MAX_HEADERS):
            raise ProtocolError("a frame is too large", Codes.FRAME_SIZE_ERROR)
        if size != _SIZES.get(kind, size) or (kind == GOAWAY and size < 8):
            raise ProtocolError("a frame has a wrong size", Codes.FRAME_SIZE_ERROR)
        if kind == SETTINGS and (size % 6 or (flags & ACK and size)):
            raise ProtocolError("SETTINGS has a wrong size", Codes.FRAME_SIZE_ERROR)
        if (stream_id and kind in _OF_CONNECTION) or (not stream_id and kind in _OF_STREAM):
            raise ProtocolError("a frame on a stream where it may not be")
        if kind == PUSH_PROMISE or (kind == CONTINUATION and not self._block):
            raise ProtocolError("a frame that may not come here")

    def _data(self, flags: int, stream_id: int, size: int, padding: int) -> int:
        """Begin a DATA frame; returns what counts against the windows without being content."""
        if padding > size:
            raise ProtocolError("padding is longer than the frame")
        self._stream, self._flags = stream_id, flags
        self._left, self._padding = size - padding, max(0, padding - 1)
        return padding

    def _headers(self, kind: int, flags: int, stream_id: int, payload: bytes) -> bytes | None:
        """The whole block, if this is its last part."""
        if kind == HEADERS:
            self._stream, self._flags = stream_id, flags
            padding = 0
            if flags & PADDED:
                padding, payload = (payload[0], payload[1:]) if payload else (1, b"")
            skip = 5 if flags & HAS_PRIORITY else 0
            if skip + padding > len(payload):
                raise ProtocolError("padding is longer than the frame")
            payload = payload[skip : len(payload) - padding]
        self._block.append(payload)
        if len(self._block) > MAX_CONTINUATIONS or sum(map(len, self._block)) > MAX_HEADERS:
            raise ProtocolError("headers are too large", Codes.ENHANCE_YOUR_CALM)
        if not flags & END_HEADERS:
            return None
        block = b"".join(self._block)
        self._block.clear()
        return block
