"""A Docker engine in namespaces of its own: one process ends it, and nothing is left behind.

Its folder holds data, socket, log and the program ``docker``.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import ambient_embedded
from ambient_embedded.errors import LabError
from ambient_embedded.launcher import cgroup_hierarchies, remove_cgroup, start_time

from . import inside

PACKAGES = [str(Path(str(package.__file__)).parents[1]) for package in (ambient_embedded, sys.modules[__package__])]
START_SECONDS, STOP_SECONDS, POLL_SECONDS = 60.0, 20.0, 0.1


def _running(folder: Path) -> int | None:
    """The engine's process, if it still is that process."""
    try:
        pid, started = (folder / "pid").read_text().split()
        return int(pid) if start_time(int(pid)) == started else None
    except OSError:
        return None


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def up(folder: Path, tree: Path) -> None:
    """Start the engine unless it runs. Raises :class:`LabError` with its last words when it does not come up."""
    if _running(folder) is not None:
        return
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    (folder / "bin/docker").unlink(missing_ok=True)
    (folder / "bin/docker").symlink_to(tree / "usr/bin/docker")
    network = os.open("/proc/self/ns/net", os.O_RDONLY)
    command = ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc",
               sys.executable, "-m", "ambient_kind.inside", str(folder), str(tree), str(network)]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": ":".join(PACKAGES)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd="/", env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            pass_fds=[network], start_new_session=True,
        )  # fmt: skip
    (folder / "pid").write_text(f"{process.pid} {start_time(process.pid)}")
    deadline = time.monotonic() + START_SECONDS
    while not _answers(folder / "run/docker.sock"):
        if process.poll() is not None or time.monotonic() > deadline:
            down(folder, keep=True)
            words = "\n".join((folder / "log").read_text().splitlines()[-8:])
            raise LabError(f"The Docker engine did not start:\n{words}")
        time.sleep(POLL_SECONDS)


def down(folder: Path, *, keep: bool = False) -> None:
    """End the engine with all its containers; then its cgroups and, unless ``keep``, its folder go."""
    if (pid := _running(folder)) is not None:
        os.kill(pid, signal.SIGKILL)  # unshare's child, PID 1 of the engine, dies with it
        deadline = time.monotonic() + STOP_SECONDS
        while _running(folder) is not None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    for hierarchy in cgroup_hierarchies():
        if not remove_cgroup(hierarchy / inside.CGROUP.strip("/"), STOP_SECONDS):
            raise LabError(f"The engine in {folder} did not end: see {folder}/log")
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
