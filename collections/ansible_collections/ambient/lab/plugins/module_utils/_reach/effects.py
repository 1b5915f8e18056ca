# What policies do together and to whom: what they forget, what shadows them, and who walks around them.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import ipaddress
import typing as t

from .._mesh import l4
from .._mesh.decisions import at_ztunnel
from .._mesh.endpoints import Endpoint, endpoints
from .._mesh.l4 import Connection, Identity
from .._mesh.mesh import Mesh, Object, name_of, namespace_of
from .._mesh.paths import ZtunnelHop, pod_policies
from .._mesh.policies import (
    Condition,
    Rule,
    action,
    decides,
    is_dry_run,
    rules,
    selector,
    target_refs,
    targets,
)
from .._mesh.waypoints import bound_policies, waypoint_of
from .._results.measured import Finding
from .findings import NEWEST, Bound, binding, fields, is_before
from .patterns import OTHER
from .ports import ports_of

# From istio.io's release notes and Istio's pull requests, as of 2026-11: what, the releases that mend it (the last one,
# and those of older minor versions), the source.
HOLES = (
    ("dots in serviceAccounts stand for any character at a waypoint", "1.27.9 1.28.6 1.29.2", "CVE-2026-39350"),
    (
        "signs of regular expressions in principals and namespaces let others pass at a waypoint",
        "1.28.7 1.29.3",
        "istio#59992",
    ),
    ("istio-cni may give a pod another's network, and so a wrong identity", "1.29.7 1.30.4", "istio#61211"),
    ("traffic of a multi-cluster ingress may go around a waypoint", "1.29.7 1.30.4", "istio#61092"),
    ("negative matches of headers and path parameters may be circumvented in Envoy", "1.29.7 1.30.4", "CVE-2026-73552"),
)
_IDENTITIES = {"principals", "namespaces", "serviceAccounts"}


def versions(mesh: Mesh) -> t.Iterator[Finding]:
    """Holes that a release of Istio may have; where the patch is not known, it may be any."""
    version = mesh.config.version or NEWEST
    for what, mended, source in HOLES:
        if is_before(version, mended):
            effect = f"Istio {'.'.join(map(str, version))} may have a hole: {what} ({source})"
            yield Finding(
                "version-hole", "warning", "", "", effect, f"update to {mended.split()[-1]} of Istio or newer"
            )


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
        for name in _refusing(mesh, service, own):
            if name in bounds and (name, str(waypoint)) not in said:
                said.add((name, str(waypoint)))
                effect = f"it refuses the waypoint {waypoint}, so all that goes through it ends with 503"
                mend = f"allow the principal {own} (of DENY: except it) in {name}"
                yield bounds[name].found("waypoint-forgotten", "error", effect, mend, "spec", "rules")
        for end in _ends(mesh, service):
            if _decide(mesh, end, other).verdict != "allow":
                continue
            for policy in bound_policies(mesh, waypoint, service, "AuthorizationPolicy"):
                name = name_of(policy)
                if (name, "") not in said and decides(policy, "waypoint"):
                    said.add((name, ""))
                    effect = f"clients that call pod {name_of(t.cast(Object, end.pod))} by its address go around it"
                    mend = f"add an ALLOW policy for these pods with the principal {own} alone"
                    yield bounds[name].found("open-by-pod-ip", "warning", effect, mend, "spec")


def _refusing(mesh: Mesh, service: Object, identity: Identity) -> dict[str, None]:
    """Policies that refuse an identity at every port of a pod to which a Service leads.

    A port that it may not call, as one for metrics, may be for others.
    """
    decided: dict[str, list[t.Any]] = {}
    for end in _ends(mesh, service):
        decided.setdefault(name_of(t.cast(Object, end.pod)), []).append(_decide(mesh, end, identity))
    refused = [found for found in decided.values() if all(one.verdict == "deny" for one in found)]
    return dict.fromkeys(name for found in refused for one in found for name in one.among)


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
    ports = sorted(ports_of(mesh, item.pods[0])) or [0]
    ends = [Endpoint("", number or None, item.pods[0]) for number in ports]
    if named and all(_decide(mesh, end, None).verdict == "allow" for end in ends):
        effect = "a client without identity (outside of the mesh) is not denied: it is none of those named"
        mend = "add a PeerAuthentication with STRICT, or a DENY rule with notPrincipals: ['*']"
        yield item.found("no-identity", "warning", effect, mend, *named[0])


def shadowed(mesh: Mesh, bounds: t.Sequence[Bound]) -> t.Iterator[Finding]:
    """Rules that change nothing, because a wider one of the same action, or a DENY, matches all that they match."""
    listed = [
        (item, number, rule)
        for item in bounds
        # What is enforced nowhere shadows nothing.
        if len([*binding(mesh, item)]) < max(1, len(target_refs(item.policy)))
        if item.proxy and not is_dry_run(item.policy) and action(item.policy) in ("ALLOW", "DENY")
        for number, rule in enumerate(qualified(item.policy))
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


def _covers(wide: Rule, narrow: Rule) -> bool:
    for mine, its in ((wide.operations, narrow.operations), (wide.sources, narrow.sources)):
        if mine and not (its and all(any(_contains(one, item) for one in mine) for item in its)):
            return False
    return all(any(one.key == item.key and _contains([one], [item]) for item in narrow.when) for one in wide.when)


def qualified(policy: Object) -> list[Rule]:
    """A policy's rules with the namespaces of their ServiceAccounts: without one it is the policy's own."""

    def full(one: Condition) -> Condition:
        if one.attribute != "source.serviceAccount":
            return one
        wanted, unwanted = (
            tuple(text if "/" in text else f"{namespace_of(policy)}/{text}" for text in values)
            for values in (one.wanted, one.unwanted)
        )
        return dataclasses.replace(one, wanted=wanted, unwanted=unwanted)

    return [
        Rule(rule.operations, [list(map(full, source)) for source in rule.sources], list(map(full, rule.when)))
        for rule in rules(policy)
    ]


def _contains(wide: t.Sequence[Condition], narrow: t.Sequence[Condition]) -> bool:
    """Whether all that a source, an operation or a condition matches is matched by another one."""
    there = {one.key: one for one in narrow}
    for one in wide:
        own = there.get(one.key, Condition(one.key, one.attribute, (), ()))
        out = all(any(_within(value, item, one.attribute) for item in own.unwanted) for value in one.unwanted)
        inside = all(any(_within(item, value, one.attribute) for value in one.wanted) for item in own.wanted)
        if not out or (one.wanted and not (own.wanted and inside)):
            return False
    return True


def _within(value: str, pattern: str, attribute: str) -> bool:
    """Whether a pattern of an attribute takes all that another one takes."""
    if value == pattern:
        return True
    if attribute.endswith(".ip"):
        inner, outer = (ipaddress.ip_network(text, strict=False) for text in (value, pattern))
        return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]  # of one version
    if attribute.endswith((".port", ".serviceAccount")) or "{" in pattern + value:
        return False
    return pattern == "*" or (
        value.endswith(pattern[1:])
        if pattern.startswith("*")
        else pattern.endswith("*") and value.startswith(pattern[:-1])
    )
