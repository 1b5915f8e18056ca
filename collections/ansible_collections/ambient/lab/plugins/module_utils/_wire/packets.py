# Reads captured packets: TCP out of IP, and TLS records out of TCP.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import ipaddress
import struct
import typing as t

HBONE_PORT = 15008
_TCP = 6
# Extension headers of IPv6 that say their length in units of 8 bytes (RFC 8200, section 4).
_EXTENSIONS = (0, 43, 60)
_APPLICATION_DATA = 23
# Record types of TLS, and the longest record (RFC 8446, sections 5.1 and 5.2; 2^14 + 2048 in TLS 1.2).
_RECORDS = range(20, 25)
_RECORD_BYTES = 16_384 + 2_048


class Flow(t.NamedTuple):
    """One direction of a TCP connection."""

    source: str
    source_port: int
    target: str
    target_port: int

    def __str__(self) -> str:
        return f"{self.source} to {self.target}:{self.target_port}"


def is_fragment(packet: bytes) -> bool:
    """Whether an IP packet is a part of a larger one: IPv4's flag and offset, IPv6's header (RFC 8200, section 4.5)."""
    if packet[:1] and packet[0] >> 4 == 4:
        return len(packet) >= 20 and bool(struct.unpack_from("!H", packet, 6)[0] & 0x3FFF)
    return len(packet) >= 40 and packet[0] >> 4 == 6 and packet[6] == 44


def segment(packet: bytes) -> tuple[Flow, int, bytes] | None:
    """Flow, sequence number and payload of an IP packet; None without TCP payload."""
    head = _ipv4(packet) if packet[:1] and packet[0] >> 4 == 4 else _ipv6(packet)
    if head is None:
        return None
    source, target, tcp = head
    if len(tcp) < 20:
        return None
    source_port, target_port, sequence = struct.unpack_from("!HHI", tcp)
    payload = tcp[(tcp[12] >> 4) * 4 :]
    return (Flow(source, source_port, target, target_port), sequence, payload) if payload else None


def _ipv4(packet: bytes) -> tuple[str, str, bytes] | None:
    """Addresses and TCP (RFC 791)."""
    if len(packet) < 20 or packet[9] != _TCP:
        return None
    # 0 where the network card is to cut a large packet into segments.
    length = struct.unpack_from("!H", packet, 2)[0] or len(packet)
    source, target = (str(ipaddress.IPv4Address(packet[at : at + 4])) for at in (12, 16))
    return source, target, packet[(packet[0] & 15) * 4 : length]


def _ipv6(packet: bytes) -> tuple[str, str, bytes] | None:
    """Addresses and TCP (RFC 8200)."""
    if len(packet) < 40 or packet[0] >> 4 != 6:
        return None
    length, following = struct.unpack_from("!HB", packet, 4)
    rest = packet[40 : 40 + length if length else None]
    while following in _EXTENSIONS and len(rest) >= 8:
        following, rest = rest[0], rest[8 + rest[1] * 8 :]
    source, target = (str(ipaddress.IPv6Address(packet[at : at + 16])) for at in (8, 24))
    return (source, target, rest) if following == _TCP else None


@dataclasses.dataclass
class Stream:
    """What was captured of one flow.

    Attributes:
        segments: payloads by sequence number, so that what is sent again counts once.
    """

    segments: dict[int, bytes] = dataclasses.field(default_factory=dict)

    def add(self, sequence: int, payload: bytes) -> None:
        """Keep a segment; of two with one number the longer."""
        if len(payload) > len(self.segments.get(sequence, b"")):
            self.segments[sequence] = payload

    @property
    def data(self) -> bytes:
        """The payload in order. A gap is closed: a connection may have begun before the capture."""
        first = next(iter(self.segments), 0)
        joined, end = bytearray(), None
        for number in sorted(self.segments, key=lambda number: _distance(first, number)):
            payload = self.segments[number]
            known = 0 if end is None else max(0, _distance(number, end))
            if known < len(payload):
                joined += payload[known:]
                end = number + len(payload)
        return bytes(joined)


def _distance(one: int, other: int) -> int:
    """From a sequence number to another; they go round at 2^32 (RFC 9293, section 3.4)."""
    return (other - one + 2**31) % 2**32 - 2**31


@dataclasses.dataclass(frozen=True)
class Tls:
    """What a flow shows of TLS. data: bytes of application data; identity: of a certificate that can be read, or "".

    With TLS 1.3 certificates are encrypted too (RFC 8446, section 2), so that only proxies' logs name the identity.
    """

    data: int
    identity: str = ""


def tls_of(data: bytes) -> Tls | None:
    """What a flow carries, if it is TLS records and nothing else, from the first record that it begins with."""
    at, application = 0, 0
    while at + 5 <= len(data):
        kind, version, length = struct.unpack_from("!BHH", data, at)
        if kind not in _RECORDS or version >> 8 != 3 or length > _RECORD_BYTES:
            return None
        application += min(length, len(data) - at - 5) if kind == _APPLICATION_DATA else 0
        at += 5 + length
    return Tls(application, _identity(data)) if application or at else None


def _identity(data: bytes) -> str:
    """The SPIFFE ID in a certificate in plain text."""
    _before, found, rest = data.partition(b"spiffe://")
    name = rest[:256].split(b"\x30")[0].split(b"\x00")[0]
    text = "".join(chr(byte) for byte in name if 0x21 <= byte < 0x7F)
    return f"spiffe://{text}" if found else ""
