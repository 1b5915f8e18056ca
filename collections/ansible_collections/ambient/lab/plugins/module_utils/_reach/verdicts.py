# What becomes of mutants by the model: which claims notice, and what changes where none does.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .._check.rounds import predicted_verdict
from .._check.run import ClaimRun
from .._claims.parse import Claim, parse_claims
from .._mesh.mesh import Mesh, Object, name_of
from .changes import Change, changes_of
from .mutants import Mutant, mutants
from .reach import Cell, cells
from .told import claim_of, pod_for, within

_MAX_SAID = 3
_NO_CLAIM = "(it shows at a pod's own address, which a folder does not have)"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What becomes of a mutant.

    Attributes:
        mutant: one change.
        kind: "killed", "survived", "unclear" (nobody can know whether it changes anything), or "equivalent".
        by: claims that notice.
        changes: what the mesh then does otherwise, where no claim notices.
        claims: that would notice, the best first.
        needs: the pod that has to be there before the best one can be proved; "" where it is.
    """

    mutant: Mutant
    kind: str
    by: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    claims: tuple[Object, ...] = ()
    needs: str = ""

    @property
    def claim(self) -> Object | None:
        """The best claim that would notice."""
        return next(iter(self.claims), None)

    @property
    def lines(self) -> list[str]:
        """For people."""
        place = f" ({self.mutant.place})" if self.mutant.place else ""
        shown = [change.values() for change in self.changes[:_MAX_SAID]]
        said = [f"    {one['change']}: {one['from'][0]} -> {one['to']} {one['request']}: {one['now']}" for one in shown]
        claim = self.claim["name"] if self.claim else _NO_CLAIM
        needed = f" (it needs {self.needs})" if self.needs else ""
        return [f"  {self.mutant}{place}", *said, f"    missing claim: {claim}{needed}"]


def judged(
    mesh: Mesh, claims: t.Sequence[Claim], only: t.Collection[str] = (), namespaces: t.Collection[str] = ()
) -> t.Iterator[Verdict]:
    """What becomes of each mutant of a mesh.

    Args:
        mesh: in which the claims hold.
        claims: to notice.
        only: patterns of the mutants to judge; none are all.
        namespaces: of the destinations at which a mutant may change something; none are all.

    Raises:
        LabError: as within.
    """
    inside = within(namespaces, [mesh])
    for mutant in mutants(mesh):
        if only and not mutant.is_named(only):
            continue
        new = mutant.applied(mesh)
        by = tuple(claim.name for claim in claims if _verdict(claim, new) == "fail")
        if by:
            yield Verdict(mutant, "killed", by)
            continue
        seen = cells([mesh, new], inside)
        found = changes_of(seen, mesh, new, namespaces)
        # At a port that policies alone name nothing may listen, and no claim can be proved.
        differ = [change for change in found if len({one.outcome for one in change.cell.found}) > 1]
        clear = tuple(change for change in differ if change.kind != "unclear" and not change.cell.door.supposed)
        kind = "survived" if clear else "unclear" if found or _is_about_tokens(mutant, seen) else "equivalent"
        listed, needs = _claims_for(clear, mesh, new)
        yield Verdict(mutant, kind, changes=clear or tuple(found), claims=listed, needs=needs)


def _is_about_tokens(mutant: Mutant, found: t.Iterable[Cell]) -> bool:
    """Whether a change is of what a waypoint makes of tokens: no request here has one."""
    ways = (path.at_waypoint for cell in found for path in cell.ways if path and path.at_waypoint)
    return any(mutant.item == f"{item['kind']} {name_of(item)}" for hop in ways for item in hop.authentications)


def _claims_for(changes: t.Iterable[Change], mesh: Mesh, new: Mesh) -> tuple[tuple[Object, ...], str]:
    """Claims that notice changes: first one that can be proved, where there is one; else the pod that it needs."""
    found = []
    for number, change in enumerate(changes):
        there = change.cell.door.found[0]
        own = {name_of(pod) for pod in there.pods} if there else set()
        for source in change.cell.sources:
            if claim := claim_of(change.cell, source, change.cell.found[0]):
                # Whoever calls itself proves least.
                found.append((not source.real, name_of(source.pods[0]) in own, number, claim, source))
    found.sort(key=lambda item: item[:3])
    listed = [item[3] for item in found]
    for unreal, _own, _number, claim, _source in found:
        parsed = () if unreal else parse_claims([claim], "default")
        if any((_verdict(one, mesh), _verdict(one, new)) == ("pass", "fail") for one in parsed):
            return (claim, *(one for one in listed if one is not claim)), ""
    return tuple(listed), pod_for(found[0][4]) if found else ""


def _verdict(claim: Claim, mesh: Mesh) -> str:
    return predicted_verdict(ClaimRun.of(claim, "after", mesh)).verdict
