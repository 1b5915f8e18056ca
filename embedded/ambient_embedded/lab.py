"""A lab seen from the host: start its nodes, find out how they are, take all of it away without a trace."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import components, ownership, pki
from .cache import LOCK, Progress, locked
from .errors import LabError
from .launcher import alive, cgroup_hierarchies, remove_cgroup, remove_interface
from .slots import LOOPBACK, Slot, choose, launcher_of, slot_of
from .tools import run, write_atomically
from .topology import PREFIX_LENGTH, Lab, Node, group_of
from .waiting import POLL_SECONDS, Api, last_words, wait

STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Settings:
    """What a lab is asked to be.

    :param workers: nodes besides the control plane.
    :param tree: the node image's files; ``programs``, ``images`` and ``image_store``: folders the builder made.
    :param forwards: host ports: ``(listen host, listen port, NodePort)``.
    :param owner: the user's folder of the lab, in a checkout: it tells whose the lab is.
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
    owner: Path
    timeout: float

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


def is_running(folder: Path) -> bool:
    return alive(folder / "launcher.pid") is not None


def running_folders() -> set[Path]:
    """Folders of the labs that run on this machine, whatever their state folder: the launchers' last argument."""
    found = set()
    for procs in (file for root in cgroup_hierarchies() for file in root.glob("ambient-lab/*/launcher/cgroup.procs")):
        with contextlib.suppress(OSError):  # it has just ended
            for pid in procs.read_text().split():
                words = Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
                if words[-2:-1] == [f"{words[-1]}/runtime/launcher.py"]:
                    found.add(Path(words[-1]))
    return found


def needed_by(folder: Path) -> set[Path]:
    """The paths, without links, that a lab's ``launcher.json`` names, whatever version wrote it."""
    with contextlib.suppress(FileNotFoundError):
        literals = re.findall(r'"/(?:[^"\\]|\\.)*"', (folder / "launcher.json").read_text())
        return {Path(json.loads(literal)).resolve() for literal in literals}
    return set()


def forwarded_ports(folder: Path) -> list[tuple[str, int]]:
    """The host addresses and ports that a lab forwards."""
    launcher = launcher_of(folder) or {"forwards": []}
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
    for group in _cgroups(folder):
        if not remove_cgroup(group, STOP_SECONDS):
            raise LabError(f"The cgroup {group} is still in use: see {group}/cgroup.procs")
        with contextlib.suppress(OSError):  # shared with the machine's other labs
            group.parent.rmdir()


def _cgroups(folder: Path) -> list[Path]:
    """Those of a lab that are there; an older version may have named it otherwise."""
    nodes = (launcher_of(folder) or {"nodes": []})["nodes"]
    names = {group_of(folder), *(str(Path(node["cgroup"]).parent) for node in nodes)}
    groups = [root / name.strip("/") for root in cgroup_hierarchies() for name in sorted(names)]
    return [group for group in groups if group.exists()]


def _python() -> str:
    """The interpreter behind a virtual environment: it outlives the checkout that the environment stands in."""
    return str(getattr(sys, "_base_executable", sys.executable))


def _launcher_settings(settings: Settings, lab: Lab, slot: Slot) -> dict[str, Any]:
    # Over loopback, so that a client of a lab that is down never asks a stranger at its address.
    forwards = [(LOOPBACK, slot.api_port, components.API_PORT), *settings.forwards]
    target = lab.control_plane.address
    return {
        "interface": slot.interface,
        "address": f"{lab.gateway}/{PREFIX_LENGTH}",
        "forwards": [[host, port, target, node_port] for host, port, node_port in forwards],
        "cgroup": f"{group_of(settings.folder)}/launcher",
        "nodes": [_node_settings(settings, node) for node in lab.nodes],
    }


