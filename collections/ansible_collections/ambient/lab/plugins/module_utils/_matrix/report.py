# Writes down what a matrix has shown: return values, the part of the results file, and the table of differences.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import os
import typing as t

from .._common.text import Row, screen
from .._curl.control import BLOCKED
from .._results.codec import plain
from .._results.measured import Matrix, MatrixCell, Skipped, Unclear, Unprobed
from .._results.store import now
from .diff import KINDS, Change, Difference, State, command
from .engine import Unavailable
from .plan import Pair, Wanted
from .watch import Cell, Observed

OWN_POD = "its own pod"
# Of each kind of warning.
SHOWN = 3
_WHY = {
    "opened": "it was denied, and is let through now",
    "closed": "it was let through, and is denied now",
    "changed": "neither let through nor denied in place of the other, but something else",
    "added": "the file does not have it",
}


@dataclasses.dataclass(frozen=True)
class Caller:
    """A source of the matrix.

    name: how it is shown. captured: whether its traffic goes through ztunnel. unavailable: why nobody asks for it, None
    where somebody does. place: what asks for it, or would in a real run.
    """

    name: str
    captured: bool
    unavailable: Unavailable | None = None
    place: str = OWN_POD


@dataclasses.dataclass(frozen=True)
class Found:
    """All that a run has found out."""

    watched: Observed
    callers: t.Sequence[Caller]
    left: t.Sequence[Skipped] = ()

    @property
    def clear(self) -> list[Cell]:
        """The cells of which something can be said."""
        return [cell for cell in self.watched.cells if not cell.state.unclear]

    @property
    def unprobed(self) -> dict[str, Unavailable]:
        """Why nobody asks for a source, by its name, in the order of names."""
        callers = sorted(self.callers, key=lambda caller: caller.name)
        return {caller.name: caller.unavailable for caller in callers if caller.unavailable}

    @property
    def waiting(self) -> set[str]:
        """The sources that could be asked, were it not for check mode."""
        return {name for name, unavailable in self.unprobed.items() if unavailable.waits}


def matrix_of(found: Found, wanted: Wanted, difference: Difference | None) -> Matrix:
    """The matrix as results have it."""
    cells = found.watched.cells
    changes = difference or Difference((), ())
    return Matrix(
        at=now(),
        namespaces=wanted.namespaces,
        methods=sorted(set(wanted.methods)),
        cells=[
            MatrixCell(
                name=cell.pair.claim.name,
                from_=cell.pair.origin,
                to=cell.pair.goal,
                method=cell.pair.claim.request.method,
                outcome=cell.seen.outcome,
                http_code=cell.seen.http_code,
                exit_code=cell.seen.exit_code,
                decided_by=cell.decided_by,
                policy=cell.state.policy,
            )
            for cell in cells
        ],
        unprobed=[Unprobed(source=name, reason=str(unavailable)) for name, unavailable in found.unprobed.items()],
        unclear=[Unclear(name=cell.pair.claim.name, reason=cell.state.unclear) for cell in cells if cell.state.unclear],
        left_out=list(found.left),
        **{kind: [change.kept() for change in changes.of(kind)] for kind in KINDS if kind != "unprobed"},
    )


def returned(found: Found, matrix: Matrix, difference: Difference | None) -> dict[str, t.Any]:
    """Return values that do not depend on the file.

    Args:
        matrix: the same, as results have it.
    """
    values: dict[str, t.Any] = {
        "rounds": found.watched.rounds,
        "elapsed": round(found.watched.elapsed, 2),
        **{key: plain(getattr(matrix, key)) for key in ("cells", "unclear", "unprobed", "left_out")},
        "sources": [
            {"name": caller.name, "mesh": caller.captured, "asked_from": caller.place}
            for caller in found.callers
            if not caller.unavailable
        ],
    }
    if difference:
        # A module's own `changed` says whether it has changed something.
        keys = {"altered" if kind == "changed" else kind: kind for kind in KINDS if kind != "unprobed"}
        values |= {key: plain([change.kept() for change in difference.of(kind)]) for key, kind in keys.items()}
        values["same"] = len(difference.same)
    return values


def failure(path: str, difference: Difference, kubectl: str) -> str:
    """One screen that says what differs from the file.

    Args:
        path: of the file.
        difference: all of it.
        kubectl: command with which the user reaches the cluster.
    """
    changes = difference.changes
    total = len(difference.same) + len(changes)
    head = f"{len(changes)} of {total} pairs differ from {os.path.basename(path)}: {difference}"
    text = screen(head, "POLICY", [_row(change, kubectl) for change in changes])
    if all(change.kind == "unprobed" for change in changes):
        # Writing the file anew would only drop what nobody could look at.
        return text
    return f"{text}\nfix:  where it is as it should be now, write the file anew with state=observe and commit it"


def _row(change: Change, kubectl: str) -> Row:
    why = change.reason or _WHY.get(change.kind, "")
    look = command(change.policy, kubectl) if change.policy else ""
    was, seen = _short(change.was), _short(change.now)
    if was == seen and change.was and change.now:
        # Only the policy is another one.
        was, seen = str(change.was), str(change.now)
    return Row(change.name, was, seen, change.policy or "-", f"{change.kind}: {why}", look)


def _short(state: State | None) -> str:
    """A state without the policy, which has a column of its own, and without the reason, which stands below."""
    if state is None:
        return "-"
    return state.outcome if state.unclear else str(dataclasses.replace(state, policy=None))


def comments_of(found: Found, cells: t.Iterable[tuple[Pair, State]]) -> list[str]:
    """What the file says of pairs that are no claims, as far as it stays the same while the cluster does.

    Args:
        found: by the run.
        cells: what the file has claims of.
    """
    written = {pair.origin for pair, _state in cells}
    unprobed = [(name, unavailable.lasting) for name, unavailable in found.unprobed.items() if name not in written]
    lines = [f"Not probed: {name} ({reason})" for name, reason in unprobed]
    # Who blocks these nobody can tell, so a check of such a claim would be an error.
    return lines + [
        f"Not claimed: {cell.pair.claim.name} is {cell.state}"
        for cell in found.watched.cells
        if cell.seen.outcome in BLOCKED and cell.state.unclear and not cell.flapped
    ]


def warnings_of(found: Found) -> list[str]:
    """What a person should hear even when all went well: pairs that are not in the file."""
    unclear = [(cell.pair.claim.name, cell) for cell in found.watched.cells if cell.state.unclear]
    groups = {
        "pairs whose answer flaps": [f"{name} ({', '.join(cell.flapped)})" for name, cell in unclear if cell.flapped],
        "pairs that can't be told": [f"{name} ({cell.state.unclear})" for name, cell in unclear if not cell.flapped],
        "sources that were not probed": [f"{name} ({unavailable})" for name, unavailable in found.unprobed.items()],
    }
    return [
        f"{len(items)} {what}: {'; '.join(items[:SHOWN])}"
        + (f"; and {len(items) - SHOWN} more" if len(items) > SHOWN else "")
        for what, items in groups.items()
        if items
    ]
