# For the embedded provider alone: the exporter reads a real FIFO and answers on a real socket, or says why not.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Without Envoy: an HTTP server stands for its admin interface, this test for its request log."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from ambient_waypoint.exporter import CHUNK, Admin, Exporter
from ambient_waypoint.launcher import FAILED, admin_of, config_file, flushing_often, main
from ambient_waypoint.paths import REQUEST_LOG
from ambient_waypoint.telemetry import FIELDS
from ports import free_port

RECORD = json.dumps({**dict.fromkeys(FIELDS), "response_code": 200}).encode() + b"\n"
TIMEOUT = 20.0


class AdminHandler(http.server.BaseHTTPRequestHandler):
    """Answers like Envoy's admin interface; with the query `broken`, like one that cannot."""

    def do_GET(self) -> None:
        """Answer with a metric that names the target."""
        self.send_response(500 if "broken" in self.path else 200)
        self.end_headers()
        self.wfile.write(f'envoy_asked{{target="{self.path}"}} 1\n\n'.encode())

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def admin() -> Iterator[Admin]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), AdminHandler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield Admin("127.0.0.1", server.server_port)
    server.shutdown()
    server.server_close()


def with_exporter(folder: Path, admin: Admin, test: Callable[[Exporter], Awaitable[None]]) -> None:
    """Run a test inside the life of an exporter."""

    async def run() -> None:
        exporter = Exporter(folder / "log", folder / "socket", admin)
        await exporter.start()
        try:
            async with asyncio.timeout(TIMEOUT):
                await test(exporter)
        finally:
            await exporter.stop()

    asyncio.run(run())


