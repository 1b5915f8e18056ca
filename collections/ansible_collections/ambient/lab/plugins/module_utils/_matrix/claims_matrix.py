# What the module claims_matrix does: span the matrix, have it asked, and write it down or compare it with a file.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._check.curl_outcomes import settings_of
from ansible_collections.ambient.lab.plugins.module_utils._check.edge import KubeEdge
from ansible_collections.ambient.lab.plugins.module_utils._check.rounds import Settings
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Claim, Problem, Source, dns_name
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import Kube, kubectl
from ansible_collections.ambient.lab.plugins.module_utils._cluster.snapshot import Snapshot
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._common.files import diff_of, put
from ansible_collections.ambient.lab.plugins.module_utils._common.results import (
    read_results,
    require_section,
    write_results,
)
from ansible_collections.ambient.lab.plugins.module_utils._matrix.diff import Difference, difference, stated
from ansible_collections.ambient.lab.plugins.module_utils._matrix.engine import Engine, Lack, unable, visible
from ansible_collections.ambient.lab.plugins.module_utils._matrix.match import Matched, match, widened, within
from ansible_collections.ambient.lab.plugins.module_utils._matrix.plan import Pair, Wanted, lay_out, require_few
from ansible_collections.ambient.lab.plugins.module_utils._matrix.probers import Clock, Probers, ended_politely
from ansible_collections.ambient.lab.plugins.module_utils._matrix.report import (
    Found,
    failure,
    returned,
    section_values,
    warnings_of,
)
from ansible_collections.ambient.lab.plugins.module_utils._matrix.text import file_text, read_claims, read_text
from ansible_collections.ambient.lab.plugins.module_utils._matrix.watch import Watched, watch
from ansible_collections.ambient.lab.plugins.module_utils._witness.paths import namespaces_of

# A pod that stands in ends by itself so many seconds after the time that the answers have to settle.
LIFE_SECONDS = 900
HELP = "; probe_with=pod or probe_with=ephemeral, with probe_image, asks in its place"
NOT_NOW = "; check mode makes nothing that could ask in its place"
_PLACES = {"pod": "a short-lived pod with this ServiceAccount", "ephemeral": "an ephemeral container in its pod"}


class StandingEdge(KubeEdge):
    """The check's edge on a cluster in which some pods only stand in for sources."""

    def __init__(self, kube: Kube) -> None:
        super().__init__(kube)
        # namespace/name of those that are of this run.
        self.chosen: set[str] = set()

    def snapshot(self, namespaces: t.Iterable[str]) -> Snapshot:
        """All objects on the paths into these namespaces."""
        return visible(super().snapshot(namespaces), self.chosen)


def matrix(params: t.Mapping[str, t.Any], check_mode: bool, diff: bool) -> dict[str, t.Any]:
    """Observe the matrix and write its file, or compare it with the file.

    Args:
        params: of the module claims_matrix.
        check_mode: probe, but make no pods and write nothing.
        diff: return what changes in the file.

    Raises:
        LabError: on wrong input, an API that does not answer, and, when comparing, differences.
    """
    settings, wanted = settings_of({**params, "phase": "after"}), wanted_of(params)
    compare = params["state"] == "compare"
    claims = read_claims(params["file"]) if compare else ()
    # Wrong paths are found before any traffic.
    results = _results(params)
    if not compare and not check_mode:
        read_text(params["file"])
    kube = Kube(params["kubeconfig"], params["context"])
    clock = Clock()
    life = int(settings.timeout) + LIFE_SECONDS
    with ended_politely(), Probers(kube, params["probe_with"], params["probe_image"] or "", life, clock) as probers:
        edge = StandingEdge(kube)
        cluster = edge.snapshot({*wanted.namespaces, *namespaces_of(claims)})
        plan = lay_out(widened(wanted, claims), cluster)
        matched = match(claims, plan.pairs, cluster)
        pairs = [*matched.known, *(pair for pair in matched.new if within(pair, wanted))]
        require_few(len(pairs))
        run = Run(settings, edge, probers, params["probe_with"], check_mode)
        found = run.look(pairs, cluster)
    found = dataclasses.replace(found, left=plan.left)
    values = {"changed": bool(probers.marked), "file": params["file"]}
    if compare:
        changes = compared(claims, found, matched)
        return _compare(params, check_mode, {**values, **returned(found, changes)}, found, changes, wanted, results)
    _keep(params, check_mode, results, section_values(found, wanted, None))
    return {**_observe(params, check_mode, diff, found, wanted, values), **returned(found, None)}


