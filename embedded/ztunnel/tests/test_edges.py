"""The data path's edges: plain text, identities, back-pressure, resets, draining, DNS (embedded provider alone)."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import os
import socket
import struct
from ipaddress import ip_address

import h2.config
import h2.connection
import h2.events
import hyperframe.frame
import pytest
from ambient_ztunnel import dns, inbound, outbound
from ambient_ztunnel.certs import build, new_key_and_request
from ambient_ztunnel.hbone import Connection
from ambient_ztunnel.identity import Identity
from ambient_ztunnel.model import Action, AppTunnel, Match, MatchKind, Policy, Scope, StringMatch
from ambient_ztunnel.relay import Relay, TcpEnd, proxy_header
from test_dataplane import DENY_CLIENT, go, hello
from zt_lab import APP_PORT, CLIENT_IP, SERVER_IP, SERVICE, VIP, Ca, Mesh, captured, mesh

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
MIB = 1024 * 1024
CLIENT = Identity("cluster.local", "default", "client")
STRICT = Policy(
    "strict",
    "default",
    Scope.NAMESPACE,
    Action.DENY,
    (((Match(not_principals=(StringMatch(MatchKind.PRESENCE),)),),),),
)


@pytest.fixture(autouse=True)
def to_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the client connects to was meant for the server's pod."""
    monkeypatch.setattr(outbound, "original_destination", captured((SERVER_IP, APP_PORT)))
    monkeypatch.setattr(inbound, "original_destination", captured((SERVER_IP, APP_PORT)))


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The error field of every access line that has one."""
    found = [getattr(record, "fields", {}).get("error") for record in caplog.records]
    return [str(error) for error in found if error]


async def until(condition: object, limit: float = 5) -> None:
    """Poll every 10 ms until `condition()` holds."""
    async with asyncio.timeout(limit):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)


async def plain(made: Mesh) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection from outside the mesh, as if it had been captured on its way in."""
    sock = await made.pods.proxies["1"].pod.netns.connect(SERVER_IP, 15006)
    return await asyncio.open_connection(sock=sock)


