# What the module ready does: look at all objects at once, again and again, until they are ready.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import concurrent.futures
import dataclasses
import typing as t

from .._cluster.finder import Finder, Object, Wanted
from .._cluster.kube import Kube, kubectl
from .._common.errors import LabError
from .._common.rounds import Clock, Ended, Reason, Wait, repeat, require_seconds
from .diagnose import explain
from .readiness import counts, problem_of

PARALLEL = 8
MAX_SHOWN = 6


@dataclasses.dataclass(frozen=True)
class Look:
    """One look at what was wanted: what is there, and what of it is not ready (None: there is nothing)."""

    wanted: Wanted
    found: list[Object]
    problems: list[tuple[Object | None, Reason]]

    @property
    def reasons(self) -> list[Reason]:
        """What is not ready, and why."""
        named = [(_named(self.wanted, item), reason) for item, reason in self.problems]
        return [Reason(f"{name}: {reason.text}", reason.retry) for name, reason in named]


def ready(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Wait until the objects in the module's parameters are ready.

    Args:
        params: of the module ready.

    Raises:
        LabError: on wrong input, an API that does not answer, and objects that are not ready in time.
    """
    if not params["objects"]:
        raise LabError("objects is empty: a list that waits for nothing proves nothing; add at least one object")
    require_seconds(params, timeout=0.0, interval=0.01)
    wanted = [Wanted.of(item) for item in params["objects"]]
    for item in wanted:
        if item.name and item.label_selector:
            raise LabError(f"{item}: name and label_selector exclude each other")
    kube = Kube(params["kubeconfig"], params["context"])
    finder = Finder(kube)
    ended = wait(wanted, finder, params["timeout"], params["interval"], Clock())
    looks = ended.last
    if any(look.problems for look in looks):
        raise LabError(failure(looks, ended.elapsed, finder, kubectl(params)))
    return {
        "changed": False,
        "elapsed": round(ended.elapsed, 2),
        "resources": [item for look in looks for item in look.found],
    }


def wait(
    wanted: t.Sequence[Wanted], finder: Finder, timeout: float, interval: float, clock: Clock
) -> Ended[list[Look]]:
    """Look until everything is ready, something can't become ready any more, or `timeout` seconds are over.

    Raises:
        LabError: when the API does not answer, or refuses.
    """
    with concurrent.futures.ThreadPoolExecutor(min(PARALLEL, len(wanted))) as pool:
        return repeat(
            lambda: list(pool.map(lambda item: _look(item, finder), wanted)),
            Wait(timeout, lambda looks: [reason for look in looks for reason in look.reasons]),
            clock,
            interval,
        )


def _look(wanted: Wanted, finder: Finder) -> Look:
    found = [item for item in finder.find(wanted) if counts(wanted, item)]
    if not found:
        return Look(wanted, [], [(None, Reason("does not exist" if wanted.name else "there is none"))])
    judged = [(item, problem_of(wanted, item)) for item in found]
    return Look(wanted, found, [(item, problem) for item, problem in judged if problem])


def failure(looks: t.Sequence[Look], elapsed: float, finder: Finder, command: str) -> str:
    """What is not ready, why, and where to look further.

    Args:
        command: with which the user reaches the cluster.

    Raises:
        LabError: when the API does not answer any more.
    """
    bad = [(look.wanted, item, problem) for look in looks for item, problem in look.problems]
    total = sum(max(1, len(look.found)) for look in looks)
    lines = [f"{len(bad)} of {total} objects are not ready after {elapsed:.1f} s"]
    further: list[str] = []
    for wanted, item, problem in bad[:MAX_SHOWN]:
        name = _named(wanted, item)
        # A CRD may still have come while it waited.
        known = item is not None or finder.resource(wanted)
        unknown = f"the API knows no kind {wanted.kind} in {wanted.api_version}: correct it, or install its CRD first"
        lines.append(f"  {name}: {problem.text if known else unknown}")
        reasons, pods = explain(item, wanted, finder.reader) if item is not None else ([], [])
        lines += [f"    {line}" for line in reasons]
        further.append(_further(wanted, item, pods) if known else "api-resources")
    if len(bad) > MAX_SHOWN:
        lines.append(f"  ({len(bad) - MAX_SHOWN} more)")
    return "\n".join([*lines, *(f"look: {command} {text}" for text in list(dict.fromkeys(further))[:2])])


def _named(wanted: Wanted, item: Object | None) -> str:
    return str(wanted if item is None else dataclasses.replace(wanted, name=item["metadata"]["name"]))


def _further(wanted: Wanted, item: Object | None, pods: t.Sequence[str]) -> str:
    """Arguments for kubectl."""
    scope = f"-n {wanted.namespace} " if wanted.namespace else ""
    if pods:
        return f"{scope}describe pod {pods[0]}"
    if item is not None:
        return f"{scope}describe {wanted.kind.lower()} {item['metadata']['name']}"
    labels = f" -l '{wanted.label_selector}' --show-labels" if wanted.label_selector else ""
    return f"{scope}get {wanted.kind.lower()}{labels}"
