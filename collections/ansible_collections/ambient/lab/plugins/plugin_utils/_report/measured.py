# Reads what was measured beside the claims: how fast a policy took hold, and the generated matrix.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

Object = dict[str, t.Any]
DIRECTIONS = ("apply", "remove")
QUANTILES = ("p50", "p99", "max")
RUN = ("first_new", "last_old", "ready", "stale_after_accepted", "stale_after_ready", "flaps")
COUNTS = ("stale_after_accepted", "stale_after_ready", "flaps", "requests")
CELL = ("name", "from", "to", "method", "outcome", "http_code", "exit_code", "decided_by", "policy")
# What may stand in a cell, and what else may differ from the claims file.
CHANGES = ("opened", "closed", "changed")
DIFFERENCES = (*CHANGES, "added", "gone")
DIFFERENCE = ("name", "was", "now", "policy", "reason")
# What nothing can be said of.
LEFT_OUT = {"unprobed": ("source", "reason"), "unclear": ("name", "reason"), "left_out": ("what", "reason")}


def convergence_of(measured: Object) -> Object:
    """One measurement of ambient.lab.policy_convergence, a row per direction and pair.

    Times are in seconds after the API accepted the change.
    """
    pairs = []
    ready = {}
    for direction in DIRECTIONS:
        found = (measured.get("directions") or {}).get(direction)
        if found:
            ready[direction] = quantiles(found.get("ready"))
            pairs += [_pair(direction, pair) for pair in found["pairs"]]
    return {
        "policy": measured["policy"],
        "at": measured.get("at") or "",
        "verdict": measured["verdict"],
        "reason": measured.get("reason") or "",
        **{key: measured.get(key) for key in ("repeats", "rate", "resolution", "requests")},
        "ready": ready,
        "pairs": pairs,
    }


def _pair(direction: str, pair: Object) -> Object:
    return {
        "direction": direction,
        **{key: pair[key] for key in ("name", "from", "to", "old", "new", "verdict")},
        "reason": pair.get("reason") or "",
        **{key: quantiles(pair.get(key)) for key in ("first_new", "last_old")},
        **{key: pair.get(key) or 0 for key in COUNTS},
        # An old answer that still lets pass what is to be denied is a leak, also where the policy that goes had let it
        # pass; any other is only late.
        "leaks": str(pair["new"]).startswith("denied") and pair["old"] != pair["new"],
        "limits": pair.get("limits") or {},
        "runs": [{key: run.get(key) for key in RUN} for run in pair.get("runs") or []],
    }


def quantiles(measured: Object | None) -> Object | None:
    """p50, p99 and max in seconds; None where nothing was measured."""
    return {key: measured.get(key) for key in QUANTILES} if measured else None


def matrix_of(matrix: Object) -> Object:
    """The generated matrix, each cell with what changed in it since the claims file was written."""
    differences = {word: [_texts(one, DIFFERENCE) for one in matrix.get(word) or []] for word in DIFFERENCES}
    by_name = {one["name"]: (word, one) for word in CHANGES for one in differences[word]}
    cells = []
    for cell in matrix["cells"]:
        word, changed = by_name.get(cell["name"], (None, {"was": None}))
        cells.append({**{key: cell.get(key) for key in CELL}, "change": word, "was": changed["was"]})
    return {
        "at": matrix.get("at") or "",
        **{key: matrix.get(key) or [] for key in ("namespaces", "methods")},
        "cells": cells,
        **{word: [_texts(one, keys) for one in matrix.get(word) or []] for word, keys in LEFT_OUT.items()},
        **differences,
    }


def _texts(found: Object, keys: t.Sequence[str]) -> Object:
    return {key: None if found.get(key) is None else str(found[key]) for key in keys}
