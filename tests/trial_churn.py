"""Pods that come and go: what of them stays behind?

    python tests/trial_churn.py .lab/istio-ambient --pods 500

Pods in the mesh are made and deleted in waves. Afterwards network namespaces, interfaces, addresses, mounts, shims,
ztunnel's certificates and open files must be as many as before. Ends with 1 where they are not.
Results: .cache/trial/churn.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "collections"))

import lab_processes as processes
from running_lab import Lab

Counts = dict[str, int]
NODES, SPACE, WAVE = ("control-plane", "worker"), "churn", 20
SETTLE_SECONDS = 90.0
# Files that a program has open now and then.
SPARE = 24
PROGRAMS = ("kubelet", "containerd")


def counts(lab: Lab) -> Counts:
    """What pods need, by what it is."""
    state, found = processes.state_of(lab.folder), {}
    for role in NODES:
        first = processes.first_process(state, role)
        folder = processes.PROC / str(first)
        found[f"{role}: network namespaces"] = len([*(folder / "root/run/netns").iterdir()])
        found[f"{role}: addresses"] = len([*(folder / "root/run/cni-ipam/pods").glob("*.*.*.*")])
        found[f"{role}: mounts"] = len((folder / "mountinfo").read_text().splitlines())
        found[f"{role}: shims"] = len(processes.of_node(state, role, "containerd-shim-runc-v2"))
        links = processes.in_network_of(first, "ip", "-o", "link", "show", "type", "veth").stdout
        found[f"{role}: interfaces"] = len(links.splitlines())
        for program in PROGRAMS:
            found[f"{role}: files of {program}"] = sum(map(processes.files_of, processes.of_node(state, role, program)))
    for pod in lab.get("pod", "-n", "istio-system", "-l", "app in (ztunnel, istio-cni)")["items"]:
        where = str(pod["spec"]["nodeName"]).removeprefix(f"{state.name}-")
        label = f"{where}: {pod['metadata']['labels']['app']}"
        pid = processes.of_pod(pod["metadata"]["uid"])[-1]
        found[f"{label}, files"] = processes.files_of(pid)
        if pod["metadata"]["labels"]["app"] == "ztunnel":
            dump = processes.in_network_of(pid, "curl", "-s", "http://127.0.0.1:15000/config_dump").stdout
            found[f"{label}, certificates"] = len(json.loads(dump)["certificates"])
    return found


def wave(lab: Lab, number: int, size: int) -> None:
    """Make pods in the mesh, wait until they are ready, and delete them."""
    accounts = [{"kind": "ServiceAccount", "metadata": {"name": f"churn-{number}", "namespace": SPACE}}]
    pods = [pod(lab.facts["images"]["curl"], number, index) for index in range(size)]
    lab.apply([{"apiVersion": "v1", **item} for item in (*accounts, *pods)])
    lab.kubectl("wait", "-n", SPACE, "--for=condition=Ready", "pod", "--all", "--timeout=110s")
    lab.kubectl("delete", "-n", SPACE, "pod,serviceaccount", "-l", "app=churn", "--grace-period=0", "--timeout=110s")


def pod(image: str, number: int, index: int) -> dict[str, Any]:
    """A pod that sleeps, with an identity of its wave."""
    container = {"name": "main", "image": image, "command": ["sleep", "1000"]}
    spec = {"serviceAccountName": f"churn-{number}", "terminationGracePeriodSeconds": 0, "containers": [container]}
    meta = {"name": f"churn-{number}-{index}", "namespace": SPACE, "labels": {"app": "churn"}}
    return {"kind": "Pod", "metadata": meta, "spec": spec}


def left(before: Counts, after: Counts) -> Counts:
    """What is more than before."""
    more = {what: number - before.get(what, 0) for what, number in after.items()}
    return {what: number for what, number in more.items() if number > (SPARE if "files" in what else 0)}


def settled(lab: Lab, before: Counts) -> Counts:
    """What there is once nothing is left, or the time is over."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while left(before, after := counts(lab)) and time.monotonic() < deadline:
        time.sleep(2)
    return after


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Make and delete pods, and count what stays behind.")
    parser.add_argument("lab", type=Path, help="folder of the lab (lab.json)")
    parser.add_argument("--pods", type=int, default=500)
    chosen = parser.parse_args()
    lab = Lab.at(chosen.lab)
    labels = {"istio.io/dataplane-mode": "ambient"}
    lab.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE, "labels": labels}}])
    try:
        # Certificates of programs, and what is opened once, are there after the first pods.
        wave(lab, 0, 10)
        time.sleep(10)
        before, start = counts(lab), time.monotonic()
        for number in range(1, chosen.pods // WAVE + 1):
            wave(lab, number, WAVE)
            print(f"  {number * WAVE} pods, {time.monotonic() - start:.0f} s", flush=True)
        after = settled(lab, before)
    finally:
        lab.kubectl("delete", "namespace", SPACE, "--timeout=110s")
    folder = Path(".cache/trial")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "churn.json").write_text(json.dumps({"before": before, "after": after}, indent=2), encoding="utf-8")
    print("\n".join(f"| {what} | {before.get(what, 0)} | {number} |" for what, number in after.items()))
    more = left(before, after)
    print(f"left behind: {more or 'nothing'}")
    return 1 if more else 0


if __name__ == "__main__":
    sys.exit(main())
