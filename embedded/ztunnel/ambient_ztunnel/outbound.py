"""Connections that leave a pod (embedded provider alone)."""

from __future__ import annotations

import asyncio
import random
import secrets
import socket
from ipaddress import ip_address

from .accesslog import ConnectionRecord, log_early_deny
from .connections import Drained, Tracked
from .context import ILLEGAL_PORTS, SELF_CALL, WORKLOAD_TIMEOUT, Context, Pod
from .hbone import Headers
from .inbound_request import baggage
from .metrics import DerivedSource
from .model import IP, Tunnel, Workload
from .netns import local_address, original_destination, os_error, peer_address
from .pool import Key, OpenError, Pool
from .relay import Relay, TcpEnd
from .routing import Route, RoutingError, route, show
from .state import UnknownWorkload
from .stream import Stream


class Outbound:
    """Port 15001 of one pod."""

    def __init__(self, context: Context, pod: Pod) -> None:
        self._context = context
        self._pod = pod
        self.pool = Pool(pod.netns, context.certs)
        self.open: set[Tracked] = set()

    async def handle(self, sock: socket.socket) -> None:
        """Carry one accepted connection to its destination; owns `sock`."""
        try:
            src = peer_address(sock)
            dst = original_destination(sock)
        except OSError:
            sock.close()  # the client has gone already
            return
        try:
            source, decided, ip = await self._decide(sock, dst)
        except (RoutingError, UnknownWorkload, OSError) as error:
            log_early_deny(src, dst, "outbound", error)
            sock.close()
            return
        hbone = decided.protocol is Tunnel.HBONE
        target = None
        if hbone and decided.target_port is not None:
            target = show(ip_address(decided.target or str(ip)), decided.target_port)
        actual = show(ip, decided.port)
        tracked = Tracked(show(*src), show(*dst), actual, decided.protocol.value)
        record = ConnectionRecord(
            self._context.metrics,
            reporter="source",
            src=src,
            dst=(ip, decided.port),
            hbone_target=target,
            mutual_tls=hbone,
            source=source,
            derived=DerivedSource(identity=source.identity) if hbone else None,
            destination=decided.workload,
            service=decided.service,
        )
        self.open.add(tracked)
        try:
            await self._carry(sock, src, source, decided, ip, target, tracked, record)
        except asyncio.CancelledError:
            record.finish(Drained())
            raise
        finally:
            self.open.discard(tracked)

    async def _decide(self, sock: socket.socket, dst: tuple[IP, int]) -> tuple[Workload, Route, IP]:
        """The source, the route and its resolved address."""
        if dst[1] in ILLEGAL_PORTS and (dst[0].is_loopback or dst[0] == local_address(sock)[0]):
            raise RoutingError(SELF_CALL)
        source = await self._context.state.wait_for_workload(self._pod.info, WORKLOAD_TIMEOUT)
        decided = route(self._context.state, source, dst)
        if decided.ip is not None:
            return source, decided, decided.ip
        assert decided.workload is not None  # only a workload's hostname takes the place of an address
        hostname = decided.workload.hostname
        try:
            found = await asyncio.get_running_loop().getaddrinfo(hostname, decided.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise RoutingError(f"no ip addresses were resolved for workload: {decided.workload.uid}") from error
        addresses = [ip_address(entry[4][0]) for entry in found]
        matching = [address for address in addresses if address.version == dst[0].version]
        return source, decided, random.choice(matching or addresses)

    async def _carry(
        self,
        sock: socket.socket,
        src: tuple[IP, int],
        source: Workload,
        decided: Route,
        ip: IP,
        target: str | None,
        tracked: Tracked,
        record: ConnectionRecord,
    ) -> None:
        """Open the way and copy until both sides are done."""
        server: Stream | TcpEnd
        try:
            if target is not None:
                key = Key(source.identity, decided.sans, ip, decided.port)
                server = await self.pool.open(key, self._headers(target, src, source, decided))
            else:
                try:
                    server = await TcpEnd.open(await self._pod.netns.connect(ip, decided.port))
                except OSError as error:
                    raise OpenError(f"io error: {os_error(error)}") from error
        except OpenError as error:
            record.finish(error)
            sock.close()
            return
        except BaseException:
            sock.close()
            raise
        try:
            client = await TcpEnd.open(sock)
        except OSError as error:
            server.drop()
            record.finish(error)
            return
        except BaseException:
            server.drop()
            raise
        relay = Relay(client, server, record)
        try:
            await tracked.copy(relay)
        except asyncio.CancelledError:
            relay.abort(Drained())
            raise
        except Exception as error:
            record.finish(error)
        else:
            record.finish()

    def _headers(self, target: str, src: tuple[IP, int], source: Workload, decided: Route) -> Headers:
        """The CONNECT request, with who asks in `baggage` and `forwarded`."""
        forwarded = f'for="{show(*src)}"'
        if decided.service is not None:
            forwarded += f";host={decided.service.hostname}"
        return [
            (":method", "CONNECT"),
            (":authority", target),
            ("baggage", baggage(source)),
            ("forwarded", forwarded),
            ("traceparent", f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"),
        ]
