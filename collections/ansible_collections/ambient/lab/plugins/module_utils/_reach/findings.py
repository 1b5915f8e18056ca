# What a policy as written never does, or does more than it seems: by its own words and what it is bound to.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import re
import typing as t

from .._mesh import l4
from .._mesh.folder import place_at
from .._mesh.mesh import (
    DATAPLANE_MODE,
    Mesh,
    Object,
    annotations_of,
    has_labels,
    labels_of,
    name_of,
    namespace_of,
)
from .._mesh.paths import selects
from .._mesh.policies import (
    DRY_RUN,
    action,
    is_dry_run,
    selector,
    target_refs,
    targets,
    written_rules,
)
from .._mesh.waypoints import (
    USE_CANARY,
    USE_WAYPOINT,
    WAYPOINT_CLASS,
    is_waypoint,
    is_waypoint_class,
    named_waypoint,
    waypoint_of,
)
from .._mesh.workloads import is_set_by_cluster, membership_of_new
from .._results.measured import Finding

# Values in which a star at one end stands for anything; in the middle it stands for itself.
_STARRED = ("principals", "methods", "paths", "hosts", "trustDomains", "requestPrincipals")
_SIGNS = re.compile(r"[.+?()\[\]{}|^$\\]")
# Stands for a version that nobody says.
NEWEST = (9, 9)
_FALSE = ("0", "f", "F", "false", "FALSE", "False", "")


@dataclasses.dataclass(frozen=True)
class Bound:
    """A policy and what enforces it.

    Attributes:
        policy: an AuthorizationPolicy.
        pods: in the mesh, for which ztunnel enforces it.
        proxy: ztunnel, waypoint, or "" where another Envoy does (a sidecar, an ingress gateway).
    """

    policy: Object
    pods: t.Sequence[Object]
    proxy: str

    def found(self, rule: str, severity: str, effect: str, mend: str, *keys: t.Any) -> Finding:
        """A finding about a field of the policy."""
        return Finding(rule, severity, name_of(self.policy), place_at(self.policy, *keys), effect, mend)


def bound(mesh: Mesh, policy: Object) -> Bound:
    """What enforces a policy. Where none of its pods is known, that is what would carry the traffic of a new one."""
    space = namespace_of(policy)
    if target_refs(policy):
        gateways = [mesh.get(kind, space, name) for kind, name in targets(policy) if kind == "Gateway"]
        return Bound(policy, (), "" if gateways and not any(map(is_waypoint_class, gateways)) else "waypoint")
    pods = [pod for pod in _near(mesh, policy) if selects(policy, pod) and not is_waypoint(mesh, pod)]
    captured = [pod for pod in pods if mesh.membership(pod).captured]
    if space != mesh.config.root:
        known = bool(captured) if pods else membership_of_new(mesh, space, selector(policy)).captured
    else:
        # With a selector it may be for an ingress gateway, which stands elsewhere.
        spaces = [] if pods or selector(policy) else mesh.items("Namespace")
        known = bool(captured) or any(labels_of(item).get(DATAPLANE_MODE) == "ambient" for item in spaces)
    return Bound(policy, captured, "ztunnel" if known else "")


def _near(mesh: Mesh, policy: Object) -> list[Object]:
    space = namespace_of(policy)
    return mesh.items("Pod", None if space == mesh.config.root else space)


def _selects_nothing(mesh: Mesh, policy: Object) -> bool:
    """Whether no pod that is known has the labels of a selector, and none that is not known is likely to."""
    labels, near = selector(policy), _near(mesh, policy)
    if mesh.config.whole or not near:
        return bool(near) and not any(has_labels(pod, labels) for pod in near)
    # Labels that no template has, and those of operators and of gateways, whose pods no folder has.
    written = {key: text for key, text in labels.items() if not is_set_by_cluster(key)}
    used = {key for pod in near for key in labels_of(pod)}
    foreign = any("/" in key and key not in used for key in written)
    elsewhere = foreign or namespace_of(policy) == mesh.config.root
    return bool(written) and not elsewhere and not any(has_labels(pod, written) for pod in near)


