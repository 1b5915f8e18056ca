"""The processes of an embedded lab, as this machine sees them: to kill them, and to ask from within a pod's network.

A lab is named by its state folder here, which has its pid files.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")


def state_of(lab_dir: Path) -> Path:
    """The state folder of a lab; in the user's folder a link leads to the logs in it."""
    return (lab_dir / "logs").resolve().parent


def first_process(state: Path, role: str) -> int:
    """PID 1 of a node, as its pid file names it."""
    return _noted(state / "nodes" / f"{state.name}-{role}" / "node.pid")


def launcher(state: Path) -> int:
    """The process that holds all of the lab."""
    return _noted(state / "launcher.pid")


def bridge(state: Path) -> int:
    """A process in the network namespace of the bridge between the nodes."""
    return _noted(state / "bridge.pid")


def _noted(file: Path) -> int:
    return int(file.read_text().split()[0])


def of_node(state: Path, role: str, program: str) -> list[int]:
    """The processes of a node's own program, as kubelet; of none that runs in a container."""
    first = first_process(state, role)
    return [pid for pid in children(first) if name_of(pid) == program]


def of_pod(uid: str) -> list[int]:
    """The processes of a pod's containers; the pause process is one of them."""
    found = []
    for folder in PROC.glob("[0-9]*"):
        # It may have ended meanwhile.
        with suppress(OSError):
            if f"pod{uid}" in (folder / "cgroup").read_text():
                found.append(int(folder.name))
    return sorted(found)


def children(pid: int) -> list[int]:
    """The children of a process."""
    with suppress(OSError):
        return [int(text) for text in (PROC / str(pid) / "task" / str(pid) / "children").read_text().split()]
    return []


def name_of(pid: int) -> str:
    """The program that a process runs; "" where it has ended."""
    with suppress(OSError):
        return Path((PROC / str(pid) / "cmdline").read_bytes().split(b"\0")[0].decode()).name
    return ""


def kill(pids: list[int], number: int = signal.SIGKILL) -> int:
    """Send a signal to processes that belong to the lab; how many there were."""
    found = 0
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            found += 1
    return found


def files_of(pid: int) -> int:
    """How many files a process has open."""
    return len([*(PROC / str(pid) / "fd").iterdir()])


def descendants(pid: int) -> Iterator[int]:
    """All processes below a process."""
    for child in children(pid):
        yield child
        yield from descendants(child)


def in_network_of(pid: int, *command: str, seconds: float = 10) -> subprocess.CompletedProcess[str]:
    """Run a program of this machine in the network namespace of a process."""
    whole = ["nsenter", f"--net={PROC}/{pid}/ns/net", *command]
    return subprocess.run(whole, capture_output=True, text=True, check=False, timeout=seconds)


def limit_files(pid: int, number: str) -> None:
    """Let a process have so many files open; "" is as many as it may have at most."""
    rows = (PROC / str(pid) / "limits").read_text().splitlines()
    most = next(row.split()[4] for row in rows if row.startswith("Max open files"))
    owner = (PROC / str(pid)).stat()
    # Without CAP_SYS_RESOURCE only the process's own user and group may.
    subprocess.run(
        ["prlimit", f"--pid={pid}", f"--nofile={number or most}:{most}"],
        check=True, user=owner.st_uid, group=owner.st_gid, extra_groups=[],
    )  # fmt: skip
