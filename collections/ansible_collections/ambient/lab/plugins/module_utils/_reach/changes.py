# How what pairs meet differs between two states.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import fnmatch
import re
import typing as t

from .._common.rounds import Reason
from .._mesh.destinations import Request
from .._mesh.mesh import Mesh, Object, has_labels, name_of, namespace_of
from .._mesh.paths import Path
from .._mesh.policies import selector
from .._mesh.predictions import Prediction, predict_on
from .doors import Door, workload_of
from .reach import Cell
from .requests import Kind
from .told import by

KINDS = ("opened", "unclear", "closed", "changed")
POLICIES = ("AuthorizationPolicy", "PeerAuthentication")
# Kind and namespace/name of an object, as doubts name what is not evaluated.
_OBJECT = re.compile(r"\b([A-Z]\w+) ([\w.-]+/[\w.-]+)")


@dataclasses.dataclass(frozen=True)
class Change:
    """A class of pairs that meets something else in the new state.

    Attributes:
        kind: "unclear": a state is unknown, or both, and they differ in what it follows from.
        cell: with both predictions.
        names: of its sources.
        because: what differs on the way between the states.
        opens: it lets through, or may, what was not surely let through before.
    """

    kind: str
    cell: Cell
    names: tuple[str, ...]
    because: str
    opens: bool

    def is_named(self, source: str, patterns: t.Iterable[str]) -> bool:
        """Whether a pattern names one of its pairs: `source -> destination`, with the class of requests or without."""
        pair = f"{source} -> {self.cell.door.name}"
        whole = f"{pair} {self.cell.kind.label}"
        return any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns for text in (pair, whole))

    def without(self, patterns: t.Sequence[str]) -> Change | None:
        """The change without pairs that may open; None where none is left."""
        names = tuple(name for name in self.names if not (self.opens and self.is_named(name, patterns)))
        return dataclasses.replace(self, names=names) if names else None

    def values(self) -> dict[str, t.Any]:
        """The same as plain data."""
        old, new = self.cell.found
        return {
            "change": self.kind,
            "from": list(self.names),
            "to": self.cell.door.name,
            "request": self.cell.kind.label,
            "example": str(self.cell.kind.request),
            "was": _said(old),
            "now": _said(new),
            "because": self.because,
        }


def changes_of(found: t.Sequence[Cell], old: Mesh, new: Mesh, namespaces: t.Collection[str] = ()) -> list[Change]:
    """What differs in the cells of two states, what opens first; namespaces: that were looked at, none are all."""
    every = [change for cell in found if (change := _change(cell, old, new))]
    for item in _differing(old, new):
        space, label = namespace_of(item), f"{item['kind']} {name_of(item)}"
        near = not namespaces or space in (*namespaces, new.config.root)
        if near and not all(_is_known(mesh, space) for mesh in (old, new)) and not _is_shown(item, found):
            nobody = Prediction("unknown", (Reason("no destination here shows what it does"),))
            door = Door(label, space, "", 0, (None, None))
            cell = Cell(door, Kind(Request("http://any/"), "any request"), (), (nobody,) * 2, (None, None))
            every.append(
                Change("unclear", cell, ("anybody",), _difference(item["kind"], name_of(item), old, new), True)
            )
    return sorted(every, key=lambda change: KINDS.index(change.kind))


def _differing(old: Mesh, new: Mesh) -> t.Iterator[Object]:
    """Policies that differ between the states, each as one of them has it."""
    for kind in POLICIES:
        both = {name_of(item): item for mesh in (old, new) for item in mesh.items(kind)}
        yield from (item for name, item in both.items() if _difference(kind, name, old, new))


def _is_known(mesh: Mesh, space: str) -> bool:
    """Whether all pods for which a policy may be are known."""
    return mesh.config.whole and not mesh.why_unread("Pod", space)


def _is_shown(item: Object, found: t.Iterable[Cell]) -> bool:
    """Whether a policy counts at any destination."""
    paths = (path for cell in found for path in cell.ways if path)
    if item["kind"] == "AuthorizationPolicy":
        return any(name_of(item) == name_of(one) for path in paths for one in (*path.policies, *path.declared))
    return any(
        has_labels(hop.pod, selector(item)) and (not selector(item) or namespace_of(item) == namespace_of(hop.pod))
        for path in paths
        for hop in path.at_ztunnel
    )


