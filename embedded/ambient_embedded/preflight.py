"""Checks, before anything is built, for all that would stop the cluster later; names every problem at once."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import LabError
from .launcher import CGROUPS, cgroup_hierarchies

GIB = 1 << 30
# Measured: a build from nothing takes 13.6 GiB, of which 3.7 GiB stay when the compiler's files are dropped.
BUILD_DISK_BYTES, BUILD_MEMORY_BYTES = 15 * GIB, 4 * GIB
RUN_DISK_BYTES, RUN_MEMORY_BYTES = 3 * GIB, 2 * GIB
HOST_TOOLS = {"mmdebstrap": "mmdebstrap", "ip": "iproute2", "unshare": "util-linux"}
WAY_OUT = (
    "Other ways: cluster_provider=kind where Docker runs, or cluster_provider=existing with a cluster of your own."
)


def missing_tools() -> list[str]:
    """Debian packages of the tools that are not on this machine."""
    return [package for tool, package in HOST_TOOLS.items() if not shutil.which(tool)]


def _existing(path: Path) -> Path:
    """The path itself or its nearest ancestor that is there."""
    while not path.exists():
        path = path.parent
    return path


def _memory_bytes() -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def _basics() -> Iterator[str]:
    if platform.system() != "Linux":
        yield f"{platform.system()} is not Linux: the embedded cluster lives in Linux namespaces"
        return
    if platform.machine() not in ("x86_64", "aarch64"):
        yield f"the processor {platform.machine()} is not supported: x86_64 or aarch64 is needed"
    if os.geteuid() != 0:
        yield "not root: namespaces and mounts need it, run it as root or with sudo"
    if missing_tools() and not shutil.which("apt-get"):
        yield f"missing: {', '.join(missing_tools())} (and no apt-get that could install them)"


def _resources(cache: Path, state: Path, building: bool) -> Iterator[str]:
    needs = [(state, RUN_DISK_BYTES, "cluster_state_dir")]
    if building:
        needs.append((cache, BUILD_DISK_BYTES, "embedded_cache_dir"))
    for folder, need, variable in needs:
        free = shutil.disk_usage(_existing(folder)).free
        if free < need:
            yield (
                f"{free / GIB:.1f} GiB are free for {folder}, {need / GIB:.0f} GiB are needed: "
                f"make room or set {variable}"
            )
    need = BUILD_MEMORY_BYTES if building else RUN_MEMORY_BYTES
    if _memory_bytes() < need:
        yield f"{_memory_bytes() / GIB:.1f} GiB of memory are available, {need / GIB:.0f} GiB are needed"


def _cgroups() -> Iterator[str]:
    hierarchies = cgroup_hierarchies() if CGROUPS.is_dir() else []
    names = {hierarchy.name for hierarchy in hierarchies}
    if hierarchies == [CGROUPS]:
        names = set((CGROUPS / "cgroup.controllers").read_text().split())
    missing = {"cpu", "cpuset", "memory", "pids"} - {part for name in names for part in name.split(",")}
    if missing:
        yield f"cgroup controllers are missing: {', '.join(sorted(missing))}"
    for hierarchy in hierarchies:
        group = hierarchy / f"ambient-lab-preflight-{os.getpid()}"
        try:
            group.mkdir()
            group.rmdir()
        except OSError as error:
            yield f"no cgroup can be made in {hierarchy} ({error.strerror})"


def _kernel(state: Path) -> Iterator[str]:
    made = not state.exists()
    try:
        state.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=state, prefix=".preflight-") as scratch:
            script = str(Path(__file__).with_name("probe.py"))
            namespaces = ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork"]
            result = subprocess.run(
                [*namespaces, sys.executable, "-I", script, scratch],
                capture_output=True,
                text=True,
                timeout=30,
            )
            if result.returncode == 0:
                yield from json.loads(result.stdout)
            else:
                yield f"namespaces cannot be made: {result.stderr.strip()}"
    except OSError as error:
        yield f"{state} cannot be written ({error.strerror}): set cluster_state_dir"
    finally:
        if made:
            with contextlib.suppress(OSError):
                state.rmdir()


def _holder(port: int) -> str:
    """Who listens on a TCP port of this machine, for the message; proc(5), net/tcp and net/tcp6."""
    inodes = set()
    tables = [table for name in ("tcp", "tcp6") if (table := Path("/proc/net") / name).exists()]
    for line in [line for table in tables for line in table.read_text().splitlines()[1:]]:
        fields = line.split()
        if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
            inodes.add(f"socket:[{fields[9]}]")
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(link) in inodes:
                pid = link.parts[2]
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                return f" by {name}, pid {pid}"
    return ""


def _ports(forwards: tuple[tuple[str, int, int], ...]) -> Iterator[str]:
    for host, port, _ in forwards:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((host, port))
                listener.listen()
            except OSError:
                yield f"port {host}:{port} is taken{_holder(port)}: set another one in cluster_node_ports"


def _raise(problems: list[str]) -> None:
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise LabError(f"The embedded cluster cannot run on this machine:\n{listed}\n{WAY_OUT}")


def check_basics() -> None:
    """Raise :class:`LabError` when this is not the kind of machine the provider knows."""
    _raise(list(_basics()))


def check(cache: Path, state: Path, forwards: tuple[tuple[str, int, int], ...], *, building: bool) -> None:
    """Raise :class:`LabError` that lists every problem; ``forwards`` are ports that must still be free."""
    _raise([*_resources(cache, state, building), *_cgroups(), *_kernel(state), *_ports(forwards)])
