# Captures what passes an interface, also one in another network namespace, bounded in time and bytes.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ctypes
import os
import selectors
import socket
import struct
import threading
import time
import typing as t

from .._common.errors import LabError
from .packets import Flow, Stream, segment

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

    def __init__(self, interface: str, namespace: str | None, addresses: t.Container[str], seconds: float) -> None:
        """Open it.

        Args:
            interface: its name, of a bridge for example.
            namespace: path of the network namespace in which it is, None for that of this process.
            addresses: keep flows from or to these alone.
            seconds: it ends then, whatever happens.

        Raises:
            LabError: when there is no such interface, or no right to capture.
        """
        self.streams: dict[Flow, Stream] = {}
        self.lost = ""
        self._addresses, self._end = addresses, time.monotonic() + seconds
        self._bytes = 0
        self._over = threading.Event()
        self._socket = _within(namespace, lambda: _listening(interface))
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Capture:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        # What is on its way at the end of a request is still wanted.
        time.sleep(_TICK)
        self._over.set()
        self._thread.join()
        _packets, dropped = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        self._socket.close()
        if dropped:
            self.lost = f"{dropped} packets came too fast to be read"

    def _read(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            while not self.lost:
                ready = selector.select(_TICK)
                if time.monotonic() > self._end:
                    self.lost = "it took too long"
                elif ready:
                    self._keep(self._socket.recv(_PACKET))
                elif self._over.is_set():
                    return

    def _keep(self, packet: bytes) -> None:
        found = segment(packet)
        if found is None or not (found[0].source in self._addresses or found[0].target in self._addresses):
            return
        flow, sequence, payload = found
        self._bytes += len(payload)
        if self._bytes > MAX_BYTES:
            self.lost = f"more than {MAX_BYTES >> 20} MiB passed"
        else:
            self.streams.setdefault(flow, Stream()).add(sequence, payload)


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


def _within(namespace: str | None, action: t.Callable[[], socket.socket]) -> socket.socket:
    """What an action in a network namespace makes. A thread of its own enters it, and ends there."""
    made: list[socket.socket] = []
    failed: list[OSError] = []

    def visit() -> None:
        try:
            if namespace is not None:
                with open(namespace, "rb") as opened:
                    _enter(opened.fileno())
            made.append(action())
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=visit)
    thread.start()
    thread.join()
    if failed:
        raise LabError(f"what passes between the nodes can't be seen: {failed[0]}; it needs root on the nodes' machine")
    return made[0]


def _enter(number: int) -> None:
    """setns(2); Python has it from 3.12 on."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(number, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
