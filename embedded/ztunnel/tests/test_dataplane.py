"""Real namespaces, real sockets, real TLS: what curl and applications see (embedded provider alone)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os

import pytest
from ambient_ztunnel import outbound
from zt_lab import APP_PORT, CLIENT_IP, DENY_CLIENT, MIB, SERVER_IP, VIP, Mesh, captured, echo, errors, go, mesh, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
SIZE = 50 * MIB


@pytest.fixture(autouse=True)
def to_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the client connects to was meant for the server's pod."""
    monkeypatch.setattr(outbound, "original_destination", captured((SERVER_IP, APP_PORT)))


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A web server with one page."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
    writer.close()


async def curl(made: Mesh) -> tuple[int, str]:
    """curl's exit code and HTTP code, from inside the client's pod."""
    process = await asyncio.create_subprocess_exec(
        "nsenter", f"--net=/proc/{made.client_pid}/ns/net",
        "curl", "-sS", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", f"http://{CLIENT_IP}:15001/",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


def test_allowed_then_denied(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with mesh() as made:
            await made.serve(hello)
            assert await curl(made) == (0, "200")
            made.state.put_policy(DENY_CLIENT)
            made.state.notify()
            # FIN or RST, as upstream's: whether the request has come before the denial
            assert {await curl(made) for _ in range(10)} <= {(52, "000"), (56, "000")}
            failed = "istio_tcp_connections_failed_total"
            assert made.count(failed, reporter="destination", response_flags="DENY") == 10
            assert made.count(failed, reporter="source", response_flags="CONNECT") == 10
            assert made.count(failed) == 20
            made.state.remove_policy(DENY_CLIENT.key)
            made.state.notify()
            assert await curl(made) == (0, "200")

    with caplog.at_level(logging.INFO, "access"):
        go(body())
    said = errors(caplog)
    rejected = "connection closed due to policy rejection: explicitly denied by: default/deny-client"
    assert (said.count(rejected), said.count("http status: 401 Unauthorized"), len(said)) == (10, 10, 20)
    source = {getattr(record, "fields", {}).get("src.identity") for record in caplog.records if record.name == "access"}
    assert source == {"spiffe://cluster.local/ns/default/sa/client"}


def test_bytes_both_ways() -> None:
    payload = os.urandom(MIB)
    want = hashlib.sha256()
    for _ in range(SIZE // MIB):
        want.update(payload)

    async def echo_hash(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read everything while sending as much, then send the hash of what came."""
        got = hashlib.sha256()

        async def read() -> None:
            while chunk := await reader.read(MIB):
                got.update(chunk)

        async def write() -> None:
            for _ in range(SIZE // MIB):
                writer.write(payload)
                await writer.drain()

        await asyncio.gather(read(), write())
        writer.write(got.digest())
        writer.write_eof()

    async def body() -> None:
        async with mesh() as made:
            await made.serve(echo_hash)
            reader, writer = await made.connect()

            async def send() -> None:
                for _ in range(SIZE // MIB):
                    writer.write(payload)
                    await writer.drain()
                writer.write_eof()

            async def receive() -> bytes:
                got = hashlib.sha256()
                left = SIZE
                while left:
                    chunk = await reader.read(min(left, MIB))
                    assert chunk
                    left -= len(chunk)
                    got.update(chunk)
                assert got.digest() == want.digest()
                return await reader.read()

            _, tail = await asyncio.gather(send(), receive())
            assert tail == want.digest()
            writer.close()
            await until(lambda: made.count("istio_tcp_connections_closed_total") == 2)
            assert made.count("istio_tcp_received_bytes_total", reporter="source") == SIZE
            assert made.count("istio_tcp_sent_bytes_total", reporter="destination") == SIZE + 32

    go(body())


def test_half_close_in_both_orders() -> None:
    async def answer_after_eof(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.read()
        writer.write(b"got " + asked)
        writer.close()

    async def eof_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.write_eof()
        heard.append(await reader.read())
        writer.close()

    heard: list[bytes] = []

    async def body() -> None:
        async with mesh() as made:
            server = await made.serve(answer_after_eof)
            reader, writer = await made.connect()
            writer.write(b"question")
            writer.write_eof()
            assert await reader.read() == b"got question"
            writer.close()
            server.close()
            await made.serve(eof_first)
            reader, writer = await made.connect()
            assert await reader.read() == b"bye"
            writer.write(b"still here")
            writer.write_eof()
            await until(lambda: heard)
            assert heard == [b"still here"]
            writer.close()

    go(body())


def test_200_connections_at_once() -> None:
    async def one(made: Mesh, number: int) -> None:
        reader, writer = await made.connect()
        message = number.to_bytes(4, "big") * 5000
        writer.write(message)
        writer.write_eof()
        assert await reader.read() == message
        writer.close()

    async def body() -> None:
        async with mesh() as made:
            await made.serve(echo)
            await asyncio.gather(*(one(made, number) for number in range(200)))
            tunnels = made.pods.proxies["2"].inbound.tunnels
            assert 1 <= len(tunnels) <= 4  # pooled, 100 streams each

    go(body())


def test_service_address_goes_to_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "original_destination", captured((VIP, 80)))

    async def body() -> None:
        async with mesh() as made:
            await made.serve(hello)
            assert await curl(made) == (0, "200")
            labels = {"reporter": "source", "destination_service": "app.default.svc.cluster.local"}
            assert made.count("istio_tcp_connections_opened_total", **labels) == 1

    go(body())
