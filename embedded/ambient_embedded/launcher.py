"""The lab's one process in the host's namespaces: it holds the nodes, the bridge between them, the forwarded ports.

Runs detached on the host's Python, standard library alone. Its argument is the lab's folder, whose ``launcher.json``
says ``{"interface": str, "address": "ip/prefix", "forwards": [[listen host, listen port, target host, target port]],
"cgroup": str, "nodes": [{"role": str, "folder": str, "log": file, "enter": [argv], "mac": str, "cgroup": str}]}``.
The first cgroup is the launcher's, and of all that runs in the nodes outside of pods. A node that ends starts again.
When the launcher ends, however it ends, the kernel ends every process of the nodes, and with the namespaces go mounts,
interfaces and firewall rules.

The bridge has a network namespace of its own: there no firewall of the host (Docker's, for one) comes between nodes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CGROUPS = Path("/sys/fs/cgroup")
UNSHARE = (sys.executable, "-I", str(Path(__file__).with_name("unshare.py")))
PR_SET_PDEATHSIG = 1
# What kubelet asks of v2 (pkg/kubelet/cm/cgroup_v2_manager_linux.go), as far as the kernel has it.
CONTROLLERS = ("cpu", "cpuset", "hugetlb", "memory", "pids")
MOVES = 10
CHUNK_BYTES = 64 * 1024
LOG_BYTES = 16 << 20
DESCRIPTORS = 1 << 20  # as container engines give their containers
CONNECTIONS = 512  # at a time through one forwarded port, so that one of them leaves the API's its descriptors
IDLE_SECONDS = 3600.0  # a connection that carries nothing for so long ends
STABLE_SECONDS = 5.0  # a node that ends sooner, at its first start, cannot run here
RESTART_SECONDS = 1.0


def log(message: str) -> None:
    """One line to the launcher's log (its standard output), which begins anew where it has become long.

    On a full disk it comes later, or never.
    """
    with contextlib.suppress(OSError):
        if os.fstat(1).st_size > LOG_BYTES:
            os.ftruncate(1, 0)
        print(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), message, flush=True)


def start_time(pid: int) -> str:
    """When a process started, in clock ticks since boot: with the pid it names one process (proc(5), stat).

    Raises :class:`ProcessLookupError` for a process that has ended and only waits to be reaped.
    """
    state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if state in "ZX":
        raise ProcessLookupError(f"process {pid} has ended")
    return fields[18]


def note(file: Path, pid: int) -> None:
    """Write down which process it is."""
    file.write_text(f"{pid} {start_time(pid)}")


def alive(file: Path) -> int | None:
    """The process that a pid file names, if it still is that process.

    One that has ended counts no more, though not every host's PID 1 takes note of its orphans' ends.
    """
    try:
        pid, started = file.read_text().split()
        return int(pid) if start_time(int(pid)) == started else None
    except (OSError, ValueError):
        return None


def raise_descriptors() -> None:
    """A login shell's soft limit of open files (1024) is small for the forwards, and containers would inherit it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    soft = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def cgroup_hierarchies() -> list[Path]:
    """The roots in which a node needs its own cgroup: the one of v2, or each hierarchy of v1."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    # A hierarchy of v1 may be mounted under several names (cpu -> cpu,cpuacct); each folder counts once.
    return sorted({path.resolve() for path in CGROUPS.iterdir() if (path / "cgroup.procs").exists()})


def make_cgroup(path: str, *, for_processes: bool = False) -> None:
    """Make a cgroup in every hierarchy, with what its children need inherited.

    :param for_processes: they are to be in the cgroup itself, which so hands no controller of v2 down.
    """
    for hierarchy in cgroup_hierarchies():
        ancestors, folder = [], hierarchy
        for part in Path(path.strip("/")).parts:
            parent, folder = folder, folder / part
            ancestors.append(parent)
            folder.mkdir(exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems"):  # v1: empty means that no process may enter
                if (folder / setting).exists() and not (folder / setting).read_text().strip():
                    (folder / setting).write_text((parent / setting).read_text())
        if hierarchy == CGROUPS:
            for ancestor in ancestors if for_processes else [*ancestors, folder]:
                hand_down(ancestor)


def join_cgroup(path: str) -> None:
    """Move this process out of that of the shell, the job or the login that it came from, and would end with."""
    make_cgroup(path, for_processes=True)
    for hierarchy in cgroup_hierarchies():
        (hierarchy / path.strip("/") / "cgroup.procs").write_text(str(os.getpid()))


def hand_down(folder: Path) -> None:
    """v2: let children of a cgroup have the controllers that kubelet needs.

    Where processes are in the cgroup (that of a container) they make room, as container engines within containers do.
    Raises :class:`OSError` that names the controller. Source: cgroup-v2.rst of Linux, no internal process constraint.
    """
    control = folder / "cgroup.subtree_control"
    for controller in CONTROLLERS:
        if controller not in (folder / "cgroup.controllers").read_text().split():
            continue
        for last in (False, True):
            try:
                control.write_text(f"+{controller}")
                break
            except OSError as error:
                if last or error.errno != errno.EBUSY:
                    raise OSError(error.errno, f"{folder} can't hand down {controller}: {error.strerror}") from error
                _make_room(folder)


def _make_room(folder: Path) -> None:
    """Move the processes of a cgroup into a child of it."""
    (folder / "init").mkdir(exist_ok=True)
    for _ in range(MOVES):  # new ones may come meanwhile
        pids = (folder / "cgroup.procs").read_text().split()
        for pid in pids:
            with contextlib.suppress(OSError):  # it has ended, or is the kernel's
                (folder / "init/cgroup.procs").write_text(pid)
        if not pids:
            return


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


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


async def _run(*arguments: str, stderr: int | None = None) -> None:
    process = await asyncio.create_subprocess_exec(*arguments, stderr=stderr)
    if await process.wait() != 0:
        raise OSError(f"{' '.join(arguments)} failed with status {process.returncode}")


async def _child_of(process: asyncio.subprocess.Process) -> int:
    """The process that unshare.py has forked, PID 1 of the node, once it is there."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.returncode is None:
        with contextlib.suppress(OSError):  # it may be gone before its status is known
            if pids := children.read_text().split():
                return int(pids[0])
        await asyncio.sleep(0.01)
    raise OSError(f"unshare ended with status {process.returncode}")


