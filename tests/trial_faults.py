"""What happens when a part of the lab dies: does it heal by itself, how fast, and does a denied request pass meanwhile?

    python tests/trial_faults.py .lab/istio-ambient [--only etcd]

Each fault is done for real, while requests that must be denied, and one that must pass, are sent without a pause from
within their clients' network: that needs neither kubelet nor the API. Ends with 1 where a denied request passed, or the
claims do not hold again. Results: .cache/trial/faults.json.

The full disk is tried where the folder of all labs' state (cluster_state_dir) is a disk of its own, which is filled.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "collections"))

import fault_world as world
import lab_processes as processes
import programs
from running_lab import Lab

Object = dict[str, Any]
CONTROL, WORKER = "control-plane", "worker"
NODES = (CONTROL, WORKER)
HEAL_SECONDS = 240.0
PAUSE_SECONDS = 0.1
OBJECT_BYTES = 400_000
BASE = "http://sample-app.{}:8080/"
# Connections that are opened and held for five seconds.
FLOOD = """
import contextlib, socket, time
held = []
for _ in range(200):
    one = socket.socket()
    one.settimeout(0.2)
    with contextlib.suppress(OSError):
        one.connect(("{address}", 8080))
    held.append(one)
time.sleep(5)
"""


def claim(name: str, pod: str, space: str, expect: str, method: str = "GET") -> Object:
    """A claim of the chapter."""
    source = {"pod": pod, "namespace": space}
    return {"name": name, "from": source, "to": {"url": BASE.format(space), "method": method}, "expect": expect}


CLAIMS = [
    claim("curl-allow", "curl-allow", "default", "allowed"),
    claim("curl-deny", "curl-deny", "default", "denied_l4"),
    claim("GET", "curl", "layer7", "allowed"),
    claim("POST", "curl", "layer7", "denied_l7", "POST"),
]


@dataclass
class Client:
    """A pod that asks from within its network namespace, whether or not its node's programs run."""

    namespace: str
    pod: str
    address: str
    method: str
    is_denied: bool
    uid: str = ""
    asked: int = 0
    answers: list[tuple[float, str]] = field(default_factory=list)

    def ask(self) -> None:
        """One request; what it met is kept with its time."""
        pids = processes.of_pod(self.uid)
        if not pids:
            return
        command = ["curl", "-s", "-o", "/dev/null", "-m", "2", "-w", "%{http_code}", "-X", self.method, self.address]
        answer = processes.in_network_of(pids[0], *command)
        self.asked += 1
        self.answers.append((time.monotonic(), answer.stdout.strip()))

    def passed(self, began: float) -> list[str]:
        """The requests that were answered by the application, with the seconds since the fault."""
        return [f"{self.pod} {self.method} at {at - began:.1f} s" for at, code in self.answers if code == "200"]


