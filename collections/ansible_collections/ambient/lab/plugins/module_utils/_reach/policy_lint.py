# What the module policy_lint does: looks at each policy of a state, and says what is wrong with it.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import fnmatch
import typing as t

from .._common.errors import LabError
from .._mesh.mesh import Mesh, name_of
from .._results.measured import Finding, Lint
from .._results.store import keep, now, require_writable
from .effects import (
    shadowed,
    through_waypoints,
    versions,
    without_identity,
)
from .findings import binding, bound, wording
from .ports import ports, protocols
from .states import read_state
from .told import within

_ORDER = ("error", "warning")


def findings(mesh: Mesh) -> list[Finding]:
    """What is wrong with the policies of a mesh, what never works first."""
    bounds = {name_of(policy): bound(mesh, policy) for policy in mesh.items("AuthorizationPolicy")}
    found = [*versions(mesh), *through_waypoints(mesh, bounds), *shadowed(mesh, list(bounds.values()))]
    for item in bounds.values():
        for look in (binding, wording, ports, protocols, without_identity):
            found += look(mesh, item)
    return sorted(
        dict.fromkeys(found), key=lambda item: (_ORDER.index(item.severity), item.place, item.policy, item.rule)
    )


def lint(params: t.Mapping[str, t.Any], check_mode: bool = False) -> dict[str, t.Any]:
    """Lint a state.

    Args:
        params: of the module policy_lint.
        check_mode: write nothing.

    Raises:
        LabError: on wrong input, as read_state, on policies that may not be read, and on findings of the severity
            in fail_on.
    """
    path, section = params["results_file"], params["section"]
    require_writable(path, section)
    state = read_state(params, params)
    within(params["namespaces"], [state.mesh])
    if why := state.mesh.why_unread("AuthorizationPolicy", *(params["namespaces"] or state.mesh.spaces)):
        raise LabError(f"what can't be read can't be looked at: {why}")
    known = [*map(name_of, state.mesh.items("AuthorizationPolicy"))]
    if lost := [text for text in params["policies"] if not fnmatch.filter(known, text)]:
        raise LabError(f"policies: there is no {', '.join(lost)} in {state.label}")
    wanted = [one for one in known if _is_wanted(one, params)]
    every = [item for item in findings(state.mesh) if item.policy in wanted or not (item.policy or params["policies"])]
    kept = [item for item in every if not any(_ignores(text, item) for text in params["ignore"])]
    idle = [text for text in params["ignore"] if not any(_ignores(text, item) for item in every)]
    head = f"{len(kept)} findings in {len(wanted)} policies of {state.label}"
    values: dict[str, t.Any] = {
        "findings": [dataclasses.asdict(item) for item in kept],
        "ignored": len(every) - len(kept),
        "policies": len(wanted),
        "report": [head, *(line for item in kept for line in str(item).splitlines())],
        "warnings": [*state.notes, *state.mesh.config.assumed, *(f"ignore names no finding: {text}" for text in idle)],
    }
    if path and not check_mode:
        told = Lint(at=now(), policies=len(wanted), findings=kept)
        keep(path, section, lambda old: dataclasses.replace(old, lint=told))
    bad = [item for item in kept if params["fail_on"] in (item.severity, "warning")]
    if bad and params["fail_on"] != "never":
        raise LabError("\n".join([head, *map(str, bad)]), **values)
    return values


def _is_wanted(name: str, params: t.Mapping[str, t.Any]) -> bool:
    """Whether a policy is of the namespaces to look at, and one of those named; none are all."""
    named = not params["policies"] or any(fnmatch.fnmatchcase(name, text) for text in params["policies"])
    return named and (not params["namespaces"] or name.partition("/")[0] in params["namespaces"])


def _ignores(text: str, item: Finding) -> bool:
    """Whether an item of `ignore` (a rule, or a rule and a policy) names a finding."""
    rule, _space, policy = text.partition(" ")
    return rule == item.rule and (not policy or fnmatch.fnmatchcase(item.policy, policy))
