"""The sample application, asked over a real socket."""

from __future__ import annotations

import http.client
import importlib.util
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import ModuleType

import pytest
from project import ROOT

APP = ROOT / "roles" / "sample_app" / "files" / "app.py"


@pytest.fixture(scope="module")
def app() -> ModuleType:
    """The role's file as a module."""
    spec = importlib.util.spec_from_file_location("app", APP)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def connection(app: ModuleType) -> Iterator[http.client.HTTPConnection]:
    """One keep-alive connection to a server of the test's own."""
    server = app.Server(("127.0.0.1", 0), app.Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    client = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=5)
    yield client
    client.close()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"])
def test_any_method_says_what_came_in(connection: http.client.HTTPConnection, method: str) -> None:
    """Status 200 and JSON: method, path, the headers a proxy adds, and no others."""
    connection.request(method, "/some/path?q=1", headers={"X-Request-Id": "7", "Accept": "text/html"})
    answer = connection.getresponse()
    assert answer.status == http.HTTPStatus.OK
    seen = json.loads(answer.read())
    assert (seen["method"], seen["path"], seen["headers"]["x-request-id"]) == (method, "/some/path?q=1", "7")
    assert "accept" not in seen["headers"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_is_read_to_its_end(connection: http.client.HTTPConnection, chunked: bool) -> None:
    """The connection is usable afterwards, whichever way the body was framed."""
    for _ in range(2):
        body = iter([b"a" * 1000, b"b" * 500]) if chunked else b"c" * 1500
        connection.request("POST", "/", body=body, encode_chunked=chunked)
        assert json.loads(connection.getresponse().read())["body_bytes"] == 1500


def test_head_has_no_body(connection: http.client.HTTPConnection) -> None:
    """HEAD announces a length and sends nothing; the next answer is not confused by it."""
    connection.request("HEAD", "/")
    assert connection.getresponse().read() == b""
    connection.request("GET", "/healthz")
    assert connection.getresponse().read() == b"ok\n"


def test_sigterm_ends_it_at_once() -> None:
    """The pod need not wait for its grace period."""
    with subprocess.Popen([sys.executable, APP], stderr=subprocess.PIPE, env={"PORT": "0"}) as process:
        assert process.stderr is not None
        assert b"listening" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=5) == 0