def binding(mesh: Mesh, item: Bound) -> t.Iterator[Finding]:
    """A selector or a targetRef that leads to nothing."""
    policy, space, near = item.policy, namespace_of(item.policy), _near(mesh, item.policy)
    spec, where = policy.get("spec", {}), ("spec", "selector")
    if spec.get("selector") is not None and not target_refs(policy) and not mesh.why_unread("Pod", space):
        there = [pod for pod in near if selects(policy, pod)]
        if not selector(policy):
            effect = "its selector has no labels, so istiod gives it to no workload: it is enforced nowhere"
            yield item.found("selector-empty", "error", effect, "leave selector out to select every pod", *where)
        elif _selects_nothing(mesh, policy):
            labels = ",".join(f"{key}={text}" for key, text in selector(policy).items())
            # Pods of a CronJob come and go.
            now, severity = (" that runs now", "warning") if mesh.config.whole else ("", "error")
            effect = f"its selector {labels} matches no pod{now}: it is enforced nowhere"
            yield item.found("selector-matches-nothing", severity, effect, "name labels of the pods' template", *where)
        elif there and all(is_waypoint(mesh, pod) for pod in there):
            effect = "it selects a waypoint's pods, and no waypoint enforces a policy without targetRefs"
            yield item.found("selector-on-waypoint", "error", effect, "name the Gateway in targetRefs", *where)
    for number, ref in enumerate(target_refs(policy)):
        keys = ("spec", "targetRefs", number) if spec.get("targetRefs") else ("spec", "targetRef")
        for rule, effect, mend in _target(mesh, space, str(ref.get("kind")), str(ref.get("name"))):
            yield item.found(rule, "error", f"{effect}: it is enforced nowhere", mend, *keys)


def _target(mesh: Mesh, space: str, kind: str, name: str) -> t.Iterator[tuple[str, str, str]]:
    """Why nobody enforces a policy that is bound to an object; nothing where somebody does, or nobody can know."""
    if kind == "GatewayClass":
        if space != mesh.config.root or name != WAYPOINT_CLASS:
            effect = f"a GatewayClass binds only in namespace {mesh.config.root}, and only {WAYPOINT_CLASS}"
            yield "target-missing", effect, "move the policy there, or name a Gateway or a Service"
        return
    found = mesh.get(kind, space, name)
    if mesh.why_unread(kind, space) or not mesh.items(kind, space):
        # Nothing of the kind is known here: policies may be kept apart from what they protect.
        return
    if found is None:
        yield "target-missing", f"there is no {kind} {name} in namespace {space}", "name one, in the policy's namespace"
    elif kind == "Gateway":
        users = [*mesh.items("Service"), *mesh.items("ServiceEntry"), *mesh.items("Pod")]
        # Those of other namespaces it takes only where its listener says so.
        shared = any("allowedRoutes" in listener for listener in found.get("spec", {}).get("listeners") or [])
        near = [user for user in users if shared or namespace_of(user) == space]
        known = any(user["kind"] != "Pod" for user in near) and not any(_may_enrol(mesh, user) for user in near)
        if known and is_waypoint_class(found) and all(named_waypoint(mesh, user) != (space, name) for user in users):
            effect = f"nothing is enrolled with the waypoint {space}/{name}"
            yield "target-without-waypoint", effect, f"label a Service or a namespace istio.io/use-waypoint: {name}"
    else:
        waypoint = waypoint_of(mesh, found)
        if waypoint is None and _may_enrol(mesh, found):
            return
        if waypoint is None or waypoint.problem:
            effect = waypoint.problem if waypoint else f"{kind} {name} is not enrolled with a waypoint"
            yield "target-without-waypoint", effect, "label it istio.io/use-waypoint, or its namespace"


def _may_enrol(mesh: Mesh, item: Object) -> bool:
    """Whether a Namespace that is not known may enrol an object, or a label does for a part of its traffic."""
    space, labels = namespace_of(item), labels_of(item)
    if USE_CANARY in labels or USE_CANARY in labels_of(mesh.namespace(space)):
        return True
    return USE_WAYPOINT not in labels and bool(mesh.why_unknown("Namespace", "", space))


def fields(policy: Object) -> t.Iterator[tuple[tuple[t.Any, ...], str, list[str]]]:
    """Path, name without negation, and values of each attribute of a policy's rules."""
    names = {"source.principal": "principals", "source.namespace": "namespaces", "destination.port": "ports"}
    names |= {"source.serviceAccount": "serviceAccounts"}
    for number, rule in enumerate(written_rules(policy)):
        for key, inner in (("from", "source"), ("to", "operation")):
            for index, entry in enumerate(rule.get(key) or []):
                for field, values in ((entry or {}).get(inner) or {}).items():
                    plain = f"{field[3].lower()}{field[4:]}" if field.startswith("not") else field
                    yield (
                        ("spec", "rules", number, key, index, inner, field),
                        plain,
                        [str(item) for item in values or []],
                    )
        for index, entry in enumerate(rule.get("when") or []):
            values = [*(entry.get("values") or []), *(entry.get("notValues") or [])]
            key = str(entry.get("key"))
            yield ("spec", "rules", number, "when", index), names.get(key, key), [str(item) for item in values]


