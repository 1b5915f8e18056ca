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
from .._common.results import keep, now, require_writable
from .._matrix.text import claims_text
from .._mesh.mesh import Mesh, Object, name_of
from .changes import Change, changes_of
from .mutants import Mutant, mutants
from .reach import cells
from .states import State, read_state
from .told import claim_of, within

_KINDS = ("killed", "survived", "unclear", "equivalent")
# Of no mutant, where none can be judged.
_NOTHING: Object = {"counts": {}, "killed": [], "survivors": [], "unclear": [], "missing_claims": []}
# What the results file has of a score.
_KEPT = ("score", "counts", "summary", "missing_claims")
_FIX = "fix: add the missing claims, name in accept what needs none, or lower min_score (it is {})"
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
        if only and not _is_named(mutant, only):
            continue
        new = mutant.applied(mesh)
        by = tuple(claim.name for claim in claims if _verdict(claim, new) == "fail")
        if by:
            yield Verdict(mutant, "killed", by)
            continue
        found = changes_of(cells([mesh, new], inside), mesh, new, namespaces)
        # At a port that policies alone name nothing may listen, and no claim can be proved.
        differ = [change for change in found if len({one.outcome for one in change.cell.found}) > 1]
        clear = tuple(change for change in differ if change.kind != "unclear" and not change.cell.door.supposed)
        yield Verdict(
            mutant, "survived" if clear else "unclear" if found else "equivalent", changes=clear or tuple(found)
        )


def _verdict(claim: Claim, mesh: Mesh) -> str:
    return predicted_verdict(ClaimRun.of(claim, "after", mesh)).verdict


def mutate(params: t.Mapping[str, t.Any], check_mode: bool = False) -> Object:
    """Score a list of claims.

    Args:
        params: of the module claims_mutation.
        check_mode: write nothing.

    Raises:
        LabError: on wrong input, as read_state, on a score below min_score, and, unless that is 0, where no mutant can
            be judged.
    """
    path, section, least = params["results_file"], params["section"], params["min_score"]
    require_writable(path, section)
    claims = parse_claims(params["claims"], params["namespace"])
    state = read_state(params, params)
    try:
        values = _scored(claims, state, params)
    except LabError as error:
        if least:
            raise
        lines = error.message.splitlines()
        values = {"score": None, **_NOTHING, "summary": lines, "report": lines, "warnings": [*state.notes]}
    if path and not check_mode:
        keep(path, section, "mutation", {"at": now(), "min_score": least, **{key: values[key] for key in _KEPT}})
    if least and values["score"] < least:
        raise LabError("\n".join([*values["report"], _FIX.format(least)]), **values)
    return values


def _scored(claims: t.Sequence[Claim], state: State, params: t.Mapping[str, t.Any]) -> Object:
    """The values to return.

    Raises:
        LabError: where no mutant can be judged, as on claims that do not hold on the objects as they are.
    """
    runs = [(claim, predicted_verdict(ClaimRun.of(claim, "after", state.mesh))) for claim in claims]
    red = [f"  {claim.name}: {verdict.reason}" for claim, verdict in runs if verdict.verdict == "fail"]
    if red:
        raise LabError(
            "\n".join(["These claims do not hold on the objects as they are, so no mutant can be judged:", *red])
        )
    usable = [claim for claim, verdict in runs if verdict.verdict == "pass"]
    if not usable:
        raise LabError(f"no claim can be predicted: {runs[0][1].reason}" if runs else "there is no claim")
    found = list(judged(state.mesh, usable, params["only"], params["namespaces"]))
    names = {kind: [item for item in found if item.kind == kind] for kind in _KINDS}
    accepted = [item for item in names["survived"] if _is_named(item.mutant, params["accept"])]
    survived = [item for item in names["survived"] if item not in accepted]
    total = len(names["killed"]) + len(survived)
    if not found:
        raise LabError(f"{state.label} has no policy to weaken{' that only names' if params['only'] else ''}")
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
    idle = [
        f"{option} names no {what}: {text}"
        for option, what, listed in (("only", "mutant", found), ("accept", "survivor", names["survived"]))
        for text in params[option]
        if not any(_is_named(item.mutant, [text]) for item in listed)
    ]
    unknown = [
        f"claim {claim.name!r} can't be predicted: {one.reason}" for claim, one in runs if one.verdict == "error"
    ]
    return {
        "score": score,
        "counts": {**counts, "survived": len(survived), "accepted": len(accepted)},
        "killed": [{"mutant": str(item.mutant), "by": list(item.by)} for item in names["killed"]],
        "survivors": [_values(item) for item in survived],
        "unclear": [str(item.mutant) for item in names["unclear"]],
        "missing_claims": list(missing.values()),
        "summary": [head, *(f"survives: {item.mutant}" for item in survived)],
        "report": [head, *(line for item in survived for line in item.lines), *_written(list(missing.values()))],
        "warnings": [*state.notes, *unknown, *idle],
    }


def _is_named(mutant: Mutant, patterns: t.Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(str(mutant), text) for text in patterns)


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