def _change(cell: Cell, old: Mesh, new: Mesh) -> Change | None:
    was, is_ = cell.found
    names = dict.fromkeys(name for one in cell.found for name in (*one.among, *dict(one.rules)))
    objects = [("AuthorizationPolicy", name) for name in names]
    opens = was.outcome != "allowed" and is_.outcome in ("allowed", "unknown")
    kind = "changed"
    if not was.sure and not is_.sure:
        bare = [_without_doubts(cell, state, mesh) for state, mesh in enumerate((old, new))]
        # Where a rule is unknown, or a sidecar is in ztunnel's place, all policies count.
        blind = "unknown" in bare or any(len(path.at_ztunnel) < len(path.endpoints) for path in cell.ways if path)
        objects = [item for path in cell.ways if path for item in _inputs(path, is_.why + was.why, blind)]
        # Pods that stand elsewhere may be of any policy of their namespace.
        lost = (cell.door.namespace, new.config.root) if any(path and not path.endpoints for path in cell.ways) else ()
        objects += (
            [(one["kind"], name_of(one)) for one in _differing(old, new) if namespace_of(one) in lost] if lost else []
        )
        differ = [item for item in objects if _difference(*item, old, new)]
        differ += [] if _doubted(cell.ways[0]) == _doubted(cell.ways[1]) else [("", "")]
        if bare[0] == bare[1] and not differ:
            return None
        kind = "unclear"
        opens = bare[0] != "allowed" or bare[1] == "allowed"
    elif was.outcome == is_.outcome:
        ends = [_ends(path) for path in cell.ways]
        if was.outcome != "allowed" or ends[0] == ends[1]:
            return None
        said = " -> ".join(", ".join(sorted(names)) for names in ends)
        return Change(kind, cell, tuple(source.name for source in cell.sources), f"it ends elsewhere: {said}", opens)
    elif not was.sure or not is_.sure:
        kind = "unclear"
    elif "allowed" in (was.outcome, is_.outcome):
        kind = "opened" if is_.outcome == "allowed" else "closed"
    because = [text for item in dict.fromkeys(objects) if (text := _difference(*item, old, new))]
    return Change(kind, cell, tuple(source.name for source in cell.sources), "; ".join(because), opens)


def _ends(path: Path | None) -> set[str]:
    """Workloads, and hosts outside, at which a way may end, with their ports."""
    ends = path.endpoints if path else ()
    named = [
        (end, "/".join((namespace_of(end.pod), workload_of(end.pod)[0])) if end.pod else end.address) for end in ends
    ]
    return {f"{name}:{end.port or ''}" for end, name in named}


def _without_doubts(cell: Cell, state: int, mesh: Mesh) -> str:
    """What policies alone make of an unknown cell: an unknown that both states share hides no other change."""
    path = cell.ways[state]
    return predict_on(mesh, dataclasses.replace(path, doubts=(), behind=()), cell.kind.request).outcome if path else ""


def _doubted(path: Path | None) -> set[str]:
    return {*path.doubts, *path.behind} if path else set()


def _inputs(path: Path, why: str, blind: bool) -> t.Iterator[tuple[str, str]]:
    """Kind and name of the objects from which an unknown outcome follows. blind: of all policies on the way."""
    yield from _OBJECT.findall("; ".join((why, *_doubted(path))))
    at_waypoint = path.at_waypoint.authentications if path.at_waypoint else ()
    for item in (*path.policies, *path.declared, *at_waypoint) if blind else ():
        yield item["kind"], name_of(item)


def _difference(kind: str, name: str, old: Mesh, new: Mesh) -> str:
    """How an object differs between the states; "" where it does not."""
    was, is_ = (mesh.get(kind, *name.split("/", 1)) for mesh in (old, new))
    said = name if kind == "AuthorizationPolicy" else f"{kind} {name}"
    if was and is_:
        return f"{said} has changed" if _written(was) != _written(is_) else ""
    return f"{said} is {'gone' if was else 'new'}" if was or is_ else ""


def _written(item: Object) -> Object:
    """What of an object its author wrote."""
    meta = {key: item["metadata"].get(key) or {} for key in ("labels", "annotations")}
    return {**meta, "spec": item.get("spec") or {}}


def _said(prediction: Prediction) -> str:
    return f"{prediction.outcome} ({text})" if (text := by(prediction)) else prediction.outcome
