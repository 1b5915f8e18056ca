"""HBONE itself: who may speak it, what is asked, resets, connections that go away (embedded provider alone)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket

import h2.config
import h2.connection
import h2.events
import hyperframe.frame
import pytest
from ambient_ztunnel.certs import build, new_key_and_request
from ambient_ztunnel.hbone import Connection
from ambient_ztunnel.identity import Identity
from ambient_ztunnel.pool import STREAMS_PER_CONNECTION
from ambient_ztunnel.relay import Relay, TcpEnd
from test_dataplane import hello
from zt_lab import APP_PORT, CLIENT, MIB, SERVER_IP, SERVICE, Ca, Mesh, echo, errors, go, mesh, until

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.usefixtures("to_pod"),
]


async def tls_to_server(made: Mesh, ca: Ca, identity: Identity) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A raw TLS connection to the server's HBONE port, with a certificate of our choice."""
    key, request = new_key_and_request(identity)
    context = build(identity, key, await ca.sign(identity, request)).client
    sock = await made.pods.proxies["1"].pod.netns.connect(SERVER_IP, 15008)
    return await asyncio.open_connection(sock=sock, ssl=context, server_hostname="")


async def h2_to_server(
    made: Mesh, ca: Ca
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, h2.connection.H2Connection]:
    """A connection of the client to the server's ztunnel, with the h2 library at this end."""
    conn = h2.connection.H2Connection(h2.config.H2Configuration(validate_outbound_headers=False))
    conn.initiate_connection()
    return *await tls_to_server(made, ca, CLIENT), conn


@pytest.mark.parametrize("trust_domain", ["cluster.local", "elsewhere"])
def test_trust_domain_of_the_client(trust_domain: str, caplog: pytest.LogCaptureFixture) -> None:
    ca = Ca()

    async def body() -> None:
        async with mesh(ca) as made:
            reader, writer = await tls_to_server(made, ca, Identity(trust_domain, "default", "client"))
            with contextlib.suppress(ConnectionError):
                writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
                first = await reader.read(9)
                assert bool(first) is (trust_domain == "cluster.local")
            writer.close()

    with caplog.at_level(logging.INFO, "access"):
        go(body())
    refused = [error for error in errors(caplog) if "expected trustdomain" in error]
    assert bool(refused) is (trust_domain == "elsewhere")


def test_client_with_a_foreign_root_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with mesh() as made:
            other = Ca()
            with contextlib.suppress(OSError):
                reader, writer = await tls_to_server(made, other, CLIENT)
                await reader.read(9)
                writer.close()
            await until(lambda: any("tls handshake error" in error for error in errors(caplog)))

    with caplog.at_level(logging.INFO, "access"):
        go(body())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "x")], "400"),
        ([(":method", "CONNECT"), (":authority", "nonsense")], "400"),
        ([(":method", "CONNECT"), (":authority", "10.9.9.9:8080")], "400"),
        ([(":method", "CONNECT"), (":authority", f"{SERVER_IP}:15001")], "503"),
        ([(":method", "CONNECT"), (":authority", "absent.default.svc.cluster.local:80")], "503"),
        ([(":method", "CONNECT"), (":authority", f"{SERVER_IP}:{APP_PORT}")], "200"),
        ([(":method", "CONNECT"), (":authority", f"{SERVICE.hostname}:80")], "200"),
    ],
)
def test_status_of_requests(headers: list[tuple[str, str]], status: str) -> None:
    ca = Ca()

    async def body() -> None:
        async with mesh(ca) as made:
            await made.serve(hello)
            reader, writer, conn = await h2_to_server(made, ca)
            conn.send_headers(1, headers)
            writer.write(conn.data_to_send())
            seen = None
            while seen is None:
                for event in conn.receive_data(await reader.read(65536)):
                    if isinstance(event, h2.events.ResponseReceived):
                        seen = dict(event.headers or [])
            assert seen[b":status"].decode() == status
            who = b"k8s.cluster.name=Kubernetes,k8s.namespace.name=default,k8s.pod.name=server,service.name=server"
            assert seen.get(b"baggage") == (who if status == "200" else None)
            settings = conn.remote_settings
            limits = (settings.max_concurrent_streams, settings.initial_window_size, settings.max_frame_size)
            assert limits == (200, 4 * MIB, MIB)
            writer.close()

    go(body())


def test_the_h2_library_is_understood_beyond_all_windows() -> None:
    """As the waypoint's Envoy does: Huffman coding and a table, CONTINUATION, padding, PING; 40 MiB there and back."""
    ca = Ca()
    size = 40 * MIB

    async def body() -> None:
        async with mesh(ca) as made:
            await made.serve(echo)
            reader, writer, conn = await h2_to_server(made, ca)
            conn.increment_flow_control_window(2**24)
            headers = [(":method", "CONNECT"), (":authority", f"{SERVER_IP}:{APP_PORT}"), ("x", "y" * 30_000)]
            for stream in (1, 3):  # the second has its headers from the table
                conn.send_headers(stream, headers)
            conn.ping(b"12345678")
            seen, sent, got, ended = set[type](), 0, 0, False
            while not ended:
                while sent < size and (room := min(conn.local_flow_control_window(3), 16384) - 8) > 0:
                    part = min(room, size - sent)
                    conn.send_data(3, bytes(part), pad_length=7)
                    sent += part
                if sent == size:
                    conn.end_stream(3)
                    sent += 1
                writer.write(conn.data_to_send())
                for event in conn.receive_data(await reader.read(MIB)):
                    seen.add(type(event))
                    if isinstance(event, h2.events.DataReceived):
                        got += len(event.data or b"")
                        conn.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
                    ended |= isinstance(event, h2.events.StreamEnded)
            assert got == size
            assert {h2.events.PingAckReceived, h2.events.ResponseReceived, h2.events.SettingsAcknowledged} <= seen
            writer.close()

    go(body())


