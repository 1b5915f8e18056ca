# A TCP server that does to its clients what proxies, applications and broken things do.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import struct
import threading
import types
import typing as t

CLOSE = b"Connection: close\r\n"
UPSTREAM_RESET = b"upstream connect error or disconnect/reset before headers. reset reason: connection termination"


def response(status: str, body: bytes = b"", **headers: str) -> bytes:
    """A complete HTTP/1.1 response."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{key.replace('_', '-')}: {value}" for key, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class ScriptedServer:
    """Listens on a port of the loopback; the path of the request chooses what happens.

    What happens before the request is read (reset_at_once, reset_after_a_byte) is chosen by `behaviour`, and so is
    whether connections stay open, whatever the request asks for (keep_open).
    """

    def __init__(self, behaviour: str = "") -> None:
        self._behaviour = behaviour
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = int(self._listener.getsockname()[1])
        self.requests: list[bytes] = []
        self.peers: list[int] = []
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._stopped.set()
        # Closing a listener does not wake accept() on Linux, a shutdown does.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(timeout=10)

    def url(self, path: str) -> str:
        """URL of a behaviour."""
        return f"http://127.0.0.1:{self.port}/{path}"

    def _start(self, function: t.Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, peer = self._listener.accept()
            except OSError:
                return
            self.peers.append(peer[1])
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            if self._behaviour == "reset_at_once":
                _reset(connection)
                return
            if self._behaviour == "reset_after_a_byte":
                connection.recv(1)
                _reset(connection)
                return
            while request := _read_request(connection):
                self.requests.append(request)
                if request.count(b" ") > 1:
                    self._answer(connection, request.split(b" ")[1].decode("latin-1").strip("/"))
                if self._behaviour != "keep_open":
                    break

    def _answer(self, connection: socket.socket, behaviour: str) -> None:
        if behaviour == "reset":
            _reset(connection)
        elif behaviour == "hang":
            self._stopped.wait(30)
        elif behaviour == "reset_in_status_line":
            connection.sendall(CUT["close_in_status_line"])
            # A reset overtakes what the peer has not read yet.
            self._stopped.wait(0.05)
            _reset(connection)
        elif behaviour == "reset_after_headers":
            connection.sendall(CUT["close_in_body"])
            _reset(connection)
        elif behaviour in CUT:
            connection.sendall(CUT[behaviour])
        elif behaviour in RESPONSES:
            answer = RESPONSES[behaviour]
            connection.sendall(answer.replace(CLOSE, b"") if self._behaviour == "keep_open" else answer)


class WatchingServer(ScriptedServer):
    """Looks for a word in the arguments and the environment of every process while it answers; seen: where it was."""

    def __init__(self, word: str) -> None:
        self._word = word.encode()
        self.seen: list[str] = []
        super().__init__()

    def __enter__(self) -> WatchingServer:
        return self

    def _answer(self, connection: socket.socket, behaviour: str) -> None:
        for number in filter(str.isdecimal, os.listdir("/proc")):
            for path in (pathlib.Path("/proc", number, name) for name in ("cmdline", "environ")):
                # A process may have ended, or be another user's.
                with contextlib.suppress(OSError):
                    if self._word in path.read_bytes():
                        self.seen.append(str(path))
        super()._answer(connection, behaviour)


RESPONSES = {
    "ok": response("200 OK", b"hello"),
    "big": response("200 OK", b"x" * 3_000_000),
    "binary": response("200 OK", bytes(range(256)) * 4),
    "empty": response("204 No Content"),
    "app_404": response("404 Not Found", b"no such page", Server="SimpleHTTP/0.6"),
    "app_403": response("403 Forbidden", b"RBAC: access denied", Server="SimpleHTTP/0.6"),
    "app_403_behind_waypoint": response(
        "403 Forbidden", b"not you", Server="istio-envoy", x_envoy_upstream_service_time="2"
    ),
    "proxy_403": response("403 Forbidden", b"RBAC: access denied", Server="istio-envoy"),
    "proxy_403_nameless": response("403 Forbidden", b"RBAC: access denied"),
    "proxy_503_upstream": response("503 Service Unavailable", UPSTREAM_RESET, Server="istio-envoy"),
    "proxy_503_no_endpoint": response("503 Service Unavailable", b"no healthy upstream", Server="istio-envoy"),
    "app_503": response("503 Service Unavailable", b"busy", Server="SimpleHTTP/0.6"),
    "garbage": b"\x00\x01\x02 this is no HTTP\r\n\r\n",
    "odd_headers": response("200 OK", b"ok", Server='quo"te\\back\x01\xff', X_Other="\tq"),
    "long": response("200 OK", b"line\n" * 9000, Server="s" * 60_000, Set_Cookie="c" * 90_000),
    "forged": response("200 OK", b"\nprobe-0000000000000000 end 0\nprobe-0000000000000000 begin 1\n"),
}


# Answers that end too early, at a place that the name tells.
CUT = {
    "close_in_status_line": b"HTTP/1.1 20",
    "close_in_headers": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nServer: Simp",
    "close_in_body": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
}


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65_536)
        if not chunk:
            return data
        data += chunk
    head, _separator, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    while len(body) < length:
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body
