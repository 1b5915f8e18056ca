"""What a lab that nobody uses costs: processor time, and bytes written to disk, by component.

    .venv/bin/python benchmarks/idle.py .lab/istio-ambient [--seconds 300]

Run as root some minutes after `make up`. What has ended meanwhile, as the programs of kubelet's probes have, counts for
the process that has waited for it; the last row counts all of the lab's cgroup, so what the rows above do not see.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import lab_processes as processes
from running_lab import Lab

TICKS = os.sysconf("SC_CLK_TCK")
CGROUPS = Path("/sys/fs/cgroup")


def pods(lab: Lab) -> dict[str, str]:
    """The name of each pod's workload, by the pod's UID."""
    found = {}
    for pod in lab.get("pod", "--all-namespaces")["items"]:
        meta = pod["metadata"]
        labels = [
            meta.get("labels", {}).get(key) for key in ("app", "k8s-app", "gateway.networking.k8s.io/gateway-name")
        ]
        found[meta["uid"]] = f"{meta['namespace']}/{next(filter(None, labels), meta['name'])}"
    return found


def component(pid: int, workloads: dict[str, str]) -> str:
    """What a process belongs to: its pod's workload, or its program or script."""
    with suppress(OSError):
        folder = processes.PROC / str(pid)
        cgroup, words = (folder / "cgroup").read_text(), (folder / "cmdline").read_text().split("\0")
        script = next((Path(word).name for word in words if word.endswith(".py")), processes.name_of(pid))
        return next((name for uid, name in workloads.items() if f"pod{uid}" in cgroup), script)
    return "ended"


def usage(pid: int) -> tuple[float, int]:
    """Seconds of processor time, and bytes for the disk, of a process and the children that it has waited for."""
    folder = processes.PROC / str(pid)
    # proc(5): utime, stime, cutime and cstime are fields 14 to 17; io has that of the children too.
    spent = (folder / "stat").read_text().rpartition(")")[2].split()[11:15]
    rows = dict(line.split(": ") for line in (folder / "io").read_text().splitlines())
    return sum(map(int, spent)) / TICKS, int(rows["write_bytes"]) - int(rows["cancelled_write_bytes"])


def sample(cgroup: str) -> dict[int, tuple[float, int]]:
    """The usage of each process in a cgroup or below it, by PID."""
    found = {}
    for folder in processes.PROC.glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if f":/{cgroup}/" in (folder / "cgroup").read_text():
                found[int(folder.name)] = usage(int(folder.name))
    return found


def cgroup_of(folder: Path) -> str:
    """The cgroup that has all of the lab whose lab.json is in a folder."""
    launcher = json.loads((processes.state_of(folder) / "launcher.json").read_text())["cgroup"]
    return str(Path(launcher).parent).strip("/")


def spent_in(cgroup: str) -> float:
    """Seconds of processor time of all that was ever in a cgroup."""
    v1 = CGROUPS / "cpuacct" / cgroup / "cpuacct.usage"
    if v1.exists():
        return int(v1.read_text()) / 1e9
    stat = (CGROUPS / cgroup / "cpu.stat").read_text().split()
    return int(stat[stat.index("usage_usec") + 1]) / 1e6


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Measure a lab that nobody uses.")
    parser.add_argument("lab", type=Path, help="folder of the lab (lab.json)")
    parser.add_argument("--seconds", type=float, default=300.0)
    chosen = parser.parse_args()
    lab = Lab.at(chosen.lab)
    cgroup, workloads = cgroup_of(lab.folder), pods(lab)
    started, whole, before = time.monotonic(), spent_in(cgroup), sample(cgroup)
    time.sleep(chosen.seconds)
    seconds, whole, after = time.monotonic() - started, spent_in(cgroup) - whole, sample(cgroup)
    rows: dict[str, list[float]] = {}
    for pid, (spent, written) in after.items():
        earlier = before.get(pid, (0.0, 0))
        row = rows.setdefault(component(pid, workloads), [0, 0.0, 0])
        row[:] = row[0] + 1, row[1] + spent - earlier[0], row[2] + written - earlier[1]
    rows["all of the lab's cgroup"] = [len(after), whole, sum(row[2] for row in rows.values())]
    print(f"{seconds:.0f} s\n\n| component | processes | % of a core | kB/min on disk |\n|---|---|---|---|")
    for name, (count, processor, disk) in sorted(rows.items(), key=lambda item: item[1][1]):
        print(f"| {name} | {count} | {100 * processor / seconds:.2f} | {disk / seconds * 0.06:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
