# Script, parser and classifier together, with the real curl and a server that misbehaves on purpose.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import collections
import concurrent.futures
import os
import shutil
import socket
import string
import subprocess
import typing as t
from pathlib import Path

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Source
from ansible_collections.ambient.lab.plugins.module_utils._claims.sources import Target
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import shell_input
from ansible_collections.ambient.lab.plugins.module_utils._curl import script
from ansible_collections.ambient.lab.plugins.module_utils._curl.control import Probe
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen
from ansible_collections.ambient.lab.plugins.module_utils._curl.probing import probe_all
from ansible_collections.ambient.lab.plugins.module_utils._curl.script import BODY_BYTES, PARALLEL, PROBE_BYTES
from ansible_collections.ambient.lab.plugins.module_utils._mesh.destinations import Request
from ansible_collections.ambient.lab.tests.unit.fakes.servers import ScriptedServer

SHELLS = [shell for shell in ("dash", "bash", "busybox sh") if shutil.which(shell.split()[0])]

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")


@pytest.fixture(name="server")
def _server() -> t.Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


class Here:
    """Runs scripts on this machine, as an exec in a pod would."""

    def __init__(self, shell: str = "sh", path: str | None = None, **environment: str) -> None:
        self.scripts: list[str] = []
        self.printed = 0
        self._command = [shutil.which(shell.split()[0]) or shell, *shell.split()[1:], "-s"]
        self._environment = {**os.environ, **({"PATH": path} if path else {}), **environment}

    def run(self, namespace: str, pod: str, container: str, script: str, timeout: float) -> tuple[str, str]:
        """Standard output, and what stands on standard error."""
        self.scripts.append(script)
        given = shell_input(script)
        done = subprocess.run(
            self._command, input=given, capture_output=True, timeout=timeout, check=False, env=self._environment
        )
        self.printed += len(done.stdout)
        return done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace").strip()

    def probe(self, requests: t.Sequence[Request], timeout: float = 10.0) -> list[Seen]:
        """What each request sees in one row."""
        source = Source("default", "here")
        probes = [Probe(source, request) for request in requests]
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            return probe_all(probes, {source: HERE}, timeout, self, pool)


HERE = Target("default", "here", "here")


def run(requests: t.Sequence[Request], timeout: float = 10.0, shell: str = "sh") -> list[Seen]:
    """Run the requests as one row."""
    return Here(shell).probe(requests, timeout)


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
        ("reset_in_status_line", "probe_error", 0, {56}),
        ("reset_after_headers", "probe_error", 200, {56, 18}),
        ("close_in_headers", "probe_error", 200, {18}),
        ("close_in_body", "probe_error", 200, {18}),
        # curl tells nothing of a status line that is not whole, where the end comes in good order.
        ("close_in_status_line", "denied_l4", 0, {52}),
        ("garbage", "probe_error", 0, {1}),
        ("hang", "timeout", 0, {28}),
    ],
)
def test_outcome(server: ScriptedServer, path: str, outcome: str, http_code: int, exit_codes: set[int]) -> None:
    (seen,) = run([Request(server.url(path))], timeout=2.0 if path == "hang" else 10.0)
    assert (seen.outcome, seen.http_code) == (outcome, http_code), seen
    assert seen.exit_code in exit_codes


HUNDRED = {
    "reset": "denied_l4",
    "close": "denied_l4",
    "reset_in_status_line": "probe_error",
    "close_in_headers": "probe_error",
    "close_in_body": "probe_error",
    "reset_after_headers": "probe_error",
    "hang": "timeout",
    "app_403": "allowed",
    "proxy_403": "denied_l7",
    "proxy_503_upstream": "denied_upstream",
    "proxy_503_no_endpoint": "unroutable",
    "app_503": "allowed",
    "garbage": "probe_error",
}


@pytest.mark.parametrize("path", HUNDRED)
def test_a_hundred_of_each(server: ScriptedServer, path: str) -> None:
    row = run([Request(server.url(path))] * 100, timeout=0.5 if path == "hang" else 10.0)
    assert collections.Counter(seen.outcome for seen in row) == {HUNDRED[path]: 100}
    assert len(server.peers) == 100


def test_a_hundred_of_all_kinds_in_one_row(server: ScriptedServer) -> None:
    paths = [path for path in HUNDRED if path != "hang"] * 9
    row = run([Request(server.url(path)) for path in paths])
    assert [seen.outcome for seen in row] == [HUNDRED[path] for path in paths]


def test_a_hundred_resets_at_once() -> None:
    with ScriptedServer("reset_at_once") as server:
        row = run([Request(server.url("x"))] * 100)
    # A reset that wins the race against curl's first look at its connection is a refusal: no byte was sent.
    assert {(seen.outcome, seen.exit_code) for seen in row} <= {
        ("denied_l4", 56), ("denied_l4", 52), ("denied_l4", 55), ("refused", 7),
    }  # fmt: skip


def test_a_hundred_refusals() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    row = run([Request(f"http://127.0.0.1:{port}/")] * 100)
    assert {(seen.outcome, seen.exit_code) for seen in row} == {("refused", 7)}


def test_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (seen,) = run([Request(f"http://127.0.0.1:{port}/")])
    assert (seen.outcome, seen.exit_code) == ("refused", 7)


def test_unknown_name() -> None:
    (seen,) = run([Request("http://no-such-host.invalid/")], timeout=5)
    assert seen.outcome in ("dns", "timeout")


def test_tls_to_a_plain_server(server: ScriptedServer) -> None:
    (seen,) = run([Request(f"https://127.0.0.1:{server.port}/ok")], timeout=1.0)
    assert seen.outcome in ("tls", "timeout"), seen


