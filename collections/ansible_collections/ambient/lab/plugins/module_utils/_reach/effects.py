# What policies do together and to whom: what they forget, what shadows them, and who walks around them.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from .._mesh import l4
from .._mesh.decisions import at_ztunnel
from .._mesh.endpoints import Endpoint, endpoints
from .._mesh.l4 import Connection, Identity
from .._mesh.mesh import Mesh, Object, name_of, namespace_of
from .._mesh.paths import ZtunnelHop, pod_policies
from .._mesh.policies import (
    action,
    decides,
    is_dry_run,
    selector,
    target_refs,
    targets,
    written_rules,
)
from .._mesh.waypoints import bound_policies, waypoint_of
from .findings import Bound, Finding, binding, fields
from .patterns import OTHER

# From istio.io's release notes and Istio's pull requests, as of 2026-11: what, the release that mends it, the source.
HOLES = (
    ("dots in serviceAccounts stand for any character at a waypoint", "1.29.2", "CVE-2026-39350"),
    (
        "signs of regular expressions in principals and namespaces let others pass at a waypoint",
        "1.29.3",
        "istio#59992",
    ),
    ("istio-cni may give a pod another's network, and so a wrong identity", "1.30.4", "istio#61211"),
    ("traffic of a multi-cluster ingress may go around a waypoint", "1.30.4", "istio#61092"),
    ("negative matches of headers and path parameters may be circumvented in Envoy", "1.30.4", "CVE-2026-73552"),
)
_IDENTITIES = {"principals", "namespaces", "serviceAccounts"}


def versions(mesh: Mesh) -> t.Iterator[Finding]:
    """Holes that a release of Istio may have."""
    version = mesh.config.version or (9, 9)
    for what, mended, source in HOLES:
        if version <= tuple(int(part) for part in mended.split(".")[:2]):
            effect = f"Istio {version[0]}.{version[1]} may have a hole: {what} ({source})"
            yield Finding("version-hole", "warning", "", "", effect, f"update to {mended} of Istio or newer")


def through_waypoints(mesh: Mesh, bounds: t.Mapping[str, Bound]) -> t.Iterator[Finding]:
    """Policies of pods that refuse the waypoint itself, and pods that are open beside it."""
    said: set[tuple[str, str]] = set()
    for service in mesh.items("Service"):
        waypoint = waypoint_of(mesh, service)
        if waypoint is None or not waypoint.serves:
            continue
        domain = mesh.config.trust_domains[0]
        own = Identity(domain, waypoint.namespace, waypoint.accounts[0])
        other = Identity(domain, OTHER, OTHER)
        for end in _ends(mesh, service):
            refused = _decide(mesh, end, own)
            for name in refused.among if refused.verdict == "deny" else ():
                if name in bounds and (name, str(waypoint)) not in said:
                    said.add((name, str(waypoint)))
                    effect = f"it refuses the waypoint {waypoint}, so all that goes through it ends with 503"
                    mend = f"allow the principal {own} (of DENY: except it) in {name}"
                    yield bounds[name].found("waypoint-forgotten", "error", effect, mend, "spec", "rules")
            if _decide(mesh, end, other).verdict != "allow":
                continue
            for policy in bound_policies(mesh, waypoint, service, "AuthorizationPolicy"):
                name = name_of(policy)
                if (name, "") not in said and decides(policy, "waypoint"):
                    said.add((name, ""))
                    effect = f"clients that call pod {name_of(t.cast(Object, end.pod))} by its address go around it"
                    mend = f"add an ALLOW policy for these pods with the principal {own} alone"
                    yield bounds[name].found("open-by-pod-ip", "warning", effect, mend, "spec")


def _ends(mesh: Mesh, service: Object) -> list[Endpoint]:
    ports = service.get("spec", {}).get("ports") or []
    found = [end for port in ports for end in endpoints(mesh, service, port)]
    return [end for end in found if end.pod and mesh.membership(end.pod).captured]


def _decide(mesh: Mesh, end: Endpoint, identity: Identity | None) -> t.Any:
    pod = t.cast(Object, end.pod)
    connection = Connection(identity, None, None, end.port)
    return at_ztunnel(mesh, ZtunnelHop(pod, connection, tuple(pod_policies(mesh, pod))))


def without_identity(mesh: Mesh, item: Bound) -> t.Iterator[Finding]:
    """A DENY policy that names who may not call: whoever has no identity is none of them."""
    policy = item.policy
    if item.proxy != "ztunnel" or action(policy) != "DENY" or is_dry_run(policy) or not item.pods:
        return
    named = [
        keys for keys, field, _values in fields(policy) if field in _IDENTITIES and not str(keys[-1]).startswith("not")
    ]
    ports = sorted(_ports(mesh, item.pods[0])) or [0]
    ends = [Endpoint("", number or None, item.pods[0]) for number in ports]
    if named and all(_decide(mesh, end, None).verdict == "allow" for end in ends):
        effect = "a client without identity (outside of the mesh) is not denied: it is none of those named"
        mend = "add a PeerAuthentication with STRICT, or a DENY rule with notPrincipals: ['*']"
        yield item.found("no-identity", "warning", effect, mend, *named[0])


def _ports(mesh: Mesh, pod: Object) -> set[int]:
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


