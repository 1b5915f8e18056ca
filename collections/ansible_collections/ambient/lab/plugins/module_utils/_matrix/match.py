# Finds the claims of a file in the matrix as the cluster has it now: which are there, which are new, which are gone.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Claim, Source
from ansible_collections.ambient.lab.plugins.module_utils._claims.sources import Unusable, find_target
from ansible_collections.ambient.lab.plugins.module_utils._cluster.snapshot import Snapshot
from ansible_collections.ambient.lab.plugins.module_utils._curl.control import destination
from ansible_collections.ambient.lab.plugins.module_utils._matrix.plan import Pair, Wanted, foreign, path_of
from ansible_collections.ambient.lab.plugins.module_utils._witness.paths import may_be_outside

_POD = " -> pod of "


@dataclasses.dataclass(frozen=True)
class Matched:
    """What to probe: the file's claims that still make sense, and then the new pairs. gone: why, by claim's name."""

    known: tuple[Pair, ...]
    new: tuple[Pair, ...]
    gone: dict[str, str]


def match(claims: t.Sequence[Claim], pairs: t.Sequence[Pair], cluster: Snapshot) -> Matched:
    """Match a file's claims with the pairs of the cluster, by source and request, so that a claim can be renamed.

    A row to a pod's own address is found by its name, because a new pod has another address.

    Args:
        claims: of the file.
        pairs: of the cluster.
        cluster: objects of all their namespaces.
    """
    twins = {(pair.claim.source, pair.claim.request): pair for pair in pairs}
    pods = {_row(pair.claim): pair for pair in pairs if pair.pod}
    known, gone = [], {}
    used: set[str] = set()
    for claim in claims:
        reason = vanished(claim, cluster)
        twin = twins.get((claim.source, claim.request)) or pods.get(_row(claim))
        if reason and not (twin and twin.pod):
            gone[claim.name] = reason
        elif twin:
            used.add(twin.claim.name)
            known.append(dataclasses.replace(twin, claim=dataclasses.replace(claim, request=twin.claim.request)))
        else:
            known.append(foreign(claim))
    names = {claim.name for claim in claims}
    new = [_renamed(pair, names) for pair in pairs if pair.claim.name not in used]
    return Matched(tuple(known), tuple(new), gone)


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


def _renamed(pair: Pair, names: t.Collection[str]) -> Pair:
    """A new pair whose name somebody has given to another one in the file."""
    name = pair.claim.name
    while name in names:
        name += " (not in the file)"
    return dataclasses.replace(pair, claim=dataclasses.replace(pair.claim, name=name))


def vanished(claim: Claim, cluster: Snapshot) -> str:
    """Why a claim can't be probed any more: its source, or what it calls, is not there. "" where both are."""
    source = claim.source
    target = find_target(source, cluster.pods.get(source.namespace, []))
    if isinstance(target, Unusable) and target.missing:
        return target.reason
    where = destination(claim.request, source.namespace)
    if where.address:
        return "" if cluster.at_address(where.host) or _POD not in claim.name else "its pod is not there"
    if where.service is None:
        return ""
    service = cluster.service(where.namespace, where.service)
    if service is None:
        # The module's own names say that it was a Service.
        if may_be_outside(claim.request, where, cluster) and f" -> {where} " not in claim.name:
            return ""
        return f"Service {where.namespace}/{where.service} does not exist"
    spec = service.get("spec") or {}
    ports = [int(port["port"]) for port in spec.get("ports") or []]
    # Calls to these two kinds go to whatever port is asked for.
    open_ended = spec.get("type") == "ExternalName" or spec.get("clusterIP") == "None"
    if where.port in ports or open_ended:
        return ""
    return f"Service {where.namespace}/{where.service} has no port {where.port}"
