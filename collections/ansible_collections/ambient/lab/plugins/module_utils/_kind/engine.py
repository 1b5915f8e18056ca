# The container engine under kind: which one answers, and what it says of a cluster's nodes.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import json
import typing as t

from .._common.errors import LabError
from .._common.programs import NOT_FOUND, Run

# In the order in which kind looks for them (pkg/cluster/provider.go, DetectNodeProvider), and all it knows by name
# (pkg/internal/runtime/runtime.go).
ENGINES = ("docker", "nerdctl", "podman")
KNOWN = (*ENGINES, "finch", "nerdctl.lima")
CHOICE = "KIND_EXPERIMENTAL_PROVIDER"
# kind's pkg/cluster/internal/providers/docker/constants.go and pkg/cluster/constants.
CLUSTER_LABEL = "io.x-k8s.kind.cluster"
ROLE_LABEL = "io.x-k8s.kind.role"
# The network that kind puts nodes into, and makes where it is missing: each provider's network.go and provider.go.
NETWORK = "kind"
NETWORK_CHOICES = {"docker": "KIND_EXPERIMENTAL_DOCKER_NETWORK", "podman": "KIND_EXPERIMENTAL_PODMAN_NETWORK"}
ANSWER_SECONDS = 30.0
REFUSED = "permission denied"


class Node(t.NamedTuple):
    """A node's container."""

    name: str
    role: str
    status: str


@dataclasses.dataclass(frozen=True)
class Engine:
    """A container engine that answers."""

    name: str
    run: Run

    @property
    def env(self) -> dict[str, str]:
        """What makes kind use this engine; kind finds Docker by itself, and Podman behind a `docker` that is Podman."""
        return {} if self.name == "docker" else {CHOICE: self.name}

    def names(self, cluster: str) -> list[str]:
        """Names of a cluster's containers, stopped ones too."""
        label = f"label={CLUSTER_LABEL}={cluster}"
        return self.ask("ps", "-a", "--filter", label, "--format", "{{.Names}}").split()

    def nodes(self, cluster: str) -> list[Node]:
        """The nodes of a cluster; none where there is no such cluster.

        Fields as in Docker's Engine API, ContainerInspect, which Podman and nerdctl follow.
        """
        names = self.names(cluster)
        found = json.loads(self.ask("container", "inspect", *names)) if names else []
        return [
            Node(
                item["Name"].lstrip("/"), item["Config"]["Labels"].get(ROLE_LABEL, ""), item["State"]["Status"].lower()
            )
            for item in found
        ]

    def network(self, environ: t.Mapping[str, str]) -> str:
        """The name of the network that kind puts a new cluster's nodes into."""
        return environ.get(NETWORK_CHOICES.get(self.name, "")) or NETWORK

    def networks(self) -> list[str]:
        """Names of the networks that are there."""
        return self.ask("network", "ls", "--format", "{{.Name}}").split()

    def members(self, network: str) -> list[str]:
        """Names of the containers of a network, stopped ones too: they could not be started without it."""
        return self.ask("ps", "-a", "--filter", f"network={network}", "--format", "{{.Names}}").split()

    def ask(self, *arguments: str) -> str:
        """What the engine answers.

        Raises:
            LabError: with its last words, when it fails.
        """
        answer = self.run(self.name, *arguments)
        if answer.code:
            raise LabError(f"{self.name} {arguments[0]} failed: {last_line(answer.err)}")
        return answer.out


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")


def answering(run: Run, environ: t.Mapping[str, str]) -> tuple[list[Engine], list[str]]:
    """The engines that answer, in kind's order, and why each of the others does not.

    Args:
        environ: this process's variables, of which KIND_EXPERIMENTAL_PROVIDER leaves one engine to look for.
    """
    wanted = environ.get(CHOICE, "")
    if wanted and wanted not in KNOWN:
        raise LabError(f"{CHOICE}={wanted} is no engine that kind knows: unset it, or set one of {', '.join(KNOWN)}")
    engines, reasons = [], []
    for name in (wanted,) if wanted else ENGINES:
        # The question kind itself begins with: providers/*/provider.go, info().
        answer = run(name, "info", "--format", "json" if name == "podman" else "{{json .}}", timeout=ANSWER_SECONDS)
        if answer.code == 0:
            engines.append(Engine(name, run))
        elif answer.code != NOT_FOUND:
            reasons.append(f"{name}: {last_line(answer.err)}")
    missing = f"none of {', '.join(ENGINES)} is installed"
    return engines, reasons or [f"{wanted} is not installed" if wanted else missing]


def no_engine(reasons: t.Sequence[str]) -> str:
    """One line that says why there is no engine, and what to do."""
    said = "; ".join(reasons)
    if REFUSED in said.lower():
        return f"the container engine refuses this user ({said}): run as root, or join the engine's group (docker)"
    return f"no container engine answers ({said}): start Docker or Podman, or install one"


def engine_of(run: Run, environ: t.Mapping[str, str], cluster: str) -> Engine:
    """The engine that holds a cluster, else the first one that answers.

    Raises:
        LabError: when none answers.
    """
    engines, reasons = answering(run, environ)
    if not engines:
        message = no_engine(reasons)
        raise LabError(message[0].upper() + message[1:])
    return next((engine for engine in engines if engine.names(cluster)), engines[0])
