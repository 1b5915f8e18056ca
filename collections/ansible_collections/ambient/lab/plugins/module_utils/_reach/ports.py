# What policies say of ports: the Service's where ztunnel sees the workload's, and HTTP where a waypoint reads bytes.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from .._mesh.endpoints import Endpoint, endpoints, entry_endpoints, port_of
from .._mesh.l7 import admits, http_attributes
from .._mesh.mesh import Mesh, Object, labels_of, name_of, namespace_of
from .._mesh.policies import Rule, action, is_dry_run, rules, targets
from .._mesh.routes import reads_bytes
from .._mesh.waypoints import WAYPOINT_FOR, waypoint_of
from .._results.measured import Finding
from .findings import Bound, fields


def ports_of(mesh: Mesh, pod: Object) -> set[int]:
    """Ports of a pod that are known: declared, or a Service's target."""
    declared = {
        int(port["containerPort"])
        for container in pod.get("spec", {}).get("containers") or []
        for port in container.get("ports") or []
    }
    led = {end.port for _service, _port, end in _leading(mesh, pod)}
    return declared | {number for number in led if number}


def _leading(mesh: Mesh, pod: Object) -> list[tuple[Object, int, Endpoint]]:
    """Services, their ports, and where these end in a pod."""
    space = namespace_of(pod)
    ends = mesh.once(
        ("leading", space),
        lambda: [
            (service, int(port["port"]), end)
            for service in mesh.items("Service", space)
            for port in service.get("spec", {}).get("ports") or []
            for end in endpoints(mesh, service, port)
        ],
    )
    return [found for found in ends if found[2].pod is not None and name_of(found[2].pod) == name_of(pod)]


def _served(mesh: Mesh, policy: Object) -> list[tuple[Object, int, set[int]]]:
    """Ports at which a waypoint asks a policy: of which object, and where they end."""
    bound = targets(policy)
    named = [mesh.get(kind, namespace_of(policy), name) for kind, name in bound if kind in ("Service", "ServiceEntry")]
    gateways = {(namespace_of(policy), name) for kind, name in bound if kind == "Gateway"}
    every = any(kind == "GatewayClass" for kind, _name in bound)
    for item in (*mesh.items("Service"), *mesh.items("ServiceEntry")) if gateways or every else ():
        waypoint = waypoint_of(mesh, item)
        if waypoint and waypoint.serves and (every or (waypoint.namespace, waypoint.name) in gateways):
            named.append(item)
    return [
        (item, number, _ends(mesh, item, port, number))
        for item in filter(None, named)
        for port in item.get("spec", {}).get("ports") or []
        if port_of(item, number := int(port.get("number", port.get("port"))))
    ]


def _ends(mesh: Mesh, item: Object, port: Object, number: int) -> set[int]:
    """Where a port ends, as far as that is known."""
    found = endpoints(mesh, item, port) if item["kind"] == "Service" else entry_endpoints(mesh, item, number)
    target = port.get("targetPort", number)
    return {end.port for end in found if end.port} | ({target} if isinstance(target, int) else set())


def _takes_pods(mesh: Mesh, policy: Object) -> bool:
    """Whether a waypoint asks a policy about pods called by their own addresses, where it sees the workload's port."""
    if not any(kind in ("Gateway", "GatewayClass") for kind, _name in targets(policy)):
        return False
    holders = (*mesh.items("Gateway"), *mesh.items("GatewayClass"))
    return any(labels_of(item).get(WAYPOINT_FOR) in ("workload", "all") for item in holders)


def ports(mesh: Mesh, item: Bound) -> t.Iterator[Finding]:
    """The port of the Service where the proxy sees the workload's, or the other way round."""
    values = [(keys, value) for keys, field, found in fields(item.policy) if field == "ports" for value in found]
    at_waypoint = values and item.proxy == "waypoint" and not _takes_pods(mesh, item.policy)
    served = _served(mesh, item.policy) if at_waypoint else []
    for keys, value in values:
        number = int(value) if value.isdecimal() else 0
        never = "this excludes nothing" if str(keys[-1]).startswith("not") else "this never matches"
        if item.proxy == "ztunnel" and item.pods:
            known = set().union(*(ports_of(mesh, pod) for pod in item.pods))
            led = {end.port or 0 for pod in item.pods for _item, port, end in _leading(mesh, pod) if port == number}
            if number not in known and any(led):
                right = _listed(led)
                effect = f"port {value} is the Service's; ztunnel sees the workload's, {right}: {never}"
                yield item.found("service-port", "error", effect, f"write {right}", *keys)
        right = _listed(port for _object, port, ends in served if number in ends)
        if right and number not in {port for _object, port, _ends in served}:
            effect = f"port {value} is the workload's; a waypoint sees the Service's, {right}: {never}"
            yield item.found("workload-port", "error", effect, f"write {right}", *keys)


def _listed(numbers: t.Iterable[int]) -> str:
    return ", ".join(str(number) for number in sorted({*numbers}) if number)


def protocols(mesh: Mesh, item: Bound) -> t.Iterator[Finding]:
    """HTTP attributes at a port where a waypoint reads bytes: ALLOW never matches there, DENY denies everything.

    Source: istio/istio pilot/pkg/security/authz/model/model.go (checkError, forTCP).
    """
    kind = action(item.policy)
    if item.proxy != "waypoint" or kind not in ("ALLOW", "DENY") or is_dry_run(item.policy):
        return
    for number, rule in enumerate(rules(item.policy)):
        if not (names := http_attributes(rule)):
            continue
        asked = [(target, port) for target, port, _ends in _served(mesh, item.policy) if _admits(rule, port)]
        raw = [(target, port) for target, port in asked if reads_bytes(target, port, "")]
        if kind == "DENY":
            raw = [(target, port) for target, port in raw if http_attributes(rule, port)]
        if raw and (kind == "DENY" or len(raw) == len(asked)):
            where = ", ".join(dict.fromkeys(f"{one['kind']} {name_of(one)}, port {port}" for one, port in raw))
            does = "never matches" if kind == "ALLOW" else "denies everything there"
            effect = f"a waypoint reads bytes alone at {where}: rule {number} with {', '.join(names)} ({kind}) {does}"
            mend = "name the port http (or set appProtocol), or leave it out of the rule with ports or notPorts"
            yield item.found("http-at-tcp-port", "error", effect, mend, "spec", "rules", number)


def _admits(rule: Rule, port: int) -> bool:
    """Whether a rule may match at a port."""
    operations = rule.operations or [[]]
    return admits(rule.when, port) and any(admits(operation, port) for operation in operations)
