# The probing loop with a real shell and a real curl: what it says, how fast it goes, and that it always ends.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import bisect
import pathlib
import random
import re
import shutil
import subprocess
import time

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import shell_input
from ansible_collections.ambient.lab.plugins.module_utils._convergence.figures import parse_stream
from ansible_collections.ambient.lab.plugins.module_utils._curl.script import Loop, build_script
from ansible_collections.ambient.lab.plugins.module_utils._mesh.destinations import Request
from ansible_collections.ambient.lab.tests.unit.fakes.objects import OK, record
from ansible_collections.ambient.lab.tests.unit.fakes.servers import ScriptedServer

NONCE = "loop-0123"


SHELLS = [shell for shell in ("dash", "bash", "busybox sh") if shutil.which(shell.split()[0])]


def loop(requests: list[Request], rate: float = 50, seconds: float = 0.2, probe_timeout: float = 2) -> bytes:
    script = build_script(NONCE, dict(enumerate(requests)), probe_timeout, loop=Loop(rate, seconds))
    return shell_input(script)


def run(given: bytes, shell: str = "sh") -> bytes:
    return subprocess.run([*shell.split(), "-s"], input=given, capture_output=True, check=False, timeout=60).stdout


@pytest.mark.parametrize(
    ("path", "outcome"),
    [
        ("ok", "allowed"),
        ("big", "allowed"),
        ("binary", "allowed"),
        ("app_403", "allowed"),
        ("proxy_403", "denied_l7"),
        ("proxy_403_nameless", "denied_l7"),
        ("proxy_503_upstream", "denied_upstream"),
        ("proxy_503_no_endpoint", "unroutable"),
        ("reset", "denied_l4"),
        ("reset_in_status_line", "probe_error"),
        ("reset_after_headers", "probe_error"),
    ],
)
def test_outcomes_are_those_of_the_classifier(path: str, outcome: str) -> None:
    with ScriptedServer() as server:
        stream = parse_stream(NONCE, [(0.0, run(loop([Request(server.url(path)), Request(server.url("ok"))])))])
    assert stream.problem == ""
    assert stream.ticks
    assert [answer.seen.outcome for answer in stream.answers] == [outcome, "allowed"] * len(stream.ticks)
    assert [answer.number for answer in stream.answers] == [0, 1] * len(stream.ticks)


def test_every_request_has_a_connection_of_its_own_and_is_sent_as_written() -> None:
    with ScriptedServer() as server:
        requests = [
            Request(server.url("ok"), "POST", (("x-team", 'it\'s "blue"'),), "a\nb"),
            Request(server.url("ok"), "HEAD"),
        ]
        stream = parse_stream(NONCE, [(0.0, run(loop(requests)))])
        assert len(set(server.peers)) == len(stream.answers) == len(server.requests)
        post = server.requests[0].decode()
    assert post.startswith("POST /ok HTTP/1.1\r\n")
    assert 'x-team: it\'s "blue"\r\n' in post
    assert post.endswith("\r\n\r\na\nb")


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_runs_the_loop(shell: str) -> None:
    with ScriptedServer() as server:
        stream = parse_stream(NONCE, [(0.0, run(loop([Request(server.url("binary"))], 10, 0.5), shell))])
    assert len(stream.ticks) == len(stream.answers) > 1
    assert {answer.seen.outcome for answer in stream.answers} == {"allowed"}


def test_starts_are_the_ticks_and_what_came_before_in_them() -> None:
    before = float(pathlib.Path("/proc/uptime").read_text().split()[0])
    with ScriptedServer() as server:
        stream = parse_stream(NONCE, [(0.0, run(loop([Request(server.url("ok"))] * 3, 20, 0.5)))])
    after = float(pathlib.Path("/proc/uptime").read_text().split()[0])
    starts = [answer.start for answer in stream.answers]
    assert starts == sorted(starts)
    assert before - 0.02 <= starts[0] <= starts[-1] <= after
    assert stream.ticks[0][0] == starts[0] < starts[1]


def test_it_ends_by_its_count_and_by_its_time() -> None:
    with ScriptedServer() as server:
        stream = parse_stream(NONCE, [(0.0, run(loop([Request(server.url("ok"))], 10, 0.5)))])
        assert 1 <= len(stream.ticks) <= 5
        # Each request takes its whole time here, so that the loop is late all the time.
        stream = parse_stream(NONCE, [(0.0, run(loop([Request(server.url("hang"))], 50, 1, 0.3)))])
    assert {answer.seen.outcome for answer in stream.answers} == {"timeout"}
    assert 1 <= len(stream.ticks) <= 5


def test_it_ends_when_nobody_listens_any_more() -> None:
    with ScriptedServer() as server:
        given = loop([Request(server.url("ok"))], 20, 60)
        with subprocess.Popen(
            ["sh", "-s"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdin
            assert process.stdout
            process.stdin.write(given)
            process.stdin.flush()
            process.stdout.read(100)
            process.stdout.close()
            process.wait(timeout=10)
        count = len(server.requests)
        time.sleep(0.5)
        assert len(server.requests) == count


def test_a_container_without_the_tools() -> None:
    given = b"PATH=/nowhere\n" + loop([Request("http://127.0.0.1:1/")])
    assert parse_stream(NONCE, [(0.0, run(given))]).problem == "the container has no curl"


def test_pieces_may_be_cut_anywhere() -> None:
    with ScriptedServer() as server:
        output = run(loop([Request(server.url("ok")), Request(server.url("proxy_403"))]))
    whole = parse_stream(NONCE, [(0.0, output)])
    ticks = [found.end() for found in re.finditer(rf"^{NONCE} tick \d+\n".encode(), output, re.MULTILINE)]
    source = random.Random(1)
    for _attempt in range(20):
        pieces: list[tuple[float, bytes]] = []
        ends: list[int] = []
        end = 0
        while end < len(output):
            start, end = end, end + source.randint(1, 40)
            pieces.append((float(len(pieces)), output[start:end]))
            ends.append(end)
        cut = parse_stream(NONCE, pieces)
        assert [(item.number, item.start, item.seen) for item in cut.answers] == [
            (item.number, item.start, item.seen) for item in whole.answers
        ]
        # A tick was heard with the piece that its line ends in.
        assert [at for _said, at in cut.ticks] == [bisect.bisect_left(ends, tick) for tick in ticks]
    # What is cut off at the end is no answer.
    assert len(parse_stream(NONCE, [(0.0, output[: len(output) // 2])]).answers) < len(whole.answers)


def test_a_response_can_not_forge_an_answer() -> None:
    forged = f"\n{NONCE[:-1]}X tick 1\n{record(NONCE[:-1] + 'X', '0', OK)}".encode()
    stream = parse_stream(NONCE, [(0.0, f"\n{NONCE} tick 100\n".encode() + forged)])
    assert (len(stream.ticks), stream.answers) == (1, [])
