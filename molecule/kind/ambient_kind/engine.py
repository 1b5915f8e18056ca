"""A Docker engine in namespaces of its own: one process ends it, and nothing is left behind.

Its folder holds data, socket and log.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from ambient_embedded.errors import LabError
from ambient_embedded.lab import await_end
from ambient_embedded.launcher import alive, cgroup_hierarchies, make_cgroup, remove_cgroup, start_time
from ambient_embedded.tools import EMBEDDED

PACKAGES = f"{Path(__file__).resolve().parents[1]}:{EMBEDDED}"
START_SECONDS, STOP_SECONDS, POLL_SECONDS = 60.0, 20.0, 0.1


def _cgroup(folder: Path) -> str:
    """The cgroup of the engine's containers, in every hierarchy; two engines have two."""
    return f"ambient-lab-engine-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def _check_ours(folder: Path) -> None:
    """Raise :class:`LabError` for a folder that holds something else: an engine's folder is removed as a whole."""
    if folder.exists() and any(folder.iterdir()) and not (folder / "pid").exists():
        raise LabError(f"{folder} is not an engine's folder: name one that is empty or not there")


def up(folder: Path, tree: Path) -> None:
    """Start the engine unless it runs; ``tree`` holds dockerd.

    Raises :class:`LabError` with its last words when it does not come up.
    """
    _check_ours(folder)
    pid = folder / "pid"
    if alive(pid) is not None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # dockerd gives its socket to a group whose number may be anybody's on this machine
    pid.write_text("")  # says whose folder this is, however the rest goes
    # The kernel lets no container into the cgroup that an engine that was killed has left.
    _end(folder)
    make_cgroup(_cgroup(folder))
    network = os.open("/proc/self/ns/net", os.O_RDONLY)
    command = [
        "unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc",
        sys.executable, "-m", "ambient_kind.inside", str(folder), str(tree), _cgroup(folder), str(network),
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd="/", env={**os.environ, "PYTHONPATH": PACKAGES}, stdin=subprocess.DEVNULL,
            stdout=log, stderr=log, pass_fds=[network], start_new_session=True,
        )  # fmt: skip
    os.close(network)
    with contextlib.suppress(ProcessLookupError):  # it has failed already
        pid.write_text(f"{process.pid} {start_time(process.pid)}")
    deadline = time.monotonic() + START_SECONDS
    while not _answers(folder / "run/docker.sock"):
        if process.poll() is not None or time.monotonic() > deadline:
            _end(folder)
            words = "\n".join((folder / "log").read_text().splitlines()[-8:])
            raise LabError(f"The Docker engine did not start:\n{words}")
        time.sleep(POLL_SECONDS)


def _end(folder: Path) -> None:
    """End every process of the engine and remove its cgroups."""
    if (pid := alive(folder / "pid")) is not None:
        # With PID 1 of the engine its other processes end; unshare, its parent, ends when they have.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            os.kill(int(children[0]) if children else pid, signal.SIGKILL)
    ended = await_end(folder / "pid", time.monotonic() + STOP_SECONDS)
    groups = [hierarchy / _cgroup(folder) for hierarchy in cgroup_hierarchies()]
    if not (ended and all(remove_cgroup(group, STOP_SECONDS) for group in groups)):
        raise LabError(f"The engine in {folder} did not end: see {folder}/log")


def down(folder: Path) -> None:
    """End the engine with all its containers; then its cgroups and its folder go."""
    _check_ours(folder)
    _end(folder)
    if folder.exists():
        shutil.rmtree(folder)
