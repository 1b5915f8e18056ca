# Packets as they stand on the wire, and bytes that are none.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ipaddress
import itertools
import struct

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._wire.packets import (
    Flow,
    Stream,
    is_fragment,
    segment,
    tls_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

FLOW = Flow("10.244.0.5", 40000, "10.244.1.7", 15008)
FLOW6 = Flow("fd00::5", 40000, "fd00:0:0:1::7", 80)


def tcp(flow: Flow, payload: bytes, sequence: int = 7, options: bytes = b"") -> bytes:
    offset = (20 + len(options)) // 4 << 4
    head = struct.pack("!HHIIBBHHH", flow.source_port, flow.target_port, sequence, 0, offset, 0x18, 0, 0, 0)
    return head + options + payload


def ipv4(flow: Flow, carried: bytes, protocol: int = 6, fragment: int = 0, length: int | None = None) -> bytes:
    ends = b"".join(ipaddress.IPv4Address(end).packed for end in (flow.source, flow.target))
    length = 20 + len(carried) if length is None else length
    return struct.pack("!BBHHHBBH", 0x45, 0, length, 0, fragment, 64, protocol, 0) + ends + carried


def ipv6(flow: Flow, carried: bytes, following: int = 6) -> bytes:
    ends = b"".join(ipaddress.IPv6Address(end).packed for end in (flow.source, flow.target))
    return struct.pack("!IHBB", 6 << 28, len(carried), following, 64) + ends + carried


def record(kind: int, body: bytes) -> bytes:
    return struct.pack("!BHH", kind, 0x0303, len(body)) + body


@pytest.mark.parametrize(
    ("packet", "found"),
    [
        (ipv4(FLOW, tcp(FLOW, b"GET /")), (FLOW, 7, b"GET /")),
        (ipv4(FLOW, tcp(FLOW, b"GET /", options=b"\x01" * 12)), (FLOW, 7, b"GET /")),
        # Ethernet fills short frames.
        (ipv4(FLOW, tcp(FLOW, b"a")) + b"\x00" * 5, (FLOW, 7, b"a")),
        (ipv4(FLOW, tcp(FLOW, b"a" * 9), length=0), (FLOW, 7, b"a" * 9)),
        (ipv6(FLOW6, tcp(FLOW6, b"GET /")), (FLOW6, 7, b"GET /")),
        (ipv6(FLOW6, b"\x06\x00" + bytes(6) + tcp(FLOW6, b"a"), following=0), (FLOW6, 7, b"a")),
        (ipv4(FLOW, tcp(FLOW, b"")), None),
        (ipv4(FLOW, tcp(FLOW, b"a"), protocol=17), None),
        (b"", None),
    ],
)
def test_what_a_packet_carries(packet: bytes, found: object) -> None:
    assert segment(packet) == found


@pytest.mark.parametrize(
    ("packet", "is_one"),
    [
        (ipv4(FLOW, tcp(FLOW, b"a")), False),
        # Do not fragment.
        (ipv4(FLOW, tcp(FLOW, b"a"), fragment=0x4000), False),
        (ipv4(FLOW, tcp(FLOW, b"a"), fragment=0x2000), True),
        (ipv4(FLOW, b"rest", fragment=3), True),
        (ipv6(FLOW6, tcp(FLOW6, b"a")), False),
        (ipv6(FLOW6, bytes(8) + b"rest", following=44), True),
    ],
)
def test_a_part_of_a_packet(packet: bytes, is_one: bool) -> None:
    assert is_fragment(packet) is is_one


@given(st.binary(max_size=120), st.sampled_from([b"", b"\x45", b"\x60"]))
@settings(max_examples=100, deadline=None)
def test_no_packet_is_too_strange(rest: bytes, first: bytes) -> None:
    segment(first + rest)
    is_fragment(first + rest)
    tls_of(first + rest)


@given(st.binary(min_size=1, max_size=60), st.lists(st.integers(0, 60)), st.integers(0, 2**32 - 1), st.randoms())
@settings(max_examples=100, deadline=None)
def test_a_stream_is_whole_however_its_segments_come(data: bytes, cuts: list[int], start: int, random: object) -> None:
    """Cut anywhere, sent twice, with numbers that go round."""
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    parts = list(itertools.pairwise(edges))
    stream = Stream()
    for begin, end in [parts[0], *random.sample(parts * 2, len(parts) * 2)]:  # type: ignore[attr-defined]
        stream.add((start + begin) % 2**32, data[begin:end])
    assert stream.data == data


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (record(22, b"hello" * 9) + record(23, b"x" * 50) + record(23, b"y" * 10), 60),
        # The last record is still on its way.
        (record(23, b"x" * 50)[:-20], 30),
        (record(22, b"hello"), 0),
        (b"GET / HTTP/1.1\r\n\r\n", None),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", None),
        (record(23, b"x" * 50) + b"GET / HTTP/1.1\r\n", None),
        (b"", None),
    ],
)
def test_what_is_tls(data: bytes, count: int | None) -> None:
    found = tls_of(data)
    assert (found and found.data) == count


def test_the_identity_of_a_certificate_that_can_be_read() -> None:
    certificate = b"\x86\x2bspiffe://cluster.local/ns/a/sa/b\x30\x0a\x06more"
    found = tls_of(record(22, certificate) + record(23, b"x"))
    assert found is not None
    assert found.identity == "spiffe://cluster.local/ns/a/sa/b"
