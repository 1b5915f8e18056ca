"""What separates the labs of one machine: each has a subnet and a host port of its API that nobody else uses."""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import components
from .errors import LabError
from .launcher import alive, interface_owner
from .tools import run
from .topology import SUBNET_PREFIX

LOOPBACK = "127.0.0.1"
API_PORTS = range(16443, 16543)  # on the host: the first free one is the lab's
# A wider route (a VPN's 10.0.0.0/8) loses but the lab's few addresses to it: better than no lab.
WIDE_BITS = 15
Network = ipaddress.IPv4Network


@dataclass(frozen=True)
class Slot:
    """The number of a lab's subnet, and the host port of its API."""

    number: int
    api_port: int

    @property
    def interface(self) -> str:
        """The host's."""
        return f"ambient{self.number}"


def subnet(number: int) -> Network:
    """A lab's."""
    return Network(f"{SUBNET_PREFIX}.{number}.0/24")


def launcher_of(folder: Path) -> dict[str, Any] | None:
    """A lab's ``launcher.json``; None where there is none that can be read."""
    try:
        return dict(json.loads((folder / "launcher.json").read_text()))
    except (OSError, ValueError):
        return None


def slot_of(folder: Path) -> Slot | None:
    """The slot that a lab has; None where it has none."""
    if (launcher := launcher_of(folder)) is None:
        return None
    port = next(port for _, port, _, target in launcher["forwards"] if target == components.API_PORT)
    return Slot(int(launcher["address"].split(".")[2]), port)


def choose(folder: Path) -> Slot:
    """The lab's own slot if it has one, else the first that neither a lab nor the host uses.

    Raises :class:`LabError` where there is none, or another state folder's lab has taken the lab's own subnet.
    """
    own = slot_of(folder)
    if own and alive(folder / "launcher.pid") is not None:
        return own
    taken = [slot for other in folder.parent.iterdir() if other != folder and (slot := slot_of(other))]
    ports = {slot.api_port for slot in taken}
    free_ports = (port for port in API_PORTS if port not in ports and is_free(port))
    if own:
        # Its addresses are in its certificates and in what etcd keeps.
        if (holder := interface_owner(own.interface)) not in (None, str(folder)):
            raise LabError(
                f"The lab {folder.name} has the subnet {subnet(own.number)}, and {holder or 'something else'} uses it "
                f"now ({own.interface}): end that, or remove this lab (<absent>)"
            )
        return own if is_free(own.api_port) else Slot(own.number, next(free_ports, own.api_port))
    numbers = {slot.number for slot in taken}
    try:
        return Slot(next(number for number in _free_numbers() if number not in numbers), next(free_ports))
    except StopIteration:
        raise LabError(f"No free subnet or port for another lab: remove one of {folder.parent}") from None


def _free_numbers() -> Iterator[int]:
    """Subnets' numbers, those first to which the host has no route at all (a VPN, another lab)."""
    routes = routed(json.loads(run(["ip", "-4", "-json", "route", "show", "table", "all"])))
    for used in (routes, [route for route in routes if route.prefixlen > WIDE_BITS]):
        yield from (n for n in range(1, 255) if not any(subnet(n).overlaps(route) for route in used))


def routed(routes: list[dict[str, Any]]) -> list[Network]:
    """Where routes of ``ip -json`` lead, but for everywhere: a default, also in the halves that VPNs write."""
    found = [Network(route["dst"]) for route in routes if route["dst"] != "default"]
    return [network for network in found if network.prefixlen > 1]


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of the loopback."""
    with socket.socket() as listener:
        return listener.connect_ex((LOOPBACK, port)) != 0
