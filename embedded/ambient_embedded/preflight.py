"""Checks, before anything is built, for all that would stop the cluster later; names every problem at once."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import LabError
from .launcher import CGROUPS, UNSHARE, cgroup_hierarchies
from .tools import available_memory_bytes

GIB = 1 << 30
# Measured: a build from nothing takes 13.6 GiB, of which 3.7 GiB stay when the compiler's files are dropped.
BUILD_DISK_BYTES, BUILD_MEMORY_BYTES = 15 * GIB, 4 * GIB
RUN_DISK_BYTES, RUN_MEMORY_BYTES = 3 * GIB, 2 * GIB
COPY_DISK_BYTES = 2 * GIB  # of the images, for each new node: links can't share them with a cache on another disk
HOST_TOOLS = {"mmdebstrap": "mmdebstrap", "ip": "iproute2", "nsenter": "util-linux"}
PROBE = Path(__file__).with_name("probe.py")
PROBE_SECONDS = 30.0
PROFILE = Path("/proc/self/attr/current")


def missing_tools() -> list[str]:
    """Debian packages of the tools that are not on this machine."""
    return [package for tool, package in HOST_TOOLS.items() if not shutil.which(tool)]


def _existing(path: Path) -> Path:
    """The path itself or its nearest ancestor that is there."""
    while not path.exists():
        path = path.parent
    return path


def _basics() -> Iterator[str]:
    if platform.system() != "Linux":
        yield f"{platform.system()} is not Linux, whose namespaces the embedded cluster needs: <otherwise>"
        return
    if platform.machine() not in ("x86_64", "aarch64"):
        yield f"the processor {platform.machine()} is neither x86_64 nor aarch64: <otherwise>"
    if os.geteuid() != 0:
        yield "not root: namespaces and mounts need it, run it as root or with sudo"
    if missing_tools() and not shutil.which("apt-get"):
        yield f"missing, and no apt-get that could install them: install {', '.join(missing_tools())}"


def _owners(cache: Path, state: Path) -> Iterator[str]:
    """Whoever may write where programs come from, or keys lie, is root here: nobody else may, in no folder above."""
    for folder, variable, place in (
        (cache, "<cache_dir>", "~root/.cache/ambient-lab"),
        (state, "<state_dir>", "/var/lib/ambient-lab"),
    ):
        path = folder.absolute()
        for part in sorted(_way(path, *(_parts(cache) if path == cache.absolute() else ()))):
            if how := _writable(part.lstat()):
                own = "" if part == path else f" and with it {path}"
                above = Path(place).expanduser().resolve().is_relative_to(part)  # then the place is no way out
                advice = f"chown root:root {part}; chmod go-w {part}" if above else f"set {variable} to {place}"
                yield f"{part}{own} can be changed by {how}, and what is in it runs as root: {advice}"
                break


def _parts(cache: Path) -> Iterator[Path]:
    return cache.absolute().glob("*-" + "[0-9a-f]" * 12)


def _way(*paths: Path) -> set[Path]:
    """What is there of folders, of those above them, and of what each link on the way leads to."""
    found, left = set[Path](), [*paths]
    while left:
        for part in {part for path in [left.pop()] for part in (path, *path.parents)} - found:
            if part.is_symlink():
                left.append(Path(os.path.normpath(part.parent.resolve() / part.readlink())))
            if os.path.lexists(part):
                found.add(part)
    return found


def _writable(status: os.stat_result) -> str:
    """Who besides root may change what is in a folder; "" for nobody. In a sticky one nobody changes what is root's."""
    if status.st_uid != 0:
        return f"its owner (uid {status.st_uid})"
    if stat.S_ISLNK(status.st_mode):
        return ""
    foreign = status.st_mode & (0o002 if status.st_gid == 0 else 0o022)
    return "its group or everybody (chmod go-w)" if foreign and not status.st_mode & stat.S_ISVTX else ""


def _resources(cache: Path, state: Path, building: bool, running: bool, new_nodes: int) -> Iterator[str]:
    apart = _existing(cache).stat().st_dev != _existing(state).stat().st_dev
    needs = [(state, RUN_DISK_BYTES + apart * new_nodes * COPY_DISK_BYTES, "<state_dir>")]
    if building:
        needs.append((cache, BUILD_DISK_BYTES, "<cache_dir>"))
    for folder, need, variable in needs:
        free = shutil.disk_usage(_existing(folder)).free
        if free < need:
            yield (
                f"{free / GIB:.1f} GiB are free for {folder}, {need / GIB:.0f} GiB are needed: "
                f"make room or set {variable}"
            )
    need = BUILD_MEMORY_BYTES if building else 0 if running else RUN_MEMORY_BYTES  # one that restarts gives it back
    if available_memory_bytes() < need:
        yield (
            f"{available_memory_bytes() / GIB:.1f} GiB of memory are available, {need / GIB:.0f} GiB are needed: "
            "end other programs or give the machine more"
        )


