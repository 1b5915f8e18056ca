"""A port for a server that a test starts later."""

from __future__ import annotations

import random
import socket

# Below the range from which the kernel takes the ports of outgoing connections: one of those could come first.
CANDIDATES = range(20000, 30000)
# In one order for the whole run: no port is given away twice, whether or not its server listens by then.
_ORDER = iter(random.sample(CANDIDATES, len(CANDIDATES)))


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on now, and hardly anybody will."""
    for port in _ORDER:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    message = "every port is taken"
    raise RuntimeError(message)
