"""The DNS proxy of a pod, over real sockets (embedded provider alone)."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from ipaddress import ip_address

import pytest
from ambient_ztunnel import dns
from zt_lab import CLIENT_IP, VIP, Mesh, go, mesh

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


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
            asker = {"source_canonical_service": "client", "source_canonical_revision": "unknown"}
            labels = {"request_protocol": "tcp" if tcp else "udp", **asker}
            assert made.count("istio_dns_upstream_failures_total", request_query_type="a", **labels) == 1
            assert made.count("istio_dns_requests_total", request_query_type="txt", **labels) == 1
            assert made.count("istio_dns_upstream_request_duration_seconds_count", **labels) == 3
            asyncio.get_running_loop().remove_reader(udp)
            udp.close()

    go(body())


def test_dns_has_no_answer_for_a_pod_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns, "WORKLOAD_TIMEOUT", 0.1)

    async def body() -> None:
        async with mesh() as made:
            made.state.remove_workload(made.client.uid)
            failed = await ask(made, question("app.default"), tcp=False)
            assert struct.unpack_from("!6H", failed) == (7, 0x8182, 1, 0, 0, 0)

    go(body())


def test_dns_can_be_switched_off() -> None:
    async def body() -> None:
        async with mesh(ISTIO_META_DNS_CAPTURE="false") as made:
            with pytest.raises(ConnectionRefusedError):
                await ask(made, question("app.default"), tcp=True)

    go(body())
