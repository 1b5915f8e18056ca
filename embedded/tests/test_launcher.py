"""The launcher: forwarded bytes, cgroups on the real hierarchies, and a node that ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ambient_embedded import launcher
from ambient_embedded.parts import Bill

Eventually = Callable[[Callable[[], object], str], None]
Streams = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
EMBEDDED = Path(launcher.__file__).parents[1]
GROUP = f"ambient-lab-unit-test-{os.getpid()}"
MEBIBYTE = 1 << 20
PATIENCE_SECONDS = 30.0


async def through(far: Streams, near: Streams) -> None:
    """Let both ends talk over a forwarded connection."""
    server = await asyncio.start_server(far, "127.0.0.1", 0)
    target = server.sockets[0].getsockname()
    forward = await asyncio.start_server(launcher.Forward(*target).join, "127.0.0.1", 0)
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


def test_a_connection_that_carries_nothing_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "IDLE_SECONDS", 0.5)
    seconds: list[float] = []

    async def far(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(4):  # one direction is enough to be heard of
            writer.write(b"x")
            await asyncio.sleep(0.2)
        assert await reader.read() == b""
        writer.close()

    async def near(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clock = asyncio.get_running_loop().time
        start = clock()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b"xxxx"
        seconds.append(clock() - start)

    asyncio.run(through(far, near))
    assert seconds[0] >= 1.0


def test_a_port_has_its_share_of_connections_and_tells_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launcher, "CONNECTIONS", 2)

    async def far(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x")
        await reader.read()
        writer.close()

    async def run() -> list[bytes]:
        server = await asyncio.start_server(far, "127.0.0.1", 0)
        forward = launcher.Forward(*server.sockets[0].getsockname())
        entry = await asyncio.start_server(forward.join, "127.0.0.1", 0)
        answers = []
        async with server, entry, asyncio.timeout(PATIENCE_SECONDS):
            opened = []
            for _ in range(5):
                reader, writer = await asyncio.open_connection(*entry.sockets[0].getsockname())
                opened.append(writer)
                answers.append(await reader.read(1))
            for writer in opened[:2]:
                writer.close()
            while forward.open:
                await asyncio.sleep(0.01)
            reader, writer = await asyncio.open_connection(*entry.sockets[0].getsockname())
            answers.append(await reader.read(1))
            writer.close()
        return answers

    assert asyncio.run(run()) == [b"x", b"x", b"", b"", b"", b"x"]
    said = [line.rpartition(": ")[2] for line in capsys.readouterr().out.splitlines()]
    assert said == ["more than 2 connections", "well again"]


def test_the_launchers_log_begins_anew_when_it_is_long(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\nfrom ambient_embedded import launcher\n"
        "launcher.LOG_BYTES = 2000\nfor number in range(200): launcher.log(f'{number:040}')"
    )
    with (tmp_path / "log").open("ab") as log:
        subprocess.run([sys.executable, "-c", script, EMBEDDED], stdout=log, check=True)
    assert 0 < (tmp_path / "log").stat().st_size <= 2100
    assert (tmp_path / "log").read_text().endswith(f"{199:040}\n")


@pytest.mark.parametrize("module", ["launcher", "supervisor"])
def test_a_full_disk_ends_nobody_who_writes_a_log(module: str) -> None:
    """With the first process of a node all of the node would end, and with the launcher the lab."""
    script = (
        f"import os, sys; sys.path.insert(0, sys.argv[1])\nfrom ambient_embedded import {module}\n"
        f"for number in range(1000): {module}.log(f'{{number:040}}')\nos._exit(3)"
    )
    with Path("/dev/full").open("ab") as full:
        assert subprocess.run([sys.executable, "-c", script, EMBEDDED], stdout=full).returncode == 3


def test_the_nodes_may_open_as_many_files_as_the_machine_allows() -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\nimport resource\nfrom ambient_embedded import launcher\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096))\nlauncher.raise_descriptors()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", script, EMBEDDED], capture_output=True, text=True, check=True)
    assert done.stdout == "(4096, 4096)\n"


def test_a_target_that_refuses_ends_the_connection_and_not_the_forward(free_port: int) -> None:
    async def run() -> list[bytes]:
        target = launcher.Forward("127.0.0.1", free_port)
        forward = await asyncio.start_server(target.join, "127.0.0.1", 0)
        answers = []
        async with forward, asyncio.timeout(PATIENCE_SECONDS):
            for _ in range(2):
                reader, writer = await asyncio.open_connection(*forward.sockets[0].getsockname())
                answers.append(await reader.read())
                writer.close()
        return answers

    assert asyncio.run(run()) == [b"", b""]


UNIFIED = Path("/sys/fs/cgroup/unified")
# In a cgroup namespace of its own, as in a container: the root that it sees is not the machine's.
INSIDE = """
import os, pathlib, subprocess, sys
from ctypes import CDLL
sys.path.insert(0, sys.argv[1])
from ambient_embedded import launcher
from ambient_embedded.parts import Bill
assert CDLL(None).unshare(0x02000000 | 0x00020000) == 0
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "-t", "cgroup2", "none", sys.argv[2]], check=True)
root = launcher.CGROUPS = pathlib.Path(sys.argv[2])
launcher.CONTROLLERS = sys.argv[3:]
assert str(os.getpid()) in (root / "cgroup.procs").read_text().split()
launcher.make_cgroup("/lab/node")
launcher.join_cgroup("/lab/launcher")
print((root / "lab/node/cgroup.subtree_control").read_text().strip())
print((root / "lab/launcher/cgroup.subtree_control").read_text().strip() or "none")
print(pathlib.Path("/proc/self/cgroup").read_text().rpartition("0::")[2].strip())
"""


@pytest.mark.root
def test_in_a_container_with_cgroup_v2_processes_make_room_for_controllers(tmp_path: Path) -> None:
    """What is in a container's root keeps it from handing controllers down (cgroup-v2.rst): the write is EBUSY."""
    root = UNIFIED if UNIFIED.is_dir() else launcher.CGROUPS
    controls = root / "cgroup.subtree_control"
    free = (root / "cgroup.controllers").read_text().split() if controls.exists() else []
    if not free:
        pytest.skip("no controller of cgroup v2 is free here")
    before = controls.read_text().split()
    controls.write_text(f"+{free[0]}")
    container = root / GROUP
    container.mkdir()
    try:
        # The shell moves, and Python and its children are in the cgroup with it.
        script = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        command: list[str | Path] = [
            "sh",
            "-c",
            script,
            container,
            sys.executable,
            "-c",
            INSIDE,
            EMBEDDED,
            tmp_path,
            free[0],
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        assert (done.stderr, done.stdout.split()) == ("", [free[0], "none", "/lab/launcher"])
    finally:
        assert launcher.remove_cgroup(container, PATIENCE_SECONDS)
        if free[0] not in before:
            controls.write_text(f"-{free[0]}")


def test_a_controller_that_cannot_be_handed_down_is_named(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("memory pids")
    (tmp_path / "cgroup.subtree_control").mkdir()  # refuses to be written
    with pytest.raises(OSError, match=rf"{tmp_path} can't hand down memory: Is a directory"):
        launcher.hand_down(tmp_path)


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
ADDRESSES = {"one": "10.87.255.250", "two": "10.87.255.251"}
# A node that is only a shell and a server, which says whose address it is called from.
NODE = """
import socket, subprocess, sys
own, role = sys.argv[1:]
sys.stdin.readline()
for command in (f"address add {own}/29 dev eth0", "link set eth0 up"):
    subprocess.run(["ip", *command.split()], check=True)
server = socket.create_server((own, 9000))
open(f"{role}.up", "w").close()
while True:
    connection, caller = server.accept()
    connection.sendall(caller[0].encode())
    connection.close()
"""
SCRIPT = """
import asyncio, pathlib, sys
sys.path.insert(0, sys.argv[1])
from ambient_embedded import launcher
from ambient_embedded.parts import Bill
launcher.STABLE_SECONDS, launcher.RESTART_SECONDS = float(sys.argv[3]), 0.1
asyncio.run(launcher.run(pathlib.Path(sys.argv[2])))
"""
Launch = Callable[..., subprocess.Popen[bytes]]


def node(folder: Path, role: str, program: list[str]) -> dict[str, Any]:
    """Of ``launcher.json``."""
    (folder / role).mkdir()
    namespaces = [*launcher.UNSHARE, "net,pid"]
    enter, cgroup = [*namespaces, *program], f"/{GROUP}/{role}"
    mac = "02:57:00:00:00:01" if role == "one" else "02:57:00:00:00:02"
    paths = {"folder": str(folder / role), "log": str(folder / f"{role}.log")}
    return {"role": role, **paths, "enter": enter, "mac": mac, "cgroup": cgroup}


@pytest.mark.root
def test_a_node_that_cannot_be_written_down_is_ended(tmp_path: Path, group: str) -> None:
    """Else each attempt on a full disk would leave one that waits for its interface."""
    asked, me = node(tmp_path, "one", ["sleep", "1000"]), os.getpid()
    (tmp_path / "one/node.pid").mkdir()

    async def run() -> None:
        with pytest.raises(OSError, match="Is a directory"):
            await launcher._start(asked, me)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while Path(f"/proc/{me}/task/{me}/children").read_text():
                await asyncio.sleep(0.01)

    asyncio.run(run())


@pytest.fixture
def launch(tmp_path: Path, group: str, free_port: int) -> Iterator[Launch]:
    """Start the launcher with two nodes."""
    programs = {role: [sys.executable, "-c", NODE, address, role] for role, address in ADDRESSES.items()}
    settings: dict[str, Any] = {
        "interface": INTERFACE,
        "address": "10.87.255.249/29",
        "cgroup": f"/{GROUP}/launcher",
        "forwards": [["127.0.0.1", free_port, ADDRESSES["one"], 9000]],
        "nodes": [node(tmp_path, role, program) for role, program in programs.items()],
    }
    (tmp_path / "launcher.json").write_text(json.dumps(settings))
    started: list[subprocess.Popen[bytes]] = []

    def start(stable: float = 0.0) -> subprocess.Popen[bytes]:
        with (tmp_path / "launcher.log").open("ab") as log:
            command = [sys.executable, "-c", SCRIPT, str(EMBEDDED), str(tmp_path), str(stable)]
            started.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def first_process(folder: Path, role: str) -> int:
    """Of a node. It is the one that is meant, and not a later one with its number."""
    pid, started = (folder / role / "node.pid").read_text().split()
    assert launcher.start_time(int(pid)) == started
    return int(pid)


def up(process: subprocess.Popen[bytes], folder: Path, eventually: Eventually) -> None:
    """Wait until both nodes serve."""
    there = [folder / f"{role}.up" for role in ADDRESSES]
    eventually(lambda: all(file.exists() for file in there) or process.poll() is not None, "the nodes serve")
    assert process.poll() is None, (folder / "launcher.log").read_text()
    for file in there:
        file.unlink()


def caller(folder: Path, role: str, namespace: str) -> str:
    """Whom a node sees calling from the network namespace of a process."""
    call = f"import socket; print(socket.create_connection(('{ADDRESSES[role]}', 9000), 5).recv(99).decode())"
    command = ["nsenter", f"--net=/proc/{namespace}/ns/net", sys.executable, "-c", call]
    return subprocess.run(command, text=True, capture_output=True, check=True, cwd=folder).stdout.strip()


@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_nodes_end_with_the_launcher_and_can_start_again_at_once(
    launch: Launch, tmp_path: Path, eventually: Eventually, number: signal.Signals
) -> None:
    interface = Path("/sys/class/net") / INTERFACE
    for _ in range(4):
        process = launch()
        up(process, tmp_path, eventually)
        pids = [first_process(tmp_path, role) for role in ADDRESSES]
        assert interface.exists()
        assert all((folder / role).is_dir() for folder in groups() for role in ADDRESSES)
        process.send_signal(number)
        process.wait()
        eventually(lambda p=pids: all(has_ended(str(pid)) for pid in p), "the nodes have ended")  # type: ignore[misc]
    eventually(lambda: not interface.exists(), "the interface is gone")


@pytest.mark.root
def test_host_and_nodes_reach_each_other_and_the_host_has_no_bridge(
    launch: Launch, tmp_path: Path, eventually: Eventually, free_port: int
) -> None:
    up(launch(), tmp_path, eventually)
    assert caller(tmp_path, "two", str(first_process(tmp_path, "one"))) == ADDRESSES["one"]
    assert caller(tmp_path, "one", str(first_process(tmp_path, "two"))) == ADDRESSES["two"]
    assert caller(tmp_path, "two", "self") == "10.87.255.249"
    with socket.create_connection(("127.0.0.1", free_port)) as forwarded:
        assert forwarded.recv(99) == b"10.87.255.249"
    assert not Path("/sys/class/net/nodes").exists()


@pytest.mark.root
def test_a_node_that_dies_comes_back_alone(launch: Launch, tmp_path: Path, eventually: Eventually) -> None:
    process = launch()
    up(process, tmp_path, eventually)
    kept, dies = (first_process(tmp_path, role) for role in ADDRESSES)
    # What others know of its interface must still be true.
    assert caller(tmp_path, "two", "self") == "10.87.255.249"
    for _ in range(2):
        eventually(lambda: "two: started" in (tmp_path / "launcher.log").read_text(), "it is known to have started")
        os.kill(dies, signal.SIGKILL)
        eventually(lambda: (tmp_path / "two.up").exists() or process.poll() is not None, "the node is back")
        (tmp_path / "two.up").unlink()
        assert first_process(tmp_path, "two") != dies
        dies = first_process(tmp_path, "two")
        assert caller(tmp_path, "two", str(kept)) == ADDRESSES["one"]
        assert caller(tmp_path, "two", "self") == "10.87.255.249"
    assert first_process(tmp_path, "one") == kept


@pytest.mark.root
def test_without_its_bridge_the_lab_ends_with_a_reason(launch: Launch, tmp_path: Path, eventually: Eventually) -> None:
    process = launch()
    up(process, tmp_path, eventually)
    os.kill(int((tmp_path / "bridge.pid").read_text().split()[0]), signal.SIGKILL)
    assert process.wait(PATIENCE_SECONDS) != 0
    assert "the bridge's process ended with status -9" in (tmp_path / "launcher.log").read_text()


@pytest.mark.root
@pytest.mark.parametrize(("script", "reason"), [("exit 7", "ended"), ("read line; exit 7", "two: ended")])
def test_a_node_that_cannot_run_ends_the_launcher_with_a_reason(
    launch: Launch, tmp_path: Path, script: str, reason: str
) -> None:
    settings = json.loads((tmp_path / "launcher.json").read_text())
    settings["nodes"][1]["enter"][-5:] = ["sh", "-c", script]
    (tmp_path / "launcher.json").write_text(json.dumps(settings))
    assert launch(stable=PATIENCE_SECONDS).wait(PATIENCE_SECONDS) != 0
    assert f"{reason} with status 7" in (tmp_path / "launcher.log").read_text()


@pytest.mark.root
def test_the_launcher_and_its_nodes_leave_the_cgroup_they_were_started_in(
    launch: Launch, tmp_path: Path, eventually: Eventually
) -> None:
    """A shell, a CI job or a login ends what is in its own."""
    process = launch()
    up(process, tmp_path, eventually)
    for pid in (process.pid, first_process(tmp_path, "one")):
        places = [line.split(":", 2)[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
        assert {place for place in places if place.endswith(f"/{GROUP}/launcher")}
        for folder in groups():
            assert str(pid) in (folder / "launcher/cgroup.procs").read_text().split()


# A machine with a container of another engine behind a masquerade, in a network namespace of its own.
CONTAINER = """
echo 1 > /proc/sys/net/ipv4/ip_forward
ip link set lo up
unshare --net sleep 1000 & inside=$!
until [ "$(readlink /proc/$inside/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do :; done
ip link add engine type veth peer name eth0 netns $inside
ip address add 172.31.0.1/24 dev engine && ip link set engine up
nsenter --net=/proc/$inside/ns/net sh -c 'ip link set lo up; ip address add 172.31.0.2/24 dev eth0; ip link set eth0 up;
    ip route add default via 172.31.0.1'
nft() { chroot "$TREE" nft "$@"; }
nft add table ip nat && nft 'add chain ip nat post { type nat hook postrouting priority 100; }'
nft add rule ip nat post ip saddr 172.31.0.0/24 masquerade
echo $inside && exec "$@"
"""


@pytest.mark.root
@pytest.mark.usefixtures("group")
def test_a_container_of_another_engine_does_not_reach_the_nodes(
    tmp_path: Path, bill: Bill, eventually: Eventually
) -> None:
    tree = bill.node_image.folder(bill.cache) / "tree"  # its nft makes the engine's masquerade
    if not tree.is_dir():
        pytest.skip(f"{tree} is not built: run `make build` first")
    programs = {role: [sys.executable, "-c", NODE, address, role] for role, address in ADDRESSES.items()}
    nodes = [node(tmp_path, role, program) for role, program in programs.items()]
    settings = {"interface": INTERFACE, "address": "10.87.255.249/29", "cgroup": f"/{GROUP}/launcher", "forwards": []}
    (tmp_path / "launcher.json").write_text(json.dumps({**settings, "nodes": nodes}))
    run = [sys.executable, "-c", SCRIPT, str(EMBEDDED), str(tmp_path), "0"]
    machine = [*launcher.UNSHARE, "net,mount", "sh", "-ec", CONTAINER, "sh", *run]
    with (tmp_path / "launcher.log").open("ab") as log:
        process = subprocess.Popen(machine, stdout=log, stderr=log, cwd=tmp_path, env={**os.environ, "TREE": str(tree)})
    try:
        up(process, tmp_path, eventually)
        assert caller(tmp_path, "one", str(process.pid)) == "10.87.255.249"
        container = (tmp_path / "launcher.log").read_text().split()[0]
        with pytest.raises(subprocess.CalledProcessError):
            caller(tmp_path, "one", container)
    finally:
        process.kill()
        process.wait()
        os.kill(int((tmp_path / "launcher.log").read_text().split()[0]), signal.SIGKILL)