class Watch:
    """Requests of the chapter's clients, all the time."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        addresses = {
            space: lab.get("service", "sample-app", "-n", space)["spec"]["clusterIP"] for space in ("default", "layer7")
        }
        self.clients = [
            Client(
                item["from"]["namespace"],
                item["from"]["pod"],
                f"http://{addresses[item['from']['namespace']]}:8080/",
                item["to"]["method"],
                item["expect"] != "allowed",
            )
            for item in CLAIMS
        ]

    @contextmanager
    def on(self) -> Iterator[None]:
        """Ask while the block runs."""
        for client in self.clients:
            pod = self._lab.get("pod", client.pod, "-n", client.namespace)
            client.uid, client.asked, client.answers = pod["metadata"]["uid"], 0, []
        ended = threading.Event()
        threads = [threading.Thread(target=self._run, args=(client, ended)) for client in self.clients]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join()

    def _run(self, client: Client, ended: threading.Event) -> None:
        while not ended.wait(PAUSE_SECONDS):
            client.ask()


@dataclass(frozen=True)
class Fault:
    """Something that dies. do: it, and undo what does not come back by itself; gives the objects that it has made."""

    name: str
    do: Callable[[Lab], set[str] | None]


@dataclass(frozen=True)
class Outcome:
    """What a fault did.

    Attributes:
        fault: its name.
        heal_seconds: until the chapter's claims held again, from the fault on; None where they did not.
        gap_seconds: the longest time without an answer for a client that may call.
        denied: requests that had to be denied.
        passed: those of them that passed.
        lost: objects that are gone.
    """

    fault: str
    heal_seconds: float | None
    gap_seconds: float
    denied: int
    passed: list[str]
    lost: list[str]

    @property
    def is_good(self) -> bool:
        """Whether the lab healed, nothing was lost and nothing passed."""
        return self.heal_seconds is not None and not self.passed and not self.lost


def program(role: str, name: str) -> Callable[[Lab], None]:
    """Kill a program of a node."""

    def kill(lab: Lab) -> None:
        if not processes.kill(processes.of_node(state_of(lab), role, name)):
            raise RuntimeError(f"no {name} runs on {role}")

    return kill


def pods(space: str, labels: str, node: str = "") -> Callable[[Lab], None]:
    """Kill all processes of some pods."""

    def kill(lab: Lab) -> None:
        chosen = [on_node(lab, node)] if node else []
        found = lab.get("pod", "-n", space, "-l", labels, *chosen)["items"]
        if not sum(processes.kill(processes.of_pod(pod["metadata"]["uid"])) for pod in found):
            raise RuntimeError(f"no pod of {space} with {labels} runs")

    return kill


def node(role: str) -> Callable[[Lab], None]:
    """Kill the first process of a node, and so all of it."""

    def kill(lab: Lab) -> None:
        processes.kill([processes.first_process(state_of(lab), role)])

    return kill


def cut(seconds: float) -> Callable[[Lab], None]:
    """Take the link between the nodes down for a while."""

    def do(lab: Lab) -> None:
        inside = processes.bridge(state_of(lab))
        for state in ("down", "up"):
            processes.in_network_of(inside, "ip", "link", "set", WORKER, state)
            if state == "down":
                time.sleep(seconds)

    return do


def stopped(seconds: float) -> Callable[[Lab], None]:
    """Let all of the lab stand still for a while, as a machine does that is suspended; its clocks go on."""

    def do(lab: Lab) -> None:
        pids = [*processes.descendants(processes.launcher(state_of(lab)))]
        processes.kill(pids, signal.SIGSTOP)
        time.sleep(seconds)
        processes.kill(pids, signal.SIGCONT)

    return do


def few_descriptors(lab: Lab) -> None:
    """Leave a ztunnel hardly a file to open, and open more connections than it can have, for a few seconds."""
    (pod,) = lab.get("pod", "-n", "istio-system", "-l", "app=ztunnel", on_node(lab, WORKER))["items"]
    ztunnel = processes.of_pod(pod["metadata"]["uid"])[-1]
    server = lab.get("pod", "-n", "default", "-l", "app=sample-app", on_node(lab, WORKER))["items"][0]
    client = processes.of_pod(lab.get("pod", "curl-allow", "-n", "default")["metadata"]["uid"])[0]
    flood = FLOOD.format(address=server["status"]["podIP"])
    try:
        processes.limit_files(ztunnel, str(processes.files_of(ztunnel) + 8))
        processes.in_network_of(client, sys.executable, "-c", flood, seconds=30)
    finally:
        processes.limit_files(ztunnel, "")


def everything(lab: Lab) -> None:
    """Kill all of the lab at once, and start it again as a user does."""
    state = state_of(lab)
    processes.kill([processes.launcher(state)])
    values = ["-e", f"cluster_name={name_of(lab)}", "-e", f"cluster_state_dir={state.parent}", "--tags", "cluster"]
    programs.output(["ansible-playbook", "site.yml", *values], timeout=300)


def full_disk(seconds: float) -> Callable[[Lab], set[str]]:
    """Fill the disk of the state folder for a while. What the API takes meanwhile, it has to keep."""

    def do(lab: Lab) -> set[str]:
        filler, taken, until = state_of(lab).parent / "filler", set[str](), time.monotonic() + seconds
        try:
            for number in itertools.count():
                fill(filler)
                meta = {"name": f"full-{number}", "namespace": "default"}
                item = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"text": "x" * OBJECT_BYTES}}
                # Refused, or the API is down: both may be.
                with suppress(RuntimeError):
                    create = [*lab.command(), "create", "--request-timeout=5s", "-f", "-"]
                    programs.output(create, given=json.dumps(item), timeout=30)
                    taken.add(f"ConfigMap default/full-{number}")
                if time.monotonic() > until:
                    return taken
                time.sleep(1)
        finally:
            filler.unlink(missing_ok=True)
        return taken

    return do


def fill(file: Path) -> None:
    """Take all that is free on the disk of a file."""
    with file.open("ab") as output:
        size = 1 << 30
        while size >= 1 << 12:
            try:
                os.posix_fallocate(output.fileno(), os.fstat(output.fileno()).st_size, size)
            except OSError:
                size //= 2


def on_node(lab: Lab, role: str) -> str:
    """Of kubectl: what runs on a node."""
    return f"--field-selector=spec.nodeName={name_of(lab)}-{role}"


def state_of(lab: Lab) -> Path:
    """The folder of the lab's own state."""
    return processes.state_of(lab.folder)