@dataclasses.dataclass(frozen=True)
class Run:
    """One run. probe_with: what may stand in for sources; in check mode nothing is made."""

    settings: Settings
    edge: StandingEdge
    probers: Probers
    probe_with: str
    check_mode: bool

    def look(self, pairs: t.Sequence[Pair], cluster: Snapshot) -> Found:
        """Ask every pair whose source can be asked.

        Args:
            pairs: of the matrix.
            cluster: objects of all their namespaces.
        """
        sources = {pair.claim.source: pair.origin for pair in pairs}
        mesh = {name: _in_mesh(source, cluster) for source, name in sources.items()}
        lacking = unable(list(sources), cluster, self.settings.concurrency, self.edge)
        places = self._stand_ins(lacking, cluster)
        silent = sorted((sources[source], lack.reason) for source, lack in lacking.items() if source not in places)
        unprobed = dict(silent)
        asked = [pair for pair in pairs if pair.origin not in unprobed]
        watched = Watched([], 0, 0.0)
        if asked:
            engine = Engine([pair.claim for pair in asked], places, self.settings, self.edge)
            watched = watch([pair.claim for pair in asked], [pair.http for pair in asked], self.settings, engine)
        asked_from = {sources[source]: _PLACES[self.probe_with] for source in places}
        return Found(asked, watched, unprobed, (), mesh, asked_from)

    def _stand_ins(self, lacking: dict[Source, Lack], cluster: Snapshot) -> dict[Source, Source]:
        """What stands in for sources; where that fails, the reason is added to what the source lacks."""
        mendable = [source for source, lack in lacking.items() if lack.mendable and source.service_account]
        if self.probe_with not in _PLACES or self.check_mode:
            more = NOT_NOW if self.probe_with in _PLACES else HELP
            for source in mendable:
                lacking[source] = dataclasses.replace(lacking[source], reason=lacking[source].reason + more)
            return {}
        if self.probe_with == "pod":
            self.probers.clear({source.namespace for source in lacking} | set(cluster.pods))
        places = {}
        for source, place in self.probers.stand_in(mendable, cluster).items():
            if isinstance(place, str):
                lacking[source] = dataclasses.replace(lacking[source], reason=f"{lacking[source].reason}; {place}")
            else:
                places[source] = place
        self.edge.chosen |= self.probers.pods
        return places


def _in_mesh(source: Source, cluster: Snapshot) -> bool:
    from_account = [
        pod
        for pod in cluster.pods.get(source.namespace, [])
        if pod["metadata"]["name"] == source.pod
        or pod.get("spec", {}).get("serviceAccountName", "default") == source.service_account
    ]
    return any(cluster.in_mesh(pod) for pod in from_account)


def compared(claims: t.Sequence[Claim], found: Found, matched: Matched) -> Difference:
    """How what was found differs from the file's claims."""
    was = {claim.name: stated(claim) for claim in claims}
    # What can't be told now is no news where the file does not have it: it was left out when that was written.
    now = {
        pair.claim.name: cell.state for pair, cell in found.cells if pair.claim.name in was or not cell.state.unclear
    }
    unprobed = {
        pair.claim.name: f"{pair.origin} was not probed: {found.unprobed[pair.origin]}"
        for pair in matched.known
        if pair.origin in found.unprobed
    }
    return difference(was, now, matched.gone, unprobed)


