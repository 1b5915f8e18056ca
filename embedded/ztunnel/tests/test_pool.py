"""The pool of connections, and what ends with a pod (embedded provider alone)."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import replace
from ipaddress import ip_address

import pytest
from ambient_ztunnel import inbound, netns, outbound
from ambient_ztunnel.certs import CertificateError, CertificateManager, build, new_key_and_request
from ambient_ztunnel.frames import Codes
from ambient_ztunnel.identity import Identity
from ambient_ztunnel.inbound import Inbound
from ambient_ztunnel.model import IP
from ambient_ztunnel.pool import STREAMS_PER_CONNECTION, OpenError
from ambient_ztunnel.stream import Stream
from test_dataplane import hello
from test_edges import TO_SERVER, tunnel_to
from test_security import GOAWAY, HEADERS, PING, RST, START, ask, frame
from test_streams import heard
from test_tunnels import tls_to_server
from zt_lab import APP_PORT, CLIENT, SERVER_IP, Ca, go, mesh, until

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.usefixtures("to_pod"),
]


def test_requests_without_an_answer_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(_self: Inbound, stream: Stream, *_: object) -> None:
        await stream.conn.closed

    monkeypatch.setattr(Inbound, "_serve", silent)

    async def body() -> None:
        async with mesh() as made:
            pool = made.pods.proxies["1"].outbound.pool
            opening = [
                asyncio.create_task(pool.open(TO_SERVER, tunnel_to(APP_PORT))) for _ in range(STREAMS_PER_CONNECTION)
            ]
            tunnels = made.pods.proxies["2"].inbound.tunnels
            await until(lambda: sum(len(tunnel.streams) for tunnel in tunnels) == STREAMS_PER_CONNECTION)
            assert len(tunnels) == 1
            for task in opening:
                task.cancel()
            await asyncio.gather(*opening, return_exceptions=True)

    go(body())


def test_all_who_wait_for_a_destination_share_one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    connect, attempts = netns.Netns.connect, []

    async def counted(self: netns.Netns, ip: IP, port: int) -> socket.socket:
        attempts.append(ip)
        return await connect(self, ip, port)

    monkeypatch.setattr(netns, "CONNECT_TIMEOUT", 0.5)
    monkeypatch.setattr(netns.Netns, "connect", counted)

    async def body() -> None:
        async with mesh() as made:
            pool = made.pods.proxies["1"].outbound.pool
            nobody = replace(TO_SERVER, ip=ip_address("10.77.0.99"))
            waiting = [pool.open(nobody, tunnel_to(APP_PORT)) for _ in range(20)]
            failed = await asyncio.gather(*waiting, return_exceptions=True)
            assert all(isinstance(error, OpenError) and error.flag == "NETWORK_POLICY" for error in failed)
            assert attempts == [nobody.ip]
            assert not pool._connecting

    go(body())


def test_a_refused_stream_is_tried_again_on_a_fresh_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    serve, refused = Inbound._serve, list[Stream]()

    async def refuse_first(self: Inbound, stream: Stream, *addresses: inbound.Address) -> None:
        if refused:
            await serve(self, stream, *addresses)
        else:
            refused.append(stream)
            stream.conn.reset_stream(stream, Codes.REFUSED_STREAM)

    monkeypatch.setattr(Inbound, "_serve", refuse_first)

    async def body() -> None:
        async with mesh() as made:
            await made.serve(hello)
            stream = await made.pods.proxies["1"].outbound.pool.open(TO_SERVER, tunnel_to(APP_PORT))
            stream.drop()

    go(body())
    assert refused


def test_a_request_that_may_have_been_served_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection, a pooled one, breaks without a word on how far the peer has come."""
    serve, asked = Inbound._serve, list[Stream]()

    async def break_second(self: Inbound, stream: Stream, *addresses: inbound.Address) -> None:
        asked.append(stream)
        if len(asked) == 2:
            stream.conn.abort("gone")
        else:
            await serve(self, stream, *addresses)

    monkeypatch.setattr(Inbound, "_serve", break_second)

    async def body() -> None:
        async with mesh() as made:
            await made.serve(hello)
            pool = made.pods.proxies["1"].outbound.pool
            stream = await pool.open(TO_SERVER, tunnel_to(APP_PORT))
            with pytest.raises(OpenError):
                await pool.open(TO_SERVER, tunnel_to(APP_PORT))
            stream.drop()

    go(body())
    assert len(asked) == 2
    assert asked[0].conn is asked[1].conn


