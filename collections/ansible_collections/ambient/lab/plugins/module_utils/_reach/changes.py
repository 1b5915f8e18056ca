# How what pairs meet differs between two states.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import fnmatch
import typing as t

from .._common.rounds import Reason
from .._mesh.destinations import Request
from .._mesh.doubts import Hiding
from .._mesh.mesh import Mesh, namespace_of
from .._mesh.paths import Path
from .._mesh.predictions import Prediction, policies_alone
from .differences import EVALUATED, WIDE, Key, differing, inputs, is_beyond, is_idle
from .doors import Door, workload_of
from .reach import Cell
from .requests import Kind
from .told import by

KINDS = ("opened", "unclear", "closed", "changed")
_POLICY = "AuthorizationPolicy"


@dataclasses.dataclass(frozen=True)
class Change:
    """A class of pairs that meets something else in the new state.

    Attributes:
        kind: "unclear": a state is unknown, or both, and they differ in what it follows from.
        cell: where it is.
        met: in both states; where something on the way is not ready, what policies make of it.
        names: of its sources.
        because: what differs on the way between the states.
        opens: it lets through, or may, what was not surely let through before.
    """

    kind: str
    cell: Cell
    met: tuple[Prediction, Prediction]
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
        old, new = self.met
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
    """What differs in the cells of two states, what opens first; namespaces: that were looked at, none are all.

    An object that differs is silent only where a cell rests on it and was compared, or where it surely means nothing
    in either state.
    """
    differ = differing(old, new)
    every = [change for cell in found if (change := _change(cell, old, new, differ))]
    shown = _shown(found, old, new) if differ else set()
    for key, text in differ.items():
        space, _slash, name = key[1].partition("/")
        near = not namespaces or (space or name) in (*namespaces, old.config.root, new.config.root) or key[0] in WIDE
        beyond = any(is_beyond(mesh, key, namespaces) for mesh in (old, new))
        idle = all(is_idle(mesh, key, namespaces) for mesh in (old, new))
        if near and (beyond or (key not in shown and not idle)):
            nobody = Prediction("unknown", (Reason("no destination here shows what it does"),))
            door = Door(f"{key[0]} {key[1].lstrip('/')}", space, "", 0, (None, None))
            cell = Cell(door, Kind(Request("http://any/"), "any request"), (), (nobody,) * 2, (None, None))
            every.append(Change("unclear", cell, (nobody, nobody), ("anybody",), text, True))
    return sorted(every, key=lambda change: KINDS.index(change.kind))


def _shown(found: t.Iterable[Cell], old: Mesh, new: Mesh) -> set[Key]:
    """Objects on which any destination rests: where they differ its cells have been compared."""
    first = {cell.door.name: cell for cell in found}
    return {key for cell in first.values() for keys in _rests(cell, old, new) for key in keys}


def _rests(cell: Cell, old: Mesh, new: Mesh) -> list[set[Key]]:
    return [inputs(mesh, path) if path else set() for mesh, path in zip((old, new), cell.ways, strict=True)]


def _change(cell: Cell, old: Mesh, new: Mesh, differ: t.Mapping[Key, str]) -> Change | None:
    states = [*zip((old, new), cell.ways, cell.found, strict=True)]
    # Whether something is ready is no policy.
    was, is_ = (
        policies_alone(mesh, path, cell.kind.request) if path and one.outcome == "broken" else one
        for mesh, path, one in states
    )
    opens = was.outcome != "allowed" and is_.outcome in ("allowed", "unknown")
    kind, moved = "changed", []
    if not was.sure and not is_.sure:
        # An unknown that both states share hides no other change.
        alone = [policies_alone(mesh, path, cell.kind.request).outcome if path else "" for mesh, path, _one in states]
        if alone[0] == alone[1] and not _unevaluated(cell, "unknown" in alone, _rests(cell, old, new), differ):
            return None
        kind = "unclear"
        opens = alone[0] != "allowed" or alone[1] == "allowed"
    elif was.outcome == is_.outcome:
        moved = _moved(cell)
        if was.outcome != "allowed" or not moved:
            return None
    elif not was.sure or not is_.sure:
        kind = "unclear"
    elif "allowed" in (was.outcome, is_.outcome):
        kind = "opened" if is_.outcome == "allowed" else "closed"
    names = dict.fromkeys((_POLICY, name) for one in (was, is_) for name in (*one.among, *dict(one.rules)))
    texts = moved or [differ[key] for key in names if key in differ]
    if not texts:
        rests = set().union(*_rests(cell, old, new))
        texts = [text for key, text in differ.items() if key in rests] or _moved(cell)
    return Change(kind, cell, (was, is_), tuple(source.name for source in cell.sources), "; ".join(texts), opens)


def _unevaluated(cell: Cell, unknown: bool, rests: t.Sequence[set[Key]], differ: t.Mapping[Key, str]) -> bool:
    """Whether anything differs of which an unknown cell says nothing. unknown: policies alone are, too."""
    doubts = [{*path.doubts, *path.behind} if path else set() for path in cell.ways]
    hidden = unknown or cell.lost or any(isinstance(why, Hiding) for why in doubts[0] | doubts[1])
    unseen = {key for key in rests[0] | rests[1] if hidden or key[0] not in EVALUATED}
    others = hidden and rests[0] != rests[1]
    return bool(unseen & differ.keys() or others or doubts[0] != doubts[1] or _moved(cell))


def _moved(cell: Cell) -> list[str]:
    """That a way ends elsewhere, where it does."""
    ends = [_ends(path) for path in cell.ways]
    said = " -> ".join(", ".join(sorted(names)) for names in ends)
    return [f"it ends elsewhere: {said}"] if ends[0] != ends[1] else []


def _ends(path: Path | None) -> set[str]:
    """Workloads, and hosts outside, at which a way may end, with their ports."""
    ends = path.endpoints if path else ()
    named = [
        (end, "/".join((namespace_of(end.pod), workload_of(end.pod)[0])) if end.pod else end.address) for end in ends
    ]
    return {f"{name}:{end.port or ''}" for end, name in named}


def _said(prediction: Prediction) -> str:
    return f"{prediction.outcome} ({text})" if (text := by(prediction)) else prediction.outcome
