# A Kubernetes API on the loopback: objects from a dict, exec as a local shell and port-forward over real websockets.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import ssl
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
    A path with a method before it ("PATCH /a") is what that method is answered with; a function gets the body then.
    asked has every path and its headers, those with the same name in lines. Answers have a Date, as of real servers.
    exec_status is what /exec answers in place of 101 where it is a pair. Every exec runs at once and locally, in this
    environment; its standard input ends with the connection, as with v4.channel.k8s.io.
    forwarded has what a forwarded port answers, by "namespace/pod:port/path": the bytes on the wire, or objects as
    above; a text that begins with "!" is written to the error channel.
    tokens are those that it takes; with TLS it takes every client that has a certificate, too. headers go with each
    answer.
    """

    def __init__(self, objects: dict[str, t.Any], tls: ssl.SSLContext | None = None) -> None:
        self.objects = {"/version": {"gitVersion": "v1"}, **objects}
        self.exec_status: tuple[int, object] | None = None
        self.environment = dict(os.environ)
        self.forwarded: dict[str, t.Any] = {}
        self.connections: set[int] = set()
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.tokens = {"secret"}
        self.headers: dict[str, str] = {}
        api = self

        class Handler(_Handler):
            owner = api

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls:
            # Without a handshake in accept(), which would hold up all others.
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.port = int(self._server.server_address[1])
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"

    def __enter__(self) -> FakeApi:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def kubeconfig(
        self, folder: pathlib.Path, user: dict[str, t.Any] | None = None, cluster: dict[str, t.Any] | None = None
    ) -> str:
        """Path of a kubeconfig for this API, with another user, and with more about the cluster."""
        path = folder / "kubeconfig"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": self.url, **(cluster or {})}}],
            "users": [{"name": "admin", "user": {"token": "secret"} if user is None else user}],
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
        """An object, a list, an exec or a port-forward."""
        parts = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(parts.query)
        if not self._allowed():
            self._answer(401, {})
        elif parts.path.endswith("/exec"):
            self._exec(query["command"])
        elif parts.path.endswith("/portforward"):
            namespace, pod = parts.path.split("/")[4:7:2]
            self._forward(namespace, pod, int(query["ports"][0]))
        else:
            self._give(self.owner.objects.get(parts.path, 404), dict(urllib.parse.parse_qsl(parts.query)))

    def do_PATCH(self) -> None:
        """What stands in the objects under the method and the path."""
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        found = self.owner.objects.get(f"{self.command} {urllib.parse.urlsplit(self.path).path}", 404)
        if self._allowed():
            self._give(found, json.loads(body or "{}"))
        else:
            self._answer(401, {})

    do_POST = do_DELETE = do_PATCH

    def _allowed(self) -> bool:
        self.owner.connections.add(self.client_address[1])
        headers = {name.lower(): "\n".join(self.headers.get_all(name, [])) for name in self.headers}
        self.owner.asked.append((self.path, headers))
        if isinstance(self.connection, ssl.SSLSocket) and self.connection.getpeercert():
            return True
        return str(self.headers.get("authorization")).removeprefix("Bearer ") in self.owner.tokens

    def _give(self, found: t.Any, given: dict[str, t.Any]) -> None:
        if callable(found):
            found = found(given)
        status, content = found if isinstance(found, tuple) else (200, found)
        self._answer(content if isinstance(content, int) else status, content)

    def _answer(self, status: int, content: object) -> None:
        body = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in self.owner.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _exec(self, command: list[str]) -> None:
        if self.owner.exec_status:
            self._answer(*self.owner.exec_status)
            return
        self._upgrade()
        with subprocess.Popen(
            command,
            bufsize=0,
            env=self.owner.environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert process.stdout
            assert process.stderr
            reading = threading.Thread(target=self._feed, args=(process.stdin,))
            reading.start()
            try:
                while piece := process.stdout.read(_MAX_FRAME):
                    self._frame(2, b"\x01" + piece)
                self._frame(2, b"\x02" + process.stderr.read(_MAX_FRAME))
                # Says Success whatever happened: nothing may depend on it (kubernetes-client/python#2328).
                self._frame(2, b"\x03" + json.dumps({"status": "Success"}).encode())
                self._frame(8, struct.pack("!H", 1000))
            except OSError:
                # The client is gone; the script gets SIGPIPE when it writes on.
                process.stdout.close()
            reading.join()

    def _feed(self, stdin: t.IO[bytes]) -> None:
        """Give a program what comes on channel 0, until the client closes the connection."""
        with stdin, contextlib.suppress(OSError, struct.error, IndexError):
            while (frame := self._receive())[:1] == b"\x00":
                stdin.write(frame[1:])

    def _forward(self, namespace: str, pod: str, port: int) -> None:
        if isinstance(self.owner.forwarded.get(f"{namespace}/{pod}"), int):
            self._answer(self.owner.forwarded[f"{namespace}/{pod}"], {"message": "pods/portforward is forbidden"})
            return
        self._upgrade()
        for channel in (0, 1):
            self._frame(2, bytes([channel]) + struct.pack("<H", port))
        path = self._receive()[1:].split(b" ")[1].decode()
        found = self.owner.forwarded.get(f"{namespace}/{pod}:{port}{path}", "!connection refused")
        if callable(found):
            found = found({})
        if isinstance(found, str):
            self._frame(2, b"\x01" + found[1:].encode())
        else:
            wire = found if isinstance(found, bytes) else _response(json.dumps(found).encode())
            for start in range(0, len(wire), _MAX_FRAME):
                self._frame(2, b"\x00" + wire[start : start + _MAX_FRAME])
        with contextlib.suppress(OSError):
            self._end()

    def _upgrade(self) -> None:
        key = self.headers["sec-websocket-key"] + _GUID
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.send_header("Sec-WebSocket-Protocol", "v4.channel.k8s.io")
        self.end_headers()
        self.close_connection = True

    def _end(self) -> None:
        self._frame(8, struct.pack("!H", 1000))
        self.connection.settimeout(1)
        self.connection.recv(100)

    def _receive(self) -> bytes:
        """A short frame of the client, which masks what it sends (RFC 6455, section 5.3)."""
        size = self.rfile.read(2)[1] & 0x7F
        if size == 126:
            size = struct.unpack("!H", self.rfile.read(2))[0]
        mask = self.rfile.read(4)
        return bytes(byte ^ mask[number % 4] for number, byte in enumerate(self.rfile.read(size)))

    def _frame(self, opcode: int, data: bytes) -> None:
        length = bytes([len(data)]) if len(data) < 126 else b"\x7e" + struct.pack("!H", len(data))
        self.wfile.write(bytes([0x80 | opcode]) + length + data)
        self.wfile.flush()


def _response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