def test_streams_that_are_reset_at_once_cost_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    serve, lingering = Inbound._serve, asyncio.Event()

    async def linger(self: Inbound, stream: Stream, *addresses: inbound.Address) -> None:
        if stream.id == 1:
            await serve(self, stream, *addresses)
        else:
            await lingering.wait()

    monkeypatch.setattr(Inbound, "_serve", linger)
    ca = Ca()

    async def body() -> None:
        async with mesh(ca) as made:
            await made.serve(hello)
            reader, writer = await tls_to_server(made, ca, CLIENT)
            writer.write(START + ask(1))
            assert (await heard(reader, HEADERS))[2] == 1
            writer.write(b"".join(ask(n) + frame(RST, bytes(4), n) for n in range(3, 1003, 2)) + frame(PING, bytes(8)))
            assert (await heard(reader, RST))[3] == Codes.ENHANCE_YOUR_CALM.to_bytes(4, "big")
            await heard(reader, PING)
            (tunnel,) = made.pods.proxies["2"].inbound.tunnels
            assert list(tunnel.streams) == [1]
            writer.close()

    go(body())


# -- ends of pods ------------------------------------------------------------------------------------------


def test_a_handshake_that_ends_in_a_drain() -> None:
    """Its connection is told to go, as those before it."""
    ca = Ca()

    async def body() -> None:
        async with mesh(ca) as made:
            key, request = new_key_and_request(CLIENT)
            context = build(CLIENT, key, await ca.sign(CLIENT, request)).client
            server = made.pods.proxies["2"]
            await made.context.certs.fetch(TO_SERVER.sans[0])
            await until(lambda: not server._tasks)
            sock = await made.pods.proxies["1"].pod.netns.connect(SERVER_IP, 15008)
            await until(lambda: server._tasks)
            stopping = asyncio.create_task(made.pods.shutdown(20))
            await until(lambda: server.draining)
            reader, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname="")
            writer.write(START)
            await heard(reader, GOAWAY)
            writer.close()
            await stopping

    go(body())


def test_a_pod_that_ends_leaves_no_tunnel_without_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was open, while its client was still to be taken."""

    class Slow:
        @classmethod
        async def open(cls, _sock: socket.socket) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(outbound, "TcpEnd", Slow)

    async def body() -> None:
        async with mesh() as made:
            await made.serve(hello)
            _, writer = await made.connect()
            inbound = made.pods.proxies["2"].inbound
            await until(lambda: inbound.open)
            await made.pods.proxies.pop("1").stop(0.1)
            await until(lambda: not inbound.open and not inbound.tunnels, 5)
            writer.close()

    go(body())


def test_a_pod_ends_in_full_although_a_connection_fails() -> None:
    async def bad() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            raise ValueError("cannot end") from error

    async def body() -> None:
        async with mesh() as made:
            await until(lambda: len(made.context.certs.entries()) == 2)
            proxy = made.pods.proxies["1"]
            proxy._spawn(bad())
            await asyncio.sleep(0)
            await made.pods.delete("1")
            await until(lambda: len(made.context.certs.entries()) == 1, 5)

    go(body())


def test_nobody_waits_for_the_certificate_of_a_pod_that_has_gone() -> None:
    async def never(_identity: Identity, _request: str) -> list[str]:
        await asyncio.Event().wait()
        return []

    async def body() -> None:
        certs = CertificateManager(never)
        certs.acquire(CLIENT)
        waiting = asyncio.create_task(certs.fetch(CLIENT))
        await asyncio.sleep(0)
        certs.release(CLIENT)
        with pytest.raises(CertificateError, match="any more"):
            await waiting

    go(body())
