# What the module claims_matrix does: span the matrix, have it asked, and write it down or compare it with a file.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .._check.curl_outcomes import KubeEdge, settings_of
from .._check.rounds import Settings
from .._claims.fields import Problem, dns_name
from .._claims.parse import Claim, Source
from .._cluster.kube import kubectl
from .._common.errors import LabError
from .._common.files import diff_of, put, read_text
from .._common.progress import say
from .._common.rounds import Clock
from .._mesh.destinations import Request
from .._mesh.load import Asked
from .._mesh.mesh import Mesh, is_ip
from .._results.store import keep, require_writable
from .diff import Difference, State, difference, stated
from .engine import Engine, unable, visible
from .match import MatchResult, match, widened, within
from .plan import Pair, Wanted, lay_out, require_few
from .probe_pods import ProbePods, own_pod
from .report import OWN_POD, SHOWN, Caller, Found, comments_of, failure, matrix_of, returned, warnings_of
from .text import file_text, read_claims
from .watch import Observed, watch

# A pod that stands in ends by itself so many seconds after the time that the answers have to settle.
LIFE_SECONDS = 900
HELP = "probe_with=pod or probe_with=ephemeral, with probe_image, asks in its place"
_PLACES = {"pod": "a short-lived pod with this ServiceAccount", "ephemeral": "an ephemeral container in its pod"}


class StandingEdge(KubeEdge):
    """The check's edge on a cluster in which some pods only stand in for sources.

    Args:
        params: of the module, with kubeconfig and context.
        namespaces: that the matrix spans; a user who may list them alone finds a pod's own address there.
    """

    def __init__(self, params: t.Mapping[str, t.Any], namespaces: t.Iterable[str]) -> None:
        super().__init__(params["kubeconfig"], params["context"])
        self._namespaces = frozenset(namespaces)
        # namespace/name of those that are of this run.
        self.chosen: set[str] = set()

    def mesh(self, asked: t.Iterable[Asked], namespaces: t.Iterable[str]) -> Mesh:
        """All objects of the matrix and on the ways of some requests, without the pods that stand in for others."""
        return visible(super().mesh(asked, self._namespaces.union(namespaces)), self.chosen)


def matrix(params: t.Mapping[str, t.Any], check_mode: bool, diff: bool) -> dict[str, t.Any]:
    """Observe the matrix and write its file, or compare it with the file.

    Args:
        params: of the module claims_matrix.
        check_mode: probe, but make no pods and write nothing.
        diff: return what changes in the file.

    Raises:
        LabError: on wrong input, an API that does not answer, and, when comparing, differences.
    """
    settings, wanted = settings_of({**params, "phase": "after"}), _wanted(params)
    compare = params["state"] == "compare"
    claims = read_claims(params["file"]) if compare else ()
    # Wrong paths are found before any traffic.
    require_writable(params["results_file"], params["section"])
    if not compare and not check_mode:
        read_text("file", params["file"])
    edge = StandingEdge(params, wanted.namespaces)
    life = int(settings.timeout) + LIFE_SECONDS
    kind, image = params["probe_with"], params["probe_image"] or ""
    resources = {key: value for key, value in (params["probe_resources"] or {}).items() if value is not None}
    with ProbePods(edge, kind, image, life, Clock(), resources=resources, check_mode=check_mode) as probe_pods:
        # All objects of the matrix, and of what a file's claims call by name beside it.
        hosts = [(claim.request.host, claim.request.port, claim.source.namespace) for claim in claims]
        named = [Asked(*item) for item in hosts if not is_ip(item[0])]
        mesh = edge.mesh(named, {claim.source.namespace for claim in claims})
        plan = lay_out(widened(wanted, claims), mesh)
        matched = match(claims, plan.pairs, mesh)
        pairs = [*matched.known, *(pair for pair in matched.new if within(pair, wanted))]
        require_few(len(pairs))
        sources = {pair.claim.source: pair.origin for pair in pairs}
        callers, places = _callers(sources, mesh, edge, settings, kind, probe_pods)
        silent = {caller.name for caller in callers if caller.unavailable}
        asked = [pair for pair in pairs if pair.origin not in silent]
        engine = Engine([pair.claim for pair in asked], places, settings, edge)
        watched = watch(asked, settings, engine, edge) if asked else Observed([], 0, 0.0)
    found = Found(watched, callers, plan.left)
    changes = compared(claims, found, matched) if compare else None
    kept = matrix_of(found, wanted, changes)
    if params["results_file"] and not check_mode:
        keep(params["results_file"], params["section"], lambda old: dataclasses.replace(old, matrix=kept))
    values = {"changed": bool(probe_pods.marked), "file": params["file"], **returned(found, kept, changes)}
    waiting = [pair for pair in pairs if pair.origin in found.waiting]
    if changes is None:
        stated_so_far = _kept(params["file"], pairs, mesh) if waiting else {}
        written = _written(params, wanted, found, pairs, stated_so_far, check_mode)
        written["changed"] |= values["changed"]
        say(summary(found, f"observed, and written to {params['file']}" if not check_mode else "observed"))
        shown = {key: value for key, value in written.items() if diff or key != "diff"}
        return {**values, **shown, "warnings": warnings_of(found)}
    values["verdict"] = "fail" if changes.changes else "unknown" if waiting else "pass"
    if changes.changes and params["fail_on_difference"]:
        raise LabError(failure(params["file"], changes, kubectl(params)), **values)
    say(summary(found, f"compared with {params['file']}"))
    return {**values, "warnings": warnings_of(found)}


