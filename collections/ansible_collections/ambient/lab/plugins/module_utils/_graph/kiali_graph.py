# What the module kiali_graph does: parse, send and look, explain, write down.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import concurrent.futures
import dataclasses
import re
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._check.curl_outcomes import explain, settings_of
from ansible_collections.ambient.lab.plugins.module_utils._check.edge import KubeEdge
from ansible_collections.ambient.lab.plugins.module_utils._check.judge import Verdict
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Claim, parse_claims
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import Kube, Web, kubectl
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._common.results import (
    read_results,
    require_section,
    write_results,
)
from ansible_collections.ambient.lab.plugins.module_utils._graph.diagnose import Case, Places, diagnose
from ansible_collections.ambient.lab.plugins.module_utils._graph.facts import Cluster, Gatherer, Pair
from ansible_collections.ambient.lab.plugins.module_utils._graph.http import Kiali, graph_query, service_proxy
from ansible_collections.ambient.lab.plugins.module_utils._graph.parse import (
    GraphClaim,
    may_control,
    parse_graph_claims,
    reporters,
)
from ansible_collections.ambient.lab.plugins.module_utils._graph.report import (
    as_graph_result,
    graph_failure,
    merge_graph,
)
from ansible_collections.ambient.lab.plugins.module_utils._graph.rounds import (
    GraphClaimResult,
    GraphResult,
    check_graph,
)

# Outcomes of requests that the proxy counts: all that it has passed on, and a waypoint also those it refused itself.
COUNTED = {"ztunnel": ("allowed",), "waypoint": ("allowed", "denied_l7", "denied_upstream")}
# What a user who asks Kiali again by hand needs; the rest is Kiali's default.
ASKED_AGAIN = ("namespaces", "duration", "queryTime", "injectServiceNodes")
_URL = re.compile(r"https?://[^/\s?#@]+(/[^\s?#]*)?")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def prove_graphs(params: t.Mapping[str, t.Any], check_mode: bool, verbose: bool) -> dict[str, t.Any]:
    """Check the claims in the module's parameters, or those of each of its `checks`, all of them at the same time.

    Args:
        params: of the module kiali_graph.
        check_mode: send and look, but write no results file.
        verbose: return Kiali's whole answer.

    Raises:
        LabError: with what every check that failed says.
    """
    if not params["checks"]:
        return prove_graph(params, check_mode, verbose)
    if params["claims"] or params["traffic"]:
        raise LabError("claims and traffic belong into checks, where there are any")
    with concurrent.futures.ThreadPoolExecutor(len(params["checks"])) as pool:
        running = [pool.submit(prove_graph, {**params, **check}, check_mode, verbose) for check in params["checks"]]
    failures = [error for error in (one.exception() for one in running) if error]
    for error in failures:
        if not isinstance(error, LabError):
            raise error
    if failures:
        raise LabError("\n".join(str(error) for error in failures), verdict=_worst(failures))
    return {"verdict": "pass", "checks": [one.result() for one in running]}


def _worst(failures: t.Sequence[BaseException]) -> str:
    verdicts = {getattr(error, "result", {}).get("verdict", "error") for error in failures}
    return "error" if "error" in verdicts else "fail"


def prove_graph(params: t.Mapping[str, t.Any], check_mode: bool, verbose: bool) -> dict[str, t.Any]:
    """Check the claims in the module's parameters on Kiali's graph. Parameters as of prove_graphs.

    Raises:
        LabError: on wrong input, an API that does not answer, and claims that do not hold.
    """
    settings = settings_of(params)
    namespaces = _namespaces(params)
    claims = parse_graph_claims(params["claims"], params["namespace"], namespaces)
    traffic = _traffic(params)
    path, section, url = params["results_file"], params["section"], params["url"]
    if path:
        require_section(section)
        # A wrong path is found before any traffic.
        read_results(path)
    if url and not _URL.fullmatch(url):
        raise LabError(f"url: {url!r} is no address of Kiali like http://localhost:20001/kiali")
    kube = Kube(params["kubeconfig"], params["context"])
    kiali = Kiali(Web(url), "") if url else Kiali(kube, service_proxy(params["kiali"]))
    result = check_graph(claims, traffic, namespaces, settings, KubeEdge(kube), kiali)
    places = Places(kubectl(params), params["kiali"], params["prometheus"], url)
    result = explain_graph(result, settings.phase, namespaces, kube, places)
    causes = explain(result.traffic, settings.phase, kube)
    if path and not check_mode:
        write_results(path, lambda results: merge_graph(results, section, settings.phase, result))
    returned = as_graph_result(result, settings.phase, causes, verbose)
    if result.verdict != "pass":
        raise LabError(graph_failure(result, settings.phase, section or "", causes, kubectl(params)), **returned)
    return returned


