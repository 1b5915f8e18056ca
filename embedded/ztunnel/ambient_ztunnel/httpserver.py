"""A very small HTTP/1.1 server for metrics, readiness and admin (embedded provider alone)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit

log = logging.getLogger("hyper_util")

HEADER_LIMIT = 16 * 1024  # bytes
READ_TIMEOUT = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What a route needs of the request line."""

    method: str
    query: dict[str, str]


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """One response."""

    body: bytes = b""
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; charset=utf-8"


Route = Callable[[HttpRequest], HttpResponse]


async def serve(listener: socket.socket, routes: dict[str, Route]) -> asyncio.Server:
    """Answer on a listening socket by exact path."""

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
            response = _respond(head, routes)
            writer.write(
                f"HTTP/1.1 {response.status.value} {response.status.phrase}\r\n"
                f"content-type: {response.content_type}\r\n"
                f"content-length: {len(response.body)}\r\n"
                "connection: close\r\n\r\n".encode()
                + response.body
            )
            await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            log.debug("http client has gone")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    return await asyncio.start_server(client, sock=listener, limit=HEADER_LIMIT)


def _respond(head: bytes, routes: dict[str, Route]) -> HttpResponse:
    try:
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
    except ValueError:
        return HttpResponse(status=HTTPStatus.BAD_REQUEST)
    parts = urlsplit(target)
    route = routes.get(parts.path)
    if route is None:
        return HttpResponse(status=HTTPStatus.NOT_FOUND)
    try:
        return route(HttpRequest(method, dict(parse_qsl(parts.query, keep_blank_values=True))))
    except Exception:
        log.exception("%s %s failed", method, parts.path)
        return HttpResponse(status=HTTPStatus.INTERNAL_SERVER_ERROR)