def wording(mesh: Mesh, item: Bound) -> t.Iterator[Finding]:
    """Values that never match, and what a proxy can't match."""
    policy, at_ztunnel = item.policy, item.proxy == "ztunnel"
    converted = l4.convert(policy) if at_ztunnel else None
    for number, lost in (converted.lost if converted else {}).items():
        yield _lost(item, number, lost)
    if at_ztunnel and action(policy) in ("AUDIT", "CUSTOM"):
        effect = f"ztunnel does not know {action(policy)}: it is enforced nowhere"
        yield item.found(
            "action-at-ztunnel", "error", effect, "bind it to a waypoint with targetRefs", "spec", "action"
        )
    dry = annotations_of(policy).get(DRY_RUN)
    if is_dry_run(policy):
        effect = f"its annotation {DRY_RUN} makes it a dry run: it decides nothing"
        yield item.found("dry-run", "warning", effect, "remove the annotation to enforce it", "metadata", "annotations")
    elif dry is not None and dry not in _FALSE:
        effect = f"its annotation {DRY_RUN} is {dry!r}, which is no boolean: it is enforced"
        yield item.found("dry-run", "warning", effect, 'write "true", or remove it', "metadata", "annotations")
    for keys, field, values in fields(policy):
        for value in values:
            yield from _value(mesh, item, keys, field, value)


def _lost(item: Bound, number: int, lost: t.Sequence[str]) -> Finding:
    kind, names = action(item.policy), ", ".join(lost)
    effect, severity = "the rule is left out; where no other allows, all is denied", "error"
    if kind == "DENY":
        converted = l4.convert(item.policy)
        never = converted is not None and any(not any(clause) for clause in converted.rules[number])
        severity = "error" if never else "warning"
        effect = "the rule denies nothing" if never else "the rule denies more than it says, whatever these are"
    text = f"ztunnel can't match {names} of its rule {number} ({kind}): {effect}"
    return item.found(
        "http-at-ztunnel", severity, text, "bind it to a waypoint with targetRefs", "spec", "rules", number
    )


def _value(mesh: Mesh, item: Bound, keys: tuple[t.Any, ...], field: str, value: str) -> t.Iterator[Finding]:
    at_ztunnel, config = item.proxy == "ztunnel", mesh.config
    if field == "principals" and value.startswith("spiffe://"):
        effect = f"{value} never matches: principals are written without spiffe://"
        yield item.found("spiffe-prefix", "error", effect, f"write {value.removeprefix('spiffe://')}", *keys)
    elif field == "principals" and "/ns/" in value and not any("trust" in text for text in _unknown(mesh)):
        domain = value.partition("/")[0]
        known = config.trust_domains[:1] if at_ztunnel else (*config.trust_domains, "cluster.local")
        if "*" not in domain and domain not in known and item.proxy:
            who = "ztunnel takes the mesh's own alone" if at_ztunnel else "it is none of the mesh's"
            effect = (
                f"trust domain {domain} of {value}: {who}, which is {config.trust_domains[0]}: no client here has it"
            )
            yield item.found("foreign-trust-domain", "warning", effect, f"write {config.trust_domains[0]}", *keys)
    starred = value[1:] if value.startswith("*") else value.removesuffix("*")
    if "*" in starred and "{" not in value and (field in _STARRED or (field == "namespaces" and at_ztunnel)):
        effect = f"{field} {value}: a star that is not at one end stands for itself, so this never matches"
        yield item.found("inner-star", "error", effect, "use one star, at the beginning or at the end", *keys)
    if field == "methods" and value != value.upper() and item.proxy == "waypoint":
        effect = f"methods {value}: methods are compared with their case, so this never matches"
        yield item.found("method-case", "error", effect, f"write {value.upper()}", *keys)
    if field == "trustDomains" and at_ztunnel:
        effect = "ztunnel is not told of trustDomains: alone they match nothing, beside others they are ignored"
        yield item.found("trust-domains-at-ztunnel", "error", effect, "write the trust domain in principals", *keys)
    if item.proxy == "waypoint" and is_before(config.version or NEWEST, "1.28.7 1.29.3") and _has_signs(field, value):
        effect = f"{field} {value}: before Istio 1.29.3 a waypoint takes it for a regular expression (istio#59992)"
        yield item.found("regex-sign", "warning", effect, "update Istio, or use names without such signs", *keys)


def is_before(version: tuple[int, ...], mended: str) -> bool:
    """Whether a version is older than the releases that mend something: of its minor version, or else the last one."""
    releases = [tuple(map(int, text.split("."))) for text in mended.split()]
    return version < next((item for item in releases if item[:2] == version[:2]), releases[-1])


def _unknown(mesh: Mesh) -> list[str]:
    """What is assumed of the mesh's configuration, in which the trust domain stands."""
    return ["trust domain" for text in mesh.config.assumed if "configuration" in text or "ConfigMap" in text]


def _has_signs(field: str, value: str) -> bool:
    # Of principals only those that begin with a star were regular expressions.
    text = value[1:] if field == "principals" and value.startswith("*") else value if field != "principals" else ""
    return field in ("principals", "namespaces", "serviceAccounts") and _SIGNS.search(text) is not None
