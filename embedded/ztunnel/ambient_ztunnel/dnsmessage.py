"""The parts of DNS messages that the proxy needs (embedded provider alone; RFC 1035, section 4)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from .model import IP

A = 1
CNAME = 5
AAAA = 28
IN = 1
NOERROR = 0
SERVFAIL = 2
HEADER = struct.Struct("!6H")
MAX_NAME = 254  # bytes with the labels' sizes, without the last one (RFC 1035, section 2.3.4)
TTL = 30  # seconds, as upstream answers


class MessageError(Exception):
    """Not a query that can be understood."""


@dataclass(frozen=True, slots=True)
class Query:
    """The one question of a query."""

    id: int
    flags: int
    name: str  # without the last dot, as the client wrote it
    kind: int
    cls: int
    question: bytes  # as it came, to be echoed

    @property
    def kind_name(self) -> str:
        """The record type's name."""
        return {A: "A", AAAA: "AAAA", CNAME: "CNAME", 12: "PTR", 15: "MX", 16: "TXT", 33: "SRV"}.get(
            self.kind, str(self.kind)
        )


def parse_query(packet: bytes) -> Query:
    """Read a query with one question; raises MessageError."""
    if len(packet) < HEADER.size:
        raise MessageError("short packet")
    ident, flags, questions, _, _, _ = HEADER.unpack_from(packet)
    if flags & 0x8000 or questions != 1:
        raise MessageError("not a query with one question")
    labels = []
    at = HEADER.size
    while True:
        if at >= len(packet):
            raise MessageError("name runs over the end")
        size = packet[at]
        at += 1
        if size == 0:
            break
        if size > 63 or at + size > len(packet) or at + size > HEADER.size + MAX_NAME:
            raise MessageError("bad label")
        labels.append(packet[at : at + size].decode("latin-1"))
        at += size
    if at + 4 > len(packet):
        raise MessageError("question is cut")
    kind, cls = struct.unpack_from("!2H", packet, at)
    return Query(ident, flags, ".".join(labels), kind, cls, packet[HEADER.size : at + 4])


def _encode_name(name: str) -> bytes:
    encoded = b"".join(bytes([len(label)]) + label.encode("latin-1") for label in name.split(".") if label)
    return encoded + b"\0"


def answer(query: Query, addresses: Sequence[IP], alias: str = "") -> bytes:
    """An authoritative answer; with `alias`, a CNAME from the asked name to it comes first."""
    records = []
    owner = b"\xc0\x0c"  # a pointer to the question's name
    if alias and addresses:
        target = _encode_name(alias)
        records.append(owner + struct.pack("!HHIH", CNAME, IN, TTL, len(target)) + target)
        owner = target
    for ip in addresses:
        kind = A if ip.version == 4 else AAAA
        records.append(owner + struct.pack("!HHIH", kind, IN, TTL, len(ip.packed)) + ip.packed)
    # response, authoritative, recursion desired as asked, recursion available
    flags = 0x8000 | 0x0400 | (query.flags & 0x0100) | 0x0080 | NOERROR
    return HEADER.pack(query.id, flags, 1, len(records), 0, 0) + query.question + b"".join(records)


def failure(query: Query) -> bytes:
    """An answer without records: the server has failed."""
    flags = 0x8000 | (query.flags & 0x0100) | 0x0080 | SERVFAIL
    return HEADER.pack(query.id, flags, 1, 0, 0, 0) + query.question
