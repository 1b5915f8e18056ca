# What policies do together and to whom: what they forget, what shadows them, and who walks around them.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ipaddress
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
from .findings import NEWEST, Bound, Finding, binding, fields, is_before
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
        (item, number, qualified(item.policy, rule))
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
        any(
            item.get("key") == one.get("key") and _contains(_lists(one), _lists(item), str(one["key"]))
            for item in conditions or []
        )
        for one in [{"key": [str(item.get("key"))], **item} for item in wide.get("when") or []]
    )


def _lists(condition: Object) -> Object:
    return {key: condition[key] for key in ("values", "notValues") if condition.get(key)}


def qualified(policy: Object, rule: Object) -> Object:
    """A rule with the namespaces of its ServiceAccounts: without one it is the policy's own."""

    def full(values: t.Any) -> list[str]:
        return [text if "/" in text else f"{namespace_of(policy)}/{text}" for text in map(str, values or [])]

    def named(given: Object, keys: t.Collection[str]) -> Object:
        return {key: full(values) if key in keys else values for key, values in given.items()}

    accounts = ("serviceAccounts", "notServiceAccounts")
    sources = [{"source": named((item or {}).get("source") or {}, accounts)} for item in rule.get("from") or []]
    when = [
        named(item, ("values", "notValues") if item.get("key") == "source.serviceAccount" else ())
        for item in rule.get("when") or []
    ]
    return {**rule, **({"from": sources} if sources else {}), **({"when": when} if when else {})}


def _contains(wide: Object, narrow: Object, key: str = "") -> bool:
    """Whether all that a source, an operation or a condition matches is matched by another one. key: of a condition."""
    for field, values in wide.items():
        own, what = narrow.get(field) or [], key or field
        if field.startswith("not"):
            if not all(any(_within(str(value), str(item), what) for item in own) for value in values):
                return False
        elif not own or not all(any(_within(str(item), str(value), what) for value in values) for item in own):
            return False
    return True


def _within(value: str, pattern: str, field: str) -> bool:
    """Whether a pattern takes all that another one takes. field: of a rule, negated or not, or a condition's key."""
    if value == pattern:
        return True
    if field.lower().endswith(("ipblocks", ".ip")):
        inner, outer = (ipaddress.ip_network(text, strict=False) for text in (value, pattern))
        return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]  # of one version
    if field.lower().endswith(("ports", ".port", "serviceaccounts", ".serviceaccount")) or "{" in pattern + value:
        return False
    return pattern == "*" or (
        value.endswith(pattern[1:])
        if pattern.startswith("*")
        else pattern.endswith("*") and value.startswith(pattern[:-1])
    )
