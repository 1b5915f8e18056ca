"""A lab's node seen from the host: start it, find out how it is, take it away without a trace."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import components, pki
from .cache import Progress, locked
from .errors import LabError
from .launcher import cgroup_hierarchies, remove_cgroup, start_time
from .tools import run, write_atomically

SUBNET_PREFIX = "10.87"  # labs take 10.87.1.0/24, 10.87.2.0/24, ... : one each, between host and node only
PREFIX_LENGTH = 24
LOOPBACK = "127.0.0.1"
API_PORTS = range(16443, 16543)  # on the host: the first free one is the lab's
POLL_SECONDS = 0.1
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Settings:
    """What a lab is asked to be.

    :param tree: the node image's files; ``programs``, ``images`` and ``image_store``: folders the builder made.
    :param forwards: host ports: ``(listen host, listen port, NodePort)``.
    :param timeout: seconds until the node must be Ready.
    """

    name: str
    state_dir: Path
    tree: Path
    programs: Path
    images: Path
    image_store: Path
    pause_image: str
    forwards: tuple[tuple[str, int, int], ...]
    timeout: float = 180.0

    @property
    def folder(self) -> Path:
        return self.state_dir / self.name


def _quiet(_: str) -> None:
    """Progress that is not worth a word."""


def alive(file: Path) -> int | None:
    """The process that a pid file names, if it still is that process.

    One that has ended counts no more, though not every host's PID 1 takes note of its orphans' ends.
    """
    try:
        pid, started = file.read_text().split()
        return int(pid) if start_time(int(pid)) == started else None
    except (OSError, ValueError):
        return None


def is_running(folder: Path) -> bool:
    return alive(folder / "launcher.pid") is not None


def _launcher(folder: Path) -> dict[str, Any] | None:
    """A lab's ``launcher.json``; None where there is none that can be read."""
    try:
        return dict(json.loads((folder / "launcher.json").read_text()))
    except (OSError, ValueError):
        return None


def forwarded_ports(folder: Path) -> list[tuple[str, int]]:
    """The host addresses and ports that a lab forwards."""
    launcher = _launcher(folder) or {"forwards": []}
    return [(host, port) for host, port, *_ in launcher["forwards"]]


def await_end(file: Path, deadline: float) -> bool:
    while alive(file) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def stop(folder: Path) -> None:
    """End the launcher and with it the node. Objects and images stay in the node's folder."""
    launcher = folder / "launcher.pid"
    for number in (signal.SIGTERM, signal.SIGKILL):
        if (pid := alive(launcher)) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            await_end(launcher, time.monotonic() + STOP_SECONDS)
    # A launcher that was killed takes the node along, a moment later.
    if not await_end(folder / "node.pid", time.monotonic() + STOP_SECONDS):
        raise LabError(f"The node in {folder} did not end: see {folder}/launcher.log")
    _remove_interface(folder)


def _remove_interface(folder: Path) -> None:
    """Remove the lab's interface where it outlives the node: connections cut off in the middle hold its namespace."""
    for interface in Path("/sys/class/net").iterdir():
        with contextlib.suppress(OSError):  # it may go by itself in this very moment
            if (interface / "ifalias").read_text().strip() == str(folder):
                subprocess.run(["ip", "link", "delete", interface.name], check=False, capture_output=True)


@dataclass(frozen=True)
class Slot:
    """What separates the labs of one machine: the number of their subnet, the host port of their API."""

    number: int
    api_port: int


def _slot(settings: Settings) -> Slot:
    """The lab's own slot if it has one, else the first that neither a lab nor the host uses."""
    numbers, ports = set[int](), set[int]()
    for folder in settings.state_dir.iterdir():
        launcher = _launcher(folder)
        if launcher is None:
            continue
        number = int(launcher["address"].split(".")[2])
        api_ports = [port for _, port, _, target in launcher["forwards"] if target == components.API_PORT]
        if folder == settings.folder:
            return Slot(number, api_ports[0])
        numbers.add(number)
        ports.update(api_ports)
    addresses = run(["ip", "-json", "address"])
    free_numbers = (n for n in range(1, 255) if n not in numbers and f'"{SUBNET_PREFIX}.{n}.' not in addresses)
    free_ports = (port for port in API_PORTS if port not in ports and _is_free(port))
    try:
        return Slot(next(free_numbers), next(free_ports))
    except StopIteration:
        raise LabError(f"No free subnet or port for another lab: remove one of {settings.state_dir}") from None


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        return listener.connect_ex((LOOPBACK, port)) != 0


