"""What a lab consists of: its nodes, with their names, addresses and pod networks. Data alone; lab.py acts on it."""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from pathlib import Path

SUBNET_PREFIX = "10.87"  # labs take 10.87.1.0/24, 10.87.2.0/24, ... : one each, between host and nodes only
PREFIX_LENGTH = 24
CLUSTER_CIDR = "10.244.0.0/16"
CONTROL_PLANE = "control-plane"


def group_of(folder: Path) -> str:
    """The cgroup of the lab whose state is in a folder: labs of two state folders may have the same name."""
    return f"/ambient-lab/{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Node:
    """A node. group: the lab's cgroup; role: what kind puts behind the lab's name; address: at the lab's bridge;
    pod_cidr: of its pods.
    """

    lab: str
    group: str
    role: str
    address: str
    pod_cidr: str

    @property
    def name(self) -> str:
        return f"{self.lab}-{self.role}"

    @property
    def is_control_plane(self) -> bool:
        return self.role == CONTROL_PLANE

    @property
    def cgroup(self) -> str:
        return f"{self.group}/{self.role}"

    @property
    def mac(self) -> str:
        """Of its interface, locally administered: a node that starts again is not a stranger to its neighbours."""
        return ":".join(f"{byte:02x}" for byte in b"\x02\x57" + ipaddress.ip_address(self.address).packed)


@dataclass(frozen=True)
class Lab:
    """All nodes of a lab. folder: of its state; number: of its subnet, which no other lab of the machine has."""

    folder: Path
    number: int
    workers: int
    pause_image: str

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def gateway(self) -> str:
        """The host's address on the lab's subnet."""
        return f"{SUBNET_PREFIX}.{self.number}.1"

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The control plane and its workers: worker, worker2, worker3."""
        roles = [CONTROL_PLANE, *(f"worker{number if number > 1 else ''}" for number in range(1, self.workers + 1))]
        return tuple(
            Node(
                self.name,
                group_of(self.folder),
                role,
                f"{SUBNET_PREFIX}.{self.number}.{place + 2}",
                f"10.244.{place}.0/24",
            )
            for place, role in enumerate(roles)
        )

    @property
    def control_plane(self) -> Node:
        return self.nodes[0]
