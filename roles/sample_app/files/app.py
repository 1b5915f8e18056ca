"""The sample application: answers every HTTP request with 200 and says, as JSON, what it received."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Headers a proxy on the way adds or changes; the rest of a request says nothing about the mesh.
HEADERS_OF_INTEREST = ("host", "user-agent", "traceparent", "via", "forwarded")
HEADER_PREFIXES_OF_INTEREST = ("x-",)
PORT = int(os.environ.get("PORT", "8080"))


class Handler(BaseHTTPRequestHandler):
    """Answers any method on any path; keeps connections open as HTTP/1.1 asks for."""

    protocol_version = "HTTP/1.1"
    server_version = "sample-app"
    sys_version = ""
    timeout = 60  # seconds an idle connection may stay

    def __getattr__(self, name: str) -> Callable[[], None]:
        """Serve every method with `answer`: the base class looks up `do_<METHOD>`."""
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def answer(self) -> None:
        """Read the request to its end, then say what came in."""
        received = self.read_body()
        health = self.path == "/healthz"
        body = b"ok\n" if health else self.describe(received)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain" if health else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def describe(self, received: int) -> bytes:
        """Return the JSON answer: method, path, headers of interest, body size in bytes, this pod."""
        headers = {
            name.lower(): value
            for name, value in self.headers.items()
            if name.lower() in HEADERS_OF_INTEREST or name.lower().startswith(HEADER_PREFIXES_OF_INTEREST)
        }
        answer = {
            "pod": os.environ.get("POD_NAME", ""),
            "method": self.command,
            "path": self.path,
            "headers": headers,
            "body_bytes": received,
        }
        return json.dumps(answer).encode() + b"\n"

    def read_body(self) -> int:
        """Consume the body, however it is framed (RFC 9112, section 6), and return its size in bytes."""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            total = 0
            while size := int(self.rfile.readline().split(b";")[0], 16):
                total += len(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass  # trailers
            return total
        return len(self.rfile.read(int(self.headers.get("Content-Length", "0"))))

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log requests, but not the kubelet's probes."""
        if self.path != "/healthz":
            super().log_request(code, size)


class Server(ThreadingHTTPServer):
    """One thread per connection, none of which outlives the server."""

    daemon_threads = True
    request_queue_size = 256


def main() -> None:
    """Serve until SIGTERM or SIGINT, then let the requests under way end."""
    server = Server(("", PORT), Handler)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"listening on port {PORT}", file=sys.stderr, flush=True)
    stop.wait()
    server.shutdown()


if __name__ == "__main__":
    main()
