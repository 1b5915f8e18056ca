"""First process inside the engine's namespaces: builds its root file system and becomes dockerd.

Runs on this machine's Python under ``unshare``. Arguments: the engine's folder, the tree that holds dockerd, the
engine's cgroup, and the descriptor of the machine's network namespace.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ambient_embedded.enter import MS_PRIVATE, MS_REC, bind, enter, mount

PROGRAMS = "/opt/ambient-lab"
DOCKERD = [
    "/usr/bin/docker-init", "--", "/usr/sbin/dockerd", "--host=unix:///run/engine/docker.sock",
    "--exec-root=/run/docker", "--pidfile=/run/docker.pid",
    # Without CAP_SYS_RESOURCE no process can lower its OOM score.
    "--oom-score-adjust=0",
    f"--add-runtime=limited={PROGRAMS}/runtime.py", "--default-runtime=limited",
    f"--userland-proxy-path={PROGRAMS}/publish.py",
]  # fmt: skip


def build_root(folder: Path, tree: Path, network: int) -> Path:
    """Mount the engine's root: the tree below, an empty layer above, its data and socket bound in."""
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    root, upper, work = (folder / name for name in ("root", "upper", "work"))
    for path in (root, upper, work, folder / "data", folder / "run"):
        path.mkdir(exist_ok=True)
    mount("overlay", root, "overlay", data=f"lowerdir={tree},upperdir={upper},workdir={work}")
    mount("proc", root / "proc", "proc")
    for name in ("sys", "dev"):
        bind(f"/{name}", root / name)
    for name in ("run", "tmp"):
        mount("tmpfs", root / name, "tmpfs")
    bind(f"/proc/self/fd/{network}", root / "run/machine-network")
    bind(folder / "data", root / "var/lib/docker")
    bind(folder / "run", root / "run/engine")
    programs = root / PROGRAMS.strip("/")
    programs.mkdir(parents=True, exist_ok=True)
    for name in ("runtime.py", "publish.py"):
        shutil.copy(Path(__file__).with_name(name), programs)
    return root


def main() -> None:
    folder, tree, cgroup, network = sys.argv[1:5]
    root = build_root(Path(folder), Path(tree), int(network))
    os.close(int(network))
    enter(root)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    os.execve(DOCKERD[0], [*DOCKERD, f"--cgroup-parent=/{cgroup}"], environment)


if __name__ == "__main__":
    main()