def name_of(lab: Lab) -> str:
    """The lab's name, which its folder has."""
    return lab.folder.name


FAULTS = [
    *(Fault(f"ztunnel on {role}", pods("istio-system", "app=ztunnel", role)) for role in NODES),
    Fault("istiod", pods("istio-system", "app=istiod")),
    Fault("istio-cni on both nodes", pods("istio-system", "k8s-app=istio-cni-node")),
    Fault("waypoint", pods("layer7", "gateway.networking.k8s.io/gateway-name=waypoint")),
    *(Fault(f"{name} on {role}", program(role, name)) for name in ("kubelet", "containerd") for role in NODES),
    *(Fault(name, program(CONTROL, name)) for name in ("kube-apiserver", "etcd")),
    Fault("link between the nodes, 5 s", cut(5)),
    Fault("ztunnel without descriptors, 200 connections", few_descriptors),
    Fault("all of it stands still, 30 s", stopped(30)),
    *(Fault(f"node {role}", node(role)) for role in NODES),
    Fault("everything at once, then site.yml", everything),
]
FULL_DISK = Fault("full disk of the state folder, 60 s", full_disk(60))


def names(lab: Lab) -> set[str]:
    """The objects that a user made."""
    kinds = "deployments,services,serviceaccounts,authorizationpolicies,gateways,configmaps,namespaces"
    found = lab.get(kinds, "-A")["items"]
    return {
        f"{item['kind']} {item['metadata'].get('namespace', '')}/{item['metadata']['name']}"
        for item in found
        if "leader" not in item["metadata"]["name"]
    }


def tried(lab: Lab, watch: Watch, fault: Fault) -> Outcome:
    """Do a fault and see what becomes of the lab."""
    before = names(lab)
    with watch.on():
        time.sleep(1)
        began = time.monotonic()
        before |= fault.do(lab) or set()
        heal = healed(lab, began)
        time.sleep(1)
    denied = [client for client in watch.clients if client.is_denied]
    allowed = [client for client in watch.clients if not client.is_denied]
    return Outcome(
        fault.name,
        heal,
        round(max(gap(client, began) for client in allowed), 1),
        sum(client.asked for client in denied),
        [text for client in denied for text in client.passed(began)],
        sorted(before - names(lab)),
    )


def healed(lab: Lab, began: float) -> float | None:
    """Seconds until all claims held."""
    while time.monotonic() - began < HEAL_SECONDS:
        try:
            if world.check(lab, CLAIMS, timeout=20.0).verdict == "pass":
                return round(time.monotonic() - began, 1)
        except (AssertionError, RuntimeError, OSError):
            # The API itself may be what has died.
            time.sleep(0.5)
    return None


def gap(client: Client, began: float) -> float:
    """The longest time without an answer after the fault."""
    times = [began, *(at for at, code in client.answers if code == "200" and at > began), time.monotonic()]
    return max(late - early for early, late in itertools.pairwise(times))


def table(outcomes: list[Outcome]) -> str:
    """The same as Markdown."""
    lines = ["| fault | healed after | longest gap | denied requests | passed | lost |", "|---|---|---|---|---|---|"]
    for one in outcomes:
        heal = "never" if one.heal_seconds is None else f"{one.heal_seconds} s"
        lost = ", ".join(one.lost) or "0"
        lines.append(
            f"| {one.fault} | {heal} | {one.gap_seconds} s | {one.denied} | {', '.join(one.passed) or 0} | {lost} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Kill parts of a running lab, and see whether it heals.")
    parser.add_argument("lab", type=Path, help="folder of the lab (lab.json)")
    parser.add_argument("--only", default="", help="faults whose names have this in them")
    chosen = parser.parse_args()
    lab = Lab.at(chosen.lab)
    watch, outcomes = Watch(lab), []
    for fault in [*FAULTS, *([FULL_DISK] if state_of(lab).parent.is_mount() else [])]:
        if chosen.only in fault.name:
            outcomes.append(tried(lab, watch, fault))
            print(table(outcomes[-1:]).splitlines()[-1], flush=True)
    folder = Path(".cache/trial")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "faults.json").write_text(json.dumps([asdict(one) for one in outcomes], indent=2), encoding="utf-8")
    print(table(outcomes))
    return 0 if all(one.is_good for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