def _node_settings(settings: Settings, node: Node) -> dict[str, Any]:
    # The copy beside the state keeps working when the checkout goes away.
    runtime, python = settings.folder / "runtime", [_python(), "-I"]
    folders = (settings.node_folder(node), settings.log_folder(node), settings.tree, settings.programs, settings.images)
    enter = [
        *python, str(runtime / "unshare.py"), "mount,pid,net,uts,ipc",
        *python, str(runtime / "enter.py"), *(str(folder) for folder in folders),
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
    names = ("enter.py", "launcher.py", "supervisor.py", "unshare.py")
    wanted = {settings.folder / "runtime" / name: (here / name).read_text() for name in names}
    wanted[settings.folder / "launcher.json"] = json.dumps(_launcher_settings(settings, lab, slot), indent=1)
    for node in lab.nodes:
        folder = settings.node_folder(node)
        wanted |= {folder / "files" / name: text for name, text in components.files(lab, node).items()}
        wanted |= {folder / "kubernetes" / name: text for name, text in components.kubernetes_files(lab, node).items()}
    return wanted


def _differing(wanted: dict[Path, str]) -> list[Path]:
    return [path for path, text in wanted.items() if not path.is_file() or path.read_text() != text]


def _reasons(settings: Settings, lab: Lab, wanted: dict[Path, str]) -> list[str]:
    """Why a lab that runs is to be restarted; none where it is as asked."""
    files = sorted({path.name for path in _differing(wanted)})
    over = any(pki.is_over(settings.node_folder(node) / "kubernetes/pki") for node in lab.nodes)
    ends = "its certificates end soon, or have ended"
    return [*([f"other {', '.join(files)} than it has"] if files else []), *([ends] if over else [])]


def is_as_asked(settings: Settings) -> bool:
    """Whether the lab runs, and :func:`present` would not restart it."""
    slot = slot_of(settings.folder)
    if slot is None or not is_running(settings.folder):
        return False
    lab = Lab(settings.folder, slot.number, settings.workers, settings.pause_image)
    return not _reasons(settings, lab, _desired_files(settings, lab, slot))


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
    settings.folder.mkdir(exist_ok=True, mode=0o700)
    settings.folder.chmod(0o700)
    write_atomically(settings.folder / "owner", f"{settings.owner}\n".encode())
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
    # By their variables CI runners find what a job has left behind, and end it; nor are they the lab's to keep.
    environment = {"PATH": os.environ.get("PATH", os.defpath)}
    with (folder / "launcher.log").open("ab") as output:
        launcher = subprocess.Popen(
            [_python(), "-I", str(folder / "runtime/launcher.py"), str(folder)], env=environment,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/",
        )  # fmt: skip
    while not is_running(folder):
        if launcher.poll() is not None:
            raise LabError(f"The lab's launcher did not start:\n{last_words(folder)}")
        time.sleep(0.02)


def refuse_loss(settings: Settings) -> None:
    """Raise :class:`LabError` where a lab is not this run's, or has a node that is not asked for: pods run there."""
    ownership.refuse_foreign(settings.folder)
    ownership.refuse_stranger(settings.folder, settings.owner, running=is_running(settings.folder))
    if (settings.folder / "data").exists():
        raise LabError(f"The lab {settings.name} was made by an older version: remove it first (<absent>)")
    here = {folder.name for folder in settings.folder.glob("nodes/*")}
    asked = {node.name for node in Lab(settings.folder, 0, settings.workers, settings.pause_image).nodes}
    if lost := sorted(here - asked):
        raise LabError(
            f"The lab {settings.name} has {', '.join(lost)} besides what <workers>={settings.workers} asks for: "
            f"set <workers>={len(here) - 1}, or remove the lab first (<absent>)"
        )


def present(settings: Settings, progress: Progress, *, check: bool = False) -> dict[str, Any]:
    """Bring the lab up as described; nothing happens when it already is.

    Returns ``{"changed": bool, "server": str, "nodes": [str], "kubeconfig": str, "link": {...}}`` (``kubeconfig``: its
    text; ``link``: the interface that the nodes' packets pass, and its network namespace; none with a single node).
    Raises :class:`LabError` when a node does not become Ready in time, or the lab would lose one, or is not this run's.
    """
    if check and not settings.folder.exists():
        return {"changed": True, "server": "", "nodes": [], "kubeconfig": ""}
    with locked(settings.state_dir, progress):
        refuse_loss(settings)
        slot = choose(settings.folder)
        lab = Lab(settings.folder, slot.number, settings.workers, settings.pause_image)
        server, names = f"https://{LOOPBACK}:{slot.api_port}", [node.name for node in lab.nodes]
        wanted = _desired_files(settings, lab, slot)
        running, reasons = is_running(settings.folder), _reasons(settings, lab, wanted)
        for reason in reasons if running else ():
            progress(f"the running lab {settings.name} is to be restarted: {reason}")
        changed = not running or bool(reasons)
        if check and changed:
            return {"changed": True, "server": server, "nodes": names, "kubeconfig": ""}
        if changed:
            stop(settings.folder)
            _prepare(settings, lab, wanted)
            _launch(settings.folder)
    keys = settings.node_folder(lab.control_plane) / "kubernetes/pki"
    wait(settings.folder, lab, Api(keys, slot.api_port), settings.timeout, progress if changed else _quiet)
    kubeconfig = pki.kubeconfig(keys, "admin", server, settings.name)
    known = {"server": server, "nodes": names, "kubeconfig": kubeconfig, "link": _link(lab, settings)}
    return {"changed": changed, **known}


def _link(lab: Lab, settings: Settings) -> dict[str, str]:
    if not lab.workers:
        return {}
    pid = alive(settings.folder / "bridge.pid")
    return {"interface": "nodes", "network_namespace": f"/proc/{pid}/ns/net"}


def absent(
    state_dir: Path, name: str, progress: Progress = _quiet, *, owner: Path | None = None, check: bool = False
) -> bool:
    """Take the lab away: processes, cgroups, files. Returns whether there was anything.

    :param owner: as :class:`Settings` has it; raises :class:`LabError` where the lab has another one. None: anybody's.
    """
    folder = state_dir / name
    if not folder.exists() and not _cgroups(folder):
        return False
    ownership.refuse_removal(folder, owner)
    if check:
        return True
    with locked(state_dir, progress):
        ownership.refuse_removal(folder, owner)  # it may have changed hands meanwhile
        stop(folder)
        ownership.remove_lab(folder)
        if not any(ownership.is_lab(entry) for entry in state_dir.iterdir()):
            (state_dir / LOCK).unlink()
            with contextlib.suppress(OSError):  # a disk is mounted here, or something of the user's own is in it
                state_dir.rmdir()
    return True
