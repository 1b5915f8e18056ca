"""How connections end: denials, changed policies, resets, peers that vanish or cannot be dialled (embedded
provider alone).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from dataclasses import replace
from ipaddress import ip_address

import pytest
from ambient_ztunnel import hbone, netns, outbound
from ambient_ztunnel.model import Action, Scope, Tunnel
from ambient_ztunnel.pool import OpenError
from ambient_ztunnel.state import State
from test_dataplane import hello
from test_edges import TO_SERVER, plain, tunnel_to
from zt_lab import (
    APP_PORT,
    CLIENT_IP,
    DENY_CLIENT,
    MIB,
    SERVER_IP,
    STRICT,
    echo,
    ended,
    errors,
    go,
    mesh,
    run,
    until,
    workload,
)

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.usefixtures("to_pod"),
]
FAILED = "istio_tcp_connections_failed_total"
CLOSED = "istio_tcp_connections_closed_total"


async def alive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The connection to an echo goes on."""
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"


def slam(writer: asyncio.StreamWriter) -> None:
    """Close with RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


# -- policies ----------------------------------------------------------------------------------------------


def test_live_connection_is_cut_by_a_new_policy(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with mesh() as made:
            await made.serve(echo)
            reader, writer = await made.connect()
            await alive(reader, writer)
            made.state.put_policy(DENY_CLIENT)
            made.state.notify()
            # The destination drops the stream; the source makes FIN of that, and fails to end it in its turn.
            assert await reader.read() == b""
            writer.close()
            await until(lambda: made.count(CLOSED) == 2)
            assert made.count(FAILED, reporter="destination", response_flags="DENY") == 1
            assert made.count(FAILED, reporter="source", response_flags="CONNECT") == 1

    with caplog.at_level(logging.INFO, "access"):
        go(body())
    assert errors(caplog) == [
        "connection closed due to policy change",
        "while closing connection: send: io error: broken pipe",
    ]


def test_policies_of_a_live_connection_are_those_of_its_start() -> None:
    """A policy that selects the workload only now leaves the connection alone; one that it has had cuts it."""
    selecting = replace(DENY_CLIENT, scope=Scope.WORKLOAD)

    async def body() -> None:
        async with mesh() as made:
            await made.serve(echo)
            before = await made.connect()
            await alive(*before)
            made.state.put_policy(replace(selecting, action=Action.ALLOW))
            made.state.put_workload(replace(made.server, policies=(selecting.key,)))
            made.state.notify()
            attached = await made.connect()
            await alive(*attached)
            made.state.put_policy(selecting)
            made.state.notify()
            assert await attached[0].read() == b""
            await alive(*before)
            made.state.put_policy(DENY_CLIENT)  # of the namespace: it holds for whatever is in it
            made.state.notify()
            assert await before[0].read() == b""
            for _, writer in (before, attached):
                writer.close()

    go(body())


def test_only_policies_make_connections_be_checked_again() -> None:
    state = State()
    checked = list[str]()
    state.subscribe(lambda: checked.append("x"))
    state.put_workload(workload("client", CLIENT_IP))
    state.notify()
    assert not checked
    state.put_policy(DENY_CLIENT)
    state.notify()
    state.notify()
    state.remove_policy(DENY_CLIENT.key)
    state.notify()
    assert checked == ["x", "x"]


def test_a_denial_does_not_wait_for_the_request() -> None:
    """So that FIN or RST, curl's 52 or 56, is a matter of chance as it is with upstream's."""

    async def body() -> None:
        clock = asyncio.get_running_loop().time
        took = []
        async with mesh() as made:
            made.state.put_policy(STRICT)
            for _ in range(5):
                reader, writer = await plain(made)
                started = clock()
                assert await reader.read() == b""
                took.append(clock() - started)
                writer.close()
        assert min(took) < 0.05

    go(body())


# -- resets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hbone", [True, False])
@pytest.mark.parametrize("who", ["client", "application"])
def test_reset_is_an_end_like_any_other(who: str, hbone: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The other side hears FIN, what was sent has arrived, and nobody calls it an error."""
    got: list[bytes] = []

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readexactly(4))
        if who == "application":
            slam(writer)
        else:
            got.append(await reader.read())
            writer.close()

    async def body() -> None:
        async with mesh() as made:
            if not hbone:
                made.state.put_workload(replace(made.server, protocol=Tunnel.TCP))
            await made.serve(app)
            reader, writer = await made.connect()
            writer.write(b"ping")
            if who == "application":
                assert await reader.read() == b""
                writer.close()
            else:
                await until(lambda: got)
                slam(writer)
            await until(lambda: made.count(CLOSED) == 1 + hbone)
            assert made.count(FAILED) == 0

    with caplog.at_level(logging.INFO, "access"):
        go(body())
    assert got == [b"ping", b""][: 1 + (who == "client")]
    assert [record.levelname for record in caplog.records if record.name == "access"] == ["INFO"] * (1 + hbone)