async def ask(folder: Path, request: str = "GET /stats/prometheus HTTP/1.1") -> tuple[str, str]:
    """Send a request; returns the first line and the body of the answer."""
    reader, writer = await asyncio.open_unix_connection(folder / "socket")
    writer.write(f"{request}\r\nhost: x\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    return head.split("\r\n")[0], body


async def total(folder: Path) -> float:
    """Return istio_requests_total over all labels."""
    _, body = await ask(folder)
    lines = [line for line in body.splitlines() if line.startswith("istio_requests_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def until_total(folder: Path, expected: int) -> None:
    while await total(folder) < expected:  # ends with with_exporter's timeout at the latest
        await asyncio.sleep(0.01)
    assert await total(folder) == expected


def test_records_are_counted_however_they_are_cut(tmp_path: Path, admin: Admin) -> None:
    count = 3 * CHUNK // len(RECORD)  # more than the pipe holds

    async def test(_: Exporter) -> None:
        log = os.open(tmp_path / "log", os.O_WRONLY)  # blocking, as Envoy's
        for part in (RECORD[:9], RECORD[9:40], RECORD[40:] + RECORD * count):
            await asyncio.to_thread(os.write, log, part)
        os.close(log)
        await until_total(tmp_path, count + 1)
        # A writer that has gone is not the end of the log: Envoy reopens it when it is told to.
        await asyncio.to_thread((tmp_path / "log").write_bytes, RECORD)
        await until_total(tmp_path, count + 2)

    with_exporter(tmp_path, admin, test)


def test_what_is_left_in_the_log_is_counted_at_the_end(
    tmp_path: Path, admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(_: Exporter) -> None:
        (tmp_path / "log").write_bytes(RECORD * 50)  # no await: nothing is read before stop()

    with caplog.at_level("INFO"):
        with_exporter(tmp_path, admin, test)
    assert "counted 50 requests" in caplog.messages


def test_envoys_metrics_come_first_and_the_query_goes_on(tmp_path: Path, admin: Admin) -> None:
    async def test(_: Exporter) -> None:
        status, body = await ask(tmp_path, "GET /stats/prometheus?usedonly HTTP/1.1")
        assert status == "HTTP/1.1 200 OK"
        assert body.startswith('envoy_asked{target="/stats/prometheus?usedonly"} 1\n# HELP istio_requests_total')
        assert body.endswith("\n")

    with_exporter(tmp_path, admin, test)


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /stats/prometheus?broken HTTP/1.1", "HTTP/1.1 503 Service Unavailable"),
        ("GET /quitquitquit HTTP/1.1", "HTTP/1.1 404 Not Found"),
        ("GET /stats/prometheus/../../quitquitquit HTTP/1.1", "HTTP/1.1 404 Not Found"),
        ("GET /stats/prometheus?\u00e9 HTTP/1.1", "HTTP/1.1 404 Not Found"),
        ("GET /stats/prometheus?\x00 HTTP/1.1", "HTTP/1.1 503 Service Unavailable"),
        ("POST /stats/prometheus HTTP/1.1", "HTTP/1.1 404 Not Found"),
        ("nonsense", "HTTP/1.1 404 Not Found"),
    ],
)
def test_other_answers(tmp_path: Path, admin: Admin, request_line: str, status: str) -> None:
    async def test(_: Exporter) -> None:
        assert (await ask(tmp_path, request_line))[0] == status

    with_exporter(tmp_path, admin, test)


def test_an_admin_interface_that_does_not_answer_is_a_503_with_the_reason(tmp_path: Path) -> None:
    port = free_port()

    async def test(_: Exporter) -> None:
        status, body = await ask(tmp_path)
        assert status == "HTTP/1.1 503 Service Unavailable"
        assert f"Envoy's admin interface at 127.0.0.1:{port} does not answer" in body

    with_exporter(tmp_path, Admin("127.0.0.1", port), test)


def test_clients_that_leave_or_send_too_much_do_no_harm(tmp_path: Path, admin: Admin) -> None:
    async def test(_: Exporter) -> None:
        for request in (b"GET", b"x" * (1 << 17)):
            _reader, writer = await asyncio.open_unix_connection(tmp_path / "socket")
            writer.write(request)
            writer.close()
        assert (await ask(tmp_path))[0] == "HTTP/1.1 200 OK"

    with_exporter(tmp_path, admin, test)


def test_a_log_that_cannot_be_read_is_a_failure(tmp_path: Path, admin: Admin) -> None:
    async def test(exporter: Exporter) -> None:
        folder = os.open(tmp_path, os.O_RDONLY)
        os.dup2(folder, exporter._fifo)  # reading a folder fails
        os.close(folder)
        exporter._on_readable()
        assert "the request log cannot be read: IsADirectoryError" in await exporter.failed

    with_exporter(tmp_path, admin, test)


def test_what_an_older_container_left_is_replaced(tmp_path: Path, admin: Admin) -> None:
    for _ in range(2):

        async def test(_: Exporter) -> None:
            assert (tmp_path / "log").is_fifo()
            assert await total(tmp_path) == 0

        with_exporter(tmp_path, admin, test)


CONFIG = {"admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 15000}}}}


def test_the_admin_interface_is_found_in_envoys_configuration(tmp_path: Path) -> None:
    file = tmp_path / "envoy-rev.json"
    file.write_text(json.dumps(CONFIG))
    assert config_file(["-l", "info", "-c", str(file)]) == file
    assert admin_of(file) == ("127.0.0.1", 15000)
    assert config_file(["--version"]) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"admin": null}', '{"admin": {"address": {}}}'])
def test_without_the_admin_interface_the_waypoint_does_not_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    file = tmp_path / "envoy-rev.json"
    file.write_text(content)
    assert main(["-c", str(file)], "/nonexistent/envoy") == FAILED
    assert "the waypoint's metrics exporter cannot start: no address of Envoy's admin interface" in caplog.text


def test_without_a_request_log_the_waypoint_does_not_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "envoy-rev.json"
    file.write_text(json.dumps(CONFIG))
    (tmp_path / REQUEST_LOG).mkdir()
    assert main(["-c", str(file)], "/nonexistent/envoy") == FAILED
    assert "the waypoint's metrics exporter cannot start" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-c", "f"], ["-c", "f"]),
        (["--file-flush-interval-msec", "1000", "-c", "f"], ["-c", "f"]),
        (["-c", "f", "--file-flush-interval-msec", "1000"], ["-c", "f"]),
    ],
)
def test_the_flush_interval_is_ours_and_is_given_once(arguments: list[str], expected: list[str]) -> None:
    assert flushing_often(arguments) == [*expected, "--file-flush-interval-msec", "100"]
