"""The node's one process in the host's namespaces: it holds the node, its veth and its forwarded ports.

Runs detached on the host's Python, standard library alone. Its argument is the node's folder, whose
``launcher.json`` says ``{"enter": [argv], "interface": str, "address": "ip/prefix", "cgroup": str,
"forwards": [[listen host, listen port, target host, target port]]}``. When it ends, however it ends, the
kernel ends every process of the node, and with the namespaces go mounts, interface and firewall rules.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

CGROUPS = Path("/sys/fs/cgroup")
PR_SET_PDEATHSIG = 1
CHUNK_BYTES = 64 * 1024


def log(message: str) -> None:
    """One line to the launcher's log (its standard output)."""
    print(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), message, flush=True)


def start_time(pid: int) -> str:
    """When a process started, in clock ticks since boot: with the pid it names one process (proc(5), stat).

    Raises :class:`ProcessLookupError` for a process that has ended and only waits to be reaped.
    """
    state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if state in "ZX":
        raise ProcessLookupError(f"process {pid} has ended")
    return fields[18]


def cgroup_hierarchies() -> list[Path]:
    """The roots in which a node needs its own cgroup: the one of v2, or each hierarchy of v1."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    # A hierarchy of v1 may be mounted under several names (cpu -> cpu,cpuacct); each folder counts once.
    return sorted({path.resolve() for path in CGROUPS.iterdir() if (path / "cgroup.procs").exists()})


def make_cgroup(path: str) -> None:
    """Make a cgroup in every hierarchy, with what its children need inherited."""
    for hierarchy in cgroup_hierarchies():
        folder = hierarchy
        for part in Path(path.strip("/")).parts:
            parent, folder = folder, folder / part
            folder.mkdir(exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems"):  # v1: empty means that no process may enter
                if (folder / setting).exists() and not (folder / setting).read_text().strip():
                    (folder / setting).write_text((parent / setting).read_text())
        if hierarchy == CGROUPS:
            _delegate_v2(path)


def remove_cgroup(group: Path, patience: float) -> bool:
    """Remove a cgroup and its children; ``patience``: seconds for the last process to be gone. Says if it is."""
    deadline = time.monotonic() + patience
    while group.exists():
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):  # busy until the last process has been reaped
                os.rmdir(folder)
        if group.exists():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
    return True


def _delegate_v2(path: str) -> None:
    """v2: a controller works in a cgroup only where every ancestor hands it down."""
    folder = CGROUPS
    for part in ("", *Path(path.strip("/")).parts):
        folder = folder / part
        for controller in (folder / "cgroup.controllers").read_text().split():
            with contextlib.suppress(OSError):  # threaded or busy ancestors refuse some; kubelet says which it misses
                (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


async def _run(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(*arguments)
    if await process.wait() != 0:
        raise OSError(f"{' '.join(arguments)} failed with status {process.returncode}")


async def _child_of(process: asyncio.subprocess.Process) -> int:
    """The process that unshare has forked, PID 1 of the node, once it is there."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.returncode is None:
        with contextlib.suppress(OSError):  # it may be gone before its status is known
            if pids := children.read_text().split():
                return int(pids[0])
        await asyncio.sleep(0.01)
    raise OSError(f"unshare ended with status {process.returncode}")


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()


async def _forward(target: tuple[str, int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Join a connection to the host port with one to the node; an end that fails ends both."""
    try:
        far_reader, far_writer = await asyncio.open_connection(*target)
    except OSError as error:
        log(f"forward to {target[0]}:{target[1]}: {error}")
        writer.transport.abort()
        return
    await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
    for end in (writer, far_writer):
        end.close()


async def _serve(forwards: list[list[Any]]) -> None:
    for host, port, target_host, target_port in forwards:
        target = (str(target_host), int(target_port))
        await asyncio.start_server(functools.partial(_forward, target), host, port)
        log(f"forwarding {host}:{port} to {target_host}:{target_port}")


async def run(node: Path) -> int:
    """Hold the node until it ends or SIGTERM comes. Returns the node's exit status."""
    settings = json.loads((node / "launcher.json").read_text())
    (node / "launcher.pid").write_text(f"{os.getpid()} {start_time(os.getpid())}")
    # What an earlier run of the node left would keep kubelet's first look at its cgroups busy for minutes.
    for hierarchy in cgroup_hierarchies():
        remove_cgroup(hierarchy / settings["cgroup"].strip("/"), patience=5.0)
    make_cgroup(settings["cgroup"])
    await _serve(settings["forwards"])
    process = await asyncio.create_subprocess_exec(
        *settings["enter"], stdin=asyncio.subprocess.PIPE, preexec_fn=_die_with_parent
    )
    pid = await _child_of(process)
    (node / "node.pid").write_text(f"{pid} {start_time(pid)}")
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os.kill, pid, signal.SIGKILL)
    interface = settings["interface"]
    await _run("ip", "link", "add", interface, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
    await _run("ip", "address", "add", settings["address"], "dev", interface)
    await _run("ip", "link", "set", interface, "alias", str(node))  # says whose it is, see node.py
    await _run("ip", "link", "set", interface, "up")
    assert process.stdin
    process.stdin.write(b"go\n")
    await process.stdin.drain()
    log(f"node started, pid {pid}")
    log(f"node ended with status {await process.wait()}")
    return 0


if __name__ == "__main__":
    os.chdir("/")
    sys.exit(asyncio.run(run(Path(sys.argv[1]))))