def test_a_client_that_resets_frees_an_application_that_sends() -> None:
    """Even one that is held up, because the client did not read."""
    gone = asyncio.Event()

    async def pour(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"x" * MIB)
                await writer.drain()
        gone.set()

    async def body() -> None:
        async with mesh() as made:
            await made.serve(pour)
            reader, writer = await made.connect()
            await reader.readexactly(MIB)
            slam(writer)
            await asyncio.wait_for(gone.wait(), 10)
            await until(lambda: made.count(CLOSED) == 2)

    go(body())


# -- peers that are not there ------------------------------------------------------------------------------


def test_removed_pod_loses_its_connections() -> None:
    async def body() -> None:
        async with mesh() as made:
            await made.serve(echo)
            reader, writer = await made.connect()
            await alive(reader, writer)
            await made.pods.delete("2")
            assert await ended(reader) == b""
            writer.close()

    go(body())


@pytest.mark.parametrize(
    ("ip", "port", "message", "flag"),
    [
        (
            "10.77.0.99",  # nobody: no answer at all
            15008,
            "connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008: deadline has elapsed",
            "NETWORK_POLICY",
        ),
        (str(SERVER_IP), 1, "io error: Connection refused (os error 111)", "CONNECT"),
    ],
)
def test_tunnels_that_cannot_be_dialled(
    ip: str, port: int, message: str, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netns, "CONNECT_TIMEOUT", 0.3)

    async def body() -> None:
        async with mesh() as made:
            pool = made.pods.proxies["1"].outbound.pool
            with pytest.raises(OpenError) as failed:
                await pool.open(replace(TO_SERVER, ip=ip_address(ip), port=port), tunnel_to(APP_PORT))
            assert (str(failed.value), failed.value.flag) == (message, flag)

    go(body())


def test_plain_destination_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with mesh() as made:
            made.state.put_workload(replace(made.server, protocol=Tunnel.TCP))
            reader, writer = await made.connect()
            assert await ended(reader) == b""
            writer.close()
            assert made.count(FAILED, response_flags="CONNECT", reporter="source") == 1

    with caplog.at_level(logging.INFO, "access"):
        go(body())
    assert errors(caplog) == ["io error: Connection refused (os error 111)"]


def test_a_peer_that_vanishes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hbone, "PING_INTERVAL", 0.02)
    monkeypatch.setattr(hbone, "PING_TIMEOUT", 1.0)

    async def body() -> None:
        async with mesh() as made:
            await made.serve(echo)
            reader, writer = await made.connect()
            await alive(reader, writer)
            (tunnel,) = made.pods.proxies["2"].inbound.tunnels
            await asyncio.sleep(1.2)  # longer than an answer may take
            await alive(reader, writer)
            run("nsenter", f"--net=/proc/{made.server_pid}/ns/net", "ip", "link", "set", "eth0", "down")
            assert await reader.read() == b""
            writer.close()
            await asyncio.wait_for(asyncio.shield(tunnel.closed), 5)  # the other side notices, too

    go(body())


def test_keepalive_as_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """On what was accepted and on what was dialled."""
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    seen: list[list[int]] = []

    def look(sock: socket.socket) -> tuple[object, int]:
        seen.append([sock.getsockopt(socket.IPPROTO_TCP, option) for option in options])
        return SERVER_IP, APP_PORT

    monkeypatch.setattr(outbound, "original_destination", look)

    async def body() -> None:
        async with mesh(KEEPALIVE_TIME="42s", KEEPALIVE_RETRIES="3") as made:
            await made.serve(hello)
            _, writer = await made.connect()
            await until(lambda: seen)
            look(writer.get_extra_info("socket"))
            writer.close()

    go(body())
    assert seen == [[42, 180, 3]] * 2
