"""Bytes that nobody foresaw, for all that reads what others send (embedded provider alone)."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from ipaddress import ip_address

import hpack
from ambient_ztunnel import frames, hbone
from ambient_ztunnel.dnslookup import lookup
from ambient_ztunnel.dnsmessage import MessageError, answer, failure, parse_query
from ambient_ztunnel.identity import Identity
from ambient_ztunnel.inbound_request import Refused, parse_authority, parse_baggage, resolve
from ambient_ztunnel.relay import proxy_header
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_dns import question
from test_routing import APP, CLIENT, DOMAIN, world
from test_security import START, ask, frame
from zt_lab import go

quick = settings(max_examples=300, derandomize=True, deadline=None, database=None)
texts = st.text() | st.from_regex(r"[a-z0-9.:%\[\]=,;\" ]*", fullmatch=True)
ADDRESSES = st.ip_addresses().map(str)


@quick
@given(texts)
@example("[fe80::1%a\nb]:80")
@example("[::1]:080")
def test_authority_is_an_address_or_a_plain_name(text: str) -> None:
    try:
        host, port = parse_authority(text)
    except ValueError:
        return
    assert 0 < port < 65536
    assert re.fullmatch(r"[A-Za-z0-9._:-]+", str(host))
    assert text.isprintable()


@quick
@given(texts, texts, texts)
def test_requests_are_resolved_or_refused(authority: str, forwarded: str, baggage: str) -> None:
    headers = {":authority": authority, "forwarded": forwarded, "baggage": baggage}
    with contextlib.suppress(Refused):
        request = resolve(world(APP), APP, APP.addresses[0], headers)
        assert parse_authority(request.authority) in [(APP.addresses[0], request.port)]
    assert all(key and value for key, value in parse_baggage(baggage).items() if key != "workload")


@quick
@given(texts | texts.map("spiffe://".__add__))
def test_identity_is_what_it_says(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert str(Identity.parse(text)) == text


@quick
@given(st.binary() | st.binary().map(lambda tail: question("app.default")[:20] + tail))
@example(question(".".join("a" * 30_000)))
def test_dns_message(packet: bytes) -> None:
    with contextlib.suppress(MessageError):
        query = parse_query(packet)
        assert len(query.name) < 255  # RFC 1035, section 2.3.4; a longer one takes seconds to look up
        lookup(world(APP), CLIENT, query.name, DOMAIN)
        for reply in (answer(query, [ip_address("10.0.0.1")], query.name), failure(query)):
            assert reply[:2] == packet[:2]


@quick
@given(ADDRESSES, ADDRESSES, st.integers(0, 65535), st.text(max_size=300))
def test_proxy_header_has_the_size_that_it_says(source: str, target: str, port: int, identity: str) -> None:
    made = proxy_header((source, port), (target, port), identity)
    body = made[16:]
    assert len(body) == struct.unpack_from("!H", made, 14)[0]
    fixed = 12 if made[13] == 0x11 else 36
    if identity:
        assert body[fixed] == 0xD0
        assert body[fixed + 3 :].decode() == identity
        assert struct.unpack_from("!H", body, fixed + 1)[0] == len(identity.encode())


pieces = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([ask(1), ask(3), ask(1, flags=0), START, frame(4), frame(3, bytes(4), 1)]),
    st.builds(
        frame, st.integers(0, 12), st.binary(max_size=60), st.integers(0, 7), st.sampled_from([0, 1, 4, 5, 8, 0x2D])
    ),
    st.lists(st.tuples(st.sampled_from([":method", ":authority", "a", "A", ":x"]), st.text(max_size=9))).map(
        lambda headers: frame(1, hpack.Encoder().encode(headers), 1, 4)
    ),
)


@settings(quick, max_examples=150)
@given(st.lists(pieces, max_size=12), st.booleans(), st.integers(1, 50))
def test_hbone_takes_anything(sent: list[bytes], server: bool, cut: int) -> None:
    """In parts of any size: the connection goes on or ends, streams and all, and nothing is raised."""
    data = b"".join([START if server else frame(4), *sent])

    async def body() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
        on_request = (lambda stream: stream.conn.respond(stream, 200)) if server else None
        conn = hbone.Connection(lambda _tls: CLIENT.identity, on_request)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: conn, ours)
        if not server:
            conn.connect([(":method", "CONNECT"), (":authority", "x:1")])
        for at in range(0, len(data), cut):
            if conn.alive:
                conn.data_received(data[at : at + cut])
        conn.abort("done")
        assert not conn.streams
        theirs.close()

    raised: list[object] = []
    go(body())
    assert raised == []


@quick
@given(st.lists(st.binary(min_size=1, max_size=30), max_size=8), st.integers(0, 9), st.integers(1, 30))
def test_data_comes_through_in_any_parts(chunks: list[bytes], padding: int, cut: int) -> None:
    def data(chunk: bytes) -> bytes:
        if not padding:
            return frame(0, chunk, 1)
        return frame(0, bytes([padding]) + chunk + bytes(padding), 1, frames.PADDED)

    sent = START + ask(1) + b"".join(map(data, chunks))
    reader = frames.Reader(server=True)
    seen = [found for at in range(0, len(sent), cut) for found in reader.feed(sent[at : at + cut])]
    got = [found for found in seen if found[0] == frames.DATA]
    assert b"".join(bytes(found[3]) for found in got) == b"".join(chunks)
    assert sum(found[4] for found in got) == sum(map(len, chunks)) + bool(padding) * (padding + 1) * len(chunks)


@quick
@given(st.lists(st.tuples(st.from_regex(r"[a-z-]{1,9}", fullmatch=True), st.text(max_size=200))))
def test_headers_are_read_as_they_were_written(headers: list[tuple[str, str]]) -> None:
    decoded = hpack.Decoder().decode(b"\x20" + frames.encode(headers), raw=True)
    assert [(name.decode(), value.decode()) for name, value in decoded] == headers