def _python() -> str:
    """The interpreter behind a virtual environment: it outlives the checkout that the environment stands in."""
    return str(getattr(sys, "_base_executable", sys.executable))


def _launcher_settings(settings: Settings, node: components.Node, slot: Slot) -> dict[str, Any]:
    # The copy beside the state keeps working when the checkout goes away.
    enter = [
        "unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child",
        _python(), "-I", str(settings.folder / "runtime/enter.py"), str(settings.folder),
        str(settings.tree), str(settings.programs), str(settings.images),
    ]  # fmt: skip
    # Over loopback, so that a client of a lab that is down never asks a stranger at its address.
    forwards = [(LOOPBACK, slot.api_port, components.API_PORT), *settings.forwards]
    return {
        "enter": enter,
        "interface": f"ambient{slot.number}",
        "address": f"{node.gateway}/{node.prefix}",
        "cgroup": node.cgroup,
        "forwards": [[host, port, node.address, node_port] for host, port, node_port in forwards],
    }


def _desired_files(settings: Settings, slot: Slot) -> tuple[components.Node, dict[Path, str]]:
    node = components.Node(
        name=f"{settings.name}-control-plane",
        address=f"{SUBNET_PREFIX}.{slot.number}.2",
        gateway=f"{SUBNET_PREFIX}.{slot.number}.1",
        prefix=PREFIX_LENGTH,
        cgroup=f"/ambient-lab/{settings.name}/control-plane",
        pause_image=settings.pause_image,
    )
    here = Path(__file__).parent
    wanted = {
        Path("launcher.json"): json.dumps(_launcher_settings(settings, node, slot), indent=1),
        **{Path("files") / name: text for name, text in components.files(node).items()},
        **{Path("kubernetes") / name: text for name, text in components.kubernetes_files(node).items()},
        **{Path("runtime") / name: (here / name).read_text() for name in ("enter.py", "launcher.py", "supervisor.py")},
    }
    return node, wanted


def _differs(folder: Path, wanted: dict[Path, str]) -> bool:
    return any(not (folder / name).is_file() or (folder / name).read_text() != text for name, text in wanted.items())


def _take_over(store: Path, target: Path) -> None:
    """Give a new node the images unpacked: files that containerd never changes are shared by hard links."""
    draft = target.with_name("containerd.draft")
    shutil.rmtree(draft, ignore_errors=True)
    shared = draft.parent.stat().st_dev == store.stat().st_dev
    run(["cp", "-al" if shared else "-a", str(store), str(draft)])
    for database in draft.rglob("*.db"):
        database.unlink()
        shutil.copy(store / database.relative_to(draft), database)
    draft.rename(target)


def _prepare(settings: Settings, node: components.Node, wanted: dict[Path, str]) -> None:
    folder = settings.folder
    for name in ("data", "log", "files", "kubernetes"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    for path, text in wanted.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / path, text.encode())
    if not (folder / "data/containerd").exists():
        _take_over(settings.image_store, folder / "data/containerd")
    keys = folder / "kubernetes/pki"
    pki.ensure(keys, node.name, node.address, components.SERVICE_IP)
    server = f"https://127.0.0.1:{components.API_PORT}"
    for user in ("controller-manager", "scheduler", "kube-proxy", "kubelet"):
        text = pki.kubeconfig(keys, user, server, settings.name)
        pki.write_kubeconfig(folder / f"kubernetes/{user}.conf", text)