def explain_graph(
    result: GraphResult, phase: str, namespaces: t.Sequence[str], cluster: Cluster, places: Places
) -> GraphResult:
    """The same result with causes; an edge that is missing because telemetry is broken becomes an error."""
    look = result.look
    window = (look.window.start, look.end) if look.window and look.answer else None
    query = {key: graph_query(namespaces, *(window or (0, 0)), inject=True)[key] for key in ASKED_AGAIN}
    gatherer = Gatherer(cluster, places.prometheus, look.reply, window)
    claims = []
    for item, nodes in zip(result.claims, result.nodes, strict=True):
        verdict = item.judged.verdict
        if item.judged.missing or item.judged.seen.problem:
            pair = Pair.of(item.claim.source, item.claim.target, item.claim.protocol(phase))
            item = _explained(item, pair, gatherer, places, _answered(result, pair), query)
        elif item.judged.uncontrolled:
            item = dataclasses.replace(item, cause=_uncontrolled(item, result.claims, phase))
        elif verdict.verdict != "pass" and window:
            item = dataclasses.replace(item, look=places.ask_kiali("/api/namespaces/graph", **query))
        elif verdict.verdict == "pass" and _rests_on_ztunnel(item.claim, phase):
            item = _confirmed(item, nodes, gatherer, places)
        claims.append(item)
    converged_after = result.converged_after if all(item.judged.verdict.verdict == "pass" for item in claims) else None
    return dataclasses.replace(result, claims=claims, converged_after=converged_after)


def _rests_on_ztunnel(claim: GraphClaim, phase: str) -> bool:
    return claim.expected(phase).outcome == "no_edge" and "ztunnel" in reporters(claim, phase, behind_waypoint=False)


def _confirmed(
    item: GraphClaimResult, nodes: t.Collection[str], gatherer: Gatherer, places: Places
) -> GraphClaimResult:
    """A missing edge, whose control may have been counted on another node; an error where its own are not scraped."""
    try:
        problem = gatherer.unseen(nodes)
    except LabError:
        # Who may not look has the control's word.
        return item
    if not problem:
        return item
    judged = dataclasses.replace(item.judged, verdict=Verdict("error", f"there is no edge, but {problem}"))
    look = places.ask_prometheus("/api/v1/targets", state="active")
    return dataclasses.replace(item, judged=judged, cause=problem, look=look)


def _answered(result: GraphResult, pair: Pair) -> bool:
    """Whether the last round's requests between the two were such as the proxy counts."""
    counted = COUNTED[pair.reporter]
    return any(route == (pair.source, pair.target) and outcome in counted for route, outcome in result.outcomes)


def _uncontrolled(item: GraphClaimResult, claims: t.Sequence[GraphClaimResult], phase: str) -> str:
    """Its control has an explanation of its own."""
    for other in claims:
        missing = other.judged.verdict.verdict != "pass"
        if missing and may_control(item.claim, other.claim, phase, item.judged.uncontrolled):
            return f"{item.judged.verdict.reason}: {other.claim.name!r} does not hold"
    return ""


def _explained(
    item: GraphClaimResult,
    pair: Pair,
    gatherer: Gatherer,
    places: Places,
    answered: bool,
    query: t.Mapping[str, str],
) -> GraphClaimResult:
    verdict = item.judged.verdict
    try:
        finding = diagnose(Case(pair, gatherer.facts(pair), places, answered, query))
        cause, look, broken = finding.text, finding.look, finding.telemetry
    except LabError as error:
        # Who can't look can't say that the traffic is to blame.
        cause, look, broken = f"the telemetry could not be checked: {error.message}", "", True
    if broken and item.judged.missing:
        verdict = Verdict("error", f"{verdict.reason}; {cause}")
    return dataclasses.replace(item, judged=dataclasses.replace(item.judged, verdict=verdict), cause=cause, look=look)


def _traffic(params: t.Mapping[str, t.Any]) -> tuple[Claim, ...]:
    if not params["traffic"]:
        return ()
    try:
        return parse_claims(params["traffic"], params["namespace"])
    except LabError as error:
        raise LabError(f"traffic: {error.message}") from error


def _namespaces(params: t.Mapping[str, t.Any]) -> list[str]:
    names = list(params["namespaces"] or [params["namespace"]])
    for name in names:
        if not _NAMESPACE.fullmatch(name):
            raise LabError(f"namespaces: {name!r} is not a namespace's name")
    return names
