"""Connections that enter a pod, tunnelled (15008) or plain (15006) (embedded provider alone)."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable

from .acceptor import fair_share
from .accesslog import ConnectionRecord, log_early_deny
from .certs import CertificateError, peer_identity
from .connections import Drained, Tracked
from .context import HANDSHAKE_TIMEOUT, ILLEGAL_PORTS, LOOPBACK, SELF_CALL, WORKLOAD_TIMEOUT, Context, Pod
from .frames import MAX_STREAMS, Codes
from .hbone import Connection
from .identity import Identity
from .inbound_request import Refused, Request, baggage, guess_service, parse_baggage, resolve
from .metrics import DerivedSource, Flag
from .model import IP, NetworkAddress, Workload
from .netns import local_address, original_destination, os_error, peer_address
from .rbac import Connection as RbacConnection
from .relay import Relay, TcpEnd, proxy_header
from .routing import show
from .state import UnknownWorkload
from .stream import Stream

log = logging.getLogger("proxy.inbound")
Address = tuple[IP, int]
# Takes the connection to the application, answers the client, returns the client's end; raises OSError.
Accept = Callable[[TcpEnd], Awaitable[Stream | TcpEnd]]


class Rejected(Exception):
    """Denied by policy."""

    flag = Flag.DENY

    def __init__(self, reason: str) -> None:
        super().__init__(f"connection closed due to policy rejection: {reason}")


class Inbound:
    """Ports 15008 and 15006 of one pod."""

    def __init__(self, context: Context, pod: Pod) -> None:
        self._context = context
        self._pod = pod
        self.open: set[Tracked] = set()
        self.tunnels: set[Connection] = set()
        self._requests: set[asyncio.Task[None]] = set()
        self._draining = False
        self._share = fair_share()

    @property
    def requests(self) -> int:
        """How many tunnels are being opened or are open."""
        return len(self._requests)

    # -- HBONE ---------------------------------------------------------------------------------------------

    async def handle_tunnel(self, sock: socket.socket) -> None:
        """Serve one HBONE connection until it ends; owns `sock`."""
        try:
            src, dst = peer_address(sock), local_address(sock)
        except OSError:
            sock.close()
            return
        try:
            workload = await self._context.state.wait_for_workload(self._pod.info, WORKLOAD_TIMEOUT)
            certificate = await self._context.certs.fetch(workload.identity)
        except (UnknownWorkload, CertificateError) as error:
            log_early_deny(src, dst, "inbound", f"signing error: {error}")
            sock.close()
            return
        trust_domain = workload.trust_domain

        def check(tls: ssl.SSLObject) -> Identity:
            peer = peer_identity(tls)
            if peer.trust_domain != trust_domain:
                raise ValueError(
                    "identity verification error: peer did not present the expected trustdomain "
                    f"({trust_domain}), got {peer}"
                )
            return peer

        mine: set[asyncio.Task[None]] = set()

        def on_request(stream: Stream) -> None:
            if len(self._requests) >= self._share:
                stream.conn.reset_stream(stream, Codes.REFUSED_STREAM)
                return
            if len(mine) >= 2 * MAX_STREAMS:  # streams that were reset as soon as they were opened
                stream.conn.reset_stream(stream, Codes.ENHANCE_YOUR_CALM)
                return
            task = asyncio.create_task(self._serve(stream, src, dst))
            mine.add(task)
            task.add_done_callback(mine.discard)
            self._requests.add(task)
            task.add_done_callback(self._finished)

        conn = Connection(check, on_request)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: conn,
                sock,
                ssl=certificate.server,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT,
            )
        except (OSError, ssl.SSLError) as error:
            sock.close()
            log_early_deny(src, dst, "inbound", f"tls handshake error: {error}")
            return
        if conn.refused:
            log_early_deny(src, dst, "inbound", f"tls handshake error: {conn.refused}")
            return
        self.tunnels.add(conn)
        if self._draining:  # since the handshake
            conn.drain()
        try:
            await asyncio.shield(conn.closed)
        except asyncio.CancelledError:
            conn.abort("connection drain")
            raise
        finally:
            self.tunnels.discard(conn)

    async def _serve(self, stream: Stream, src: Address, dst: Address) -> None:
        """One CONNECT request."""
        conn = stream.conn
        try:
            if stream.headers.get(":method") != "CONNECT":
                raise Refused(400, f"expected method CONNECT, got {stream.headers.get(':method')}")
            workload = self._context.state.workload_by_info(self._pod.info)
            if workload is None:
                raise Refused(503, f"failed to fetch information about local workload: {self._pod.info}")
            request = resolve(self._context.state, workload, dst[0], stream.headers)
        except Refused as error:
            log_early_deny(src, dst, "inbound", error)
            conn.respond(stream, error.status)
            return
        rbac = RbacConnection(src[0], src[1], dst[0], request.port, conn.peer)
        record = self._record(src, dst, workload, request, rbac, stream.headers)
        tracked = Tracked(
            show(*src),
            request.asked or None,
            show(dst[0], request.port),
            "HBONE",
            rbac,
            workload,
            local_app=request.proxy_target is not None,
        )

        async def accept(server: TcpEnd) -> Stream:
            if request.proxy_target is not None:
                target = (str(request.proxy_target[0]), request.proxy_target[1])
                server.send(proxy_header((str(src[0]), src[1]), target, str(conn.peer)))
            if not conn.respond(stream, 200, [("baggage", baggage(workload))]):
                raise ConnectionResetError("client disconnected")
            return stream

        status = await self._carry(workload, rbac, tracked, record, request.port, accept)
        if status:
            conn.respond(stream, status)

    # -- plain text ----------------------------------------------------------------------------------------

    async def handle_plain(self, sock: socket.socket) -> None:
        """Pass one plain connection on, if the policies allow it; owns `sock`."""
        try:
            src, dst = peer_address(sock), original_destination(sock)
        except OSError:
            sock.close()
            return
        try:
            if dst[1] in ILLEGAL_PORTS:
                raise Refused(503, SELF_CALL)
            workload = await self._context.state.wait_for_workload(self._pod.info, WORKLOAD_TIMEOUT)
        except (Refused, UnknownWorkload) as error:
            log_early_deny(src, dst, "inbound", error)
            sock.close()
            return
        rbac = RbacConnection(src[0], src[1], dst[0], dst[1])
        record = self._record(src, dst, workload, None, rbac, {})
        tracked = Tracked(show(*src), None, show(*dst), "TCP", rbac, workload)

        taken = False

        async def accept(_server: TcpEnd) -> TcpEnd:
            nonlocal taken
            taken = True
            return await TcpEnd.open(sock)

        try:
            await self._carry(workload, rbac, tracked, record, dst[1], accept)
        except BaseException:
            if not taken:
                sock.close()
            raise
        if not taken:
            sock.close()

    # -- both ----------------------------------------------------------------------------------------------

    async def _carry(
        self,
        workload: Workload,
        rbac: RbacConnection,
        tracked: Tracked,
        record: ConnectionRecord,
        port: int,
        accept: Accept,
    ) -> int:
        """Authorize, connect to the application, copy. Returns the HTTP status of a refusal, or 0."""
        state = self._context.state
        verdict = state.authorize(workload, rbac)
        if not verdict.allowed:
            record.finish(Rejected(verdict.reason))
            return 401
        self._context.connections.add(tracked)
        self.open.add(tracked)
        relay: Relay | None = None
        try:
            source, target = rbac.src_ip if self._context.config.original_source else None, rbac.dst_ip
            if tracked.local_app:
                source = target = LOOPBACK[target.version]
            try:
                server = await TcpEnd.open(await self._pod.netns.connect(target, port, source=source))
            except OSError as error:
                record.finish(OSError(f"connection failed: {os_error(error)}"))
                return 503
            try:
                client = await accept(server)
            except OSError as error:
                server.drop()
                record.finish(error)
                return 0
            except BaseException:
                server.drop()
                raise
            relay = Relay(client, server, record)
            await tracked.copy(relay)
        except asyncio.CancelledError:
            if relay is not None:
                relay.abort(Drained())
            record.finish(Drained())
            raise
        except Exception as error:
            record.finish(error)
        else:
            record.finish()
        finally:
            self._context.connections.discard(tracked)
            self.open.discard(tracked)
        return 0

    def _record(
        self,
        src: Address,
        dst: Address,
        workload: Workload,
        request: Request | None,
        rbac: RbacConnection,
        headers: dict[str, str],
    ) -> ConnectionRecord:
        state = self._context.state
        # The source cannot be looked up behind a gateway to another network.
        network = headers.get("x-forwarded-network", state.network)
        source = None
        if network.lower() == state.network.lower():
            source = state.workload_by_address(NetworkAddress(state.network, src[0]))
        services = request.services if request else state.services_of(workload)
        return ConnectionRecord(
            self._context.metrics,
            reporter="destination",
            src=src,
            dst=dst,
            hbone_target=request.authority if request else None,
            mutual_tls=request is not None,
            source=source,
            derived=DerivedSource(rbac.identity, parse_baggage(headers.get("baggage", ""))),
            destination=workload,
            service=guess_service(workload, services, rbac.dst_port, request.asked if request else ""),
        )

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._requests.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("request failed unexpectedly", exc_info=error)

    def drain(self) -> None:
        """No new streams, on any connection."""
        self._draining = True
        for tunnel in list(self.tunnels):
            tunnel.drain()

    async def cancel_requests(self) -> None:
        """End what still runs."""
        requests = list(self._requests)
        for task in requests:
            task.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
