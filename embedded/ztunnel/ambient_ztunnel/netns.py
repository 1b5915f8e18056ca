"""Sockets inside the network namespaces of pods (embedded provider alone).

One thread of its own visits the namespaces, so that no other thread ever stands in the wrong one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeVar

from .config import Keepalive
from .model import IP

log = logging.getLogger("inpod.netns")
T = TypeVar("T")

CLONE_NEWNET = 0x40000000
MARK = 0x539  # istio-cni's rules leave packets with this mark alone (cni/pkg/config, InpodMark)
SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h; the same number is IP6T_SO_ORIGINAL_DST
IP_TRANSPARENT = 19  # linux/in.h
IPV6_TRANSPARENT = 75  # linux/in6.h
BACKLOG = 1024
CONNECT_TIMEOUT = 10.0  # seconds
SPARE_SOCKETS = 16  # made in advance, per pod

_libc = ctypes.CDLL(None, use_errno=True)
_visitor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="netns")
_home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")


def _visit(fd: int, action: Callable[[], T]) -> T:
    """Run `action` in the namespace behind `fd` and come back; only for the visitor's thread."""
    _setns(fd)
    try:
        return action()
    finally:
        try:
            _setns(_home)
        except OSError:
            # A thread that is lost in a pod would open sockets with that pod's identity.
            log.critical("cannot return to the own network namespace")
            os._exit(70)


class Netns:
    """A pod's network namespace; owns the file descriptor that istio-cni sent.

    What makes a socket a pod's own is where socket() is called; everything else may happen anywhere. So client
    sockets are made in advance, several per visit.
    """

    def __init__(self, fd: int, keepalive: Keepalive) -> None:
        self.fd = fd
        self.keepalive = keepalive
        self.inode = os.fstat(fd).st_ino
        self._spare: dict[int, deque[socket.socket]] = {4: deque(), 6: deque()}
        self._waiting: dict[int, deque[asyncio.Future[socket.socket]]] = {4: deque(), 6: deque()}
        self._refills: dict[int, asyncio.Task[None]] = {}

    def close(self) -> None:
        """Let go of the namespace."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        for version, spare in self._spare.items():
            while spare:
                spare.popleft().close()
            self._fail(version, OSError("network namespace is gone"))

    async def run(self, action: Callable[[], T]) -> T:
        """Run a short action inside the namespace."""
        if self.fd < 0:
            raise OSError("network namespace is gone")
        # The visit has a descriptor of its own: the number of a closed one may soon mean another pod.
        fd = os.dup(self.fd)
        visit = _visitor.submit(_visit, fd, action)
        visit.add_done_callback(lambda _: os.close(fd))  # cancelled before it has begun, too
        return await asyncio.wrap_future(visit)

    async def _client(self, version: int) -> socket.socket:
        """A fresh TCP socket for outgoing connections."""
        spare = self._spare[version]
        if len(spare) <= SPARE_SOCKETS // 2 and version not in self._refills:
            task = asyncio.create_task(self._refill(version))
            self._refills[version] = task
        if spare:
            return spare.popleft()
        future: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        self._waiting[version].append(future)
        return await future

    async def _refill(self, version: int) -> None:
        """Make sockets for all who wait, and some more."""
        spare, waiting = self._spare[version], self._waiting[version]
        try:
            while waiting or len(spare) < SPARE_SOCKETS:
                count = len(waiting) + SPARE_SOCKETS - len(spare)
                for sock in await self.run(lambda count=count: _clients(version, count, self.keepalive)):  # type: ignore[misc]
                    while waiting and waiting[0].done():
                        waiting.popleft()  # cancelled meanwhile
                    if waiting:
                        waiting.popleft().set_result(sock)
                    elif self.fd < 0:
                        sock.close()
                    else:
                        spare.append(sock)
        except OSError as error:
            self._fail(version, error)
        finally:
            self._refills.pop(version, None)

    def _fail(self, version: int, error: OSError) -> None:
        waiting = self._waiting[version]
        while waiting:
            future = waiting.popleft()
            if not future.done():
                future.set_exception(error)

    async def listen(self, ip: IP, port: int, *, transparent: bool) -> socket.socket:
        """A listening TCP socket inside the namespace; raises OSError."""
        return await self.run(lambda: _listen(ip, port, transparent))

    async def bind_udp(self, ip: IP, port: int) -> socket.socket:
        """A bound UDP socket inside the namespace; raises OSError."""
        return await self.run(lambda: _bind_udp(ip, port))

    async def connect(self, ip: IP, port: int, *, source: IP | None = None) -> socket.socket:
        """A TCP connection from inside the namespace, from the address `source` if given.

        Raises OSError, or TimeoutError after `CONNECT_TIMEOUT`.
        """
        # Connecting to oneself from one's own address needs no spoofing, and would confuse the application.
        spoof = source is not None and source != ip and source.version == ip.version
        sock = await self._client(ip.version)
        try:
            if spoof:
                _set_transparent(sock, ip)
                sock.bind((str(source), 0))
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await asyncio.get_running_loop().sock_connect(sock, (str(ip), port))
        except BaseException:
            sock.close()
            raise
        return sock


def _new(version: int, kind: socket.SocketKind) -> socket.socket:
    """A marked, non-blocking socket of the namespace the thread stands in."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        if version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def _set_transparent(sock: socket.socket, ip: IP) -> None:
    if ip.version == 4:
        sock.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)