def _compare(
    params: t.Mapping[str, t.Any],
    check_mode: bool,
    values: dict[str, t.Any],
    found: Found,
    changes: Difference,
    wanted: Wanted,
    results: dict[str, t.Any],
) -> dict[str, t.Any]:
    _keep(params, check_mode, results, section_values(found, wanted, changes))
    # In check mode nobody stands in for a source, so nothing can be said of it.
    excused = check_mode and params["probe_with"] != "none"
    bad = [change for change in changes.changes if not (excused and change.kind == "unprobed")]
    verdict = "fail" if bad else "pass"
    if bad and params["fail_on_difference"]:
        raise LabError(failure(params["file"], changes, bad, kubectl(params)), verdict=verdict, **values)
    return {**values, "verdict": verdict, "warnings": warnings_of(found)}


def _observe(
    params: t.Mapping[str, t.Any],
    check_mode: bool,
    diff: bool,
    found: Found,
    wanted: Wanted,
    values: dict[str, t.Any],
) -> dict[str, t.Any]:
    clear, total = len(found.clear), len(found.pairs)
    if not clear or 2 * clear < total:
        # A cluster that is broken for a moment must not replace a good file with the little that still works.
        much = f"only {clear} of {total} pairs" if clear else "nothing"
        raise LabError("\n  ".join([f"{much} could be observed, so no file is written:", *warnings_of(found)]))
    notes = {name: "in the mesh" if mesh else "not in the mesh" for name, mesh in found.mesh.items()}
    notes.update({name: f"{notes[name]}, asked from {place}" for name, place in found.asked_from.items()})
    cells = [(pair, cell.state) for pair, cell in found.clear]
    unprobed = {name: reason.removesuffix(HELP).removesuffix(NOT_NOW) for name, reason in found.unprobed.items()}
    text = file_text(params["file"], wanted.namespaces, cells, notes, unprobed)
    old = put("file", params["file"], text, check_mode)
    values = {**values, "changed": values["changed"] or old != text, "verdict": "observed", "claims": len(cells)}
    if diff:
        values["diff"] = diff_of(params["file"], old, text)
    return {**values, "warnings": warnings_of(found)}


def _results(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    if not params["results_file"]:
        return {}
    require_section(params["section"])
    return read_results(params["results_file"])


def _keep(params: t.Mapping[str, t.Any], check_mode: bool, results: dict[str, t.Any], values: dict[str, t.Any]) -> None:
    if params["results_file"] and not check_mode:
        section = {**(results.get(params["section"]) or {}), "matrix": values}
        write_results(params["results_file"], {**results, params["section"]: section})


def wanted_of(params: t.Mapping[str, t.Any]) -> Wanted:
    """What to span, from the module's parameters.

    Raises:
        LabError: on names that are none, empty lists, and a probe image that is missing.
    """
    if params["probe_with"] != "none" and not params["probe_image"]:
        raise LabError(f"probe_with={params['probe_with']} needs probe_image, an image with sh and curl 7.83 or newer")
    for key in ("namespaces", "methods", "paths"):
        if not params[key]:
            raise LabError(f"{key} is empty: name at least one")
    for path in params["paths"]:
        if not path.startswith("/"):
            raise LabError(f"paths: {path!r} must begin with /")
    return Wanted(
        _namespaces(params, "source_namespaces"),
        _namespaces(params, "destination_namespaces"),
        tuple(params["methods"]),
        tuple(params["paths"]),
        tuple(params["exclude"]),
        params["pod_ip"],
        params["non_http"],
    )


def _namespaces(params: t.Mapping[str, t.Any], key: str) -> tuple[str, ...]:
    names = params["namespaces"] if params[key] is None else params[key]
    try:
        return tuple(sorted({dns_name(name, key, str(name)) for name in names}))
    except Problem as problem:
        raise LabError(str(problem)) from problem
