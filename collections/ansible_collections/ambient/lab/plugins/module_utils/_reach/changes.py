# How what pairs meet differs between two states.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import fnmatch
import typing as t

from .._mesh.mesh import Mesh, Object
from .._mesh.predictions import Prediction
from .reach import Cell
from .told import by

KINDS = ("opened", "unclear", "closed", "changed")


@dataclasses.dataclass(frozen=True)
class Change:
    """A class of pairs that meets something else in the new state.

    Attributes:
        kind: "unclear": one of the states is unknown, so that it may have opened.
        cell: with both predictions.
        names: of its sources.
        because: policies on the way that differ between the states.
    """

    kind: str
    cell: Cell
    names: tuple[str, ...]
    because: str

    @property
    def opens(self) -> bool:
        """Whether it lets through, or may, what was not surely let through before."""
        return self.kind == "opened" or (self.kind == "unclear" and self.cell.found[0].outcome != "allowed")

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


def changes_of(found: t.Iterable[Cell], old: Mesh, new: Mesh) -> list[Change]:
    """What differs in the cells of two states, what opens first."""
    every = [change for cell in found if (change := _change(cell, old, new))]
    return sorted(every, key=lambda change: KINDS.index(change.kind))


def _change(cell: Cell, old: Mesh, new: Mesh) -> Change | None:
    was, is_ = cell.found
    if was.outcome == is_.outcome:
        return None
    kind = "changed"
    if not was.sure or not is_.sure:
        kind = "unclear"
    elif "allowed" in (was.outcome, is_.outcome):
        kind = "opened" if is_.outcome == "allowed" else "closed"
    names = dict.fromkeys(name for one in cell.found for name in (*one.among, *dict(one.rules)))
    because = [text for name in names if (text := _difference(name, old, new))]
    return Change(kind, cell, tuple(source.name for source in cell.sources), "; ".join(because))


def _difference(name: str, old: Mesh, new: Mesh) -> str:
    """How a policy differs between the states; "" where it does not."""
    was, is_ = (mesh.get("AuthorizationPolicy", *name.split("/", 1)) for mesh in (old, new))
    if was and is_:
        return f"{name} has changed" if _written(was) != _written(is_) else ""
    return f"{name} is {'gone' if was else 'new'}" if was or is_ else ""


def _written(policy: Object) -> Object:
    """What of a policy its author wrote."""
    meta = {key: policy["metadata"].get(key) or {} for key in ("labels", "annotations")}
    return {**meta, "spec": policy.get("spec") or {}}


def _said(prediction: Prediction) -> str:
    return f"{prediction.outcome} ({text})" if (text := by(prediction)) else prediction.outcome
