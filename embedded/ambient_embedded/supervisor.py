"""PID 1 of a node: starts the components, restarts those that die, reaps orphans.

Runs inside the node's namespaces on the node image's own Python, so it uses the standard library alone.
Its one argument is a JSON file ``{"hostname": str, "address": "ip/prefix", "routes": [[str]], "components":
[{"name": str, "argv": [str], "after": [str], "once": bool}]}``. ``after`` entries are conditions:
``tcp:PORT`` (something listens), ``unix:PATH`` (a socket accepts), ``done:NAME`` (a one-time job succeeded),
``ready:HOST:PORT`` (the Kubernetes API there says that it is ready).
"""

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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PKI = Path("/etc/kubernetes/pki")
LOG_DIRECTORY = Path("/var/log/ambient-lab")
POLL_SECONDS = 0.05
ANSWER_SECONDS = 5.0  # a busy machine takes its time for a TLS handshake
LOG_BYTES = 16 << 20  # of each component's log; as much again is kept of what was before
BACKOFF_FIRST, BACKOFF_MOST = 0.2, 10.0
STABLE_SECONDS = 30.0  # a component that ran this long starts again with the first backoff


def log(message: str) -> None:
    """One line to the supervisor's own log (its standard output). On a full disk it comes later, or never."""
    with contextlib.suppress(OSError):
        print(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), message, flush=True)


def bound(file: Path) -> None:
    """Begin a log anew where it has become long; who writes it appends, and need not know."""
    if file.stat().st_size > LOG_BYTES:
        shutil.copyfile(file, file.with_name(f"{file.name}.1"))
        os.truncate(file, 0)


def _connects(family: socket.AddressFamily, address: Any) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(address) == 0


def _api_is_ready(address: str) -> bool:
    """GET /readyz, which any client with a certificate may ask, once the API's own roles are there."""
    context = ssl.create_default_context(cafile=str(PKI / "ca.crt"))
    context.load_cert_chain(PKI / "kubelet.crt", PKI / "kubelet.key")
    connection = http.client.HTTPSConnection(address, timeout=ANSWER_SECONDS, context=context)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@dataclass
class Component:
    """A program of the node and what is known of its current process."""

    name: str
    argv: list[str]
    after: list[str] = field(default_factory=list)
    once: bool = False
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    backoff: float = BACKOFF_FIRST
    not_before: float = 0.0
    done: bool = False

    def start(self) -> None:
        with (LOG_DIRECTORY / f"{self.name}.log").open("ab") as output:
            self.process = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                # A program inherits blocked signals; those that run() waits for must reach it.
                preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, ()),
            )  # fmt: skip
        self.started = time.monotonic()
        log(f"{self.name}: started, pid {self.process.pid}")

    def ended(self, status: int) -> None:
        """Take note of the process's end and decide when it may start again."""
        self.process = None
        ran = time.monotonic() - self.started
        if self.once and status == 0:
            self.done = True
            log(f"{self.name}: done in {ran:.1f} s")
            return
        if ran > STABLE_SECONDS:
            self.backoff = BACKOFF_FIRST
        self.not_before = time.monotonic() + self.backoff
        log(f"{self.name}: ended with status {status} after {ran:.1f} s, starts again in {self.backoff:.1f} s")
        self.backoff = min(self.backoff * 2, BACKOFF_MOST)


class Supervisor:
    """Runs components until SIGTERM or SIGINT; the kernel then ends everything in the PID namespace."""

    def __init__(self, components: list[Component]) -> None:
        self.components = components
        self.met: set[str] = set()

    def holds(self, condition: str) -> bool:
        """Whether a condition of ``after`` holds; one that held once stays met."""
        if condition not in self.met:
            kind, _, value = condition.partition(":")
            if kind == "tcp":
                holds = _connects(socket.AF_INET, ("127.0.0.1", int(value)))
            elif kind == "unix":
                holds = _connects(socket.AF_UNIX, value)
            elif kind == "ready":
                holds = _api_is_ready(value)
            else:
                holds = any(component.name == value and component.done for component in self.components)
            if not holds:
                return False
            self.met.add(condition)
        return True

    def reap(self) -> None:
        by_pid = {component.process.pid: component for component in self.components if component.process}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in by_pid:
                by_pid[pid].ended(os.waitstatus_to_exitcode(status))

    def step(self) -> None:
        self.reap()
        now = time.monotonic()
        for component in self.components:
            idle = component.process is None and not component.done and now >= component.not_before
            if idle and all(self.holds(condition) for condition in component.after):
                component.start()
        with contextlib.suppress(OSError):  # on a full disk there are other worries
            for file in LOG_DIRECTORY.glob("*.log"):
                bound(file)

    def run(self) -> None:
        # SIGCHLD wakes the wait early; the poll interval is for the conditions.
        signals = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        while True:
            self.step()
            settled = all(component.process or component.done for component in self.components)
            received = signal.sigtimedwait(signals, 1.0 if settled else POLL_SECONDS)
            if received and received.si_signo != signal.SIGCHLD:
                log(f"stopping on signal {received.si_signo}")
                return


def configure_network(specification: dict[str, Any]) -> None:
    """Bring up ``lo`` and ``eth0`` and set what the node's own network namespace needs."""
    for arguments in (
        ["link", "set", "lo", "up"],
        ["address", "add", specification["address"], "dev", "eth0"],
        ["link", "set", "eth0", "up"],
        *specification["routes"],
    ):
        subprocess.run(["ip", *arguments], check=True)
    for name in ("net/ipv4/ip_forward", "net/ipv4/conf/all/route_localnet"):
        (Path("/proc/sys") / name).write_text("1")


def main() -> int:
    specification = json.loads(Path(sys.argv[1]).read_text())
    socket.sethostname(specification["hostname"])
    configure_network(specification)
    Supervisor([Component(**component) for component in specification["components"]]).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