def _cgroups() -> Iterator[str]:
    hierarchies = cgroup_hierarchies() if CGROUPS.is_dir() else []
    names = {hierarchy.name for hierarchy in hierarchies}
    if hierarchies == [CGROUPS]:
        names = set((CGROUPS / "cgroup.controllers").read_text().split())
        kind = CGROUPS / "cgroup.type"  # of a container; a machine's root has none
        if kind.exists() and "threaded" in kind.read_text():
            yield f"{CGROUPS} is a threaded cgroup, which has no memory controller: <otherwise>"
    missing = {"cpu", "cpuset", "memory", "pids"} - {part for name in names for part in name.split(",")}
    if missing:
        yield f"the kernel has no cgroup controllers {', '.join(sorted(missing))}: enable them or <otherwise>"
    for hierarchy in hierarchies:
        group = hierarchy / f"ambient-lab-preflight-{os.getpid()}"
        try:
            group.mkdir()
            group.rmdir()
        except OSError as error:
            yield (
                f"no cgroup can be made in {hierarchy} ({error.strerror}): "
                f"give the container its cgroups writable (Docker: --privileged) or <otherwise>"
            )


def _kernel(state: Path) -> Iterator[str]:
    try:
        scratch = tempfile.TemporaryDirectory(dir=_existing(state), prefix=".preflight-")
    except OSError as error:
        yield f"{state} cannot be written ({error.strerror}): set <state_dir>"
        return
    with scratch as folder:
        problems = _probe(folder)
    yield from problems
    if problems and (profile := _confinement()):
        yield (
            f"AppArmor confines this process ({profile}), and may be the reason: run it unconfined "
            f"(Docker: --security-opt apparmor=unconfined, or --privileged) or <otherwise>"
        )


def _confinement() -> str:
    """AppArmor's profile of this process; "" where nothing is enforced."""
    with contextlib.suppress(OSError):
        words = PROFILE.read_text().strip("\0\n ")
        return words.removesuffix(" (enforce)") if words.endswith(" (enforce)") else ""
    return ""


def _probe(scratch: str) -> list[str]:
    """The problems that the kernel makes; ``scratch``: a folder on the state's file system."""
    command = [*UNSHARE, "mount,pid,net,uts,ipc", sys.executable, "-I", str(PROBE), scratch]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        reason = f"the test did not end in {PROBE_SECONDS:.0f} s"
    else:
        if result.returncode == 0:
            return list(json.loads(result.stdout))
        reason = result.stderr.strip()
    remedy = "give the container the right to (Docker: --privileged) or <otherwise>"
    return [f"namespaces cannot be made ({reason}): {remedy}"]


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
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            socket.create_server((host, port), family=family).close()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                yield f"port {host}:{port} is taken{_holder(port)}: set another one in <port>"
            else:
                yield f"{error.strerror}: set <host>"


def _raise(problems: list[str]) -> None:
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise LabError(f"The embedded cluster cannot run on this machine:\n{listed}\nAnother way: <otherwise>.")


def check_basics() -> None:
    """Raise :class:`LabError` when this is not the kind of machine the provider knows."""
    _raise(list(_basics()))


def check(
    cache: Path,
    state: Path,
    forwards: tuple[tuple[str, int, int], ...],
    *,
    building: bool,
    running: bool = False,
    new_nodes: int = 0,
) -> None:
    """Raise :class:`LabError` that lists every problem; ``forwards`` are ports that must still be free.

    :param running: the lab is, and is to be restarted.
    :param new_nodes: how many nodes the lab is to be given.
    """
    resources = _resources(cache, state, building, running, new_nodes)
    _raise([*resources, *_cgroups(), *_kernel(state), *_ports(forwards)])


def check_owners(cache: Path, state: Path) -> None:
    """Raise :class:`LabError` where somebody else than root could put programs or keys in the place of the lab's."""
    _raise(list(_owners(cache, state)))
