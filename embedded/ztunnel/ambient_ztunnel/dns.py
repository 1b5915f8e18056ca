"""The DNS proxy of one pod: answers for the mesh, forwards the rest (embedded provider alone).

Switched off by the chart value `env.ISTIO_META_DNS_CAPTURE: "false"` of ztunnel together with
`ambient.dnsCapture: false` of the cni chart, which sets the redirection.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import random
import socket
from collections.abc import Coroutine
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from .acceptor import Acceptor, fair_share
from .context import LOOPBACK, WORKLOAD_TIMEOUT, Context, Pod
from .dnslookup import lookup
from .dnsmessage import AAAA, IN, A, MessageError, Query, answer, failure, parse_query
from .metrics import UNKNOWN
from .model import IP
from .state import UnknownWorkload

log = logging.getLogger("dns")

UPSTREAM_TIMEOUT = 5.0  # seconds, per server
TCP_IDLE = 5.0
MAX_UDP = 65535


def nameservers(path: Path = Path("/etc/resolv.conf")) -> list[IP]:
    """The servers of a resolv.conf, as the process has it now."""
    found: list[IP] = []
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver":
                with contextlib.suppress(ValueError):
                    found.append(ip_address(words[1].partition("%")[0]))
    return found


class DnsServer:
    """UDP and TCP on the loopback of one pod."""

    def __init__(self, context: Context, pod: Pod) -> None:
        self._context = context
        self._pod = pod
        self._sockets: list[socket.socket] = []
        self._listeners: list[Acceptor] = []
        self._share = fair_share()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int) -> None:
        """Listen; raises OSError if IPv4's loopback cannot be had."""
        loop = asyncio.get_running_loop()
        for ip in LOOPBACK.values():
            try:
                udp = await self._pod.netns.bind_udp(ip, port)
                self._sockets.append(udp)
                tcp = await self._pod.netns.listen(ip, port, transparent=False)
            except OSError as error:
                if ip.version == 6 and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    continue
                raise
            loop.add_reader(udp, self._read_udp, udp)
            self._listeners.append(Acceptor(tcp, self._take_tcp, self._full))

    def close(self) -> None:
        """Stop serving."""
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for task in self._tasks:
            task.cancel()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _read_udp(self, sock: socket.socket) -> None:
        for _ in range(64):
            try:
                packet, client = sock.recvfrom(MAX_UDP)
            except OSError:
                return
            if not self._full():  # else it is lost, as datagrams may be: the client asks again
                self._spawn(self._answer_udp(sock, packet, client))

    async def _answer_udp(self, sock: socket.socket, packet: bytes, client: tuple[str, int]) -> None:
        reply = await self.resolve(packet, tcp=False)
        if reply and sock.fileno() >= 0:
            with contextlib.suppress(OSError):
                sock.sendto(reply, client)

    def _full(self) -> bool:
        return len(self._tasks) >= self._share

    def _take_tcp(self, client: socket.socket) -> None:
        self._spawn(self._serve_tcp(client))

    async def _serve_tcp(self, client: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=client)
        try:
            while True:
                async with asyncio.timeout(TCP_IDLE):
                    packet = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                reply = await self.resolve(packet, tcp=True)
                writer.write(len(reply).to_bytes(2, "big") + reply)
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            log.debug("dns client has gone")
        finally:
            writer.close()

    async def resolve(self, packet: bytes, *, tcp: bool) -> bytes:
        """The reply to one packet; empty for what is not a query."""
        try:
            query = parse_query(packet)
        except MessageError:
            return b""
        state = self._context.state
        metrics = self._context.metrics
        kind = (query.kind_name.lower(), "tcp" if tcp else "udp")
        try:
            client = await state.wait_for_workload(self._pod.info, WORKLOAD_TIMEOUT)
        except UnknownWorkload:
            metrics.dns_requests.labels(*kind, UNKNOWN, UNKNOWN).inc()
            return failure(query)
        labels = (*kind, client.canonical_name or UNKNOWN, client.canonical_revision or UNKNOWN)
        metrics.dns_requests.labels(*labels).inc()
        if query.kind in (A, AAAA) and query.cls == IN:
            found = lookup(state, client, query.name, self._context.config.cluster_domain)
            if found is not None:
                version = 4 if query.kind == A else 6
                addresses = [ip for ip in found.addresses if ip.version == version]
                random.shuffle(addresses)
                self._log(query, "success" if addresses else "no records", len(addresses))
                return answer(query, addresses, found.alias)
        metrics.dns_upstream.labels(*labels).inc()
        with metrics.dns_duration.labels(*labels).time():
            reply = await self._forward(packet, tcp)
        if reply is None:
            metrics.dns_failures.labels(*labels).inc()
            self._log(query, "forwarding failed", 0)
            return failure(query)
        self._log(query, "forwarded", 0)
        return reply

    def _log(self, query: Query, result: str, endpoints: int) -> None:
        fields = {
            "src.workload": self._pod.info.name,
            "src.namespace": self._pod.info.namespace,
            "query": query.kind_name,
            "domain": query.name,
            "result": result,
            "endpoints": endpoints,
        }
        log.debug("", extra={"fields": fields})

    async def _forward(self, packet: bytes, tcp: bool) -> bytes | None:
        """Ask the servers of ztunnel's own resolv.conf from inside the pod, one after the other."""
        for server in nameservers():
            try:
                async with asyncio.timeout(UPSTREAM_TIMEOUT):
                    return await (self._ask_tcp if tcp else self._ask_udp)(server, packet)
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                log.debug("nameserver %s: %s", server, error)
        return None

    async def _ask_udp(self, server: IP, packet: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        any_address: IP = IPv4Address("0.0.0.0") if server.version == 4 else IPv6Address("::")
        sock = await self._pod.netns.bind_udp(any_address, 0)
        try:
            sock.connect((str(server), 53))
            await loop.sock_sendall(sock, packet)
            while True:
                reply = await loop.sock_recv(sock, MAX_UDP)
                if reply[:2] == packet[:2]:
                    return reply
        finally:
            sock.close()

    async def _ask_tcp(self, server: IP, packet: bytes) -> bytes:
        sock = await self._pod.netns.connect(server, 53)
        reader, writer = await asyncio.open_connection(sock=sock)
        try:
            writer.write(len(packet).to_bytes(2, "big") + packet)
            return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        finally:
            writer.close()
