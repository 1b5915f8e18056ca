"""A lab seen from the host: start its nodes, find out how they are, take all of it away without a trace."""

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
from functools import partial
from pathlib import Path
from typing import Any

from . import components, pki
from .cache import Progress, locked
from .errors import LabError
from .launcher import cgroup_hierarchies, remove_cgroup, remove_interface, start_time
from .tools import run, write_atomically
from .topology import PREFIX_LENGTH, SUBNET_PREFIX, Lab, Node

LOOPBACK = "127.0.0.1"
API_PORTS = range(16443, 16543)  # on the host: the first free one is the lab's
POLL_SECONDS = 0.1
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Settings:
    """What a lab is asked to be.

    :param workers: nodes besides the control plane.
    :param tree: the node image's files; ``programs``, ``images`` and ``image_store``: folders the builder made.
    :param forwards: host ports: ``(listen host, listen port, NodePort)``.
    :param timeout: seconds until every node must be Ready.
    """

    name: str
    workers: int
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

    def node_folder(self, node: Node) -> Path:
        return self.folder / "nodes" / node.name

    def log_folder(self, node: Node) -> Path:
        """The node's ``/var/log``: those of all nodes are beside each other."""
        return self.folder / "log" / node.name


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
    """End the launcher and with it the nodes. Objects and images stay in the nodes' folders."""
    launcher = folder / "launcher.pid"
    for number in (signal.SIGTERM, signal.SIGKILL):
        if (pid := alive(launcher)) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            await_end(launcher, time.monotonic() + STOP_SECONDS)
    # The nodes end with the launcher, a moment later.
    for file in folder.glob("nodes/*/node.pid"):
        if not await_end(file, time.monotonic() + STOP_SECONDS):
            raise LabError(f"The node {file.parent.name} did not end: see {folder}/launcher.log")
        file.unlink()
    remove_interface(folder)


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


def _launcher_settings(settings: Settings, lab: Lab, slot: Slot) -> dict[str, Any]:
    # Over loopback, so that a client of a lab that is down never asks a stranger at its address.
    forwards = [(LOOPBACK, slot.api_port, components.API_PORT), *settings.forwards]
    target = lab.control_plane.address
    return {
        "interface": f"ambient{slot.number}",
        "address": f"{lab.gateway}/{PREFIX_LENGTH}",
        "forwards": [[host, port, target, node_port] for host, port, node_port in forwards],
        "nodes": [_node_settings(settings, node) for node in lab.nodes],
    }


def _node_settings(settings: Settings, node: Node) -> dict[str, Any]:
    # The copy beside the state keeps working when the checkout goes away.
    enter = [
        "unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child",
        _python(), "-I", str(settings.folder / "runtime/enter.py"), str(settings.node_folder(node)),
        str(settings.log_folder(node)), str(settings.tree), str(settings.programs), str(settings.images),
    ]  # fmt: skip
    return {
        "role": node.role,
        "folder": str(settings.node_folder(node)),
        "log": str(settings.log_folder(node) / "ambient-lab/supervisor.log"),
        "enter": enter,
        "mac": node.mac,
        "cgroup": node.cgroup,
    }


def _desired_files(settings: Settings, lab: Lab, slot: Slot) -> dict[Path, str]:
    here = Path(__file__).parent
    names = ("enter.py", "launcher.py", "supervisor.py")
    wanted = {settings.folder / "runtime" / name: (here / name).read_text() for name in names}
    wanted[settings.folder / "launcher.json"] = json.dumps(_launcher_settings(settings, lab, slot), indent=1)
    for node in lab.nodes:
        folder = settings.node_folder(node)
        wanted |= {folder / "files" / name: text for name, text in components.files(lab, node).items()}
        wanted |= {folder / "kubernetes" / name: text for name, text in components.kubernetes_files(lab, node).items()}
    return wanted


def _differs(wanted: dict[Path, str]) -> bool:
    return any(not path.is_file() or path.read_text() != text for path, text in wanted.items())


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


def _prepare(settings: Settings, lab: Lab, wanted: dict[Path, str]) -> None:
    settings.folder.mkdir(exist_ok=True)
    settings.folder.chmod(0o700)
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    for node in lab.nodes:
        (settings.log_folder(node) / "ambient-lab").mkdir(parents=True, exist_ok=True)
        images = settings.node_folder(node) / "data/containerd"
        if not images.exists():
            images.parent.mkdir(exist_ok=True)
            _take_over(settings.image_store, images)
        _give_identity(settings, lab, node)


def _give_identity(settings: Settings, lab: Lab, node: Node) -> None:
    """The node's certificates, and the kubeconfigs of its programs."""
    control_plane, folder = (settings.node_folder(one) / "kubernetes" for one in (lab.control_plane, node))
    users = ["kube-proxy", "kubelet"]
    if node.is_control_plane:
        pki.ensure(folder / "pki", node.name, node.address, components.SERVICE_IP)
        users += ["controller-manager", "scheduler", "admin"]
    else:
        pki.join(folder / "pki", control_plane / "pki", node.name, node.address)
    server = f"https://{components.api_address(lab)}"
    for user in users:
        pki.write_kubeconfig(folder / f"{user}.conf", pki.kubeconfig(folder / "pki", user, server, settings.name))


