# Lays out the table of what was proven, which closes a run.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._common.text import table


def results_table(results: dict[str, t.Any]) -> list[str]:
    """Lines of the closing table: claim, before, after, who decided by which policy, converged after."""
    rows = []
    for section in results.values():
        for part, short in ((section, _short), (section.get("graph") or {}, _short_graph)):
            after = part.get("converged_after") if part.get("phase") == "after" else None
            for claim in part.get("claims") or []:
                rows.append(
                    [
                        claim["name"],
                        short(claim["before"]),
                        short(claim["after"]),
                        _decided(claim),
                        "-" if after is None else f"{after:.1f} s",
                    ]
                )
    return table(["CLAIM", "BEFORE", "AFTER", "DECIDED BY", "CONVERGED"], rows)


def _decided(claim: dict[str, t.Any]) -> str:
    """Who decided, and the policy's name; its namespace is in the results file."""
    policy = claim.get("policy")
    return f"{claim['decided_by']} {policy.partition('/')[2]}" if policy else str(claim["decided_by"])


def _short(entry: dict[str, t.Any] | None) -> str:
    if entry is None:
        return "-"
    code = "" if entry["exit_code"] is None else f" {entry['http_code']:03d}/{entry['exit_code']}"
    return f"{entry['outcome']}{code}{_unless_passed(entry)}"


def _short_graph(entry: dict[str, t.Any] | None) -> str:
    return "-" if entry is None else f"{entry['seen']}{_unless_passed(entry)}"


def _unless_passed(entry: dict[str, t.Any]) -> str:
    return "" if entry["verdict"] == "pass" else f" {entry['verdict'].upper()}"
