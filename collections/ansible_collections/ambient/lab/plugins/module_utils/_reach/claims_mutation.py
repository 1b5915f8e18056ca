# What the module claims_mutation does: weakens policies, and says whether a list of claims would notice.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import fnmatch
import typing as t

from .._check.rounds import predicted_verdict
from .._check.run import ClaimRun
from .._claims.parse import Claim, parse_claims
from .._common.errors import LabError
from .._matrix.text import claims_text
from .._mesh.mesh import Mesh, Object, name_of
from .changes import Change, changes_of
from .mutants import Mutant, mutants
from .reach import cells
from .states import read_state
from .told import claim_of

_KINDS = ("killed", "survived", "unclear", "equivalent")
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
    """

    mutant: Mutant
    kind: str
    by: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()

    @property
    def claim(self) -> Object | None:
        """A claim that would notice; its source may have no pod yet."""
        found = []
        for number, change in enumerate(self.changes):
            there = change.cell.door.found[0]
            own = {name_of(pod) for pod in there.pods} if there else set()
            for source in change.cell.sources:
                if claim := claim_of(change.cell, source, change.cell.found[0]):
                    # Whoever calls itself proves least.
                    found.append((not source.real, name_of(source.pods[0]) in own, number, claim))
        return min(found, key=lambda item: item[:3])[3] if found else None

    @property
    def lines(self) -> list[str]:
        """For people."""
        place = f" ({self.mutant.place})" if self.mutant.place else ""
        shown = [change.values() for change in self.changes[:_MAX_SAID]]
        said = [f"    {one['change']}: {one['from'][0]} -> {one['to']} {one['request']}: {one['now']}" for one in shown]
        claim = self.claim
        return [f"  {self.mutant}{place}", *said, f"    missing claim: {claim['name'] if claim else _NO_CLAIM}"]


def judged(mesh: Mesh, claims: t.Sequence[Claim]) -> t.Iterator[Verdict]:
    """What becomes of each mutant of a mesh.

    Args:
        mesh: in which the claims hold.
        claims: to notice.
    """
    for mutant in mutants(mesh):
        new = mutant.applied(mesh)
        by = tuple(claim.name for claim in claims if _verdict(claim, new) == "fail")
        if by:
            yield Verdict(mutant, "killed", by)
            continue
        found = changes_of(cells([mesh, new]), mesh, new)
        # At a port that policies alone name nothing may listen, and no claim can be proved.
        differ = [change for change in found if len({one.outcome for one in change.cell.found}) > 1]
        clear = tuple(change for change in differ if change.kind != "unclear" and not change.cell.door.supposed)
        yield Verdict(
            mutant, "survived" if clear else "unclear" if found else "equivalent", changes=clear or tuple(found)
        )


def _verdict(claim: Claim, mesh: Mesh) -> str:
    return predicted_verdict(ClaimRun.of(claim, "after", mesh)).verdict


def mutate(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Score a list of claims.

    Args:
        params: of the module claims_mutation.

    Raises:
        LabError: on wrong input, as read_state, on claims that do not hold on the objects as they are, and on a score
            below min_score.
    """
    claims = parse_claims(params["claims"], params["namespace"])
    state = read_state(params, params)
    runs = [(claim, predicted_verdict(ClaimRun.of(claim, "after", state.mesh))) for claim in claims]
    red = [f"  {claim.name}: {verdict.reason}" for claim, verdict in runs if verdict.verdict == "fail"]
    if red:
        raise LabError(
            "\n".join(["These claims do not hold on the objects as they are, so no mutant can be judged:", *red])
        )
    usable = [claim for claim, verdict in runs if verdict.verdict == "pass"]
    if not usable:
        raise LabError(f"no claim can be predicted: {runs[0][1].reason}")
    found = list(judged(state.mesh, usable))
    names = {
        kind: [item for item in found if item.kind == kind] for kind in ("killed", "survived", "unclear", "equivalent")
    }
    accepted = [item for item in names["survived"] if _is_named(item, params["accept"])]
    survived = [item for item in names["survived"] if item not in accepted]
    total = len(names["killed"]) + len(survived)
    if not found:
        raise LabError(f"{state.label} has no policy to weaken")
    if not total:
        raise LabError(
            f"{state.label}: no mutant can be judged: of {len(found)}, {len(accepted)} are accepted, the rest "
            "change nothing that anybody can know"
        )
    score = 100 * len(names["killed"]) // total
    counts = {kind: len(items) for kind, items in names.items()}
    head = f"score {score} %: {counts['killed']} of {total} mutants are killed, {len(survived)} survive; "
    head += f"{len(accepted)} accepted, {counts['equivalent']} change nothing, {counts['unclear']} nobody can know"
    missing = {claim["name"]: claim for item in survived if (claim := item.claim)}
    idle = [text for text in params["accept"] if not any(_is_named(item, [text]) for item in names["survived"])]
    unknown = [
        f"claim {claim.name!r} can't be predicted: {one.reason}" for claim, one in runs if one.verdict == "error"
    ]
    values: dict[str, t.Any] = {
        "score": score,
        "counts": {**counts, "survived": len(survived), "accepted": len(accepted)},
        "killed": [{"mutant": str(item.mutant), "by": list(item.by)} for item in names["killed"]],
        "survivors": [_values(item) for item in survived],
        "unclear": [str(item.mutant) for item in names["unclear"]],
        "missing_claims": list(missing.values()),
        "report": [head, *(line for item in survived for line in item.lines), *_written(list(missing.values()))],
        "warnings": [*state.notes, *unknown, *(f"accept names no survivor: {text}" for text in idle)],
    }
    if score < params["min_score"]:
        raise LabError("\n".join(values["report"]), **values)
    return values


def _is_named(item: Verdict, patterns: t.Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(str(item.mutant), text) for text in patterns)


def _written(claims: list[Object]) -> list[str]:
    """The claims to add, as YAML."""
    lines = [line for text in claims_text(claims) for line in text.splitlines()] if claims else []
    return ["missing claims:", *(f"  {line}" for line in lines)] if claims else []


def _values(item: Verdict) -> dict[str, t.Any]:
    return {
        "mutant": str(item.mutant),
        "place": item.mutant.place,
        "changes": [change.values() for change in item.changes],
        "claim": item.claim,
    }
