"""The proxies of the pods on this node (embedded provider alone)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import socket
from collections.abc import Callable, Coroutine

from .acceptor import Acceptor, fair_share
from .connections import Drained
from .context import ANY_ADDRESS, DNS_PORT, OUTBOUND_PORT, PLAINTEXT_PORT, WORKLOAD_TIMEOUT, Context, Pod
from .dns import DnsServer
from .identity import Identity
from .inbound import Inbound
from .model import HBONE_PORT
from .netns import Netns
from .outbound import Outbound
from .state import UnknownWorkload, WorkloadInfo

log = logging.getLogger("inpod.statemanager")

NO_FAMILY = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
RETRY = 5.0  # seconds between attempts to start a proxy that failed to start
Handler = Callable[[socket.socket], Coroutine[None, None, None]]


class PodProxy:
    """All listeners and connections of one pod."""

    def __init__(self, context: Context, pod: Pod) -> None:
        self.pod = pod
        self.inbound = Inbound(context, pod)
        self.outbound = Outbound(context, pod)
        self.draining = False
        self._context = context
        self._share = fair_share()
        self._listeners: list[Acceptor] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._dns: DnsServer | None = None
        self.identity: Identity | None = None

    async def start(self) -> None:
        """Open every listener; raises OSError, with none left open."""
        transparent = self._context.config.original_source
        try:
            for port, handler in (
                (HBONE_PORT, self.inbound.handle_tunnel),
                (PLAINTEXT_PORT, self.inbound.handle_plain),
                (OUTBOUND_PORT, self.outbound.handle),
            ):
                await self._listen(port, handler, transparent)
            if self._context.config.dns_proxy:
                self._dns = DnsServer(self._context, self.pod)
                await self._dns.start(DNS_PORT)
        except OSError:
            self._close_listeners()
            raise
        self._spawn(self._acquire())

    async def _acquire(self) -> None:
        """Have the certificate at hand before the first connection asks for it."""
        with contextlib.suppress(UnknownWorkload):
            workload = await self._context.state.wait_for_workload(self.pod.info, WORKLOAD_TIMEOUT)
            self.identity = workload.identity
            self._context.certs.acquire(self.identity)

    async def _listen(self, port: int, handler: Handler, transparent: bool) -> None:
        for ip in ANY_ADDRESS:
            try:
                listener = await self.pod.netns.listen(ip, port, transparent=transparent)
            except OSError as error:
                if ip.version == 6 and error.errno in NO_FAMILY:
                    continue  # the pod has no IPv6
                raise
            self._listeners.append(Acceptor(listener, functools.partial(self._take, handler), self._full))

    def _full(self) -> bool:
        return len(self._tasks) + self.inbound.requests >= self._share

    def _take(self, handler: Handler, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the client has gone already: its handler will see
            self.pod.netns.keepalive.set(sock)
        self._spawn(handler(sock))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("connection failed unexpectedly", exc_info=error)

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        if self._dns is not None:
            self._dns.close()

    async def stop(self, grace: float) -> None:
        """Stop accepting, let connections end for up to `grace` seconds, then cut them."""
        self.draining = True
        self._close_listeners()
        self.inbound.drain()
        if grace > 0 and self._tasks:
            await asyncio.wait(set(self._tasks), timeout=grace)
        for tracked in [*self.inbound.open, *self.outbound.open]:
            tracked.close(Drained())
        await asyncio.sleep(0)  # lets the relays write their last frames
        await self.inbound.cancel_requests()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # `_finished` logs what failed
        await self.outbound.pool.close()
        if grace <= 0:
            self.outbound.pool.abort()
        self.pod.netns.close()
        if self.identity is not None:
            self._context.certs.release(self.identity)


class PodManager:
    """Starts, keeps and stops pods as istio-cni says."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.proxies: dict[str, PodProxy] = {}
        self._pending: dict[str, tuple[WorkloadInfo, Netns]] = {}
        self._stopping: set[asyncio.Task[None]] = set()
        self.have_snapshot = asyncio.Event()

    @property
    def ready(self) -> bool:
        """True once istio-cni's snapshot is there and every pod of it is served."""
        return self.have_snapshot.is_set() and not self._pending

    def snapshot_received(self) -> None:
        """The node's pods are complete."""
        self.have_snapshot.set()

    async def add(self, uid: str, info: WorkloadInfo, netns_fd: int) -> None:
        """Start a pod's proxy, unless it runs in that namespace already; raises OSError."""
        netns = Netns(netns_fd, self._context.config.keepalive)
        existing = self.proxies.get(uid)
        if existing is not None:
            if existing.pod.netns.inode == netns.inode:
                netns.close()
                return
            # The sandbox was made anew: the old namespace is dead.
            self._stop(uid, grace=0)
        self._forget_pending(uid)
        proxy = PodProxy(self._context, Pod(uid, info, netns))
        try:
            await proxy.start()
        except OSError:
            self._pending[uid] = (info, netns)
            self._count()
            raise
        self._serve(proxy)

    async def delete(self, uid: str) -> None:
        """Stop a pod's proxy; its connections are cut, as the pod is gone."""
        self._forget_pending(uid)
        if uid in self.proxies:
            self._stop(uid, grace=0)
        self._count()

    async def reconcile(self, keep: set[str]) -> None:
        """Stop the pods that istio-cni no longer has."""
        for uid in [uid for uid in self.proxies if uid not in keep]:
            self._stop(uid, grace=0)
        for uid in [uid for uid in self._pending if uid not in keep]:
            self._forget_pending(uid)
        self._count()

    async def retry_pending(self) -> None:
        """Keep trying to start what failed to start."""
        while True:
            await asyncio.sleep(RETRY)
            for uid, pending in list(self._pending.items()):
                log.info("retrying workload %s", uid)
                proxy = PodProxy(self._context, Pod(uid, *pending))
                try:
                    await proxy.start()
                except OSError as error:
                    log.warning("retrying workload %s failed: %s", uid, error)
                    continue
                if self._pending.get(uid) == pending:
                    del self._pending[uid]
                    self._serve(proxy)
                else:  # istio-cni has deleted or replaced the pod meanwhile
                    await proxy.stop(grace=0)
            self._count()

    async def shutdown(self, grace: float) -> None:
        """Stop everything within `grace` seconds."""
        for uid in list(self.proxies):
            self._stop(uid, grace)
        if self._stopping:
            await asyncio.wait(set(self._stopping), timeout=grace + 1)

    def _serve(self, proxy: PodProxy) -> None:
        self.proxies[proxy.pod.uid] = proxy
        self._context.metrics.proxies_started.inc()
        self._count()

    def _stop(self, uid: str, grace: float) -> None:
        task = asyncio.create_task(self.proxies.pop(uid).stop(grace))
        self._stopping.add(task)
        task.add_done_callback(self._stopped)

    def _stopped(self, task: asyncio.Task[None]) -> None:
        self._stopping.discard(task)
        self._context.metrics.proxies_stopped.inc()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("proxy did not stop cleanly", exc_info=error)

    def _forget_pending(self, uid: str) -> None:
        pending = self._pending.pop(uid, None)
        if pending is not None:
            pending[1].close()

    def _count(self) -> None:
        self._context.metrics.active_proxies.set(len(self.proxies))
        self._context.metrics.pending_proxies.set(len(self._pending))
