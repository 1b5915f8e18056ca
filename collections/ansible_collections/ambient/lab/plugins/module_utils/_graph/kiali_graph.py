# What the module kiali_graph does: parse, send and look, explain, write down.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import concurrent.futures
import dataclasses
import re
import typing as t
import urllib.parse

from .._check.curl_outcomes import KubeEdge, settings_of
from .._check.stable import Verdict
from .._claims.parse import Claim, parse_claims
from .._cluster.api import ProxyReader
from .._cluster.kube import Web, kubectl
from .._common.errors import LabError
from .._results.store import drawn, keep, require_writable
from .diagnose import Finding, Places, diagnose
from .facts import Gatherer, Pair
from .http import Kiali, graph_query, service_proxy
from .parse import may_control, parse_graph_claims, reporters
from .report import as_graph_result, graph_failure, kept_graph
from .rounds import GraphResult, check_graph
from .run import GraphRun
from .traffic import nodes_of, routes

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
        verdicts = {getattr(error, "result", {}).get("verdict", "error") for error in failures}
        verdict = "error" if "error" in verdicts else "fail"
        raise LabError("\n".join(str(error) for error in failures), verdict=verdict)
    return {"verdict": "pass", "checks": [one.result() for one in running]}


def prove_graph(params: t.Mapping[str, t.Any], check_mode: bool, verbose: bool) -> dict[str, t.Any]:
    """Check the claims in the module's parameters on Kiali's graph. Parameters as of prove_graphs.

    Raises:
        LabError: on wrong input, an API that does not answer, and claims that do not hold.
    """
    settings = settings_of(params)
    namespaces = list(params["namespaces"] or [params["namespace"]])
    for name in namespaces:
        if not _NAMESPACE.fullmatch(name):
            raise LabError(f"namespaces: {name!r} is not a namespace's name")
    claims = parse_graph_claims(params["claims"], params["namespace"], namespaces)
    traffic = _traffic(params)
    path, section, url = params["results_file"], params["section"], params["url"]
    require_writable(path, section)
    if url and not _URL.fullmatch(url):
        raise LabError(f"url: {url!r} is no address of Kiali like http://localhost:20001/kiali")
    edge = KubeEdge(params["kubeconfig"], params["context"])
    kiali = Kiali(Web(url), "") if url else Kiali(edge, service_proxy(params["kiali"]))
    result = check_graph(claims, traffic, namespaces, settings, edge, kiali)
    places = Places(kubectl(params), params["kiali"], prometheus_place(params["prometheus"]), url)
    explain_graph(result, namespaces, edge, places)
    found = kept_graph(result)
    if path and not check_mode:
        keep(path, section, lambda old: drawn(old, settings.phase, found))
    returned = as_graph_result(result, found, verbose)
    if result.verdict != "pass":
        raise LabError(graph_failure(result, settings.phase, section or "", kubectl(params)), **returned)
    return returned


def prometheus_place(given: t.Mapping[str, t.Any]) -> t.Mapping[str, t.Any]:
    """Namespace, service and port of Prometheus; its address of a Service is service.namespace[.svc...], or service."""
    if not given["url"]:
        return given
    parts = urllib.parse.urlsplit(given["url"])
    service, *rest = (parts.hostname or "").split(".")
    return {"service": service, "namespace": rest[0] if rest else given["namespace"], "port": parts.port or 80}


def explain_graph(result: GraphResult, namespaces: t.Sequence[str], cluster: ProxyReader, places: Places) -> None:
    """Give the claims their causes; an edge that is missing because telemetry is broken becomes an error."""
    look = result.look
    window = look.asked
    query = {key: graph_query(namespaces, *(window or (0, 0)), inject=True)[key] for key in ASKED_AGAIN}
    gatherer = Gatherer(cluster, places.prometheus, look.reply, window)
    for run in result.claims:
        nodes = nodes_of(run.ends, result.mesh)
        if run.judged.missing or run.judged.seen.problem:
            pair = Pair.of(*run.ends, run.claim.protocol(run.phase))
            counted = COUNTED[pair.reporter]
            sent = [one for one in result.traffic if one.seen.outcome in counted and run.ends in routes(one)]
            try:
                finding = diagnose(pair, gatherer.facts(pair, nodes), places, bool(sent), query)
            except LabError as error:
                # Who can't look can't say that the traffic is to blame.
                finding = Finding(f"the telemetry could not be checked: {error.message}", "")
            run.cause, run.look = finding.text, finding.look
            if finding.telemetry and run.judged.missing:
                run.decide(Verdict("error", f"{run.verdict.reason}; {run.cause}"))
        elif run.judged.uncontrolled:
            run.cause = _uncontrolled(run, result.claims)
        elif not run.holds and window:
            run.look = places.ask_kiali("/api/namespaces/graph", **query)
        elif run.holds and run.expect.outcome == "no_edge" and "ztunnel" in reporters(run.claim, run.phase, False):
            _confirm(run, nodes, gatherer, places)
    if not all(run.holds for run in result.claims):
        result.converged_after = None


def _confirm(run: GraphRun, nodes: t.Collection[str], gatherer: Gatherer, places: Places) -> None:
    """A missing edge, whose control may have been counted on another node; an error where its own are not scraped."""
    try:
        problem = gatherer.unseen(nodes)
    except LabError:
        # Who may not look has the control's word.
        return
    if problem:
        run.decide(Verdict("error", f"there is no edge, but {problem}"))
        run.cause, run.look = problem, places.ask_prometheus("/api/v1/targets", state="active")


def _uncontrolled(run: GraphRun, runs: t.Sequence[GraphRun]) -> str:
    """Its control has an explanation of its own."""
    for other in runs:
        if not other.holds and may_control(run.claim, other.claim, run.phase, run.judged.uncontrolled):
            return f"{run.verdict.reason}: {other.claim.name!r} does not hold"
    return ""


def _traffic(params: t.Mapping[str, t.Any]) -> tuple[Claim, ...]:
    if not params["traffic"]:
        return ()
    try:
        claims = parse_claims(params["traffic"], params["namespace"])
    except LabError as error:
        raise LabError(f"traffic: {error.message}") from error
    # Which policy denied a request no graph can say; what is not judged is not reported either.
    return tuple(dataclasses.replace(claim, by=None) for claim in claims)