def _launch(folder: Path) -> None:
    """Start the launcher, detached. Raises :class:`LabError` when it ends at once."""
    with (folder / "launcher.log").open("ab") as output:
        launcher = subprocess.Popen(
            [_python(), "-I", str(folder / "runtime/launcher.py"), str(folder)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/",
        )  # fmt: skip
    while not is_running(folder):
        if launcher.poll() is not None:
            raise LabError(f"The node's launcher did not start:\n{_last_words(folder)}")
        time.sleep(0.02)


class Api:
    """The cluster's API with the administrator's certificate; one GET is all that is needed here."""

    def __init__(self, folder: Path, port: int) -> None:
        keys = folder / "kubernetes/pki"
        self.port = port
        self.context = ssl.create_default_context(cafile=str(keys / "ca.crt"))
        self.context.load_cert_chain(keys / "admin.crt", keys / "admin.key")

    def get(self, path: str) -> tuple[int, Any]:
        """Status and body (JSON where it is) of a GET; status 0 when nothing answers."""
        connection = http.client.HTTPSConnection(LOOPBACK, self.port, timeout=5, context=self.context)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            is_json = "json" in response.headers.get_content_type()
            return response.status, json.loads(body) if is_json else body.decode()
        except (OSError, http.client.HTTPException):
            return 0, None
        finally:
            connection.close()


def _node_is_ready(api: Api, name: str, since: str) -> bool:
    """Ready, and said so by a kubelet that runs now: after a restart the old word still stands."""
    status, node = api.get(f"/api/v1/nodes/{name}")
    conditions = node.get("status", {}).get("conditions", []) if status == 200 else []
    return any(
        item["type"] == "Ready" and item["status"] == "True" and item["lastHeartbeatTime"] >= since
        for item in conditions
    )


def _last_words(folder: Path) -> str:
    """What the logs say last, one line each, for a node that does not come up."""
    logs = [folder / "launcher.log", *sorted((folder / "log/ambient-lab").glob("*.log"))]
    lines = []
    for log in logs:
        if log.exists() and (words := log.read_text(errors="replace").strip().splitlines()):
            lines.append(f"  {log.stem}: {words[-1][:200]}")
    return "\n".join(lines)


def _wait(settings: Settings, node: components.Node, slot: Slot, since: str, progress: Progress) -> None:
    folder, started = settings.folder, time.monotonic()
    api = Api(folder, slot.api_port)
    steps: list[tuple[str, Callable[[], bool]]] = [
        ("API answers", lambda: api.get("/readyz")[0] == 200),
        ("node Ready", lambda: _node_is_ready(api, node.name, since)),
    ]
    for what, holds in steps:
        while not holds():
            late = time.monotonic() - started > settings.timeout
            if late or not is_running(folder):
                reason = f"not after {settings.timeout:.0f} s" if late else "its process ended"
                raise LabError(f"{what}: {reason}. Logs in {folder}/log/ambient-lab:\n{_last_words(folder)}")
            time.sleep(POLL_SECONDS)
        progress(f"{what} after {time.monotonic() - started:.1f} s")


def present(settings: Settings, progress: Progress, *, check: bool = False) -> dict[str, Any]:
    """Bring the lab up as described; nothing happens when it already is.

    Returns ``{"changed": bool, "server": str, "node": str, "kubeconfig": str}`` (``kubeconfig``: its text).
    Raises :class:`LabError` when the node does not become Ready in time.
    """
    if check and not settings.folder.exists():
        return {"changed": True, "server": "", "node": "", "kubeconfig": ""}
    since = ""
    with locked(settings.state_dir, progress):
        slot = _slot(settings)
        node, wanted = _desired_files(settings, slot)
        server = f"https://{LOOPBACK}:{slot.api_port}"
        changed = not is_running(settings.folder) or _differs(settings.folder, wanted)
        if check and changed:
            return {"changed": True, "server": server, "node": node.name, "kubeconfig": ""}
        if changed:
            stop(settings.folder)
            _prepare(settings, node, wanted)
            since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            _launch(settings.folder)
    _wait(settings, node, slot, since, progress if changed else _quiet)
    text = pki.kubeconfig(settings.folder / "kubernetes/pki", "admin", server, settings.name)
    return {"changed": changed, "server": server, "node": node.name, "kubeconfig": text}


def absent(state_dir: Path, name: str, progress: Progress = _quiet, *, check: bool = False) -> bool:
    """Take the lab away: processes, cgroups, files. Returns whether there was anything."""
    folder = state_dir / name
    cgroups = [root / "ambient-lab" / name for root in cgroup_hierarchies()]
    if not folder.exists() and not any(group.exists() for group in cgroups):
        return False
    if check:
        return True
    with locked(state_dir, progress):
        stop(folder)
        for group in cgroups:
            if not remove_cgroup(group, STOP_SECONDS):
                raise LabError(f"The cgroup {group} is still in use: see {group}/cgroup.procs")
            with contextlib.suppress(OSError):  # shared with the machine's other labs
                group.parent.rmdir()
        if folder.exists():
            shutil.rmtree(folder)
        if [entry.name for entry in state_dir.iterdir()] == [".lock"]:
            shutil.rmtree(state_dir)
    return True
