"""The launcher: forwarded bytes, cgroups on the real hierarchies, and a node that ends with it."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ambient_embedded import launcher

Eventually = Callable[[Callable[[], object], str], None]
Streams = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
GROUP = f"ambient-lab-unit-test-{os.getpid()}"
MEBIBYTE = 1 << 20
PATIENCE_SECONDS = 30.0


async def through(far: Streams, near: Streams) -> None:
    """Let both ends talk over a forwarded connection."""
    server = await asyncio.start_server(far, "127.0.0.1", 0)
    target = server.sockets[0].getsockname()
    forward = await asyncio.start_server(functools.partial(launcher._forward, target), "127.0.0.1", 0)
    async with server, forward, asyncio.timeout(PATIENCE_SECONDS):
        await near(*await asyncio.open_connection(*forward.sockets[0].getsockname()))


def test_a_half_closed_connection_still_carries_the_answer() -> None:
    sent, answer = os.urandom(MEBIBYTE), os.urandom(3 * MEBIBYTE)
    received: list[bytes] = []

    async def far(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read())  # to the end that the near side has announced
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def near(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        writer.write_eof()
        received.append(await reader.read())
        writer.close()

    asyncio.run(through(far, near))
    assert received == [sent, answer]


def test_the_far_end_may_close_its_half_first() -> None:
    received: list[bytes] = []
    done = asyncio.Event()

    async def far(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"greeting")
        writer.write_eof()
        received.append(await reader.read())
        writer.close()
        done.set()

    async def near(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read())
        writer.write(b"late words")
        writer.close()
        await done.wait()

    asyncio.run(through(far, near))
    assert received == [b"greeting", b"late words"]


def test_a_reset_at_one_end_ends_the_other() -> None:
    ended = asyncio.Event()

    async def far(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x")
        assert await reader.read() == b""
        ended.set()
        writer.close()

    async def near(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.get_extra_info("socket").setsockopt(1, 13, bytes.fromhex("0100000000000000"))  # SO_LINGER 0: reset
        writer.transport.abort()
        await ended.wait()

    asyncio.run(through(far, near))


def test_a_target_that_refuses_ends_the_connection_and_not_the_forward(free_port: int) -> None:
    async def run() -> list[bytes]:
        target = ("127.0.0.1", free_port)
        forward = await asyncio.start_server(functools.partial(launcher._forward, target), "127.0.0.1", 0)
        answers = []
        async with forward, asyncio.timeout(PATIENCE_SECONDS):
            for _ in range(2):
                reader, writer = await asyncio.open_connection(*forward.sockets[0].getsockname())
                answers.append(await reader.read())
                writer.close()
        return answers

    assert asyncio.run(run()) == [b"", b""]


def has_ended(pid: str) -> bool:
    """Gone, or about to be: a host's PID 1 may be slow to take note of its orphans."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def groups() -> list[Path]:
    return [hierarchy / GROUP for hierarchy in launcher.cgroup_hierarchies()]


@pytest.fixture
def group() -> Iterator[str]:
    """The name of a cgroup of this test's own, gone afterwards."""
    yield GROUP
    assert [folder for folder in groups() if not launcher.remove_cgroup(folder, PATIENCE_SECONDS)] == []


@pytest.mark.root
def test_a_process_can_live_in_the_cgroup_of_every_hierarchy(group: str) -> None:
    launcher.make_cgroup(f"/{group}/control-plane")
    launcher.make_cgroup(f"/{group}/control-plane")
    process = subprocess.Popen(["sleep", "1000"])
    try:
        for folder in groups():
            (folder / "control-plane/cgroup.procs").write_text(str(process.pid))
            assert str(process.pid) in (folder / "control-plane/cgroup.procs").read_text().split()
            assert not launcher.remove_cgroup(folder, 0.0)
    finally:
        process.kill()
        process.wait()
    for folder in groups():
        assert launcher.remove_cgroup(folder, PATIENCE_SECONDS)
        assert not folder.exists()
        assert launcher.remove_cgroup(folder, 0.0)


def test_start_time_names_one_process() -> None:
    process = subprocess.Popen(["sleep", "1000"])
    try:
        assert launcher.start_time(process.pid) == launcher.start_time(process.pid)
        assert int(launcher.start_time(process.pid)) >= int(launcher.start_time(os.getpid()))
    finally:
        process.kill()
        process.wait()


def test_start_time_of_a_name_with_spaces_and_brackets(tmp_path: Path) -> None:
    (tmp_path / "a ) b").symlink_to("/bin/sleep")
    process = subprocess.Popen([tmp_path / "a ) b", "1000"])
    try:
        assert launcher.start_time(process.pid).isdigit()
    finally:
        process.kill()
        process.wait()


INTERFACE = "amb-unit-test"


@pytest.fixture
def launch(tmp_path: Path, group: str, free_port: int) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Start the launcher with a node that is only a shell."""
    script = 'read line && echo "$line" > answer && ip link > links && exec sleep 1000'
    settings: dict[str, Any] = {
        "enter": ["unshare", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", f"cd {tmp_path} && {script}"],
        "interface": INTERFACE,
        "address": "10.87.255.253/30",
        "cgroup": f"/{group}/control-plane",
        "forwards": [["127.0.0.1", free_port, "10.87.255.254", 30080]],
    }
    (tmp_path / "launcher.json").write_text(json.dumps(settings))
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / "launcher.log").open("ab") as log:
            command = [sys.executable, "-I", launcher.__file__, str(tmp_path)]
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_node_ends_with_the_launcher_and_can_start_again_at_once(
    launch: Callable[[], subprocess.Popen[bytes]], tmp_path: Path, eventually: Eventually, number: signal.Signals
) -> None:
    interface = Path("/sys/class/net") / INTERFACE
    for _ in range(4):
        process = launch()
        log = tmp_path / "launcher.log"
        eventually(lambda p=process: (tmp_path / "links").exists() or p.poll() is not None, "the node runs")  # type: ignore[misc]
        assert process.poll() is None, log.read_text()
        assert (tmp_path / "answer").read_text() == "go\n"
        pid, started = (tmp_path / "node.pid").read_text().split()
        assert launcher.start_time(int(pid)) == started
        assert interface.exists()
        assert all((folder / "control-plane").is_dir() for folder in groups())
        process.send_signal(number)
        process.wait()
        eventually(lambda p=pid: has_ended(p), "the node has ended")  # type: ignore[misc]
        for name in ("answer", "links"):
            (tmp_path / name).unlink(missing_ok=True)
    eventually(lambda: not interface.exists(), "the interface is gone")


@pytest.mark.root
def test_a_node_that_cannot_start_ends_the_launcher_with_a_reason(
    launch: Callable[[], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    settings = json.loads((tmp_path / "launcher.json").read_text())
    (tmp_path / "launcher.json").write_text(json.dumps({**settings, "enter": ["sh", "-c", "exit 7"]}))
    assert launch().wait(PATIENCE_SECONDS) != 0
    assert "unshare ended with status 7" in (tmp_path / "launcher.log").read_text()
