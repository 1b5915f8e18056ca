# Script, parser and classifier together, with the real curl and a server that misbehaves on purpose.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._claims import Request
from ansible_collections.ambient.lab.plugins.module_utils._curl import build_script, parse_output
from ansible_collections.ambient.lab.plugins.module_utils._outcomes import Seen, classify
from ansible_collections.ambient.lab.tests.unit.servers import ScriptedServer

NONCE = "probe-0000000000000000"
SHELLS = [shell for shell in ("dash", "bash", "busybox sh") if shutil.which(shell.split()[0])]

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")


@pytest.fixture(name="server")
def _server() -> t.Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


def run(requests: t.Sequence[Request], timeout: float = 2.0, shell: str = "sh") -> list[Seen]:
    """Run the requests as one row, as an exec in a pod would."""
    row = dict(enumerate(requests))
    script = build_script(NONCE, row, timeout)
    done = subprocess.run([*shell.split(), "-c", script], capture_output=True, timeout=60, check=False)
    assert done.stderr == b""
    records = parse_output(NONCE, done.stdout.decode("utf-8", "replace"), row)
    return [classify(records[number]) for number in row]


@pytest.mark.parametrize(
    ("path", "outcome", "http_code", "exit_codes"),
    [
        ("ok", "allowed", 200, {0}),
        ("big", "allowed", 200, {0}),
        ("binary", "allowed", 200, {0}),
        ("empty", "allowed", 204, {0}),
        ("odd_headers", "allowed", 200, {0}),
        ("forged", "allowed", 200, {0}),
        ("app_404", "allowed", 404, {0}),
        ("app_403", "allowed", 403, {0}),
        ("app_503", "allowed", 503, {0}),
        ("app_403_behind_waypoint", "allowed", 403, {0}),
        ("proxy_403", "denied_l7", 403, {0}),
        ("proxy_403_nameless", "denied_l7", 403, {0}),
        ("proxy_503_upstream", "denied_upstream", 503, {0}),
        ("proxy_503_no_endpoint", "unroutable", 503, {0}),
        ("reset", "denied_l4", 0, {56, 52}),
        ("close", "denied_l4", 0, {52}),
        ("reset_after_headers", "probe_error", 200, {56, 18}),
        ("garbage", "probe_error", 0, {1}),
        ("hang", "timeout", 0, {28}),
    ],
)
def test_outcome(server: ScriptedServer, path: str, outcome: str, http_code: int, exit_codes: set[int]) -> None:
    (seen,) = run([Request(server.url(path))])
    assert (seen.outcome, seen.http_code) == (outcome, http_code), seen
    assert seen.exit_code in exit_codes


def test_reset_at_once() -> None:
    with ScriptedServer("reset_at_once") as server:
        row = run([Request(server.url("x"))] * 40)
    # A reset that wins the race against curl's first look at its connection is a refusal: no byte was sent.
    assert {(seen.outcome, seen.exit_code) for seen in row} <= {
        ("denied_l4", 56), ("denied_l4", 52), ("denied_l4", 55), ("refused", 7),
    }  # fmt: skip


def test_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (seen,) = run([Request(f"http://127.0.0.1:{port}/")])
    assert (seen.outcome, seen.exit_code) == ("refused", 7)


def test_unknown_name() -> None:
    (seen,) = run([Request("http://no-such-host.invalid/")], timeout=5)
    assert seen.outcome in ("dns", "timeout")


def test_tls_to_a_plain_server(server: ScriptedServer) -> None:
    (seen,) = run([Request(f"https://127.0.0.1:{server.port}/ok")])
    assert seen.outcome in ("tls", "timeout"), seen


def test_tls_cut_off_in_the_handshake() -> None:
    with ScriptedServer("reset_after_a_byte") as server:
        (seen,) = run([Request(f"https://127.0.0.1:{server.port}/ok")])
    assert seen.outcome == "denied_l4", seen


@pytest.mark.parametrize("shell", SHELLS)
def test_a_slow_probe_falsifies_no_other(server: ScriptedServer, shell: str) -> None:
    paths = [
        "ok",
        "hang",
        "reset",
        "proxy_403",
        "hang",
        "big",
        "close",
        "ok",
        "ok",
        "app_403",
        "garbage",
        "ok",
    ]
    start = time.monotonic()
    row = run([Request(server.url(path)) for path in paths], shell=shell)
    assert [seen.outcome for seen in row] == [
        "allowed", "timeout", "denied_l4", "denied_l7", "timeout", "allowed", "denied_l4", "allowed",
        "allowed", "allowed", "probe_error", "allowed",
    ]  # fmt: skip
    assert time.monotonic() - start < 6


def test_every_probe_has_a_connection_of_its_own(server: ScriptedServer) -> None:
    run([Request(server.url("ok"))] * 20)
    assert len(server.peers) == 20


def test_the_request_arrives_as_written(server: ScriptedServer) -> None:
    body = "line 1\n\"quoted\" \\back\\ $HOME `id` 'x' \t@file\n" + NONCE
    request = Request(
        server.url("ok/../ok"),
        "POST",
        (("X-Team", 'blue "sky"'), ("X-Empty", ""), ("Host", "other.example")),
        body,
    )
    server_path = request.url.replace("ok/../ok", "ok")
    (seen,) = run([Request(server_path, request.method, request.headers, request.body)])
    assert seen.outcome == "allowed"
    head, _separator, sent = server.requests[0].decode().partition("\r\n\r\n")
    assert sent == body
    assert head.splitlines()[0] == "POST /ok HTTP/1.1"
    assert 'X-Team: blue "sky"' in head.splitlines()
    assert "X-Empty:" in head.splitlines()
    assert "Host: other.example" in head.splitlines()


@pytest.mark.parametrize("method", ["HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_methods(server: ScriptedServer, method: str) -> None:
    (seen,) = run([Request(server.url("empty"), method)])
    assert (seen.outcome, seen.http_code) == ("allowed", 204)
    assert server.requests[0].startswith(method.encode() + b" ")


def test_no_curl_in_the_container() -> None:
    script = "PATH=/nowhere\n" + build_script(NONCE, {0: Request("http://127.0.0.1/")}, 1.0)
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, timeout=20, check=False)
    record = parse_output(NONCE, done.stdout.decode(), [0])[0]
    assert classify(record).outcome == "probe_error"
    assert record == "the container has no curl"
