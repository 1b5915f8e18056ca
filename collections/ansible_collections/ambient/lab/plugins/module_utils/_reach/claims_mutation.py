# What the module claims_mutation does: weakens policies, and says whether a list of claims would notice.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .._check.rounds import predicted_verdict
from .._check.run import ClaimRun
from .._claims.parse import Claim, parse_claims
from .._common.errors import LabError
from .._matrix.text import claims_text
from .._mesh.mesh import Object
from .._results.measured import Mutation
from .._results.store import keep, now, require_writable
from .proof import prove, require_provable
from .states import State, read_state
from .verdicts import Verdict, judged

_KINDS = ("killed", "survived", "unclear", "equivalent")
# Of no mutant, where none can be judged.
_NOTHING: Object = {
    "counts": {},
    "killed": [],
    "survivors": [],
    "unclear": [],
    "missing_claims": [],
    "claims_without_pod": [],
}
# What the results file has of a score.
_KEPT = ("score", "counts", "summary", "missing_claims")
_FIX = "fix: add the missing claims, name in accept what needs none, or lower min_score (it is {})"


def mutate(params: t.Mapping[str, t.Any], check_mode: bool = False) -> Object:
    """Score a list of claims, and prove the score on the cluster where that is asked for.

    Args:
        params: of the module claims_mutation.
        check_mode: write nothing, and change nothing.

    Raises:
        LabError: on wrong input, as read_state, on a score below min_score, and, unless that is 0, where no mutant can
            be judged; with prove as Prover.run, and on a cluster that does otherwise than predicted.
    """
    path, section, least = params["results_file"], params["section"], params["min_score"]
    require_writable(path, section)
    if params["prove"]:
        require_provable(params)
    claims = parse_claims(params["claims"], params["namespace"])
    state = read_state(params, params)
    found: list[Verdict] = []
    try:
        values, found = _scored(claims, state, params)
    except LabError as error:
        if least or params["prove"]:
            raise
        lines = error.message.splitlines()
        values = {"score": None, **_NOTHING, "summary": lines, "report": lines, "warnings": [*state.notes]}
    if path and not check_mode:
        told = Mutation(at=now(), min_score=least, **{key: values[key] for key in _KEPT})
        keep(path, section, lambda old: dataclasses.replace(old, mutation=told))
    if params["prove"]:
        proof = prove(params, state.mesh, claims, found, check_mode)
        values |= {key: [*values.get(key, ()), *proof[key]] for key in proof}
    low = least and values["score"] < least
    if low or any(item["verdict"] != "agree" for item in values.get("proved", ())):
        raise LabError("\n".join([*values["report"], *([_FIX.format(least)] if low else [])]), **values)
    return values


def _scored(claims: t.Sequence[Claim], state: State, params: t.Mapping[str, t.Any]) -> tuple[Object, list[Verdict]]:
    """The values to return, and what becomes of each mutant.

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
    accepted = [item for item in names["survived"] if item.mutant.is_named(params["accept"])]
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
    missing = {claim["name"]: claim for item in survived if (claim := item.claim) and not item.needs}
    needed = {claim["name"]: (claim, item.needs) for item in survived if (claim := item.claim) and item.needs}
    idle = [
        f"{option} names no {what}: {text}"
        for option, what, listed in (("only", "mutant", found), ("accept", "survivor", names["survived"]))
        for text in params[option]
        if not any(item.mutant.is_named([text]) for item in listed)
    ]
    unknown = [
        f"claim {claim.name!r} can't be predicted: {one.reason}" for claim, one in runs if one.verdict == "error"
    ]
    values = {
        "score": score,
        "counts": {**counts, "survived": len(survived), "accepted": len(accepted)},
        "killed": [{"mutant": str(item.mutant), "by": list(item.by)} for item in names["killed"]],
        "survivors": [_values(item) for item in survived],
        "unclear": [str(item.mutant) for item in names["unclear"]],
        "missing_claims": list(missing.values()),
        "claims_without_pod": [{"claim": claim, "needs": needs} for claim, needs in needed.values()],
        "summary": [head, *(f"survives: {item.mutant}" for item in survived)],
        "report": [head, *(line for item in survived for line in item.lines), *_written(list(missing.values()))],
        "warnings": [*state.notes, *unknown, *idle],
    }
    return values, found


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
        "needs": item.needs,
    }