def test_streams_of_a_full_connection_take_turns() -> None:
    """A hundred that could fill it alone: each gets its part, in order."""

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(bytes(MIB))
                await writer.drain()

    async def body() -> None:
        async with mesh() as made:
            await made.serve(pour)
            readers = [await made.connect() for _ in range(STREAMS_PER_CONNECTION)]
            got = dict.fromkeys(range(len(readers)), 0)

            async def read(number: int, reader: asyncio.StreamReader) -> None:
                while chunk := await reader.read(MIB):
                    got[number] += len(chunk)

            tasks = [asyncio.create_task(read(number, reader)) for number, (reader, _) in enumerate(readers)]
            await until(lambda: all(got.values()) or sum(got.values()) > 1500 * MIB)
            assert all(got.values()), f"{sum(map(bool, got.values()))} of {len(got)} streams had anything"
            for task in tasks:
                task.cancel()

    go(body())


def test_a_new_ztunnel_takes_over_from_the_old_one() -> None:
    """During an upgrade both listen; the new one serves alone when the old one has drained."""

    async def body() -> None:
        async with mesh() as old:
            await old.serve(hello)
            new = Mesh(old.client_pid, old.server_pid, Ca())
            new.context.certs._sign = old.context.certs._sign
            await new.start()
            try:
                await old.pods.shutdown(1)
                for _ in range(5):
                    reader, writer = await new.connect()
                    writer.write(b"GET / HTTP/1.1\r\n\r\n")
                    assert (await reader.read()).endswith(b"ok")
                    writer.close()
                assert new.count("istio_tcp_connections_opened_total", reporter="destination") == 5
            finally:
                await new.pods.shutdown(0)
                await new.context.certs.close()

    go(body())


def test_pooled_connection_that_is_going_away_is_replaced() -> None:
    async def body() -> None:
        async with mesh() as made:
            await made.serve(hello)
            for _ in range(3):
                reader, writer = await made.connect()
                writer.write(b"GET / HTTP/1.1\r\n\r\n")
                assert (await reader.read()).endswith(b"ok")
                writer.close()
                for tunnel in list(made.pods.proxies["2"].inbound.tunnels):
                    tunnel.drain()
            reader, writer = await made.connect()
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert (await reader.read()).endswith(b"ok")
            for tunnel in list(made.pods.proxies["2"].inbound.tunnels):
                tunnel.abort("test")
            writer.close()

    go(body())


async def server_that_finishes_with(code: int, *, end: bool) -> tuple[bytes, str]:
    """A tunnel whose server sends data, END_STREAM perhaps, and RST_STREAM: what the client reads, and the error."""
    ours, theirs = socket.socketpair()
    listener = socket.create_server(("127.0.0.1", 0))
    for sock in (ours, theirs, listener):
        sock.setblocking(False)
    loop = asyncio.get_running_loop()
    client_sock = socket.create_connection(listener.getsockname())
    client_sock.setblocking(False)
    accepted, _ = await loop.sock_accept(listener)
    conn = Connection(lambda _tls: CLIENT)
    await loop.connect_accepted_socket(lambda: conn, ours)
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, validate_inbound_headers=False))
    peer.initiate_connection()
    stream = conn.connect([(":method", "CONNECT"), (":authority", "x:1")])
    await asyncio.sleep(0)
    await loop.sock_sendall(theirs, peer.data_to_send())
    events: list[object] = []
    while not any(isinstance(event, h2.events.RequestReceived) for event in events):
        events += peer.receive_data(await loop.sock_recv(theirs, 65536))
    peer.send_headers(1, [(":status", "200")])
    peer.send_data(1, b"x" * 60000, end_stream=end)
    await loop.sock_sendall(theirs, peer.data_to_send())
    assert await stream.response == 200
    relay = Relay(await TcpEnd.open(accepted), stream, NoCounter())
    relay.start()
    await asyncio.sleep(0.05)
    rst = hyperframe.frame.RstStreamFrame(1, error_code=code)
    await loop.sock_sendall(theirs, rst.serialize())
    reader, writer = await asyncio.open_connection(sock=client_sock)
    got = await reader.read()
    writer.close()
    await asyncio.wait([relay.done], timeout=10)
    conn.abort("done")
    listener.close()
    theirs.close()
    return got, str(relay.done.exception() or "")


class NoCounter:
    """Counts nothing."""

    def add_request(self, size: int) -> None:
        """Bytes of the request."""

    def add_response(self, size: int) -> None:
        """Bytes of the response."""


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (0, ""),
        (8, "while closing connection: send: io error: broken pipe"),  # CANCEL
        (2, "while closing connection: send: io error: stream error received: INTERNAL_ERROR"),
    ],
)
@pytest.mark.parametrize("end", [True, False])
def test_what_a_reset_stream_means(end: bool, code: int, error: str) -> None:
    """Its client hears FIN after all the data, whatever the code; upstream's src/proxy/h2.rs decides on the error."""

    async def body() -> None:
        assert await server_that_finishes_with(code, end=end) == (b"x" * 60000, error)

    go(body())