def _launch(folder: Path) -> None:
    """Start the launcher, detached. Raises :class:`LabError` when it ends at once."""
    with (folder / "launcher.log").open("ab") as output:
        launcher = subprocess.Popen(
            [_python(), "-I", str(folder / "runtime/launcher.py"), str(folder)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/",
        )  # fmt: skip
    while not is_running(folder):
        if launcher.poll() is not None:
            raise LabError(f"The lab's launcher did not start:\n{_last_words(folder)}")
        time.sleep(0.02)


class Api:
    """The cluster's API with the administrator's certificate; one GET is all that is needed here."""

    def __init__(self, keys: Path, port: int) -> None:
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


def _node_is_ready(api: Api, name: str, file: Path) -> bool:
    """Ready, and said so by a kubelet that runs now: after a restart the old word still stands.

    :param file: names the node's first process, and is as old as that.
    """
    if alive(file) is None:
        return False
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(file.stat().st_mtime))
    status, node = api.get(f"/api/v1/nodes/{name}")
    conditions = node.get("status", {}).get("conditions", []) if status == 200 else []
    return any(
        item["type"] == "Ready" and item["status"] == "True" and item["lastHeartbeatTime"] >= since
        for item in conditions
    )


def _last_words(folder: Path) -> str:
    """What the logs say last, one line each, for a lab that does not come up."""
    logs = {"launcher": folder / "launcher.log"}
    logs |= {f"{log.parts[-3]} {log.stem}": log for log in sorted(folder.glob("log/*/ambient-lab/*.log"))}
    lines = []
    for name, log in logs.items():
        if log.exists() and (words := log.read_text(errors="replace").strip().splitlines()):
            lines.append(f"  {name}: {words[-1][:200]}")
    return "\n".join(lines)


def _wait(settings: Settings, lab: Lab, api: Api, progress: Progress) -> None:
    folder, started = settings.folder, time.monotonic()
    steps: dict[str, Callable[[], bool]] = {"API answers": lambda: api.get("/readyz")[0] == 200}
    for node in lab.nodes:
        file = settings.node_folder(node) / "node.pid"
        steps[f"{node.name} Ready"] = partial(_node_is_ready, api, node.name, file)
    for what, holds in steps.items():
        while not holds():
            late = time.monotonic() - started > settings.timeout
            if late or not is_running(folder):
                reason = f"not after {settings.timeout:.0f} s" if late else "its process ended"
                raise LabError(f"{what}: {reason}. Logs in {folder}/log:\n{_last_words(folder)}")
            time.sleep(POLL_SECONDS)
        progress(f"{what} after {time.monotonic() - started:.1f} s")


def _refuse_loss(settings: Settings, lab: Lab) -> None:
    """Raise :class:`LabError` where the lab has a node that is not asked for: pods run there, and its object stays."""
    if (settings.folder / "data").exists():
        raise LabError(f"The lab {settings.name} was made by an older version: remove it first (make down)")
    here = {folder.name for folder in settings.folder.glob("nodes/*")}
    if lost := sorted(here - {node.name for node in lab.nodes}):
        raise LabError(
            f"The lab {settings.name} has {', '.join(lost)} besides what cluster_workers={settings.workers} asks for: "
            f"set cluster_workers={len(here) - 1}, or remove the lab first (make down)"
        )


def present(settings: Settings, progress: Progress, *, check: bool = False) -> dict[str, Any]:
    """Bring the lab up as described; nothing happens when it already is.

    Returns ``{"changed": bool, "server": str, "nodes": [str], "kubeconfig": str, "link": {...}}`` (``kubeconfig``: its
    text; ``link``: the interface that the nodes' packets pass, and its network namespace; none with a single node).
    Raises :class:`LabError` when a node does not become Ready in time, or the lab would lose one.
    """
    if check and not settings.folder.exists():
        return {"changed": True, "server": "", "nodes": [], "kubeconfig": ""}
    with locked(settings.state_dir, progress):
        slot = _slot(settings)
        lab = Lab(settings.name, slot.number, settings.workers, settings.pause_image)
        _refuse_loss(settings, lab)
        server, names = f"https://{LOOPBACK}:{slot.api_port}", [node.name for node in lab.nodes]
        wanted = _desired_files(settings, lab, slot)
        changed = not is_running(settings.folder) or _differs(wanted)
        if check and changed:
            return {"changed": True, "server": server, "nodes": names, "kubeconfig": ""}
        if changed:
            stop(settings.folder)
            _prepare(settings, lab, wanted)
            _launch(settings.folder)
    keys = settings.node_folder(lab.control_plane) / "kubernetes/pki"
    _wait(settings, lab, Api(keys, slot.api_port), progress if changed else _quiet)
    kubeconfig = pki.kubeconfig(keys, "admin", server, settings.name)
    known = {"server": server, "nodes": names, "kubeconfig": kubeconfig, "link": _link(lab, settings)}
    return {"changed": changed, **known}


def _link(lab: Lab, settings: Settings) -> dict[str, str]:
    if not lab.workers:
        return {}
    pid = alive(settings.folder / "bridge.pid")
    return {"interface": "nodes", "network_namespace": f"/proc/{pid}/ns/net"}


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
