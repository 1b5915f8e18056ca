"""Listening sockets of the process's own ports (embedded provider alone); light, because it is loaded first."""

from __future__ import annotations

import socket


def listen(host: str | None, port: int) -> socket.socket:
    """A TCP socket that listens; `host` None means every address, of IPv6 too where there is any. Raises OSError."""
    if host is None and socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server((host or "", port))
