# Captures what passes an interface, also one in another network namespace, bounded in time and bytes.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import concurrent.futures
import ctypes
import errno
import os
import selectors
import socket
import struct
import threading
import time

from .._common.errors import LabError
from .packets import Flow, Stream, is_fragment, segment

# Of linux/if_packet.h, linux/if_ether.h and linux/sched.h; Python's socket has not all of them.
_ETH_P_ALL = 0x0003
_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, _PACKET_STATISTICS = 263, 1, 6
_PACKET_MR_PROMISC = 1
_SO_RCVBUFFORCE = 33
_CLONE_NEWNET = 0x40000000
_BUFFER = 32 << 20
_PACKET = 256 << 10
MAX_BYTES = 64 << 20
_TICK = 0.05


class Capture:
    """The TCP payload that passes an interface from `with` to its end.

    Attributes:
        streams: by flow.
        lost: why not all of it is there; "" where it is.
    """

    def __init__(self, interface: str, namespace: str | None, seconds: float) -> None:
        """Open it.

        Args:
            interface: its name, of a bridge for example.
            namespace: path of the network namespace in which it is, None for that of this process.
            seconds: it ends then, whatever happens.

        Raises:
            LabError: when there is no such interface, or no right to capture.
        """
        self.streams: dict[Flow, Stream] = {}
        self.lost = ""
        self._end = time.monotonic() + seconds
        self._bytes = 0
        self._over = threading.Event()
        self._socket = _within(interface, namespace)
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Capture:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()
        _packets, dropped = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        self._socket.close()
        if dropped:
            self.lost = f"{dropped} packets came too fast to be read"

    def _read(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._socket, selectors.EVENT_READ)
                while not self.lost:
                    if time.monotonic() > self._end:
                        self.lost = "it took too long"
                    elif selector.select(_TICK):
                        self._keep(self._socket.recv(_PACKET))
                    elif self._over.is_set():
                        # For a moment nothing passed: what was on its way has come.
                        return
        except OSError as error:
            self.lost = f"the capture ended early ({error.strerror})"

    def _keep(self, packet: bytes) -> None:
        if is_fragment(packet):
            self.lost = "fragments of packets passed, which are not put together"
        elif found := segment(packet):
            flow, sequence, payload = found
            self._bytes += len(payload)
            self.streams.setdefault(flow, Stream()).add(sequence, payload)
            if self._bytes > MAX_BYTES:
                self.lost = f"more than {MAX_BYTES >> 20} MiB passed"


def _listening(interface: str) -> socket.socket:
    """A socket that reads IP packets. What a bridge forwards is seen by promiscuous ones alone."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    try:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        index = socket.if_nametoindex(interface)
        opened.bind((interface, _ETH_P_ALL))
        membership = struct.pack("iHH8s", index, _PACKET_MR_PROMISC, 0, b"")
        opened.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)
    except OSError:
        opened.close()
        raise
    return opened


def _within(interface: str, namespace: str | None) -> socket.socket:
    """The socket of an interface in a network namespace. A thread of its own enters it, and ends there."""

    def visit() -> socket.socket:
        if namespace is not None:
            with open(namespace, "rb") as opened:
                _enter(opened.fileno())
        return _listening(interface)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(visit).result()
        except OSError as error:
            raise LabError(_problem(error, interface, namespace)) from error


def _problem(error: OSError, interface: str, namespace: str | None) -> str:
    where = f"network namespace {namespace}" if namespace else "this machine"
    if error.errno in (errno.EPERM, errno.EACCES):
        return f"What passes {interface} ({where}) can't be seen: {error.strerror}; run it as root"
    if namespace and not os.path.exists(namespace):
        now = "a cluster that was started again has another one, which ambient.lab.embedded_cluster returns (link)"
        return f"There is no {where}: {now}"
    return f"There is no interface {interface} in {where} ({error}): `ip link` there shows which it has"


def _enter(number: int) -> None:
    """setns(2); Python has it from 3.12 on."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(number, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
