#!/usr/bin/python3 -I
"""Publishes a container's port on the machine: what dockerd calls in the place of docker-proxy.

The engine has a network namespace of its own. This program listens in the machine's and connects from the
engine's, so that ``127.0.0.1:PORT`` means what it means to users of any engine. dockerd's protocol (libnetwork,
cmd/proxy): the arguments below, ``0\\n`` on file descriptor 3 once it listens, else ``1\\n`` and the reason.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import functools
import os
import socket

MACHINE = "/run/machine-network"  # the machine's network namespace, see inside.py
READY_DESCRIPTOR = 3
CLONE_NEWNET = 0x40000000
CHUNK_BYTES = 64 * 1024


def enter_network(namespace: int) -> None:
    """setns(2) for this thread. Raises :class:`OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def listen(host: str, port: int) -> socket.socket:
    """Listen in the machine's network and come back to the engine's."""
    engine, machine = (os.open(path, os.O_RDONLY) for path in ("/proc/self/ns/net", MACHINE))
    enter_network(machine)
    try:
        return socket.create_server((host, port))
    finally:
        enter_network(engine)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()


async def _join(host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Join a connection to the published port with one to the container."""
    try:
        far_reader, far_writer = await asyncio.open_connection(host, port)
    except OSError:
        writer.transport.abort()
        return
    await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
    for end in (writer, far_writer):
        end.close()


async def serve(listener: socket.socket, host: str, port: int) -> None:
    async with await asyncio.start_server(functools.partial(_join, host, port), sock=listener) as server:
        os.write(READY_DESCRIPTOR, b"0\n")
        os.close(READY_DESCRIPTOR)
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-proto", choices=["tcp"])
    for name, kind in (("host-ip", str), ("host-port", int), ("container-ip", str), ("container-port", int)):
        parser.add_argument(f"-{name}", type=kind, required=True)
    options = parser.parse_args()
    try:
        listener = listen(options.host_ip, options.host_port)
    except OSError as error:
        os.write(READY_DESCRIPTOR, f"1\n{error}".encode())
        raise SystemExit(1) from None
    asyncio.run(serve(listener, options.container_ip, options.container_port))


if __name__ == "__main__":
    main()