def summary(found: Found, what: str) -> str:
    """What a run has come to, and what is no part of it; what could not be asked is a warning."""
    why = [f"{item.what} ({item.reason})" for item in found.left]
    more = [f"{len(why) - SHOWN} more"] if len(why) > SHOWN else []
    left = f"; left out: {'; '.join(why[:SHOWN] + more)}" if why else ""
    return f"{len(found.clear)} of {len(found.watched.cells)} pairs {what}{left}"


def _callers(
    sources: t.Mapping[Source, str],
    mesh: Mesh,
    edge: StandingEdge,
    settings: Settings,
    kind: str,
    probe_pods: ProbePods,
) -> tuple[list[Caller], dict[Source, Source]]:
    """Who asks for each source, and the pod and container of those that ask in its place."""
    lacking = unable(sources, mesh, settings.concurrency, edge)
    mendable = [source for source, why in lacking.items() if why.mendable and source.service_account]
    if kind == "pod":
        names = [str(item["metadata"]["name"]) for item in mesh.items("Namespace")]
        probe_pods.clear(name for name in names if not mesh.why_unread("Pod", name))
    made = probe_pods.stand_in(mendable, mesh) if kind in _PLACES else dict.fromkeys(mendable, HELP)
    edge.chosen |= probe_pods.pods
    callers = []
    for source, name in sources.items():
        pod, lack, place = own_pod(source, mesh), lacking.get(source), made.get(source)
        captured = pod is not None and mesh.membership(pod).captured
        if lack and isinstance(place, str):
            lack = dataclasses.replace(lack, more=place)
        if isinstance(place, Source):
            lack = None
        stands = isinstance(place, Source) or (lack and lack.waits)
        callers.append(Caller(name, captured, lack, _PLACES[kind] if stands else OWN_POD))
    return callers, {source: place for source, place in made.items() if isinstance(place, Source)}


def compared(claims: t.Sequence[Claim], found: Found, matched: MatchResult) -> Difference:
    """How what was found differs from the file's claims; in check mode nothing can be said of those that wait."""
    waiting = {pair.claim.name for pair in matched.known if pair.origin in found.waiting}
    was = {claim.name: stated(claim) for claim in claims if claim.name not in waiting}
    # What can't be told now is no news where the file does not have it: it was left out when that was written.
    states = {cell.pair.claim.name: cell.state for cell in found.watched.cells}
    now = {name: state for name, state in states.items() if name in was or not state.unclear}
    unprobed = {
        pair.claim.name: f"{pair.origin} was not probed: {found.unprobed[pair.origin]}"
        for pair in matched.known
        if pair.origin in found.unprobed
    }
    return difference(was, now, matched.gone, unprobed)


def _kept(path: str, pairs: t.Sequence[Pair], mesh: Mesh) -> dict[tuple[Source, Request], State]:
    """What a file says so far; pairs: of the matrix."""
    try:
        claims = read_claims(path)
    except LabError:
        # It is missing, or whatever it is will be replaced.
        return {}
    return {pair.key: stated(pair.claim) for pair in match(claims, pairs, mesh).known}


def _written(
    params: t.Mapping[str, t.Any],
    wanted: Wanted,
    found: Found,
    pairs: t.Sequence[Pair],
    kept: t.Mapping[tuple[Source, Request], State],
    check_mode: bool,
) -> dict[str, t.Any]:
    """Write what was seen, and what is kept of the sources that wait; LabError when too little was seen."""
    clear, total = len(found.clear), len(found.watched.cells)
    if not found.waiting and (not clear or 2 * clear < total):
        # A cluster that is broken for a moment must not replace a good file with the little that still works.
        much = f"only {clear} of {total} pairs" if clear else "nothing"
        raise LabError("\n  ".join([f"{much} could be observed, so no file is written:", *warnings_of(found)]))
    states = {cell.pair.claim.name: cell.state for cell in found.clear}
    waiting = [pair for pair in pairs if pair.origin in found.waiting and pair.key in kept]
    states |= {pair.claim.name: kept[pair.key] for pair in waiting}
    if any(pair.origin in found.waiting and pair.key not in kept for pair in pairs):
        # A real run asks them, and writes what check mode can't know.
        return {"changed": True, "verdict": "unknown"}
    cells = [(pair, states[pair.claim.name]) for pair in pairs if pair.claim.name in states]
    notes = {}
    for caller in found.callers:
        place = "" if caller.place == OWN_POD else f", asked from {caller.place}"
        notes[caller.name] = ("in the mesh" if caller.captured else "not in the mesh") + place
    text = file_text(params["file"], wanted.namespaces, cells, notes, comments_of(found, cells))
    old = put("file", params["file"], text, check_mode)
    changes = diff_of(params["file"], old, text)
    return {"changed": old != text, "verdict": "observed", "claims": len(cells), "diff": changes}


def _wanted(params: t.Mapping[str, t.Any]) -> Wanted:
    """What to span; raises LabError on names that are none, empty lists, and a probe image that is missing."""
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
