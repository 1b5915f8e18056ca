"""What a hostile peer can send to a pod's HBONE port, and that the others are served meanwhile (embedded provider
alone).
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import os
import socket
import ssl
from collections.abc import Callable, Iterable

import hpack
import pytest
from ambient_ztunnel import context, hbone, inbound
from ambient_ztunnel.certs import build, new_key_and_request
from ambient_ztunnel.identity import Identity
from ambient_ztunnel.stream import Stream as TunnelStream
from test_dataplane import hello
from test_tunnels import tls_to_server
from zt_lab import APP_PORT, CLIENT, CLIENT_IP, DENY_CLIENT, MIB, SERVER_IP, Ca, Mesh, errors, go, mesh, until

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.usefixtures("to_pod"),
]
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CONNECT: list[tuple[str, str | bytes]] = [(":method", "CONNECT"), (":authority", f"{SERVER_IP}:{APP_PORT}")]
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def frame(kind: int, payload: bytes = b"", stream: int = 0, flags: int = 0) -> bytes:
    """One HTTP/2 frame (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def ask(stream: int, headers: Iterable[tuple[str, str | bytes]] = CONNECT, flags: int = END_HEADERS) -> bytes:
    """A request; each header is a literal, so that every stream's bytes are the same."""
    block = b"".join(
        b"\x10" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value
        for name, value in ((name, value.encode() if isinstance(value, str) else value) for name, value in headers)
    )
    return frame(HEADERS, block, stream, flags)


START = PREFACE + frame(SETTINGS)
BIG = hpack.Encoder().encode([("x", "y" * 4000)]) + b"\xbe" * 100  # one entry, and then a hundred references to it

# What ends the connection (GOAWAY, or just an end); RFC 9113, sections 4 to 6.
FATAL = {
    "HTTP/1.1": b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" + bytes(20),
    "no SETTINGS first": PREFACE + ask(1),
    "a frame that is too large": START + b"\x10\0\1" + bytes(6),
    "DATA on stream 0": START + frame(DATA, b"x"),
    "DATA on an idle stream": START + frame(DATA, b"x", 1),
    "an even stream": START + ask(2),
    "stream numbers that fall": START + ask(3) + ask(1),
    "HEADERS on stream 0": START + ask(0),
    "CONTINUATION alone": START + frame(CONTINUATION, b"", 1, END_HEADERS),
    "a frame within a header block": START + ask(1, flags=0) + frame(PING, bytes(8)),
    "CONTINUATION of another stream": START + ask(1, flags=0) + frame(CONTINUATION, b"", 3, END_HEADERS),
    "SETTINGS that are cut": START + frame(SETTINGS, bytes(5)),
    "SETTINGS on a stream": START + frame(SETTINGS, b"", 1),
    "SETTINGS ACK with content": START + frame(SETTINGS, bytes(6), 0, ACK),
    "a window beyond 2^31": START + frame(SETTINGS, b"\0\4\x80\0\0\0"),
    "a frame size below the least": START + frame(SETTINGS, b"\0\5\0\0\0\1"),
    "WINDOW_UPDATE of nothing": START + frame(WINDOW, bytes(4)),
    "WINDOW_UPDATE that is cut": START + frame(WINDOW, bytes(3)),
    "WINDOW_UPDATE beyond 2^31": START + frame(WINDOW, b"\x7f\xff\xff\xff") * 2,
    "RST_STREAM that is cut": START + ask(1) + frame(RST, bytes(3), 1),
    "RST_STREAM on an idle stream": START + frame(RST, bytes(4), 1),
    "RST_STREAM on an even stream": START + ask(3) + frame(RST, bytes(4), 2),
    "RST_STREAM on stream 0": START + frame(RST, bytes(4)),
    "PING that is cut": START + frame(PING, bytes(7)),
    "PING on a stream": START + frame(PING, bytes(8), 1),
    "GOAWAY that is cut": START + frame(GOAWAY, bytes(7)),
    "PUSH_PROMISE": START + ask(1) + frame(PUSH, bytes(4), 1, END_HEADERS),
    "padding longer than the frame": START + ask(1) + frame(DATA, b"\x05xx", 1, PADDED),
    "HPACK: an index of nothing": START + frame(HEADERS, b"\xff\xff\x7f", 1, END_HEADERS),
    "HPACK: a string that is cut": START + frame(HEADERS, b"\x10\x7f", 1, END_HEADERS),
    "HPACK: a header of 400 kB in 4 kB": START + frame(HEADERS, BIG, 1, END_HEADERS),
    "headers too large": START + frame(HEADERS, hpack.Encoder().encode([("x", "y" * 900_000)], False), 1, END_HEADERS),
    "CONTINUATION without end": START + ask(1, flags=0) + frame(CONTINUATION, bytes(MIB), 1) * 8,
    "empty CONTINUATION without end": START + ask(1, flags=0) + frame(CONTINUATION, b"", 1) * 10_000,
}
# What ends one stream alone: RST_STREAM, or an answer that is not 200.
REFUSED: dict[str, list[tuple[str, str | bytes]]] = {
    "no :authority": CONNECT[:1],
    "two :authority": [*CONNECT, (":authority", "10.9.9.9:1")],
    "two :method": [*CONNECT, (":method", "GET")],
    "a pseudo header after others": [CONNECT[0], ("a", "b"), CONNECT[1]],
    "an unknown pseudo header": [*CONNECT, (":who", "me")],
    "a status": [*CONNECT, (":status", "200")],
    "GET": [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", f"{SERVER_IP}:{APP_PORT}")],
    "another pod": [CONNECT[0], (":authority", f"{CLIENT_IP}:{APP_PORT}")],
    "loopback": [CONNECT[0], (":authority", f"127.0.0.1:{APP_PORT}")],
    "the node": [CONNECT[0], (":authority", "10.77.0.254:10250")],
    "the metadata address": [CONNECT[0], (":authority", "169.254.169.254:80")],
    "an address in the form of IPv6": [CONNECT[0], (":authority", f"[::ffff:{SERVER_IP}]:{APP_PORT}")],
    "ztunnel's own port": [CONNECT[0], (":authority", f"{SERVER_IP}:15008")],
    "a host with a line break": [CONNECT[0], (":authority", "a\nb:80")],
    "no UTF-8": [CONNECT[0], (":authority", b"\xff\xfe:80")],
}


async def status(stream: Stream, wanted: int = 1, decoder: hpack.Decoder | None = None) -> str:
    """What becomes of a request: its status, "reset", or "end" of the connection."""
    decoder = decoder or hpack.Decoder()
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            head = await stream[0].readexactly(9)
            payload = await stream[0].readexactly(int.from_bytes(head[:3], "big"))
            if head[3] == HEADERS:
                answer = {str(name): str(value) for name, value in decoder.decode(payload)}
                if int.from_bytes(head[5:], "big") == wanted:
                    return answer[":status"]
            if head[3] == RST and int.from_bytes(head[5:], "big") == wanted:
                return "reset"
    return "end"


async def outcome(made: Mesh, ca: Ca, data: bytes) -> str:
    """Send it and say what happens: "end" when the connection ends."""
    reader, writer = await tls_to_server(made, ca, CLIENT)
    try:
        writer.write(data)
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                while await reader.read(MIB):
                    pass
        return "end"
    except TimeoutError:
        return "still there"
    finally:
        writer.transport.abort()


async def served(made: Mesh, ca: Ca) -> None:
    """A well-behaved client gets its answer."""
    stream = await tls_to_server(made, ca, CLIENT)
    stream[1].write(START + ask(1))
    assert await status(stream) == "200"
    stream[1].close()


def test_malformed_http2_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    ca = Ca()

    async def body() -> None:
        async with mesh(ca) as made:
            await made.serve(hello)
            seen = {name: await outcome(made, ca, data) for name, data in FATAL.items()}
            assert seen == dict.fromkeys(FATAL, "end")
            await served(made, ca)
            server = made.pods.proxies["2"]
            await until(lambda: len(server.inbound.tunnels) <= 1)

    with caplog.at_level(logging.ERROR):
        go(body(), 200)
    assert [record.message for record in caplog.records if "unexpected" in record.message] == []


def test_requests_that_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    """Each alone: its neighbours on the connection go on."""
    ca = Ca()
    seen = dict[str, str]()

    async def body() -> None:
        async with mesh(ca) as made:
            await made.serve(hello)
            stream = await tls_to_server(made, ca, CLIENT)
            stream[1].write(START)
            decoder = hpack.Decoder()
            for number, (name, headers) in enumerate(REFUSED.items()):
                stream[1].write(ask(2 * number + 1, headers))
                async with asyncio.timeout(5):
                    seen[name] = await status(stream, 2 * number + 1, decoder)
            stream[1].write(ask(101))
            assert await status(stream, 101, decoder) == "200"
            stream[1].close()

    go(body())
    assert {name: answer for name, answer in seen.items() if answer not in ("400", "503", "reset")} == {}


def test_too_many_streams() -> None:
    """The 201st is refused, or its connection; memory for more is nobody's."""
    ca = Ca()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    async def body() -> None:
        async with mesh(ca) as made:
            await made.serve(silent)
            stream = await tls_to_server(made, ca, CLIENT)
            stream[1].write(START + b"".join(ask(number) for number in range(1, 403, 2)))
            assert await status(stream, 401) in ("reset", "end")
            stream[1].close()

    go(body())


async def bare(on_request: Callable[[TunnelStream], None] | None = None) -> tuple[hbone.Connection, socket.socket]:
    """An end without TLS, a server's with `on_request`, and the socket of its peer."""
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    conn = hbone.Connection(lambda _tls: CLIENT, on_request)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: conn, ours)
    return conn, theirs


@pytest.mark.parametrize("flood", [frame(PING, bytes(8)), frame(SETTINGS)], ids=["PING", "SETTINGS"])
def test_answers_that_nobody_reads(flood: bytes) -> None:
    """A peer that asks and never reads is cut off before its answers fill the memory."""

    async def body() -> None:
        conn, peer = await bare(lambda _stream: None)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(peer, START)
        with contextlib.suppress(ConnectionError):
            for _ in range(40):
                await loop.sock_sendall(peer, flood * (MIB // 8 // len(flood)))
                assert conn._transport is None or conn._transport.get_write_buffer_size() < 2 * MIB
        assert conn.closed.done()
        peer.close()

    go(body())


def test_streams_that_nobody_reads_hold_one_window() -> None:
    """What a connection may leave here is its window of 16 MiB, whatever the number of its streams."""

    async def body() -> None:
        _, peer = await bare(lambda _stream: None)
        loop = asyncio.get_running_loop()
        streams = range(1, 21, 2)
        await loop.sock_sendall(peer, START + b"".join(map(ask, streams)))
        for number in streams:
            await loop.sock_sendall(peer, frame(DATA, bytes(MIB), number))
        reader, writer = await asyncio.open_connection(sock=peer)
        writer.write(frame(PING, bytes(8)))  # whose answer comes after all that the data before it causes
        given, kind = 65535, DATA
        while kind != PING:
            head = await reader.readexactly(9)
            kind, payload = head[3], await reader.readexactly(int.from_bytes(head[:3], "big"))
            if kind == WINDOW and not any(head[5:]):
                given += int.from_bytes(payload, "big")
        assert given == 16 * MIB
        writer.close()

    go(body())


def test_more_data_than_the_window_of_all() -> None:
    """On streams that nobody reads, and none of which has more than its own."""

    async def body() -> None:
        _, peer = await bare(lambda _stream: None)
        stream = await asyncio.open_connection(sock=peer)
        sent = b"".join(ask(number) + frame(DATA, bytes(MIB), number) * 4 for number in range(1, 11, 2))
        stream[1].write(START + sent)
        assert await status(stream) == "end"
        stream[1].transport.abort()

    go(body())


@pytest.mark.parametrize("what", ["nothing", "TLS", "TLS and the preface"])
def test_slow_handshake_is_ended(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (context, inbound, hbone):
        monkeypatch.setattr(module, "HANDSHAKE_TIMEOUT", 1.0, raising=False)
    ca = Ca()

    async def body() -> None:
        async with mesh(ca) as made:
            if what == "nothing":
                sock = await made.pods.proxies["1"].pod.netns.connect(SERVER_IP, 15008)
                reader, writer = await asyncio.open_connection(sock=sock)
            else:
                reader, writer = await tls_to_server(made, ca, CLIENT)
                writer.write(PREFACE[:20] if what == "TLS" else PREFACE)
            async with asyncio.timeout(8):
                with contextlib.suppress(OSError):
                    await reader.read()
            writer.close()
            await until(lambda: not made.pods.proxies["2"]._tasks, 5)

    go(body())


# -- who asks ----------------------------------------------------------------------------------------------


def client_context(ca: Ca, kind: str) -> ssl.SSLContext:
    """TLS of a client whose certificate is not what it should be."""
    if kind == "none":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        return context
    identity = Identity("elsewhere" if kind == "trust domain" else "cluster.local", "default", "client")
    signer = Ca() if kind == "foreign root" else ca
    names = {
        "no name": [],
        "two names": [str(CLIENT), str(CLIENT)],
        "another form": ["spiffe://cluster.local/x"],
    }
    signer.uris = names.get(kind)
    signer.clock = datetime.timedelta(hours={"expired": -2, "not yet valid": 2}.get(kind, 0))
    key, request = new_key_and_request(identity)
    chain = asyncio.run(signer.sign(identity, request))
    signer.clock, signer.uris = datetime.timedelta(), None
    return build(identity, key, [*chain[:-1], ca.root_pem]).client


@pytest.mark.parametrize(
    "kind",
    [
        "none",
        "foreign root",
        "expired",
        "not yet valid",
        "trust domain",
        "no name",
        "two names",
        "another form",
        "good",
    ],
)
def test_certificate_of_the_client(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    ca = Ca()
    tls = client_context(ca, kind)

    async def body() -> None:
        async with mesh(ca) as made:
            await made.serve(hello)
            answer = "end"
            with contextlib.suppress(OSError):
                sock = await made.pods.proxies["1"].pod.netns.connect(SERVER_IP, 15008)
                stream = await asyncio.open_connection(sock=sock, ssl=tls, server_hostname="")
                stream[1].write(START + ask(1))
                answer = await status(stream)
                stream[1].close()
            assert answer == ("200" if kind == "good" else "end")
            if kind != "good":
                await until(lambda: any("tls handshake error" in error for error in errors(caplog)), 5)

    with caplog.at_level(logging.INFO, "access"):
        go(body())


def test_only_the_certificate_says_who_asks(caplog: pytest.LogCaptureFixture) -> None:
    """`baggage` and `forwarded` name an identity that may pass; the certificate's may not."""
    ca = Ca()
    forged = [
        *CONNECT,
        ("baggage", "k8s.namespace.name=istio-system,k8s.deployment.name=istiod,service.name=istiod"),
        ("forwarded", 'for="10.77.0.2:1";host=app.default.svc.cluster.local'),
        ("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/default/sa/server"),
    ]

    async def body() -> None:
        async with mesh(ca) as made:
            made.state.put_policy(DENY_CLIENT)
            made.state.notify()
            stream = await tls_to_server(made, ca, CLIENT)
            stream[1].write(START + ask(1, forged))
            assert await status(stream) == "401"
            stream[1].close()
            labels = {"source_principal": str(CLIENT), "source_workload": "client"}
            assert made.count("istio_tcp_connections_failed_total", **labels) == 1

    with caplog.at_level(logging.INFO, "access"):
        go(body())
    line = next(getattr(record, "fields", {}) for record in caplog.records if record.name == "access")
    shown = (line["src.workload"], line["src.namespace"], line["src.identity"])
    assert shown == ("client", "default", str(CLIENT))
