"""A process with few descriptors: they run out, and one pod is flooded (embedded provider alone)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ambient_ztunnel import acceptor, inbound, outbound
from ambient_ztunnel.accesslog import setup_logging
from ambient_ztunnel.netns import Netns, _clients
from test_dataplane import hello
from test_dns import ask, question
from zt_lab import APP_PORT, CLIENT, CLIENT_IP, DENY_CLIENT, SERVER_IP, Mesh, captured, go, mesh, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
LIMIT = 512
FLOOD = 200  # connections, of which the share of one pod is 64


def in_child(scenario: str) -> list[str]:
    """Run a function of this file in a process with few descriptors; returns its log."""
    done = subprocess.run(
        [sys.executable, "-c", f"import test_descriptors; test_descriptors.{scenario}()"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT)),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout.splitlines()


@dataclass
class Clients:
    """Connections of the client's pod, whose sockets were made while there were descriptors."""

    made: Mesh
    netns: Netns
    taken: list[int] = field(default_factory=list)

    async def sockets(self, count: int) -> list[socket.socket]:
        """Not connected yet."""
        return await self.netns.run(lambda: _clients(4, count, self.netns.keepalive))

    @contextlib.contextmanager
    def none_left(self) -> Iterator[None]:
        """Hold every descriptor that is free."""
        with contextlib.suppress(OSError):
            while True:
                self.taken.append(os.dup(0))
        try:
            yield
        finally:
            self.free(len(self.taken))

    def free(self, count: int) -> None:
        """Give some back."""
        for _ in range(min(count, len(self.taken))):
            os.close(self.taken.pop())


def namespaces() -> int:
    """How many descriptors of network namespaces this process has."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself
            found += os.readlink(f"/proc/self/fd/{fd}").startswith("net:")
    return found


def descriptors_run_out() -> None:
    """In the child: connections that nobody can take, to the proxy and to its DNS; then denied ones."""
    setup_logging("info", as_json=False)
    heard = tries = 0
    accept = acceptor.Acceptor._accept

    def counted(self: acceptor.Acceptor) -> None:
        nonlocal tries
        tries += 1
        accept(self)

    patch = pytest.MonkeyPatch()
    patch.setattr(outbound, "original_destination", captured((SERVER_IP, APP_PORT)))
    patch.setattr(acceptor, "QUIET", 1000.0)
    patch.setattr(acceptor.Acceptor, "_accept", counted)

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        heard += 1
        await hello(reader, writer)

    async def get(sock: socket.socket) -> bytes:
        reader, writer = await asyncio.open_connection(sock=sock)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            return await reader.read()
        return b""

    async def body() -> None:
        nonlocal tries
        loop = asyncio.get_running_loop()
        async with mesh() as made:
            await made.serve(app)
            clients = Clients(made, made.pods.proxies["1"].pod.netns)
            first, denied = await clients.sockets(10), await clients.sockets(20)
            resolver = await clients.sockets(1)
            await made.context.certs.fetch(CLIENT)
            await asyncio.to_thread("".encode, "idna")  # loads what a connect() of uvloop needs
            tries, started = 0, loop.time()
            with clients.none_left():
                for sock in first:
                    await loop.sock_connect(sock, (str(CLIENT_IP), 15001))
                await loop.sock_connect(resolver[0], ("127.0.0.1", 15053))
                await until(lambda: tries >= 6)
                rests = (loop.time() - started) / acceptor.PAUSE
                assert tries <= 2 * (rests + 1), "neither of the two listeners rests"
            answers = await asyncio.gather(*map(get, first))
            assert [answer[-2:] for answer in answers] == [b"ok"] * 10
            assert heard == 10
            assert await ask(made, question("app"), tcp=True)
            made.state.put_policy(DENY_CLIENT)
            made.state.notify()
            with clients.none_left():
                for sock in denied:
                    await loop.sock_connect(sock, (str(CLIENT_IP), 15001))
                asked = asyncio.gather(*map(get, denied))
                while not asked.done() and clients.taken:
                    clients.free(1)  # so that each step fails for some of them
                    await asyncio.sleep(0.02)
                assert await asked == [b""] * 20
            assert heard == 10, "a denied request came through"
            made.state.remove_policy(DENY_CLIENT.key)
            made.state.notify()
            (sock,) = await clients.sockets(1)
            await loop.sock_connect(sock, (str(CLIENT_IP), 15001))
            assert (await get(sock)).endswith(b"ok")
            before = namespaces()
            for few in range(3):
                with clients.none_left(), contextlib.suppress(OSError):
                    clients.free(few)
                    await clients.netns.run(lambda: None)
            assert namespaces() == before, "a visit that failed has kept its descriptor"
            assert len(os.listdir("/proc/self/fd")) < LIMIT / 2, "descriptors are lost"

    go(body(), 180)


def test_descriptors_run_out() -> None:
    said = [line for line in in_child("descriptors_run_out") if "failed TCP handshake" in line]
    assert 2 <= len(said) <= 4, "each listener that was reached says it once"


def one_pod_is_flooded() -> None:
    """In the child: silent connections to each port of the server's pod; the client's pod has its own."""
    pytest.MonkeyPatch().setattr(inbound, "original_destination", captured((CLIENT_IP, APP_PORT)))

    async def body() -> None:
        async with mesh() as made:
            mine, other = made.pods.proxies["1"].pod.netns, made.pods.proxies["2"].pod.netns
            app = await asyncio.start_server(hello, sock=await mine.listen(CLIENT_IP, APP_PORT, transparent=False))
            made.servers.append(app)
            flood = [await mine.connect(SERVER_IP, 15008) for _ in range(FLOOD)]
            await until(lambda: len(made.pods.proxies["2"]._tasks) >= LIMIT // 8)
            for _ in range(20):
                reader, writer = await asyncio.open_connection(sock=await other.connect(CLIENT_IP, 15006))
                writer.write(b"GET / HTTP/1.1\r\n\r\n")
                assert (await reader.read()).endswith(b"ok")
                writer.close()
            assert len(made.pods.proxies["2"]._tasks) <= LIMIT // 8 + 1
            for sock in flood:
                sock.close()

    go(body(), 180)


def test_one_pod_is_flooded() -> None:
    in_child("one_pod_is_flooded")
