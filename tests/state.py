"""Snapshots of a cluster's objects and of this machine, and what differs between two of them.

Run as a program: `state.py cluster|host write|compare FILE [KUBECONFIG]`; compare exits with 1 when something differs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import programs

# What something is, by its name; equal snapshots are equal states.
State = dict[str, str]

# Kinds whose objects come and go by themselves, or follow others.
FLEETING = ("componentstatuses", "endpoints", "endpointslices", "events", "ipaddresses", "leases", "replicasets")
BOOKKEEPING = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "uid", "ownerReferences")
# The time of the last look is in it.
CHURNING = {"kube-apiserver-legacy-service-account-token-tracking"}
# Clean-up leaves CRDs and what guards them, as Helm does. For each version of theirs the API makes an APIService.
KEPT = ("CustomResourceDefinition", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
KEPT_LABELS = {"app.kubernetes.io/part-of": "istio", "app.kubernetes.io/managed-by": "ambient-lab"}
FOLLOWS = {"kube-aggregator.kubernetes.io/automanaged": "true"}
LEADER = "control-plane.alpha.kubernetes.io/leader"
# What belongs to the run that compares (Ansible, pytest), to this shell's tools and to the machine's own services.
HOME = str(Path.home())
OWN_FILES = re.compile(
    rf"(/tmp|/var/tmp|{re.escape(HOME)})/(\.?ansible([-_.][^/]*)?|pytest-[^/]*|bash_[^/]*|\.X[^/]*)"
    r"|/run/(systemd|udev|user|log|lock|dbus)"
)
CGROUPS = "/sys/fs/cgroup"
# Systemd's units come and go by themselves.
UNITS = re.compile(r"\.(service|scope|slice)(/|$)")
LABS = str(Path(__file__).resolve().parents[1] / ".lab")
CACHES = [f"{HOME}/{name}" for name in (".cache", ".config", ".kube", ".local", ".local/share")]
SYSTEM = ["/etc", "/run", "/tmp", "/var/lib", "/var/lib/ambient-lab", "/var/log", "/var/tmp", "/opt", "/usr/local"]
FOLDERS = [*SYSTEM, HOME, *CACHES, LABS]
# Folders whose whole tree counts; of the others the first level.
WHOLE = {"/etc", "/run"}
# Counters and times are no state.
MOVING = re.compile(r"\[\d+:\d+\]|counter packets \d+ bytes \d+|\bvalid_lft.*|^#.*|\d+sec")


def digest(value: object) -> str:
    """A short fingerprint."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def cluster(kubeconfig: str, kubectl: str = "kubectl") -> State:
    """Every object of every kind that can be listed, but for what is fleeting: its fingerprint without its status."""

    def run(*arguments: str) -> str:
        # Else kubectl makes a cache in the user's home.
        cache = str(Path(kubeconfig).parent / "kubectl-cache")
        return programs.output([kubectl, "--kubeconfig", kubeconfig, "--cache-dir", cache, *arguments])

    kinds = [
        kind
        for kind in run("api-resources", "--verbs=list", "-o", "name").split()
        if kind.partition(".")[0] not in FLEETING
    ]
    items = json.loads(run("get", ",".join(kinds), "-A", "-o", "json"))["items"]
    return {name: digest(content) for item in items for name, content in [_object(item)] if name}


