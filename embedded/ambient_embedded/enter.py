"""First process inside a node's namespaces: builds the node's root file system and becomes its supervisor.

Runs on the host's Python under ``unshare``, standard library alone. Arguments: the node's folder, that of its logs,
the node image's tree, the folder of programs, the folder of container images. It waits for one line on standard input
(the launcher writes it once the network interface is in place).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import sys
from pathlib import Path

MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC = 1, 32, 4096, 16384
MS_PRIVATE, MS_SHARED = 1 << 18, 1 << 20
MNT_DETACH = 2
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

# kubelet writes these and they are the whole machine's: files with the values it wants stand in their place.
KERNEL_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}

# What outlives a node's end, and where its programs look for it.
STATE = {
    "containerd": "var/lib/containerd",
    "etcd": "var/lib/etcd",
    "kubelet": "var/lib/kubelet",
    "cni-config": "etc/cni/net.d",
    "cni-programs": "opt/cni/bin",
}
POD_NETWORK = "etc/cni/net.d/10-pods.conflist"

libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: Path | str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2). Raises :class:`OSError` that names source and target."""
    arguments = [text.encode() or None for text in (source, str(target), kind)]
    _check(libc.mount(*arguments, flags, data.encode() or None), f"mount {source} on {target}")


def bind(source: Path | str, target: Path, *, read_only: bool = False) -> None:
    """Bind-mount a folder or file with everything below it; the target is made when absent."""
    if Path(source).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount(str(source), target, flags=MS_BIND | MS_REC)
    if read_only:
        mount("", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def build_root(node: Path, log: Path, tree: Path, programs: Path, images: Path) -> Path:
    """Mount the node's root: the image's tree below, an empty layer above, state and devices bound in."""
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    root, upper, work = (node / name for name in ("root", "upper", "work"))
    for folder in (upper, work):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    root.mkdir(exist_ok=True)
    mount("overlay", root, "overlay", data=f"lowerdir={tree},upperdir={upper},workdir={work}")
    mount("proc", root / "proc", "proc")
    for name in ("sys", "dev"):
        bind(f"/{name}", root / name)
    for name in ("run", "tmp"):
        mount("tmpfs", root / name, "tmpfs", data="mode=1777" if name == "tmp" else "mode=755")
    bind(programs, root / "opt/ambient-lab/bin", read_only=True)
    bind(images, root / "opt/ambient-lab/images", read_only=True)
    bind(node / "kubernetes", root / "etc/kubernetes")
    bind(log, root / "var/log")
    for state, place in STATE.items():
        (node / "data" / state).mkdir(parents=True, exist_ok=True)
        bind(node / "data" / state, root / place)
    return root


def keep_chained_plugins(source: Path, target: Path) -> None:
    """Write the pods' network with what istio-cni had chained into it before the node ended, in one step.

    Without it pods that start before istio-cni would run outside of the mesh, where policies do not count.
    """
    network, chained = json.loads(source.read_text()), []
    with contextlib.suppress(OSError, ValueError):
        chained = [item for item in json.loads(target.read_text())["plugins"] if item["type"] == "istio-cni"]
    draft = target.with_suffix(".draft")
    draft.write_text(json.dumps({**network, "plugins": [*network["plugins"], *chained]}))
    draft.replace(target)


def provide_files(node: Path, root: Path) -> None:
    """The files that a node's programs look for at their usual places."""
    for plugin in (root / "usr/lib/cni").iterdir():
        link = root / "opt/cni/bin" / plugin.name
        link.unlink(missing_ok=True)
        link.symlink_to(f"/usr/lib/cni/{plugin.name}")
    files = node / "files"
    keep_chained_plugins(files / POD_NETWORK, root / POD_NETWORK)
    shutil.copytree(files, root, dirs_exist_ok=True, ignore=shutil.ignore_patterns(Path(POD_NETWORK).name))
    for name, value in KERNEL_SETTINGS.items():
        stand_in = root / "run/ambient-lab" / name
        stand_in.parent.mkdir(parents=True, exist_ok=True)
        stand_in.write_text(value)
        if (root / "proc/sys" / name).exists():
            mount(str(stand_in), root / "proc/sys" / name, flags=MS_BIND)


def enter(root: Path) -> None:
    """Make the folder the root of the file system and let go of the old one."""
    os.chdir(root)
    number = SYS_PIVOT_ROOT[os.uname().machine]
    (root / "mnt").mkdir(exist_ok=True)
    _check(libc.syscall(number, b".", b"mnt"), "pivot_root")
    os.chdir("/")
    _check(libc.umount2(b"/mnt", MNT_DETACH), "umount /mnt")
    # istio-cni asks for /var/run/netns with mount propagation, which needs a shared root.
    mount("none", "/", flags=MS_REC | MS_SHARED)


def main() -> None:
    node, *others = (Path(argument) for argument in sys.argv[1:6])
    root = build_root(node, *others)
    provide_files(node, root)
    supervisor = Path(__file__).with_name("supervisor.py").read_text()
    (root / "opt/ambient-lab/supervisor.py").write_text(supervisor)
    enter(root)
    if not sys.stdin.readline():
        sys.exit("the launcher ended before the network was there")
    python = "/usr/bin/python3"
    environment = {"PATH": "/opt/ambient-lab/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    arguments = [python, "-I", "/opt/ambient-lab/supervisor.py", "/etc/ambient-lab/node.json"]
    os.execve(python, arguments, environment)


if __name__ == "__main__":
    main()