def test_tls_cut_off_in_the_handshake() -> None:
    with ScriptedServer("reset_after_a_byte") as server:
        (seen,) = run([Request(f"https://127.0.0.1:{server.port}/ok")])
    assert seen.outcome == "denied_l4", seen


@pytest.mark.parametrize("shell", [*SHELLS, *(["busybox alone"] if shutil.which("busybox") else [])])
def test_a_slow_probe_falsifies_no_other(server: ScriptedServer, tmp_path: Path, shell: str) -> None:
    here = Here(shell)
    if shell == "busybox alone":
        for tool in ("sh", "cat", "tr", "fold", "sed", "curl"):
            (tmp_path / tool).symlink_to(shutil.which("curl" if tool == "curl" else "busybox") or "")
        here = Here(str(tmp_path / "sh"), str(tmp_path))
    paths = [
        "ok", "hang", "reset", "proxy_403", "hang", "big", "close", "ok",
        "ok", "app_403", "garbage", "binary",
    ]  # fmt: skip
    row = here.probe([Request(server.url(path)) for path in paths], timeout=2.0)
    assert [seen.outcome for seen in row] == [
        "allowed", "timeout", "denied_l4", "denied_l7", "timeout", "allowed", "denied_l4", "allowed",
        "allowed", "allowed", "probe_error", "allowed",
    ]  # fmt: skip
    assert row[5].body == "x" * BODY_BYTES
    # Nobody waits for the two that hang but what comes after them on the same curl.
    asked = [request.split()[1] for request in server.requests]
    assert asked.index(b"/app_403") > max(asked.index(b"/big"), asked.index(b"/close"))


@pytest.mark.parametrize("behaviour", ["", "keep_open"])
def test_every_probe_has_a_connection_of_its_own(behaviour: str) -> None:
    with ScriptedServer(behaviour) as server:
        here = Here()
        row = here.probe([Request(server.url("ok"))] * 40)
        assert {seen.outcome for seen in row} == {"allowed"}
        assert len(server.peers) == 40
        assert {seen.sender for seen in row} == {f"127.0.0.1:{port}" for port in server.peers}
    assert len(here.scripts) == 1


def test_a_connection_used_again_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "_fresh", lambda *_: "")
    with ScriptedServer("keep_open") as server:
        here = Here()
        row = here.probe([Request(server.url("ok"))] * 40)
        assert {seen.outcome for seen in row} == {"allowed"}
        # Eight processes, each with a connection; the others are asked once more, alone.
        assert len(server.peers) == 8 + 32
    assert len(here.scripts) == 2


@pytest.mark.parametrize("shell", SHELLS)
def test_what_a_probe_prints_is_bounded_whatever_the_application_answers(server: ScriptedServer, shell: str) -> None:
    here = Here(shell)
    row = here.probe([Request(server.url("long"))] * 5)
    assert {seen.outcome for seen in row} == {"allowed"}
    assert row[0].headers["server"].startswith("sss")
    assert here.printed <= 5 * PROBE_BYTES


def test_variables_of_the_container_do_not_matter(server: ScriptedServer) -> None:
    """One was put into curl's config as it stood."""
    elsewhere = f'connect-to = "::127.0.0.1:{server.port}"'
    names = [*string.ascii_letters, "out", "name", "tool"]
    (seen,) = Here(**dict.fromkeys(names, elsewhere)).probe([Request("http://127.0.0.1:1/")])
    assert seen.outcome == "refused"


def test_a_curl_that_dies_takes_only_its_own_probes_along(server: ScriptedServer, tmp_path: Path) -> None:
    wrapper = tmp_path / "curl"
    wrapper.write_text(f'#!/bin/sh\nexec timeout -s KILL 3 {shutil.which("curl")} "$@"\n')
    wrapper.chmod(0o755)
    here = Here("sh", f"{tmp_path}:{os.environ['PATH']}")
    paths = [*["ok"] * 8, "hang", *["ok"] * 7, *["ok"] * 8]
    row = here.probe([Request(server.url(path)) for path in paths])
    for index in range(8, len(row), PARALLEL):
        assert row[index].outcome == "probe_error"
        assert row[index].errormsg.startswith("signal 9 ended curl before this probe's record")
    others = [seen.outcome for index, seen in enumerate(row) if index % PARALLEL]
    assert set(others) == {"allowed"}


def test_names_of_the_requests(server: ScriptedServer) -> None:
    row = run([Request(server.url("ok")), Request(server.url("ok"), headers=(("X-Request-ID", "own"),))])
    assert row[1].request_id == "own"
    sent = {line for request in server.requests for line in request.decode().splitlines() if "equest-" in line}
    assert sent == {f"x-request-id: {row[0].request_id}", "X-Request-ID: own"}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_request_arrives_as_written(server: ScriptedServer, shell: str) -> None:
    body = "line 1\n\"quoted\" \\back\\ $HOME `id` 'x' \t@file\n"
    request = Request(
        server.url("ok/../ok"),
        "POST",
        (("X-Team", 'blue "sky"'), ("X-Empty", ""), ("Host", "other.example")),
        body,
    )
    server_path = request.url.replace("ok/../ok", "ok")
    (seen,) = run([Request(server_path, request.method, request.headers, request.body)], shell=shell)
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
    (seen,) = Here("/bin/sh", "/nowhere").probe([Request("http://127.0.0.1/")])
    assert (seen.outcome, seen.errormsg) == ("probe_error", "the container has no curl")