def _object(item: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and content; no name where the object is fleeting."""
    meta = item["metadata"]
    kept = {key: value for key, value in meta.items() if key not in BOOKKEEPING}
    if LEADER in kept.get("annotations", {}):
        kept["annotations"] = {key: value for key, value in kept["annotations"].items() if key != LEADER}
    content = {key: value for key, value in item.items() if key not in ("status", "metadata")} | {"metadata": kept}
    if item["kind"] == "Node":
        # The kubelet renews them.
        content["metadata"] = {"name": meta["name"], "labels": meta.get("labels")}
    group = item["apiVersion"].rpartition("/")[0]
    kind = f"{item['kind']}.{group}" if group else item["kind"]
    name = f"{kind} {meta.get('namespace', '')}/{meta['name']}"
    labels = (meta.get("labels") or {}).items()
    # A pod that somebody owns follows its owner.
    is_fleeting = (
        meta["name"] in CHURNING
        or (item["kind"] == "Pod" and "ownerReferences" in meta)
        or (item["kind"] in KEPT and bool(labels & KEPT_LABELS.items()))
        or (item["kind"] == "APIService" and bool(labels & FOLLOWS.items()))
    )
    return ("" if is_fleeting else name), content


def host() -> State:
    """Processes, mounts, interfaces, routes, firewall rules, listening ports, cgroups, kernel settings and files."""
    parts: dict[str, Callable[[], Iterator[tuple[str, str]]]] = {
        "process": _processes,
        "mount": _mounts,
        "network": _network,
        "cgroup": _cgroups,
        "setting": _settings,
        "file": _files,
    }
    return {f"{part} {name}": value for part, read in parts.items() for name, value in read()}


def _processes() -> Iterator[tuple[str, str]]:
    """Programs that outlive their parents: those that are neither the kernel's nor of this very process' family."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:
            continue
        fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        if fields["State"].startswith("Z"):
            continue  # it has ended; PID 1 is about to reap it
        parents[int(fields["Pid"])] = (int(fields["PPid"]), fields["Name"])
    family = {os.getpid()}
    pid = os.getpid()
    while pid := parents.get(pid, (0, ""))[0]:
        family.add(pid)
    # An orphan belongs to PID 1; a namespace's first process does, too.
    orphans = Counter(name for pid, (parent, name) in parents.items() if parent == 1 and pid not in family)
    for name, count in orphans.items():
        yield f"{name} (child of PID 1)", f"{count} run"


def _mounts() -> Iterator[tuple[str, str]]:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        source, target, kind, *_ = line.split()
        yield f"{target} ({kind})", source


def _network() -> Iterator[tuple[str, str]]:
    questions = {
        "links": ["ip", "-o", "link"],
        "addresses": ["ip", "-o", "-4", "addr"],
        "routes": ["ip", "route", "show", "table", "all"],
        "rules": ["ip", "rule"],
        "network namespaces": ["ip", "netns"],
        "nft": ["nft", "list", "ruleset"],
        "iptables": ["iptables-save"],
        "listening": ["ss", "-Hltn"],
    }
    for name, command in questions.items():
        if shutil.which(command[0]):
            said = subprocess.run(command, text=True, capture_output=True, timeout=30, check=False)
            # A question that is refused is no empty answer.
            yield f"{name}: exit code", str(said.returncode)
            for line in filter(None, (MOVING.sub("", line).strip() for line in said.stdout.splitlines())):
                yield f"{name}: {line if name != 'listening' else line.split()[3]}", "is there"


def _cgroups() -> Iterator[tuple[str, str]]:
    """Those without a process: what is left behind is empty, and others' come and go with their processes."""
    for folder, _, _ in os.walk(CGROUPS):
        if not UNITS.search(folder) and not any(map(_processes_of, Path(folder).rglob("cgroup.procs"))):
            yield folder, "is there"


def _processes_of(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # threads have no say here, or it went meanwhile
        return ""


def _settings() -> Iterator[tuple[str, str]]:
    for name in ("ip_forward", "conf/all/forwarding", "conf/all/rp_filter", "conf/default/forwarding"):
        path = Path("/proc/sys/net/ipv4", name)
        yield f"net.ipv4 {name}", path.read_text().strip()


def _files() -> Iterator[tuple[str, str]]:
    for top in FOLDERS:
        for folder, folders, files in os.walk(top):
            names = [os.path.join(folder, name) for name in [*folders, *files]]
            for name in names:
                if not OWN_FILES.fullmatch(name):
                    yield name, _size(name) if top == "/etc" else "is there"
            if top not in WHOLE:
                folders.clear()
            folders[:] = [name for name in folders if not OWN_FILES.fullmatch(os.path.join(folder, name))]


def _size(name: str) -> str:
    try:
        return str(os.lstat(name).st_size) if os.path.isfile(name) else "is there"
    except OSError:
        return "is gone"


def differences(before: State, after: State) -> list[str]:
    """A line for each thing that came, went or changed."""
    rows = [f"+ {name}: {after[name]}" for name in sorted(after.keys() - before.keys())]
    rows += [f"- {name}: {before[name]}" for name in sorted(before.keys() - after.keys())]
    changed = (name for name in sorted(before.keys() & after.keys()) if before[name] != after[name])
    return rows + [f"~ {name}: {before[name]} -> {after[name]}" for name in changed]


def table(before: State, after: State) -> list[str]:
    """How many things of each kind there were and are, for a person."""
    kinds = sorted({name.split()[0] for name in before | after})
    counts = [[sum(name.split()[0] == kind for name in state) for state in (before, after)] for kind in kinds]
    rows = [f"{kind:<40} {first:>7} {second:>7}" for kind, (first, second) in zip(kinds, counts, strict=True)]
    return [f"{'':<40} {'before':>7} {'after':>7}", *rows]


def main(what: str, action: str, file: str, kubeconfig: str = "", kubectl: str = "kubectl") -> int:
    """Write a snapshot, or compare with one that was written."""
    state = host() if what == "host" else cluster(kubeconfig, kubectl)
    if action == "write":
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(json.dumps(state, indent=1, sort_keys=True), encoding="utf-8")
        return 0
    before = json.loads(Path(file).read_text(encoding="utf-8"))
    found = differences(before, state)
    print("\n".join([*table(before, state), *(found or ["equal"])]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