def test_plain_text_is_passed_on_and_ruled(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with mesh() as made:
            await made.serve(hello)
            reader, writer = await plain(made)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert (await reader.read()).endswith(b"ok")
            writer.close()
            await until(lambda: made.count("istio_tcp_connections_closed_total") == 1)
            made.state.put_policy(STRICT)
            made.state.notify()
            reader, writer = await plain(made)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()
            plain_labels = {"connection_security_policy": "unknown", "reporter": "destination"}
            assert made.count("istio_tcp_connections_opened_total", **plain_labels) == 2
            assert made.count("istio_tcp_connections_failed_total", response_flags="DENY", **plain_labels) == 1
            # the tunnel carries an identity, so it still works
            reader, writer = await made.connect()
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert (await reader.read()).endswith(b"ok")
            writer.close()
            await until(lambda: made.count("istio_tcp_connections_closed_total") == 4)

    with caplog.at_level(logging.INFO, "access"):
        go(body())
    assert errors(caplog) == ["connection closed due to policy rejection: explicitly denied by: default/strict"]


def test_application_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with mesh() as made:
            reader, writer = await made.connect()
            writer.write(b"hello")
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()
            assert made.count("istio_tcp_connections_failed_total", response_flags="CONNECT") == 1

    with caplog.at_level(logging.INFO, "access"):
        go(body())
    assert "http status: 503 Service Unavailable" in errors(caplog)
    assert "connection failed: Connection refused (os error 111)" in errors(caplog)


def test_server_with_another_identity_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with mesh() as made:
            await made.serve(hello)
            # The client's view of the server: another service account than the one that answers.
            pool = made.pods.proxies["1"].outbound.pool
            key = outbound.Key(CLIENT, (Identity("cluster.local", "default", "other"),), SERVER_IP, 15008)
            with pytest.raises(outbound.OpenError, match="did not present the expected SAN"):
                await pool.open(key, [(":method", "CONNECT"), (":authority", f"{SERVER_IP}:{APP_PORT}")])

    go(body())


async def tls_to_server(made: Mesh, ca: Ca, identity: Identity) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A raw TLS connection to the server's HBONE port, with a certificate of our choice."""
    key, request = new_key_and_request(identity)
    context = build(identity, key, await ca.sign(identity, request)).client
    sock = await made.pods.proxies["1"].pod.netns.connect(SERVER_IP, 15008)
    return await asyncio.open_connection(sock=sock, ssl=context, server_hostname="")


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
            reader, writer = await tls_to_server(made, ca, CLIENT)
            conn = h2.connection.H2Connection(
                h2.config.H2Configuration(validate_outbound_headers=False, header_encoding="utf-8")
            )
            conn.initiate_connection()
            conn.send_headers(1, headers)
            writer.write(conn.data_to_send())
            seen = None
            while seen is None:
                for event in conn.receive_data(await reader.read(65536)):
                    if isinstance(event, h2.events.ResponseReceived):
                        seen = dict(event.headers or [])[":status"]
            assert seen == status
            writer.close()

    go(body())


def test_slow_reader_stops_the_sender() -> None:
    sent = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                writer.write(b"x" * MIB)
                await writer.drain()
                sent += 1
        writer.close()

    async def body() -> None:
        async with mesh() as made:
            await made.serve(pour)
            reader, writer = await made.connect()
            await asyncio.sleep(0.5)
            stuck = sent
            await asyncio.sleep(0.3)
            assert sent == stuck
            assert stuck < 60  # buffers of the kernel and of the test included
            # others are not held up by it
            other_reader, other = await made.connect()
            assert len(await other_reader.readexactly(MIB)) == MIB
            other.close()
            total = 0
            while chunk := await reader.read(MIB):
                total += len(chunk)
            assert total == 200 * MIB
            writer.close()

    go(body())


def test_reset_of_the_application_reaches_the_client() -> None:
    async def slam(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def body() -> None:
        async with mesh() as made:
            await made.serve(slam)
            reader, writer = await made.connect()
            writer.write(b"x")
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()

    go(body())


def test_drain_waits_for_what_is_open() -> None:
    release = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        await release.wait()
        writer.write(b"done")
        writer.close()

    async def body() -> None:
        async with mesh() as made:
            await made.serve(slow)
            reader, writer = await made.connect()
            writer.write(b"x")
            await asyncio.sleep(0.1)
            shutdown = asyncio.create_task(made.pods.shutdown(5))
            await asyncio.sleep(0.1)
            assert not shutdown.done()
            release.set()
            assert await reader.read() == b"done"
            writer.close()
            await asyncio.wait_for(shutdown, 2)

    go(body())


def test_drain_ends_in_time(caplog: pytest.LogCaptureFixture) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    async def body() -> None:
        async with mesh() as made:
            await made.serve(silent)
            reader, writer = await made.connect()
            writer.write(b"x")
            await asyncio.sleep(0.1)
            started = asyncio.get_running_loop().time()
            await made.pods.shutdown(0.5)
            assert 0.4 < asyncio.get_running_loop().time() - started < 1.5
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()

    with caplog.at_level(logging.INFO, "access"):
        go(body())
    assert "connection closed due to connection drain" in errors(caplog)


def test_certificates_are_renewed_at_half_their_life() -> None:
    ca = Ca(datetime.timedelta(seconds=3))

    async def body() -> None:
        async with mesh(ca) as made:
            await made.serve(hello)
            await until(lambda: ca.signed >= 2)
            before = await made.context.certs.fetch(CLIENT)
            await until(lambda: ca.signed >= 4)
            await asyncio.sleep(0.1)
            after = await made.context.certs.fetch(CLIENT)
            assert after.chain[0].serial_number != before.chain[0].serial_number
            assert after.not_after > before.not_after

    go(body())


def test_certificate_of_nobody_is_forgotten() -> None:
    async def body() -> None:
        async with mesh() as made:
            certs = made.context.certs
            await until(lambda: len(certs.entries()) == 2)
            await made.pods.delete("2")
            await until(lambda: [str(identity) for identity, _, _ in certs.entries()] == [str(CLIENT)])

    go(body())


def test_application_that_reads_proxy_headers() -> None:
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())
        writer.close()

    async def body() -> None:
        async with mesh() as made:
            tunnel = AppTunnel(proxy_protocol=True, port=None)
            changed = {name: getattr(made.server, name) for name in made.server.__dataclass_fields__}
            made.state.put_workload(type(made.server)(**{**changed, "app_tunnel": tunnel}))
            await made.serve(listen)
            reader, writer = await made.connect()
            writer.write(b"body")
            writer.write_eof()
            await reader.read()
            writer.close()
            await until(lambda: bool(heard))
            assert heard[0].startswith(b"\r\n\r\n\0\r\nQUIT\n\x21\x11")
            assert heard[0].endswith(b"body")
            assert str(CLIENT).encode() in heard[0]

    go(body())


def test_proxy_header_bytes() -> None:
    made = proxy_header(("10.0.0.1", 258), ("10.0.0.2", 80), "id")
    assert made.hex() == "0d0a0d0a000d0a515549540a" + "2111" + "0011" + "0a0000010a000002" + "01020050" + "d000026964"


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


async def server_that_finishes_with(code: int) -> tuple[bytes, bool]:
    """A tunnel whose server sends data, END_STREAM and RST_STREAM: what the client reads, and if it ends well."""
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
    peer.send_data(1, b"x" * 60000, end_stream=True)
    await loop.sock_sendall(theirs, peer.data_to_send())
    assert await stream.response == 200
    relay = Relay(await TcpEnd.open(accepted), stream, NoCounter())
    relay.start()
    await asyncio.sleep(0.05)
    rst = hyperframe.frame.RstStreamFrame(1, error_code=code)
    await loop.sock_sendall(theirs, rst.serialize())
    reader, writer = await asyncio.open_connection(sock=client_sock)
    got = b""
    well = True
    try:
        while chunk := await reader.read(65536):
            got += chunk
    except ConnectionError:
        well = False
    writer.close()
    conn.abort("done")
    listener.close()
    theirs.close()
    return got, well and relay.done.done() and relay.done.exception() is None


class NoCounter:
    """Counts nothing."""

    def add_request(self, size: int) -> None:
        """Bytes of the request."""

    def add_response(self, size: int) -> None:
        """Bytes of the response."""


def test_reset_without_error_after_the_end_is_a_good_end() -> None:
    async def body() -> None:
        assert await server_that_finishes_with(0) == (b"x" * 60000, True)
        assert (await server_that_finishes_with(8))[1] is False

    go(body())


# -- DNS ---------------------------------------------------------------------------------------------------------


def question(name: str, kind: int = 1, ident: int = 7) -> bytes:
    """A query packet."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    return struct.pack("!6H", ident, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!2H", kind, 1)


async def ask(made: Mesh, packet: bytes, *, tcp: bool) -> bytes:
    """Ask the DNS proxy of the client's pod."""
    loop = asyncio.get_running_loop()
    netns = made.pods.proxies["1"].pod.netns
    loopback = ip_address("127.0.0.1")
    if tcp:
        reader, writer = await asyncio.open_connection(sock=await netns.connect(loopback, 15053))
        writer.write(len(packet).to_bytes(2, "big") + packet)
        reply = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        writer.close()
        return reply
    sock = await netns.bind_udp(loopback, 0)
    with sock:
        sock.connect(("127.0.0.1", 15053))
        await loop.sock_sendall(sock, packet)
        return await loop.sock_recv(sock, 4096)


@pytest.mark.parametrize("tcp", [False, True])
def test_dns_answers_for_the_mesh_and_forwards_the_rest(tcp: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns, "nameservers", lambda: [ip_address("127.0.0.9"), CLIENT_IP])

    async def upstream(made: Mesh) -> socket.socket:
        """A nameserver that answers everything with its question and a mark."""
        loop = asyncio.get_running_loop()
        netns = made.pods.proxies["1"].pod.netns
        udp = await netns.bind_udp(CLIENT_IP, 53)
        listener = await netns.listen(CLIENT_IP, 53, transparent=False)

        def serve() -> None:
            packet, client = udp.recvfrom(4096)
            udp.sendto(packet[:2] + b"upstream", client)

        async def serve_tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            packet = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            writer.write((10).to_bytes(2, "big") + packet[:2] + b"upstream")
            writer.close()

        loop.add_reader(udp, serve)
        made.servers.append(await asyncio.start_server(serve_tcp, sock=listener))
        return udp

    async def body() -> None:
        async with mesh() as made:
            udp = await upstream(made)
            reply = await ask(made, question("app.default"), tcp=tcp)
            assert reply.endswith(VIP.packed)
            assert struct.unpack_from("!6H", reply) == (7, 0x8580, 1, 1, 0, 0)
            empty = await ask(made, question("app.default", kind=28), tcp=tcp)
            assert struct.unpack_from("!6H", empty) == (7, 0x8580, 1, 0, 0, 0)
            for packet in (question("example.com"), question("app.default", kind=16)):
                assert await ask(made, packet, tcp=tcp) == packet[:2] + b"upstream"
            monkeypatch.setattr(dns, "nameservers", list)
            failed = await ask(made, question("example.com"), tcp=tcp)
            assert struct.unpack_from("!6H", failed) == (7, 0x8182, 1, 0, 0, 0)
            assert made.count("istio_dns_upstream_failures_total", request_protocol="tcp" if tcp else "udp") == 1
            asyncio.get_running_loop().remove_reader(udp)
            udp.close()

    go(body())


def test_dns_can_be_switched_off() -> None:
    async def body() -> None:
        async with mesh(ISTIO_META_DNS_CAPTURE="false") as made:
            with pytest.raises(ConnectionRefusedError):
                await ask(made, question("app.default"), tcp=True)

    go(body())


def test_policy_that_allows_all_but_one(caplog: pytest.LogCaptureFixture) -> None:
    """A denial by policy on a pooled connection leaves its other streams alone."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            writer.write(chunk)
        writer.close()

    async def body() -> None:
        async with mesh() as made:
            await made.serve(echo)
            reader, writer = await made.connect()
            writer.write(b"a")
            assert await reader.readexactly(1) == b"a"
            other = Policy("other", "default", Scope.NAMESPACE, Action.DENY, (((Match(destination_ports=(1,)),),),))
            made.state.put_policy(other)
            made.state.notify()
            await asyncio.sleep(0.05)
            writer.write(b"b")
            assert await reader.readexactly(1) == b"b"
            writer.close()
            assert DENY_CLIENT.key not in made.state.policies

    go(body())