def _listen(ip: IP, port: int, transparent: bool) -> socket.socket:
    sock = _new(ip.version, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # During an upgrade the old and the new ztunnel listen side by side.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if transparent:
            _set_transparent(sock, ip)
        sock.bind((str(ip), port))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_udp(ip: IP, port: int) -> socket.socket:
    sock = _new(ip.version, socket.SOCK_DGRAM)
    try:
        if port:  # sharing an ephemeral port would mix up the answers
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((str(ip), port))
    except BaseException:
        sock.close()
        raise
    return sock


def _clients(version: int, count: int, keepalive: Keepalive) -> list[socket.socket]:
    """Several sockets for outgoing connections."""
    made: list[socket.socket] = []
    try:
        for _ in range(count):
            sock = _new(version, socket.SOCK_STREAM)
            made.append(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keepalive.set(sock)
    except BaseException:
        for sock in made:
            sock.close()
        raise
    return made


def os_error(error: Exception) -> str:
    """Why a call of the system failed, as Rust's io::Error says it."""
    if isinstance(error, TimeoutError) and error.errno is None:
        return "deadline has elapsed"
    if not isinstance(error, OSError) or isinstance(error, ssl.SSLError) or error.errno is None:
        return str(error)
    return f"{os.strerror(error.errno)} (os error {error.errno})"


def peer_address(sock: socket.socket) -> tuple[IP, int]:
    """The other end of a TCP connection; raises OSError if it is gone already."""
    name = sock.getpeername()
    return ip_address(name[0].partition("%")[0]), name[1]


def local_address(sock: socket.socket) -> tuple[IP, int]:
    """The own end of a TCP connection."""
    name = sock.getsockname()
    return ip_address(name[0].partition("%")[0]), name[1]


def original_destination(sock: socket.socket) -> tuple[IP, int]:
    """Where the client wanted to go before netfilter redirected it, if it did."""
    with contextlib.suppress(OSError):
        if sock.family == socket.AF_INET:
            # struct sockaddr_in: family, port, address (netinet/in.h)
            port, raw = struct.unpack_from("!2xH4s", sock.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16))
            return IPv4Address(raw), port
        # struct sockaddr_in6: family, port, flow info, address
        port, raw = struct.unpack_from("!2xH4x16s", sock.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28))
        return IPv6Address(raw), port
    return local_address(sock)
