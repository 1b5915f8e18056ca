# What the module policy_diff does: says which pairs open and close between two states, by which policy and rule.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import collections
import typing as t

from .._common.errors import LabError
from .._common.files import put
from .._common.text import table
from .._mesh.predictions import Prediction
from .._results.measured import Verdict
from .._results.model import Check, ClaimResult, Section, Seen
from .._results.store import keep, now, require_writable
from .changes import KINDS, Change, changes_of
from .reach import LAYERS, cells
from .states import read_state
from .told import WIDTH, by, few, require_some, within

Values = dict[str, t.Any]
_MAX_ROWS = 200
_KEYS = ("to", "request", "was", "now", "because")
_FIX = "fix: name in allow_new what is meant to open, or mend the policies"


def compare(params: t.Mapping[str, t.Any], check_mode: bool) -> Values:
    """Compare two states.

    Args:
        params: of the module policy_diff.
        check_mode: write nothing.

    Raises:
        LabError: on wrong input, as read_state, and where something opens that allow_new does not name.
    """
    path, section, allowed = params["results_file"], params["section"], params["allow_new"]
    require_writable(path, section)
    old, new = (read_state(params[name], params) for name in ("old", "new"))
    meshes, spaces = (old.mesh, new.mesh), params["namespaces"]
    found = cells(meshes, within(spaces, meshes))
    require_some(found, f"{old.label} -> {new.label}", spaces, meshes)
    every, pairs = changes_of(found, *meshes, spaces), sum(len(cell.sources) for cell in found)
    refused = [left for change in every if change.opens and (left := change.without(allowed))]
    counts = collections.Counter(change.kind for change in every for _source in change.names)
    said = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS)
    head = f"{old.label} -> {new.label}: {said}, of {pairs} pairs"
    values: Values = {
        "changed": False,
        **{_key(kind): [change.values() for change in every if change.kind == kind] for kind in KINDS},
        "counts": {kind: counts[kind] for kind in KINDS},
        "pairs": pairs,
        "verdict": "fail" if refused else "pass",
        "table": [head, "", *_table(every)],
        "warnings": [*dict.fromkeys((*old.notes, *new.notes, *new.mesh.config.assumed)), *_unused(every, allowed)],
    }
    if params["markdown"]:
        text = markdown(head, every, bool(refused))
        values["changed"] = put("markdown", params["markdown"], text, check_mode) != text
    if path and not check_mode:
        kept = _section(every, refused, pairs)
        keep(path, section, lambda _old: kept)
    if refused and params["fail_on"] == "opened":
        raise LabError("\n".join([head, "", *_table(refused), "", _FIX]), **values)
    return values


def _key(kind: str) -> str:
    # A module's own `changed` says whether it has changed something.
    return "altered" if kind == "changed" else kind


def _unused(changes: t.Sequence[Change], allowed: t.Sequence[str]) -> list[str]:
    """What allow_new names, and does not open: somebody may have forgotten it there."""
    pairs = [(change, name) for change in changes if change.opens for name in change.names]
    idle = [text for text in allowed if not any(change.is_named(name, [text]) for change, name in pairs)]
    return [f"allow_new names nothing that opens: {text}" for text in idle]


def _table(changes: t.Sequence[Change]) -> list[str]:
    if not changes:
        return ["nothing opens, and nothing closes"]
    shown = [(change, change.values()) for change in changes[:_MAX_ROWS]]
    rows = [[change.kind, few(change.names), *(values[key] for key in _KEYS)] for change, values in shown]
    lines = table(["CHANGE", "FROM", *map(str.upper, _KEYS)], rows, WIDTH)
    return [*lines, *_more(changes)]


def _more(changes: t.Sequence[Change]) -> list[str]:
    more = len(changes) - _MAX_ROWS
    return [f"and {more} more"] if more > 0 else []


def markdown(head: str, changes: t.Sequence[Change], bad: bool) -> str:
    """The comparison as a comment on a pull request.

    Args:
        head: of what is compared, with the counts.
        changes: all of them.
        bad: something opens that is not named.
    """
    verdict = "**Something opens that `allow_new` does not name.**" if bad else "Nothing opens that is not named."
    lines = ["### Who may call whom", "", head, "", verdict, ""]
    if changes:
        lines += [f"| change | from | {' | '.join(_KEYS)} |", f"|{'---|' * (2 + len(_KEYS))}"]
    for change in changes[:_MAX_ROWS]:
        values = change.values()
        texts = [change.kind, few(change.names), *(values[key] for key in _KEYS)]
        lines.append(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in texts)} |")
    return "\n".join([*lines, *_more(changes)]) + "\n"


def _section(changes: t.Sequence[Change], refused: t.Sequence[Change], pairs: int) -> Section:
    """The comparison as the report reads it: each change is a claim, before and after the policy."""
    bad = {(change.cell.door.name, change.cell.kind.label, name) for change in refused for name in change.names}
    before, after = [], []
    for change in changes:
        to, label = change.cell.door.name, change.cell.kind.label
        for name in change.names:
            verdict: Verdict = "fail" if (to, label, name) in bad else "pass"
            ends = {"name": f"{name} -> {to} {label}", "from_": name, "source": name, "to": to}
            expected = change.met[0].outcome
            before.append(_claim(ends, expected, change.met[0], "pass"))
            after.append(_claim(ends, expected, change.met[1], verdict, change.because))
    same = Prediction("allowed")
    ends = {"name": f"{pairs - len(after)} other pairs meet the same", "from_": "all others", "to": "all destinations"}
    worst: Verdict = "fail" if bad else "pass"
    head: Values = {"at": now(), "rounds": 0, "elapsed": 0.0, "converged_after": None}
    return Section(
        before=Check(verdict="pass", claims=[*before, _claim(ends, "allowed", same, "pass")], **head),
        after=Check(verdict=worst, claims=[*after, _claim(ends, "allowed", same, "pass")], **head),
    )


def _claim(ends: Values, expected: str, found: Prediction, verdict: Verdict, because: str = "") -> ClaimResult:
    return ClaimResult(
        **ends,
        expected=expected,
        seen=Seen(outcome=found.outcome, text=found.outcome),
        verdict=verdict,
        reason=by(found),
        likely_cause=because,
        decided_by=LAYERS.get(found.outcome, "-"),
        policy=next(iter(found.among), None),
    )