class Forward:
    """A port of the host that leads to one of a node."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.open = 0
        self.told = ""

    def tell(self, problem: str) -> None:
        """Log a problem when it begins, not for each connection: any user of the machine can make them."""
        if problem != self.told:
            log(f"forward to {self.host}:{self.port}: {problem or 'well again'}")
        self.told = problem

    async def join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Join a connection with one to the node; an end that fails ends both, and so does a long silence."""
        self.open += 1
        try:
            if self.open > CONNECTIONS:
                raise OSError(f"more than {CONNECTIONS} connections")
            far_reader, far_writer = await asyncio.open_connection(self.host, self.port)
            self.tell("")
            await self._copy((reader, writer), (far_reader, far_writer))
        except OSError as error:
            self.tell(str(error))
            writer.transport.abort()
        finally:
            self.open -= 1

    async def _copy(self, *streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        (reader, writer), (far_reader, far_writer) = streams
        clock = asyncio.get_running_loop().time
        heard = [clock()]

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(CHUNK_BYTES):
                    heard[0] = clock()
                    target.write(data)
                    await target.drain()
                target.write_eof()
            except OSError:
                target.transport.abort()

        async def silence() -> None:
            while (left := heard[0] + IDLE_SECONDS - clock()) > 0:
                await asyncio.sleep(left)
            for _, end in streams:
                end.transport.abort()

        watch = asyncio.create_task(silence())
        try:
            await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
        finally:
            watch.cancel()
            for _, end in streams:
                end.close()


async def _serve(forwards: list[list[Any]]) -> None:
    for host, port, target_host, target_port in forwards:
        forward = Forward(str(target_host), int(target_port))
        await asyncio.start_server(forward.join, host, port)
        log(f"forwarding {host}:{port} to {target_host}:{target_port}")


def interface_owner(name: str) -> str | None:
    """The lab's folder that an interface names as its own ("" where it names none); None where it is not there."""
    try:
        return Path("/sys/class/net", name, "ifalias").read_text().strip()
    except OSError:
        return None


def remove_interface(lab: Path) -> None:
    """Remove the lab's interface where it outlives the launcher: connections cut off in the middle hold the bridge."""
    for interface in Path("/sys/class/net").iterdir():
        if interface_owner(interface.name) == str(lab):  # it may go by itself in this very moment
            subprocess.run(["ip", "link", "delete", interface.name], check=False, capture_output=True)


async def _bridge(lab: Path, interface: str, address: str) -> asyncio.subprocess.Process:
    """The process that holds the bridge's network namespace; the host's interface is a port of the bridge."""
    script = "ip link add nodes type bridge && ip link set nodes up && echo up && exec cat"
    holder = await asyncio.create_subprocess_exec(
        *UNSHARE, "net", "sh", "-c", script, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert holder.stdout
    if not await holder.stdout.readline():
        raise OSError("no bridge between the nodes can be made")
    note(lab / "bridge.pid", holder.pid)
    remove_interface(lab)
    await _run("ip", "link", "add", interface, "type", "veth", "peer", "name", "host", "netns", str(holder.pid))
    await _run("ip", "link", "set", interface, "alias", str(lab))  # says whose it is
    await _run("ip", "address", "add", address, "dev", interface)
    # No answer goes from here to anywhere but the machine itself: its other engine's containers stay outside.
    Path("/proc/sys/net/ipv4/conf", interface, "forwarding").write_text("0")
    await _run("ip", "link", "set", interface, "up")
    await _run(*_within(holder.pid), "link", "set", "host", "master", "nodes", "up")
    return holder


def _within(pid: int) -> list[str]:
    """The program ip in the network namespace of a process."""
    return ["nsenter", f"--net=/proc/{pid}/ns/net", "ip"]


async def _plug(node: dict[str, Any], pid: int, bridge: int) -> None:
    """Give a node its interface, a port of the bridge."""
    role = node["role"]
    with contextlib.suppress(OSError):  # that of its last run goes with its namespace, but that may take a while
        await _run(*_within(bridge), "link", "delete", role, stderr=asyncio.subprocess.DEVNULL)
    peer = ("peer", "name", role, "netns", str(bridge))
    await _run("ip", "link", "add", "eth0", "address", node["mac"], "netns", str(pid), "type", "veth", *peer)
    await _run(*_within(bridge), "link", "set", role, "master", "nodes", "up")


async def _start(node: dict[str, Any], bridge: int) -> asyncio.subprocess.Process:
    """Start a node; its first process waits for the interface."""
    # What an earlier run of the node left would keep kubelet's first look at its cgroups busy for minutes.
    for hierarchy in cgroup_hierarchies():
        await asyncio.to_thread(remove_cgroup, hierarchy / node["cgroup"].strip("/"), patience=5.0)
    make_cgroup(node["cgroup"])
    with Path(node["log"]).open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *node["enter"], stdin=asyncio.subprocess.PIPE, stdout=output, stderr=output, preexec_fn=_die_with_parent
        )
    pid = await _child_of(process)
    try:
        note(Path(node["folder"], "node.pid"), pid)
        await _plug(node, pid, bridge)
        assert process.stdin
        process.stdin.write(b"go\n")
        await process.stdin.drain()
    except OSError:
        with contextlib.suppress(TimeoutError):  # a node that has ended is the reason, and not its interface
            raise OSError(f"ended with status {await asyncio.wait_for(process.wait(), 0.5)}") from None
        process.kill()
        raise
    log(f"{node['role']}: started, pid {pid}")
    return process


async def _hold(node: dict[str, Any], bridge: int) -> None:
    """Keep a node running. Raises :class:`OSError` when it cannot run at all."""
    is_proven = False
    while True:
        try:
            process = await _start(node, bridge)
            began = time.monotonic()
            reason = f"{node['role']}: ended with status {await process.wait()}"
            is_proven |= time.monotonic() - began >= STABLE_SECONDS
        except OSError as error:
            reason = f"{node['role']}: {error}"
        if not is_proven:
            raise OSError(reason)
        log(f"{reason}, starts again in {RESTART_SECONDS} s")
        await asyncio.sleep(RESTART_SECONDS)


async def _ended(bridge: asyncio.subprocess.Process) -> None:
    """Without the bridge there is no lab. Raises :class:`OSError` when its process ends."""
    raise OSError(f"the bridge's process ended with status {await bridge.wait()}")


async def run(lab: Path) -> None:
    """Hold the lab until this process ends. Raises :class:`OSError` when a part of it cannot start."""
    settings = json.loads((lab / "launcher.json").read_text())
    raise_descriptors()
    note(lab / "launcher.pid", os.getpid())
    join_cgroup(settings["cgroup"])
    await _serve(settings["forwards"])
    bridge = await _bridge(lab, settings["interface"], settings["address"])
    await asyncio.gather(_ended(bridge), *(_hold(node, bridge.pid) for node in settings["nodes"]))


if __name__ == "__main__":
    os.chdir("/")
    asyncio.run(run(Path(sys.argv[1])))
