# What can be called: ports of Services and ServiceEntries, and the pods behind them by their own addresses.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .._mesh.destinations import Destination, resolve
from .._mesh.endpoints import of_pod, port_of
from .._mesh.mesh import (
    GATEWAY_NAME,
    Mesh,
    Object,
    addresses_of,
    has_ended,
    is_ready,
    labels_of,
    name_of,
    namespace_of,
    workload_name,
)
from .._mesh.waypoints import MANAGED, waypoint_of


@dataclasses.dataclass(frozen=True)
class Door:
    """A destination.

    Attributes:
        name: kind, namespace/name and port; the same in each state.
        namespace: of the object.
        host: for a URL; of a pod without an address its name.
        port: as the caller asks for it.
        found: what it is in each state; None where it does not exist.
    """

    name: str
    namespace: str
    host: str
    port: int
    found: tuple[Destination | None, ...]

    @property
    def url(self) -> str:
        """Of the root path."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/"


def doors(meshes: t.Sequence[Mesh]) -> list[Door]:
    """All destinations of some states, by name.

    A pod's own address is left out where a Service without a waypoint leads to the same port in every state: ztunnel
    does the same there.
    """
    offered = [_services(mesh) for mesh in meshes]
    pods = [_pods(mesh, found) for mesh, found in zip(meshes, offered, strict=True)]
    found = [{**services, **known} for services, (known, _covered) in zip(offered, pods, strict=True)]
    shown = {name: item for known in found for name, item in known.items()}
    listed = []
    for name, (space, host, item) in sorted(shown.items()):
        if item.kind != "pods" or not all(name not in known or name in covered for known, covered in pods):
            states = tuple(known[name][2] if name in known else None for known in found)
            listed.append(Door(name, space, host, item.port, states))
    return listed


_Found = dict[str, tuple[str, str, Destination]]


def _services(mesh: Mesh) -> _Found:
    """Ports of Services and ServiceEntries, with their namespace and the host of a URL."""
    found: _Found = {}
    for service in mesh.items("Service"):
        spec, space, name = service.get("spec", {}), namespace_of(service), service["metadata"]["name"]
        if spec.get("clusterIP") == "None" or spec.get("type") == "ExternalName" or MANAGED in labels_of(service):
            continue
        for number in _numbers(service):
            item = resolve(mesh, f"{name}.{space}.svc.{mesh.config.domain}.", number, space)
            found[f"Service {space}/{name}:{number}"] = space, f"{name}.{space}", item
    for entry in mesh.items("ServiceEntry"):
        space = namespace_of(entry)
        for host in [str(item) for item in entry.get("spec", {}).get("hosts") or [] if "*" not in str(item)]:
            for number in _numbers(entry):
                item = resolve(mesh, host.lower(), number, space)
                if item.service is entry:
                    found[f"ServiceEntry {name_of(entry)} {host}:{number}"] = space, host.lower(), item
    return found


def _numbers(item: Object) -> list[int]:
    listed = item.get("spec", {}).get("ports") or []
    numbers = dict.fromkeys(int(port.get("number", port.get("port"))) for port in listed)
    return [number for number in numbers if port_of(item, number)]


def _pods(mesh: Mesh, services: _Found) -> tuple[_Found, set[str]]:
    """Ports of pods, one pod of each workload; and those that a Service without a waypoint leads to as well."""
    ports: dict[str, dict[int, bool]] = {}
    for _space, _host, item in services.values():
        around = item.service is not None and waypoint_of(mesh, item.service) is None
        for end in item.endpoints:
            if end.pod and end.port and item.kind == "service":
                known = ports.setdefault(name_of(end.pod), {})
                known[end.port] = known.get(end.port, False) or around
    found: _Found = {}
    covered: set[str] = set()
    for pod in _workloads(mesh):
        space, own = namespace_of(pod), ports.get(name_of(pod), {})
        declared = [
            int(port["containerPort"])
            for container in pod.get("spec", {}).get("containers") or []
            for port in container.get("ports") or []
            if port.get("protocol", "TCP") == "TCP"
        ]
        host = next(iter(addresses_of(pod)), pod["metadata"]["name"])
        for number in dict.fromkeys([*own, *declared]):
            name = f"pod {space}/{_name(pod)}:{number}"
            if name not in found:
                end = of_pod(mesh, pod, number)
                found[name] = space, host, Destination(host, number, "pods", None, (end,))
                covered |= {name} if own.get(number) and waypoint_of(mesh, pod) is None else set()
    return found, covered


def _workloads(mesh: Mesh) -> t.Iterator[Object]:
    """A pod of each workload, a ready one where there is one; waypoints and gateways are none."""
    seen = set()
    for pod in sorted(mesh.items("Pod"), key=lambda pod: (not is_ready(pod), name_of(pod))):
        labels = {key: text for key, text in labels_of(pod).items() if not key.endswith("-hash")}
        key = namespace_of(pod), _name(pod), tuple(sorted(labels.items())), mesh.membership(pod).captured
        if key not in seen and GATEWAY_NAME not in labels and not has_ended(pod):
            seen.add(key)
            yield pod


def _name(pod: Object) -> str:
    """A workload's name; a folder's pod, and one of a StatefulSet, says who owns it."""
    owner = next((item for item in pod["metadata"].get("ownerReferences") or [] if item.get("controller")), None)
    return workload_name(pod) if owner is None or owner["kind"] == "ReplicaSet" else str(owner["name"])
