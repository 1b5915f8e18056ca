"""The data path's edges: plain text, identities, back-pressure, resets, draining, DNS (embedded provider alone)."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import os
import time
from dataclasses import replace
from ipaddress import ip_address
from types import SimpleNamespace

import pytest
from ambient_ztunnel import certs, pods
from ambient_ztunnel.hbone import Headers
from ambient_ztunnel.identity import Identity
from ambient_ztunnel.model import Action, AppTunnel, Match, Policy, Scope
from ambient_ztunnel.pods import PodProxy
from ambient_ztunnel.pool import STREAMS_PER_CONNECTION, Key, OpenError
from ambient_ztunnel.relay import proxy_header
from ambient_ztunnel.state import WorkloadInfo
from test_dataplane import hello
from zt_lab import (
    APP_PORT,
    CLIENT,
    DENY_CLIENT,
    MIB,
    SERVER_IP,
    STRICT,
    Ca,
    Mesh,
    echo,
    ended,
    errors,
    go,
    mesh,
    until,
)

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.usefixtures("to_pod"),
]
TO_SERVER = Key(CLIENT, (Identity("cluster.local", "default", "server"),), SERVER_IP, 15008)


def tunnel_to(port: int) -> Headers:
    """What asks for a tunnel to a port of the server."""
    return [(":method", "CONNECT"), (":authority", f"{SERVER_IP}:{port}")]


async def heard(made: Mesh, size: int) -> None:
    """Wait until so many bytes have come through to the server's pod."""
    await until(lambda: made.count("istio_tcp_received_bytes_total", reporter="destination") == size)


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
            assert await ended(reader) == b""
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
            assert await ended(reader) == b""
            writer.close()
            for reporter in ("source", "destination"):
                labels = {"response_flags": "CONNECT", "reporter": reporter}
                assert made.count("istio_tcp_connections_failed_total", **labels) == 1

    with caplog.at_level(logging.INFO, "access"):
        go(body())
    assert errors(caplog) == [
        "connection failed: Connection refused (os error 111)",
        "http status: 503 Service Unavailable",
    ]


def test_server_with_another_identity_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with mesh() as made:
            await made.serve(hello)
            # The client's view of the server: another service account than the one that answers.
            pool = made.pods.proxies["1"].outbound.pool
            key = replace(TO_SERVER, sans=(Identity("cluster.local", "default", "other"),))
            with pytest.raises(OpenError, match="did not present the expected SAN"):
                await pool.open(key, tunnel_to(APP_PORT))

    go(body())


def test_a_denial_leaves_nothing_on_the_connection() -> None:
    """100 streams fit on one: denials that stayed there would fill it, and it would never be idle."""

    async def body() -> None:
        async with mesh() as made:
            made.state.put_policy(DENY_CLIENT)
            made.state.notify()
            pool = made.pods.proxies["1"].outbound.pool
            for _ in range(STREAMS_PER_CONNECTION + 1):
                with pytest.raises(OpenError, match="401 Unauthorized"):
                    await pool.open(TO_SERVER, tunnel_to(APP_PORT))
            (connection,) = pool._connections[TO_SERVER]
            assert connection.streams == {}
            (tunnel,) = made.pods.proxies["2"].inbound.tunnels
            await until(lambda: not tunnel.streams)

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
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.5)
            assert sent < 60  # buffers of the kernel and of the test included
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
            await heard(made, 1)
            shutdown = asyncio.create_task(made.pods.shutdown(40))
            await asyncio.sleep(0.1)
            assert not shutdown.done()
            release.set()
            assert await reader.read() == b"done"
            writer.close()
            await asyncio.wait_for(shutdown, 20)

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
            await heard(made, 1)
            started = asyncio.get_running_loop().time()
            await made.pods.shutdown(0.5)
            assert 0.4 < asyncio.get_running_loop().time() - started < 20
            assert await ended(reader) == b""
            writer.close()
            assert made.count("istio_tcp_connections_failed_total", reporter="destination") == 0

    with caplog.at_level(logging.INFO, "access"):
        go(body())
    assert "connection closed due to connection drain" in errors(caplog)


def test_certificates_are_renewed_at_half_their_life() -> None:
    ca = Ca(datetime.timedelta(seconds=3))

    async def body() -> None:
        async with mesh(ca) as made:
            await made.serve(hello)
            manager = made.context.certs
            before = await manager.fetch(CLIENT)
            await until(lambda: before not in [certificate for _, _, certificate in manager.entries()])
            after = await manager.fetch(CLIENT)
            assert after.chain[0].serial_number != before.chain[0].serial_number
            assert after.not_after > before.not_after

    go(body())


