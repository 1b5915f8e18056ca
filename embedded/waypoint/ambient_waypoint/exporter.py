# For the embedded provider alone: reads Envoy's request log and answers Prometheus with Envoy's metrics and ours.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Envoy's listener 15090 asks here what it would ask Envoy's admin interface; pilot-agent merges 15090 into 15020.

It fails like the relay: when the request log cannot be read, the launcher ends Envoy. A waypoint whose requests are
not counted looks like one without traffic, and a graph or a witness drawn from that would be wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import os
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple

from ambient_waypoint.metrics import RequestMetrics

LOG = logging.getLogger("waypoint-exporter")
STATS: Final = "/stats/prometheus"
CHUNK: Final = 1 << 16  # bytes read at a time, the size of a pipe: between two chunks the relay gets its turn
ADMIN_TIMEOUT: Final = 5.0  # seconds
TEXT_FORMAT: Final = "text/plain; version=0.0.4; charset=utf-8"


class Admin(NamedTuple):
    """Where Envoy's admin interface listens."""

    host: str
    port: int

    def stats(self, target: str) -> bytes:
        """Return Envoy's own metrics as text (blocks; raises OSError or HTTPException)."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=ADMIN_TIMEOUT)
        with contextlib.closing(connection):
            connection.request("GET", target, headers={"Accept": "text/plain"})
            response = connection.getresponse()
            body = response.read()
        if response.status != HTTPStatus.OK:
            raise http.client.HTTPException(f"status {response.status}")
        return body


class Exporter:
    """Reads the FIFO `log` (made by `start`) and serves HTTP on the unix socket `endpoint`."""

    def __init__(self, log: Path, endpoint: Path, admin: Admin) -> None:
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._metrics = RequestMetrics()
        self._log = log
        self._endpoint = endpoint
        self._admin = admin
        self._rest = b""

    async def start(self) -> None:
        """Begin to read and to serve; raises OSError."""
        self._log.unlink(missing_ok=True)  # the folder outlives a container that is started again
        os.mkfifo(self._log, 0o600)
        # Open for both, so that Envoy's open need not wait for a reader and the FIFO is never at its end.
        self._fifo = os.open(self._log, os.O_RDWR | os.O_NONBLOCK)
        asyncio.get_running_loop().add_reader(self._fifo, self._on_readable)
        self._server = await asyncio.start_unix_server(self._answer, self._endpoint)

    async def stop(self) -> None:
        """Count what an ended Envoy has left in the FIFO, then stop."""
        asyncio.get_running_loop().remove_reader(self._fifo)
        if not self.failed.done():
            while self._read():
                pass
        os.close(self._fifo)
        self._server.close()
        LOG.info("counted %d requests", self._metrics.counted)

    def _on_readable(self) -> None:
        try:
            self._read()
        except Exception as error:  # whatever it was, records may be lost
            asyncio.get_running_loop().remove_reader(self._fifo)
            reason = f"the request log cannot be read: {type(error).__name__}: {error}"
            LOG.error("the waypoint stops: %s", reason)
            self.failed.set_result(reason)

    def _read(self) -> bool:
        """Count the records of one chunk; returns False when there is nothing to read."""
        try:
            chunk = os.read(self._fifo, CHUNK)
        except BlockingIOError:
            return False
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._metrics.count(line)
        return True

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, then close."""
        # Envoy, the only client, may go away at any time.
        with (
            contextlib.closing(writer),
            contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError),
        ):
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, *_ = [*head.decode("latin-1").split("\r\n")[0].split(" "), ""]
            status, body = await self._response(method, target)
            lines = [
                f"HTTP/1.1 {status.value} {status.phrase}",
                f"content-type: {TEXT_FORMAT}",
                f"content-length: {len(body)}",
                "connection: close",
            ]
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            await writer.drain()

    async def _response(self, method: str, target: str) -> tuple[HTTPStatus, bytes]:
        if method != "GET" or target.partition("?")[0] != STATS or not target.isascii():
            return HTTPStatus.NOT_FOUND, f"only GET {STATS} is here\n".encode()
        try:
            envoy = await asyncio.to_thread(self._admin.stats, target)
        except (OSError, http.client.HTTPException) as error:
            reason = f"Envoy's admin interface at {self._admin.host}:{self._admin.port} does not answer: {error}"
            LOG.warning("%s", reason)
            return HTTPStatus.SERVICE_UNAVAILABLE, f"{reason}\n".encode()
        return HTTPStatus.OK, envoy.rstrip() + b"\n" + self._metrics.exposition()
