# What can be called: ports of Services and ServiceEntries, and the pods behind them by their own addresses.
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
    has_labels,
    is_ready,
    labels_of,
    name_of,
    namespace_of,
    workload_name,
)
from .._mesh.paths import pod_policies
from .._mesh.peers import strictness
from .._mesh.policies import rules, selector
from .._mesh.waypoints import MANAGED, waypoint_of
from .patterns import OTHER

OTHER_PORT = "any other port"
# Stands for it, where nobody names it.
_FREE = 65535
SUPPOSED = "policies alone name this port: it is supposed that something listens there"


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
    def supposed(self) -> bool:
        """Whether policies alone name the port, so that nobody knows of anything that listens there."""
        return any(there and there.why == SUPPOSED for there in self.found)

    @property
    def url(self) -> str:
        """Of the root path."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/"


def doors(meshes: t.Sequence[Mesh]) -> list[Door]:
    """All destinations of some states, by name.

    A pod's own address is left out where a Service without a waypoint leads to the same port in every state, and all
    its pods have the same policies: ztunnel does the same there.
    """
    offered = [_services(mesh) for mesh in meshes]
    pods = _pods(meshes, offered)
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
        for host in map(str, entry.get("spec", {}).get("hosts") or []):
            for number in _numbers(entry):
                # Any host of a wildcard's will do.
                own = host.lower().replace("*", OTHER)
                item = resolve(mesh, own, number, space)
                if item.service is entry:
                    found[f"ServiceEntry {name_of(entry)} {host}:{number}"] = space, own, item
    return found


def _numbers(item: Object) -> list[int]:
    listed = item.get("spec", {}).get("ports") or []
    numbers = dict.fromkeys(int(port.get("number", port.get("port"))) for port in listed)
    return [number for number in numbers if port_of(item, number)]


def _pods(meshes: t.Sequence[Mesh], offered: t.Sequence[_Found]) -> list[tuple[_Found, set[str]]]:
    """Ports of pods in each state, one pod of each workload; and those that a Service leads to as well."""
    workloads = [_workloads(mesh) for mesh in meshes]
    led = [_led(mesh, services) for mesh, services in zip(meshes, offered, strict=True)]
    kinds: dict[tuple[str, str], set[str]] = {}
    numbers: dict[tuple[str, ...], list[int]] = {}
    named: dict[tuple[str, ...], set[int]] = {}
    for mesh, pods, ports in zip(meshes, workloads, led, strict=True):
        for key, pod in pods.items():
            kinds.setdefault(key[:2], set()).add(key[2])
            numbers.setdefault(key, []).extend([*ports.get(name_of(pod), {}), *_declared(pod)])
            named.setdefault(key, set()).update(_named(mesh, pod))
    found = []
    for mesh, pods, ports in zip(meshes, workloads, led, strict=True):
        known: _Found = {}
        covered: set[str] = set()
        for key, pod in pods.items():
            space, name, kind, split = key
            host = next(iter(addresses_of(pod)), pod["metadata"]["name"])
            label = f"pod {space}/{name}" + (f" ({kind})" if len(kinds[space, name]) > 1 else "") + split
            there = {number: str(number) for number in (*numbers[key], *sorted(named[key]))}
            # What a container declares is informational: any port may be open, and policies may tell ports apart.
            if not numbers[key] or named[key]:
                there[next(number for number in range(_FREE, 0, -1) if number not in there)] = OTHER_PORT
            for number, text in there.items():
                end = of_pod(mesh, pod, number)
                why = "" if number in numbers[key] else SUPPOSED
                end = dataclasses.replace(end, ready=is_ready(pod)) if why else end
                known[f"{label}:{text}"] = space, host, Destination(host, number, "pods", None, (end,), why)
                around = ports.get(name_of(pod), {}).get(number) and waypoint_of(mesh, pod) is None
                covered |= {f"{label}:{text}"} if around else set()
        found.append((known, covered))
    return found


def _led(mesh: Mesh, services: _Found) -> dict[str, dict[int, bool]]:
    """Ports of pods to which Services lead, by the pod's name; and whether one does that stands for all its pods."""
    ports: dict[str, dict[int, bool]] = {}
    for _space, _host, item in services.values():
        if item.kind != "service" or item.service is None:
            continue
        alike = {(_enforced(mesh, end.pod), strictness(mesh, end.pod, end.port)) for end in item.endpoints if end.pod}
        around = waypoint_of(mesh, item.service) is None and len(alike) == 1
        for end in item.endpoints:
            if end.pod and end.port:
                known = ports.setdefault(name_of(end.pod), {})
                known[end.port] = known.get(end.port, False) or around
    return ports


def _enforced(mesh: Mesh, pod: Object) -> tuple[t.Hashable, ...]:
    """By what ztunnel decides for a pod."""
    member = mesh.membership(pod)
    return member.captured, member.sidecar, *map(name_of, pod_policies(mesh, pod) if member.captured else ())


def _declared(pod: Object) -> list[int]:
    return [
        int(port["containerPort"])
        for container in pod.get("spec", {}).get("containers") or []
        for port in container.get("ports") or []
        if port.get("protocol", "TCP") == "TCP"
    ]


def _named(mesh: Mesh, pod: Object) -> set[int]:
    """Ports that the policies of a pod tell apart."""
    near = [item for space in {namespace_of(pod), mesh.config.root} for item in mesh.items("PeerAuthentication", space)]
    peers = [item for item in near if has_labels(pod, selector(item))]
    found = {str(port) for item in peers for port in item.get("spec", {}).get("portLevelMtls") or {}}
    for policy in pod_policies(mesh, pod):
        for rule in rules(policy):
            for one in (*(one for operation in rule.operations for one in operation), *rule.when):
                found |= {*one.wanted, *one.unwanted} if one.attribute == "destination.port" else set()
    return {int(text) for text in found if text.isdecimal()}


def _workloads(mesh: Mesh) -> dict[tuple[str, str, str, str], Object]:
    """A pod of each workload, a ready one where there is one; by namespace, name and kind.

    Waypoints and gateways are none. What sets a second pod of a workload apart is the last part of the key.
    """
    found: dict[tuple[str, str, str, str], Object] = {}
    seen = set()
    for pod in sorted(mesh.items("Pod"), key=lambda pod: (not is_ready(pod), name_of(pod))):
        labels = {key: text for key, text in labels_of(pod).items() if not key.endswith("-hash")}
        own = namespace_of(pod), *workload_of(pod)
        key = own, tuple(sorted(labels.items())), mesh.membership(pod).captured
        if key not in seen and GATEWAY_NAME not in labels and not has_ended(pod):
            seen.add(key)
            found[*own, f" (pod {pod['metadata']['name']})" if (*own, "") in found else ""] = pod
    return found


def workload_of(pod: Object) -> tuple[str, str]:
    """Name and kind of a pod's workload; a folder's pod, and one of a StatefulSet, says who owns it."""
    owner = next((item for item in pod["metadata"].get("ownerReferences") or [] if item.get("controller")), None)
    if owner is None or owner["kind"] == "ReplicaSet":
        return workload_name(pod), "Deployment" if owner else "Pod"
    return str(owner["name"]), str(owner["kind"])
