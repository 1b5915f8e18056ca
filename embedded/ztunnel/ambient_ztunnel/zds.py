"""ZDS: istio-cni hands over the pods of this node and their network namespaces (embedded provider alone).

Protocol: pkg/zdsapi/zds.proto and cni/pkg/nodeagent/ztunnelserver*.go of istio.io/istio. One message per
SEQPACKET packet, a file descriptor beside AddWorkload, one Ack per message.
"""

from __future__ import annotations

import array
import asyncio
import logging
import os
import socket
from collections.abc import Awaitable
from pathlib import Path
from typing import Protocol

from google.protobuf.message import DecodeError
from zdsapi import zds_pb2 as zds

from .state import WorkloadInfo

log = logging.getLogger("inpod.workloadmanager")

MAX_PACKET = 64 * 1024
BACKOFF_FIRST = 0.005  # seconds
BACKOFF_MAX = 15.0


class Pods(Protocol):
    """What the messages act on."""

    def add(self, uid: str, info: WorkloadInfo, netns_fd: int) -> Awaitable[None]:
        """Start a pod's proxy; owns the descriptor; raises OSError."""

    def delete(self, uid: str) -> Awaitable[None]:
        """Stop a pod's proxy."""

    def reconcile(self, keep: set[str]) -> Awaitable[None]:
        """Stop every proxy that is not among `keep`."""

    def snapshot_received(self) -> None:
        """The node's pods are complete."""


class ProtocolError(Exception):
    """A message that may not come now."""


class ZdsClient:
    """Talks to istio-cni, for ever."""

    def __init__(self, path: Path, pods: Pods) -> None:
        self._path = path
        self._pods = pods
        self._snapshot: set[str] | None = None  # what the snapshot names; None once it is complete

    async def run(self) -> None:
        """Connect, serve, reconnect with growing pauses. The pods go on while there is no connection."""
        backoff = BACKOFF_FIRST
        while True:
            try:
                await self._session()
                backoff = BACKOFF_FIRST
                log.warning("connection to istio-cni ended, reconnecting")
            except (OSError, DecodeError, ProtocolError) as error:
                backoff = min(backoff * 2, BACKOFF_MAX)
                log.warning("failed to talk to %s: %s, retrying in %.2fs", self._path, error, backoff)
            await asyncio.sleep(backoff)

    async def _session(self) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as sock:
            sock.connect(str(self._path))
            await _send(sock, zds.ZdsHello(version=zds.V1).SerializeToString())
            log.info("connected to %s", self._path)
            self._snapshot = set()
            readable = asyncio.Event()
            loop.add_reader(sock, readable.set)
            try:
                while True:
                    await readable.wait()
                    try:
                        packet, fds = _receive(sock)
                    except BlockingIOError:
                        readable.clear()
                        continue
                    if not packet:
                        return
                    error = await self._process(packet, fds)
                    answer = zds.WorkloadResponse(ack=zds.Ack(error=error))
                    await _send(sock, answer.SerializeToString())
            finally:
                loop.remove_reader(sock)

    async def _process(self, packet: bytes, fds: list[int]) -> str:
        """Handle one message; returns the error for its Ack. Raises DecodeError, ProtocolError."""
        try:
            request = zds.WorkloadRequest.FromString(packet)
            kind = request.WhichOneof("payload")
            match kind:
                case "add":
                    return await self._add(request.add, fds)
                case "keep":
                    if self._snapshot is None:
                        raise ProtocolError("keep after the snapshot")
                    self._snapshot.add(request.keep.uid)
                case "del":
                    if self._snapshot is not None:
                        raise ProtocolError("delete before the snapshot is complete")
                    uid = getattr(request, "del").uid
                    log.info("pod delete request, shutting down proxy", extra={"fields": {"uid": uid}})
                    await self._pods.delete(uid)
                case "snapshot_sent":
                    if self._snapshot is None:
                        raise ProtocolError("second snapshot")
                    log.info("received snapshot sent")
                    keep, self._snapshot = self._snapshot, None
                    await self._pods.reconcile(keep)
                    self._pods.snapshot_received()
                case _:
                    raise ProtocolError(f"unknown message {kind}")
        finally:
            for fd in fds:
                os.close(fd)
        return ""

    async def _add(self, message: zds.AddWorkload, fds: list[int]) -> str:
        """Start a pod. A failure is told in the Ack, and tried again by the pods' manager."""
        if len(fds) != 1:
            return f"expected one network namespace, got {len(fds)}"
        if not message.HasField("workload_info"):
            return "workload info is missing"
        who = message.workload_info
        info = WorkloadInfo(who.name, who.namespace, who.service_account)
        log.info("pod received, starting proxy", extra={"fields": {"uid": message.uid, "workload": str(info)}})
        if self._snapshot is not None:
            self._snapshot.add(message.uid)
        try:
            await self._pods.add(message.uid, info, fds.pop())
        except OSError as error:
            return str(error)
        return ""


async def _send(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)


def _receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """One packet and the descriptors that came with it. Raises OSError, BlockingIOError if there is none."""
    fds = array.array("i")
    space = socket.CMSG_SPACE(4 * fds.itemsize)
    packet, ancillary, flags, _ = sock.recvmsg(MAX_PACKET, space, socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for fd in fds:
            os.close(fd)
        raise OSError("truncated message from istio-cni")
    return packet, list(fds)
