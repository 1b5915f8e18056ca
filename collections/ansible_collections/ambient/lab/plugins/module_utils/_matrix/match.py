# Finds the claims of a file in the matrix as the cluster has it now: which are there, which are new, which are gone.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .._claims.parse import Claim, Source
from .._claims.sources import Unusable, target_in
from .._common.rounds import Retry
from .._mesh.destinations import resolve
from .._mesh.mesh import Mesh, is_ip
from .plan import Pair, Wanted, foreign, path_of

_POD = " -> pod of "


@dataclasses.dataclass(frozen=True)
class MatchResult:
    """What to probe: the file's claims that still make sense, and then the new pairs. gone: why, by claim's name."""

    known: tuple[Pair, ...]
    new: tuple[Pair, ...]
    gone: dict[str, str]


def match(claims: t.Sequence[Claim], pairs: t.Sequence[Pair], mesh: Mesh) -> MatchResult:
    """Match a file's claims with the pairs of the cluster, by source and request, so that a claim can be renamed.

    A row to a pod's own address is found by its name, because a new pod has another address.

    Args:
        claims: of the file.
        pairs: of the cluster.
        mesh: objects of all their namespaces.
    """
    twins = {pair.key: pair for pair in pairs}
    pods = {_row(pair.claim): pair for pair in pairs if pair.pod}
    known, gone = [], {}
    used: set[str] = set()
    for claim in claims:
        reason = _vanished(claim, mesh)
        twin = twins.get((claim.source, claim.request)) or pods.get(_row(claim))
        if reason and not (twin and twin.pod):
            gone[claim.name] = reason
        elif twin:
            used.add(twin.claim.name)
            known.append(dataclasses.replace(twin, claim=dataclasses.replace(claim, request=twin.claim.request)))
        else:
            known.append(foreign(claim, mesh))
    names = {claim.name for claim in claims}
    new = []
    for pair in pairs:
        name = pair.claim.name
        while name in names:
            # Somebody has given it to another one in the file.
            name += " (not in the file)"
        if pair.claim.name not in used:
            new.append(dataclasses.replace(pair, claim=dataclasses.replace(pair.claim, name=name)))
    return MatchResult(tuple(known), tuple(new), gone)


def widened(wanted: Wanted, claims: t.Iterable[Claim]) -> Wanted:
    """What to span so that the file's rows to pods are found at their new addresses."""
    rows = [claim.request for claim in claims if _POD in claim.name]
    if not rows:
        return wanted
    methods = {*wanted.methods, *(request.method for request in rows)}
    paths = {*wanted.paths, *(path_of(request) for request in rows)}
    return dataclasses.replace(wanted, pod_ip=True, methods=tuple(sorted(methods)), paths=tuple(sorted(paths)))


def within(pair: Pair, wanted: Wanted) -> bool:
    """Whether a pair is a part of what was asked for."""
    request = pair.claim.request
    asked = request.method in wanted.methods and path_of(request) in wanted.paths
    return asked and (wanted.pod_ip or not pair.pod)


def _row(claim: Claim) -> tuple[str, Source, str]:
    """What tells rows to pods apart, whatever address the pod has."""
    return claim.name, claim.source, claim.request.method


def _vanished(claim: Claim, mesh: Mesh) -> str:
    """Why a claim can't be probed any more: its source, or what it calls, is not there. "" where both are."""
    source, request = claim.source, claim.request
    target = target_in(mesh, source)
    if isinstance(target, Unusable) and target.retry is Retry.POINTLESS:
        return target.reason
    if is_ip(request.host):
        return "" if mesh.pods_at(request.host) or _POD not in claim.name else "its pod is not there"
    found = resolve(mesh, request.host, request.port, source.namespace)
    if found.kind in ("service", "missing"):
        return found.why
    namespace = request.host.partition(".")[2]
    # A host of two labels may be outside (example.org), but the module's own names are those of Services.
    own = found.kind == "outside" and f" -> {found} " in claim.name
    return f"namespace {namespace} does not exist" if own and mesh.namespace(namespace) is None else ""
