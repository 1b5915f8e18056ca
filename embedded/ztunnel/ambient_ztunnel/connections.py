"""The open connections: checked again whenever policies change (embedded provider alone)."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from .metrics import Flag
from .model import Workload
from .rbac import Connection
from .relay import Relay
from .routing import show
from .state import State

log = logging.getLogger("proxy.connection_manager")


class PolicyChange(Exception):
    """A connection that a new policy denies."""

    flag = Flag.DENY

    def __init__(self) -> None:
        super().__init__("connection closed due to policy change")


class Drained(Exception):
    """A connection that outlived its pod or this ztunnel: not counted as failed (ConnectionResult's Drop)."""

    flag = Flag.NONE

    def __init__(self) -> None:
        super().__init__("connection closed due to connection drain")


@dataclass(eq=False)
class Tracked:
    """One open connection.

    `conn` and `workload` are set for inbound ones, which policies rule. The workload is the one of the
    connection's start: which policies apply is decided then, what they say whenever it changes (upstream's
    src/state.rs, ProxyRbacContext).
    """

    src: str
    original_dst: str | None
    actual_dst: str
    protocol: str
    conn: Connection | None = None
    workload: Workload | None = None
    local_app: bool = False  # the application tunnel: reached by loopback, so that nobody goes around ztunnel
    relay: Relay | None = None
    verdict: Exception | None = None

    def close(self, reason: Exception) -> None:
        """End the connection now, or as soon as its relay would start."""
        if self.verdict is None:
            self.verdict = reason
            if self.relay is not None:
                self.relay.abort(reason)

    async def copy(self, relay: Relay) -> None:
        """Run the relay to its end; raises what ended it early."""
        self.relay = relay
        if self.verdict is not None:
            relay.abort(self.verdict)
        else:
            relay.start()
        await relay.done


class ConnectionManager:
    """All connections of all pods on this node."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._inbound: set[Tracked] = set()
        self._check_scheduled = False
        state.subscribe(self._schedule)

    def add(self, tracked: Tracked) -> None:
        """Watch an inbound connection that has just been allowed."""
        self._inbound.add(tracked)

    def discard(self, tracked: Tracked) -> None:
        """The connection has ended."""
        self._inbound.discard(tracked)

    def _schedule(self) -> None:
        if self._inbound and not self._check_scheduled:
            self._check_scheduled = True
            asyncio.get_running_loop().call_soon(self._check)

    def _check(self) -> None:
        """Close what is no longer allowed."""
        self._check_scheduled = False
        for tracked in list(self._inbound):
            conn, workload = tracked.conn, tracked.workload
            if conn is None or workload is None or self._state.authorize(workload, conn).allowed:
                continue
            log.info(
                "connection %s(%s)->%s (%s) closed because it's no longer allowed after a policy update",
                tracked.src,
                conn.identity,
                show(conn.dst_ip, conn.dst_port),
                workload.uid,
            )
            tracked.close(PolicyChange())