def ports(mesh: Mesh, item: Bound) -> t.Iterator[Finding]:
    """The port of the Service where the proxy sees the workload's, or the other way round."""
    values = [(keys, value) for keys, field, found in fields(item.policy) if field == "ports" for value in found]
    for keys, value in values:
        number = int(value) if value.isdecimal() else 0
        if item.proxy == "ztunnel" and item.pods:
            known = set().union(*(_ports(mesh, pod) for pod in item.pods))
            led = sorted(
                {end.port or 0 for pod in item.pods for _item, port, end in _leading(mesh, pod) if port == number}
            )
            if number not in known and any(led):
                right = ", ".join(str(port) for port in led if port)
                never = "this excludes nothing" if str(keys[-1]).startswith("not") else "this never matches"
                effect = f"port {value} is the Service's; ztunnel sees the workload's, {right}: {never}"
                yield item.found("service-port", "error", effect, f"write {right}", *keys)
        services = [name for kind, name in targets(item.policy) if kind == "Service"]
        for service in filter(None, (mesh.get("Service", namespace_of(item.policy), name) for name in services)):
            listed = {
                int(port["port"]): port.get("targetPort", port["port"]) for port in service["spec"].get("ports") or []
            }
            right = ", ".join(str(port) for port, target in listed.items() if target == number)
            if number not in listed and right:
                never = "this excludes nothing" if str(keys[-1]).startswith("not") else "this never matches"
                effect = f"port {value} is the workload's; a waypoint sees the Service's, {right}: {never}"
                yield item.found("workload-port", "error", effect, f"write {right}", *keys)


def shadowed(mesh: Mesh, bounds: t.Sequence[Bound]) -> t.Iterator[Finding]:
    """Rules that change nothing, because a wider one of the same action, or a DENY, matches all that they match."""
    listed = [
        (item, number, rule)
        for item in bounds
        # What is enforced nowhere shadows nothing.
        if len([*binding(mesh, item)]) < max(1, len(target_refs(item.policy)))
        if item.proxy and not is_dry_run(item.policy) and action(item.policy) in ("ALLOW", "DENY")
        for number, rule in enumerate(written_rules(item.policy))
        if item.proxy == "waypoint" or number not in (l4.convert(item.policy) or l4.L4Policy("", (), {})).lost
    ]
    for index, (item, number, rule) in enumerate(listed):
        for place, (other, wide, wider) in enumerate(listed):
            if place == index or not _reaches(mesh, other, item) or not _covers(wider, rule):
                continue
            same = action(other.policy) == action(item.policy)
            if same and place > index and _reaches(mesh, item, other) and _covers(rule, wider):
                # Of two that say the same the later one is in excess.
                continue
            if same or action(other.policy) == "DENY":
                whole = f"rule {wide} of {name_of(other.policy)} ({action(other.policy)})"
                effect = f"its rule {number} changes nothing: {whole} matches all that it matches"
                yield item.found("shadowed-rule", "warning", effect, "remove one of them", "spec", "rules", number)
                break


def _reaches(mesh: Mesh, wide: Bound, narrow: Bound) -> bool:
    """Whether a policy is in force wherever another one is, at the same kind of proxy."""
    one, other = wide.policy, narrow.policy
    if wide.proxy != narrow.proxy:
        return False
    if target_refs(one) or target_refs(other):
        return namespace_of(one) == namespace_of(other) and {*targets(other)} <= {*targets(one)}
    near = namespace_of(one) in (namespace_of(other), mesh.config.root)
    return near and selector(one).items() <= selector(other).items()


def _covers(wide: Object, narrow: Object) -> bool:
    for key, inner in (("from", "source"), ("to", "operation")):
        entries = [(item or {}).get(inner) or {} for item in narrow.get(key) or []]
        others = [(item or {}).get(inner) or {} for item in wide.get(key) or []]
        if others and not (entries and all(any(_contains(one, item) for one in others) for item in entries)):
            return False
    conditions = [{"key": [str(item.get("key"))], **item} for item in narrow.get("when") or []]
    return all(
        any(item.get("key") == one.get("key") and _contains(_lists(one), _lists(item)) for item in conditions or [])
        for one in [{"key": [str(item.get("key"))], **item} for item in wide.get("when") or []]
    )


def _lists(condition: Object) -> Object:
    return {key: condition[key] for key in ("values", "notValues") if condition.get(key)}


def _contains(wide: Object, narrow: Object) -> bool:
    """Whether all that a source, an operation or a condition matches is matched by another one."""
    for field, values in wide.items():
        own = narrow.get(field) or []
        if field.startswith("not"):
            if not {*values} <= {*own}:
                return False
        elif not own or not all(any(_within(str(item), str(value), field) for value in values) for item in own):
            return False
    return True


def _within(value: str, pattern: str, field: str) -> bool:
    """Whether a pattern takes all that another one takes."""
    if (
        value == pattern
        or field in ("ports", "serviceAccounts", "ipBlocks", "remoteIpBlocks")
        or "{" in pattern + value
    ):
        return value == pattern
    return pattern == "*" or (
        value.endswith(pattern[1:])
        if pattern.startswith("*")
        else pattern.endswith("*") and value.startswith(pattern[:-1])
    )
