# What the module policy_reachability does: says who may call whom, as a table, as claims, as an answer in words.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import collections
import dataclasses
import typing as t

from .._claims.parse import Claim, parse_claims
from .._claims.sources import Target, target_in
from .._common.errors import LabError
from .._common.files import put
from .._common.text import table
from .._matrix.text import claims_text
from .._mesh.mesh import Mesh, Object, name_of
from .._mesh.paths import Path
from .._mesh.predictions import predict
from .._mesh.waypoints import gateway_account, is_waypoint_class
from .._results.measured import Matrix, MatrixCell
from .._results.store import keep, now, require_writable
from .reach import LAYERS, Cell, cells
from .sources import OUTSIDE, outsider
from .states import read_state
from .told import WIDTH, claim_of, few, require_some, row, within

_SAID = {"allowed": "Yes", "unknown": "Nobody can know from here whether"}
_HEAD = """\
---
# Who may call whom, as the objects of {label} say; written by ambient.lab.policy_reachability.
# Prove it: ambient.lab.curl_outcomes takes the list. The sources need a pod with curl.
claims:
"""


def reachability(params: t.Mapping[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Predict everything, or answer one question.

    Args:
        params: of the module policy_reachability.
        check_mode: write nothing.

    Raises:
        LabError: on wrong input, and as read_state.
    """
    path, section = params["results_file"], params["section"]
    require_writable(path, section)
    question = _question(params["question"]) if params["question"] else None
    state = read_state(params, params)
    values: dict[str, t.Any] = {"warnings": [*state.notes, *state.mesh.config.assumed]}
    if question:
        outcome, answer = _answer(state.mesh, question, params["question"]["from"] == OUTSIDE)
        return {**values, "answer": answer, "verdict": outcome}
    found = cells([state.mesh], within(params["namespaces"], [state.mesh]))
    require_some(found, state.label, params["namespaces"], [state.mesh])
    rows = [row(cell, cell.found[0]) for cell in found]
    keys = ("to", "request", "verdict", "by")
    body = [[few(item["from"]), *(item[key] for key in keys)] for item in rows]
    lines = table(["FROM", *map(str.upper, keys)], body, WIDTH)
    counts = collections.Counter(item["verdict"] for item in rows for _source in item["from"])
    if path and not check_mode:
        kept = _matrix(found)
        keep(path, section, lambda old: dataclasses.replace(old, matrix=kept))
    if params["claims_file"]:
        text = _HEAD.format(label=state.label) + "".join(claims_text(list(_claims(found))) or ["  []\n"])
        values["changed"] = put("claims_file", params["claims_file"], text, check_mode) != text
    return {**values, "reachability": rows, "table": lines, "counts": dict(counts)}


def _claims(found: t.Iterable[Cell]) -> t.Iterator[Object]:
    for cell in found:
        for source in cell.sources:
            claim = claim_of(cell, source, cell.found[0]) if source.real else None
            if claim:
                yield claim


def _matrix(found: t.Sequence[Cell]) -> Matrix:
    """The part of a results file that the report shows as a grid."""
    listed = [
        MatrixCell(
            name=f"{source.name} -> {cell.door.name} {cell.kind.label}",
            from_=source.name,
            to=f"{cell.door.name} {cell.kind.label}",
            method="",
            outcome=cell.found[0].outcome,
            decided_by=LAYERS.get(cell.found[0].outcome, "-"),
            policy=next(iter(cell.found[0].among), None),
        )
        for cell in found
        for source in cell.sources
    ]
    return Matrix(at=now(), namespaces=sorted({cell.door.namespace for cell in found}), cells=listed)


def _question(raw: t.Mapping[str, t.Any]) -> Claim:
    """What is asked, read as strictly as a claim."""
    caller = {"service_account": "nobody", "namespace": "nowhere"} if raw.get("from") == OUTSIDE else raw.get("from")
    asked = {**raw, "name": "question", "from": caller, "expect": "allowed"}
    try:
        return parse_claims([asked], "default")[0]
    except LabError as error:
        raise LabError(error.message.replace("Invalid claims, nothing was probed:", "Invalid question:")) from error


def _answer(mesh: Mesh, question: Claim, outside: bool) -> tuple[str, list[str]]:
    """The outcome; and in words who meets what on which way."""
    source, request = question.source, question.request
    found = target_in(mesh, source)
    pod = found.item if isinstance(found, Target) else None
    if pod is None and (outside or source.service_account):
        # What counts is what would meet whoever had that identity.
        account, gateways = str(source.service_account), mesh.items("Gateway", source.namespace)
        ingress = any(gateway_account(item) == account for item in gateways if not is_waypoint_class(item))
        pod = outsider(source.namespace, account, captured=not outside, gateway=ingress)
    if pod is None:
        raise LabError(f"question: {source} can't call: {getattr(found, 'reason', 'it is not there')}")
    path, prediction = predict(mesh, pod, request, source.namespace)
    who = OUTSIDE if outside else name_of(pod) if isinstance(found, Target) else f"{source} (no pod has it yet)"
    start = _SAID.get(prediction.outcome, "No")
    layer = LAYERS.get(prediction.outcome, "something that is missing")
    end = {"Yes": "", "No": f": {layer} refuses it ({prediction.outcome})"}.get(start, "")
    comma = " " if start.startswith("Nobody") else ", "
    lines = [f"{start}{comma}{who} {'may' if start != 'No' else 'may not'} call {path.destination} with {request}{end}"]
    lines += [f"way: {' -> '.join([who, *_hops(path)])}"]
    lines += [f"{number}. {reason.text}" for number, reason in enumerate(prediction.reasons, 1)]
    return prediction.outcome, lines


def _hops(path: Path) -> t.Iterator[str]:
    """The proxies on a way, each with the policies in force there."""
    if path.at_waypoint:
        yield f"waypoint {path.at_waypoint.waypoint} ({_named(path.waypoint_policies)})"
    pods = [hop.pod for hop in path.at_ztunnel]
    if pods:
        yield f"ztunnel of pod {few([name_of(pod) for pod in pods])} ({_named(path.ztunnel_policies)})"
    ends = [f"pod {name_of(end.pod)}, port {end.port}" if end.pod else str(end) for end in path.endpoints]
    yield few(ends) or "nothing"


def _named(policies: t.Sequence[Object]) -> str:
    return f"in force: {', '.join(map(name_of, policies))}" if policies else "no policy in force"
