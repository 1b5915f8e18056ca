# A Kubernetes API on the loopback: objects from a dict, exec as a local shell over a real websocket.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import pathlib
import struct
import subprocess
import threading
import types
import typing as t
import urllib.parse

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_MAX_FRAME = 2000


class FakeApi:
    """Serves `objects` by path; a number is the HTTP status to answer with, a text is sent as it is.

    A function gets the query's parameters and returns one of these; a pair is a status and what is sent with it.
    asked has every path and its headers. Answers have a Date, as those of every real server do.
    exec_status is what /exec answers in place of 101, when it is not 0. Every exec runs at once and locally.
    """

    def __init__(self, objects: dict[str, t.Any]) -> None:
        self.objects = {"/version": {"gitVersion": "v1"}, **objects}
        self.exec_status = 0
        self.connections: set[int] = set()
        self.asked: list[tuple[str, dict[str, str]]] = []
        api = self

        class Handler(_Handler):
            owner = api

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FakeApi:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def kubeconfig(self, folder: pathlib.Path) -> str:
        """Path of a kubeconfig for this API."""
        path = folder / "kubeconfig"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": self.url}}],
            "users": [{"name": "admin", "user": {"token": "secret"}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "admin"}}],
        }
        path.write_text(json.dumps(content))
        return str(path)


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: FakeApi
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing to standard error."""

    def do_GET(self) -> None:
        """An object, a list or an exec."""
        self.owner.connections.add(self.client_address[1])
        self.owner.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        parts = urllib.parse.urlsplit(self.path)
        if self.headers.get("authorization") != "Bearer secret":
            self._answer(401, {})
        elif parts.path.endswith("/exec"):
            self._exec(urllib.parse.parse_qs(parts.query)["command"])
        else:
            found = self.owner.objects.get(parts.path, 404)
            if callable(found):
                found = found(dict(urllib.parse.parse_qsl(parts.query)))
            status, content = found if isinstance(found, tuple) else (200, found)
            self._answer(content if isinstance(content, int) else status, content)

    def _answer(self, status: int, content: object) -> None:
        body = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _exec(self, command: list[str]) -> None:
        if self.owner.exec_status:
            self._answer(self.owner.exec_status, {"message": "no"})
            return
        key = self.headers["sec-websocket-key"] + _GUID
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.send_header("Sec-WebSocket-Protocol", "v4.channel.k8s.io")
        self.end_headers()
        self.close_connection = True
        done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL, timeout=60)
        try:
            for channel, data in ((1, done.stdout), (2, done.stderr)):
                for start in range(0, len(data), _MAX_FRAME):
                    self._frame(2, bytes([channel]) + data[start : start + _MAX_FRAME])
            # Says Success whatever happened: nothing may depend on it (kubernetes-client/python#2328).
            self._frame(2, b"\x03" + json.dumps({"status": "Success"}).encode())
            self._frame(8, struct.pack("!H", 1000))
            self.connection.settimeout(1)
            self.connection.recv(100)
        except OSError:
            return

    def _frame(self, opcode: int, data: bytes) -> None:
        length = bytes([len(data)]) if len(data) < 126 else b"\x7e" + struct.pack("!H", len(data))
        self.wfile.write(bytes([0x80 | opcode]) + length + data)
        self.wfile.flush()