@pytest.mark.parametrize("hours", [30, -30])
@pytest.mark.parametrize("who", ["connection", "rotation"])
def test_a_clock_step_brings_new_certificates(who: str, hours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a suspend: timers have not run, and no certificate is valid. OpenSSL has the machine's clock, so
    the step leads from another one to that.
    """
    away = datetime.timedelta(hours=-hours)
    ca = Ca()
    ca.clock = away
    monkeypatch.setattr(certs, "time", SimpleNamespace(time=lambda: time.time() + ca.clock.total_seconds()))
    monkeypatch.setattr(certs, "CLOCK_CHECK", 60 if who == "connection" else 0.02)

    async def body() -> None:
        async with mesh(ca) as made:
            await made.serve(hello)
            before = [await made.context.certs.fetch(identity) for identity in (CLIENT, TO_SERVER.sans[0])]
            ca.clock = datetime.timedelta()
            if who == "rotation":
                await until(lambda: all(cert not in before for _, _, cert in made.context.certs.entries()), 5)
            reader, writer = await made.connect()
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert (await reader.read()).endswith(b"ok")
            writer.close()
            assert ca.signed == 4

    go(body())


def test_certificate_of_nobody_is_forgotten() -> None:
    async def body() -> None:
        async with mesh() as made:
            manager = made.context.certs
            await until(lambda: len(manager.entries()) == 2)
            await made.pods.delete("2")
            await until(lambda: [str(identity) for identity, _, _ in manager.entries()] == [str(CLIENT)])

    go(body())


@pytest.mark.parametrize("comes_back", [False, True])
def test_what_istio_cni_says_during_a_retry_counts(comes_back: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pods, "RETRY", 0.01)
    start = PodProxy.start
    started = list[PodProxy]()
    go_on = asyncio.Event()

    async def fail(_: PodProxy) -> None:
        raise OSError("not yet")

    async def start_slowly(proxy: PodProxy) -> None:
        await start(proxy)
        started.append(proxy)
        await go_on.wait()

    async def body() -> None:
        async with mesh() as made:
            await made.pods.delete("2")

            async def add() -> None:
                namespace = os.open(f"/proc/{made.server_pid}/ns/net", os.O_RDONLY)
                await made.pods.add("2", WorkloadInfo("server", "default", "server"), namespace)

            monkeypatch.setattr(PodProxy, "start", fail)
            with pytest.raises(OSError, match="not yet"):
                await add()
            monkeypatch.setattr(PodProxy, "start", start_slowly)
            retries = asyncio.create_task(made.pods.retry_pending())
            await until(lambda: started)
            monkeypatch.setattr(PodProxy, "start", start)
            await (add() if comes_back else made.pods.delete("2"))
            wanted = made.pods.proxies.get("2")
            go_on.set()
            await until(lambda: started[0].draining)
            assert made.pods.proxies.get("2") is wanted is not started[0]
            assert made.pods.ready
            retries.cancel()

    go(body())


def test_application_that_reads_proxy_headers() -> None:
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())
        writer.close()

    async def body() -> None:
        async with mesh() as made:
            tunnel = AppTunnel(proxy_protocol=True, port=None)
            made.state.put_workload(replace(made.server, app_tunnel=tunnel))
            # By loopback alone, so that nobody reaches it but ztunnel (upstream's LOCALHOST_APP_TUNNEL).
            await made.serve(listen, ip_address("127.0.0.1"))
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


def test_policy_that_allows_all_but_one(caplog: pytest.LogCaptureFixture) -> None:
    """A denial by policy on a pooled connection leaves its other streams alone."""

    async def body() -> None:
        async with mesh() as made:
            await made.serve(echo)
            reader, writer = await made.connect()
            writer.write(b"a")
            assert await reader.readexactly(1) == b"a"
            other = Policy("other", "default", Scope.NAMESPACE, Action.DENY, (((Match(destination_ports=(1,)),),),))
            made.state.put_policy(other)
            made.state.notify()
            with pytest.raises(OpenError, match="401 Unauthorized"):
                await made.pods.proxies["1"].outbound.pool.open(TO_SERVER, tunnel_to(1))
            writer.write(b"b")
            assert await reader.readexactly(1) == b"b"
            writer.close()
            assert len(made.pods.proxies["2"].inbound.tunnels) == 1  # both streams were on it

    go(body())
