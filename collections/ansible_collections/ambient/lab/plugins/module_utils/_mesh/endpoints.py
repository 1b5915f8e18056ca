# Where connections to a Service, a ServiceEntry or a pod may end.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .mesh import Mesh, Object, addresses_of, has_labels, ip, is_ready, labels_of, namespace_of

# curl speaks TCP.
_NO_TCP = ("UDP", "SCTP")
_SERVICE_NAME = "kubernetes.io/service-name"


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Where a connection may end.

    Attributes:
        address: of a pod, or of a host outside.
        port: None where nobody knows its number.
        pod: None outside of the cluster.
        ready: None where nobody can know.
        plain: proxies are told of the address alone, and call it in plain text.
    """

    address: str
    port: int | None
    pod: Object | None = None
    ready: bool | None = True
    plain: bool = False

    def __str__(self) -> str:
        return logged(self.address, self.port)


def logged(address: str, port: int | None) -> str:
    """An address as proxies log it; without a port where nobody knows its number."""
    return f"{f'[{address}]' if ':' in address else address}:{port or ''}"


def port_of(target: Object, number: int | None, field: str = "") -> Object | None:
    """A port of a Service or a ServiceEntry for TCP, by its number; None where it has none.

    field: that holds the number; the port's own where it is empty.
    """
    for item in target.get("spec", {}).get("ports") or []:
        found = item.get(field) if field else item.get("number", item.get("port"))
        if found == number and str(item.get("protocol")).upper() not in _NO_TCP:
            return dict(item)
    return None


def readiness(pod: Object, service: Object | None) -> bool | None:
    """Whether a pod behind a Service answers; None where the Service has it not ready, too."""
    published = (service or {}).get("spec", {}).get("publishNotReadyAddresses")
    return is_ready(pod) or (None if published else False)


def endpoints(mesh: Mesh, service: Object, port: Object) -> list[Endpoint]:
    """Where a port of a Service leads to: its selector's pods, or what its EndpointSlices name."""
    if not service.get("spec", {}).get("selector"):
        return sliced(mesh, service, port)
    target = port.get("targetPort", port["port"])
    ends = []
    for pod in behind(mesh, service):
        address = next(iter(addresses_of(pod)), "")
        ends.append(Endpoint(address, _number(pod, port), pod, readiness(pod, service)))
    # istiod lets a Service's selector choose WorkloadEntries, too (PILOT_ENABLE_K8S_SELECT_WORKLOAD_ENTRIES).
    number, chosen = target if isinstance(target, int) else None, service["spec"]["selector"]
    return [*ends, *_machines(mesh, namespace_of(service), chosen, _name(port), number)]


def sliced(mesh: Mesh, service: Object, port: Object | None) -> list[Endpoint]:
    """Where the EndpointSlices of a Service lead to. port: of the Service; None takes any."""
    ends = []
    for item in mesh.items("EndpointSlice", namespace_of(service)):
        if labels_of(item).get(_SERVICE_NAME) != service["metadata"]["name"]:
            continue
        listed = item.get("ports") or []
        numbers = [
            entry.get("port")
            for entry in listed
            if not port or (_name(entry) == _name(port) and entry.get("protocol") not in _NO_TCP)
        ]
        for end in item.get("endpoints") or []:
            conditions = end.get("conditions") or {}
            # publishNotReadyAddresses makes `ready` always true (discovery/v1, EndpointConditions).
            ready = bool(conditions.get("serving", conditions.get("ready", True)))
            for address in end.get("addresses") or []:
                pods = mesh.pods_at(str(address))
                pod = pods[0] if len(pods) == 1 else None
                # Without a reference to the pod istiod takes it for a workload of its own, outside of the mesh.
                plain = (end.get("targetRef") or {}).get("kind") != "Pod"
                ends.append(Endpoint(ip(str(address)), numbers[0] if numbers else None, pod, ready, plain))
    return ends


def _name(port: Object) -> str:
    return str(port.get("name") or "")


def behind(mesh: Mesh, service: Object) -> list[Object]:
    """Pods that a Service selects."""
    selector = service.get("spec", {}).get("selector")
    return mesh.selected(namespace_of(service), selector) if selector else []


def _declared(pod: Object) -> list[Object]:
    return [port for item in pod.get("spec", {}).get("containers") or [] for port in item.get("ports") or []]


def _number(pod: Object, port: Object) -> int | None:
    """Number of the pod's port that a Service's port leads to; None where the pod has none of its name."""
    target = port.get("targetPort", port["port"])
    named = (item["containerPort"] for item in _declared(pod) if item.get("name") == target)
    return target if isinstance(target, int) else next(named, None)


def of_pod(mesh: Mesh, pod: Object, port: int, address: str = "", service: Object | None = None) -> Endpoint:
    """A pod at a port of its own. Where it declares ports, and this is none of them, nobody knows whether it is ready.

    What a container declares is informational (Kubernetes, Container v1 core), so a Service's target counts as well.
    """
    declared = {item["containerPort"] for item in _declared(pod)}
    offered = not declared or port in declared or port in _targets(pod, mesh)
    return Endpoint(
        address or next(iter(addresses_of(pod)), ""), port, pod, readiness(pod, service) and (offered or None)
    )


def _targets(pod: Object, mesh: Mesh) -> set[int | None]:
    """Numbers of a pod's ports that Services of its namespace lead to."""
    specs = [service.get("spec", {}) for service in mesh.items("Service", namespace_of(pod))]
    chosen = [spec for spec in specs if spec.get("selector") and has_labels(pod, spec["selector"])]
    return {_number(pod, port) for spec in chosen for port in spec.get("ports") or []}


def entry_endpoints(mesh: Mesh, entry: Object, port: int) -> list[Endpoint]:
    """Where a port of a ServiceEntry leads to."""
    spec = entry.get("spec", {})
    wanted = port_of(entry, port)
    if wanted is None:
        return []
    target = int(wanted.get("targetPort") or wanted["number"])
    name = str(wanted.get("name", ""))
    listed = spec.get("endpoints") or []
    ends = [_entry_end(mesh, item, (item.get("ports") or {}).get(name, target)) for item in listed]
    labels = (spec.get("workloadSelector") or {}).get("labels")
    if labels:
        space = namespace_of(entry)
        for pod in mesh.selected(space, labels):
            ends.append(Endpoint(next(iter(addresses_of(pod)), ""), target, pod, is_ready(pod)))
        ends += _machines(mesh, space, labels, name, target)
    if not ends and not labels:
        # The host itself (resolution DNS), or whatever address was asked for (NONE).
        ends.append(Endpoint(str((spec.get("hosts") or [""])[0]), target, ready=None))
    return ends


def _machines(
    mesh: Mesh, space: str, labels: t.Mapping[str, str], name: str, target: int | None
) -> t.Iterator[Endpoint]:
    """Where WorkloadEntries with these labels are, for a port's name and its number."""
    for item in mesh.items("WorkloadEntry", space):
        spec = item.get("spec", {})
        if labels.items() <= {**labels_of(item), **(spec.get("labels") or {})}.items():
            yield _entry_end(mesh, spec, (spec.get("ports") or {}).get(name, target))


def _entry_end(mesh: Mesh, item: Object, port: int | None) -> Endpoint:
    address = str(item.get("address", ""))
    pods = mesh.pods_at(address)
    pod = pods[0] if len(pods) == 1 else None
    return Endpoint(ip(address), port, pod, is_ready(pod) if pod else None, plain=True)
