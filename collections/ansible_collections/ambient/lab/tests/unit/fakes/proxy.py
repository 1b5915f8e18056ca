# An HTTP proxy on the loopback: it tunnels (CONNECT), and may want a user and a password.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import http.server
import select
import socket
import threading
import types


class FakeProxy:
    """Tunnels to where it is asked to, on the loopback whatever the name; asked has each HOST:PORT.

    Args:
        login: USER:PASSWORD that it wants; "" for none.
    """

    def __init__(self, login: str = "") -> None:
        self.asked: list[str] = []
        self.wanted = f"Basic {base64.b64encode(login.encode()).decode()}" if login else None
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FakeProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: FakeProxy

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing to standard error."""

    def do_CONNECT(self) -> None:
        """A tunnel, until one end closes it."""
        self.owner.asked.append(self.path)
        if self.headers.get("proxy-authorization") != self.owner.wanted:
            self.send_error(407)
            return
        with socket.create_connection(("127.0.0.1", int(self.path.rpartition(":")[2]))) as server:
            self.send_response(200)
            self.end_headers()
            while True:
                for ready in select.select([self.connection, server], [], [])[0]:
                    data = ready.recv(65_536)
                    if not data:
                        return
                    (server if ready is self.connection else self.connection).sendall(data)
