# Weakened copies of policies: every way to change one that leaves it valid, one change at a time.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import copy
import dataclasses
import fnmatch
import typing as t

from .._mesh.folder import laid_over, place_at
from .._mesh.mesh import (
    DATAPLANE_MODE,
    Mesh,
    Object,
    labels_of,
    name_of,
    namespace_of,
)
from .._mesh.policies import SOURCE, action, not_, selector, target_refs, written_rules
from .._mesh.valid import problems
from .._mesh.waypoints import USE_WAYPOINT

# Fields that a star matches any value of.
_WIDE = ("principals", "namespaces", "methods", "paths", "hosts", "requestPrincipals")
# Conditions of the same attributes.
_PLAIN = {attribute: field for field, attribute in SOURCE.items()}
# The objects that say who is in the mesh, and who goes through a waypoint.
_ENROLLED = ("Namespace", "Service", "ServiceEntry", "Pod")


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        item: kind and namespace/name of what is changed.
        what: the change, in words.
        place: file:line of it.
        old: the object.
        new: the object as it is then; None: removed.
    """

    item: str
    what: str
    place: str
    old: Object
    new: Object | None

    def applied(self, mesh: Mesh) -> Mesh:
        """The mesh with the change."""
        if self.new and self.new["kind"] in ("Namespace", "Pod"):
            # Pods leave the mesh with a label, of their own or of their Namespace.
            return laid_over(mesh, [self.new])
        objects = [item for item in mesh.objects() if item is not self.old]
        return Mesh([*objects, *([self.new] if self.new else [])], mesh.config, mesh.unread, mesh.read)

    def is_named(self, patterns: t.Iterable[str]) -> bool:
        """Whether a pattern fits its text."""
        return any(fnmatch.fnmatchcase(str(self), text) for text in patterns)

    def __str__(self) -> str:
        return f"{self.item}: {self.what}"


def mutants(mesh: Mesh) -> t.Iterator[Mutant]:
    """All mutants of a mesh: of its policies of three kinds, and of who is enrolled."""
    for kind, change in (
        ("AuthorizationPolicy", _of_policy),
        ("PeerAuthentication", _of_peers),
        ("RequestAuthentication", _of_binding),
    ):
        for policy in mesh.items(kind):
            found: dict[str, Mutant] = {}
            for mutant in (_mutant(policy, "removed", None), *change(policy)):
                if mutant.new is None or not any(problems(mutant.new)):
                    found.setdefault(repr(mutant.new and mutant.new.get("spec")), mutant)
            yield from found.values()
    for kind in _ENROLLED:
        for item in mesh.items(kind):
            for label in (USE_WAYPOINT, DATAPLANE_MODE) if kind in ("Namespace", "Pod") else (USE_WAYPOINT,):
                if labels_of(item).get(label) not in (None, "none"):
                    yield _unlabelled(item, label)


def _mutant(item: Object, what: str, spec: Object | None, *keys: t.Any) -> Mutant:
    new = None if spec is None else {**item, "spec": spec}
    return Mutant(f"{item['kind']} {name_of(item).lstrip('/')}", what, place_at(item, *keys), item, new)


def _unlabelled(item: Object, label: str) -> Mutant:
    labels = {key: text for key, text in labels_of(item).items() if key != label}
    # To apply a Namespace without a label does not remove it, and a Pod without one takes its Namespace's.
    labels |= {label: "none"} if item["kind"] in ("Namespace", "Pod") else {}
    meta = {**item["metadata"], "labels": labels}
    place = place_at(item, "metadata", "labels", label)
    return Mutant(
        f"{item['kind']} {name_of(item).lstrip('/')}", f"without label {label}", place, item, {**item, "metadata": meta}
    )


def _of_peers(policy: Object) -> t.Iterator[Mutant]:
    spec = policy.get("spec", {})
    if (spec.get("mtls") or {}).get("mode") == "STRICT":
        yield _mutant(policy, "STRICT becomes PERMISSIVE", {**spec, "mtls": {"mode": "PERMISSIVE"}}, "spec")
    ports = spec.get("portLevelMtls") or {}
    for port, said in ports.items():
        where = ("spec", "portLevelMtls", port)
        rest = {key: value for key, value in ports.items() if key != port}
        less = {key: value for key, value in spec.items() if key != "portLevelMtls"}
        yield _mutant(
            policy, f"portLevelMtls without {port}", {**less, **({"portLevelMtls": rest} if rest else {})}, *where
        )
        if (said or {}).get("mode") == "STRICT":
            changed = {**ports, port: {"mode": "PERMISSIVE"}}
            yield _mutant(
                policy, f"STRICT of port {port} becomes PERMISSIVE", {**spec, "portLevelMtls": changed}, *where
            )
    yield from _of_binding(policy)


def _of_policy(policy: Object) -> t.Iterator[Mutant]:
    spec = policy.get("spec", {})
    other = {"ALLOW": "DENY", "DENY": "ALLOW"}.get(action(policy))
    if other:
        yield _mutant(policy, f"{action(policy)} becomes {other}", {**spec, "action": other}, "spec", "action")
    yield from _of_binding(policy)
    for what, changed, keys in _of_rules(written_rules(policy), namespace_of(policy)):
        yield _mutant(policy, what, {**spec, "rules": changed}, "spec", "rules", *keys)


def _of_binding(policy: Object) -> t.Iterator[Mutant]:
    """Changes of a selector, and of targetRefs."""
    spec = policy.get("spec", {})
    if spec.get("selector") is not None:
        less = {key: value for key, value in spec.items() if key != "selector"}
        yield _mutant(policy, "without its selector", less, "spec", "selector")
        labels = selector(policy)
        for label in labels if len(labels) > 1 else ():
            rest = {key: value for key, value in labels.items() if key != label}
            wider = {**spec, "selector": {"matchLabels": rest}}
            yield _mutant(policy, f"its selector without {label}", wider, "spec", "selector", "matchLabels", label)
        moved = {"matchLabels": {"app": "nobody-has-it"}}
        yield _mutant(policy, "its selector moved", {**spec, "selector": moved}, "spec", "selector")
    for number, ref in enumerate(target_refs(policy)):
        refs = [*target_refs(policy)]
        refs[number] = {**ref, "name": "nobody-has-it"}
        less = {key: value for key, value in spec.items() if key != "targetRef"}
        yield _mutant(
            policy, f"targetRef {ref.get('name')} moved", {**less, "targetRefs": refs}, "spec", "targetRefs", number
        )


def _to_namespaces(about: str, fields: Object, field: str, namespace: str) -> t.Iterator[tuple[str, Object]]:
    """Who is named, and the same source or condition with all of its namespace in its place.

    about: the attribute, named like the field of a source. namespace: of the policy.
    """
    values = [str(value) for value in fields[field]]
    if about == "principals":
        for index, value in enumerate(values):
            head, found, account = value.rpartition("/sa/")
            if found and account != "*":
                yield value, {**fields, field: [*values[:index], f"{head}/*", *values[index + 1 :]]}
    elif about == "serviceAccounts":
        spaces = list(dict.fromkeys(value.rpartition("/")[0] or namespace for value in values))
        rest = {key: found for key, found in fields.items() if key != field}
        own = {"key": "source.namespace", field: spaces} if "key" in fields else {"namespaces": spaces}
        yield ", ".join(values), {**rest, **own}


Changed = tuple[str, list[Object], tuple[t.Any, ...]]


def _of_rules(listed: list[Object], namespace: str) -> t.Iterator[Changed]:
    """Rules with one change, in words, and where it is."""

    def without(*keys: t.Any) -> list[Object]:
        changed = copy.deepcopy(listed)
        node: t.Any = changed
        for key in keys[:-1]:
            node = node[key]
        del node[keys[-1]]
        return changed

    def having(value: t.Any, *keys: t.Any) -> list[Object]:
        changed = copy.deepcopy(listed)
        node: t.Any = changed
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value
        return changed

    for number, rule in enumerate(listed):
        yield f"without rule {number}", without(number), (number,)
        for key in ("from", "to", "when"):
            entries = rule.get(key) or []
            if entries:
                yield f"rule {number} without {key}", without(number, key), (number, key)
            for index, entry in enumerate(entries):
                where = (number, key, index)
                if len(entries) > 1:
                    yield f"rule {number} without {key}[{index}]", without(*where), where
                inner = next((name for name in ("source", "operation") if name in entry), "")
                fields = entry[inner] if inner else entry
                path = (*where, inner) if inner else where
                for field, values in fields.items():
                    if not isinstance(values, list) or not values:
                        continue
                    name = f"{key}[{index}] {field}" if inner else f"{key}[{index}] {entry.get('key')} {field}"
                    if len([one for one in fields if one != "key"]) > 1:
                        yield f"rule {number}: {name} dropped", without(*path, field), (*path, field)
                    about = field if inner else _PLAIN.get(str(entry.get("key")), "") if field == "values" else ""
                    if about in _WIDE and values != ["*"]:
                        yield f"rule {number}: {name} widened to *", having(["*"], *path, field), (*path, field)
                    for value, wider in _to_namespaces(about, fields, field, namespace):
                        yield f"rule {number}: {name} widened to the namespace of {value}", having(wider, *path), path
                    for value in values if len(values) > 1 else []:
                        left = [one for one in values if one != value]
                        yield f"rule {number}: {name} without {value}", having(left, *path, field), (*path, field)
                    plain = f"{field[3].lower()}{field[4:]}" if field.startswith("not") else ""
                    if plain and field == not_(plain) and plain not in fields:
                        turned = {plain if one == field else one: found for one, found in fields.items()}
                        yield f"rule {number}: {name} without its not", having(turned, *path), (*path, field)
