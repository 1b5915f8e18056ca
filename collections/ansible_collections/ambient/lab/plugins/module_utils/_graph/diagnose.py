# Names the first broken part between a proxy's counter and Kiali's picture, from facts.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import itertools
import shlex
import typing as t
import urllib.parse

from .._witness.counters import METRICS_PATH, METRICS_PORT
from .._witness.proxies import ZTUNNEL_SELECTOR
from .facts import Facts, Pair, Proxy
from .http import proxy_path, service_proxy


@dataclasses.dataclass(frozen=True)
class Places:
    """How the user reaches the parts.

    kubectl: command for the same cluster. kiali and prometheus: namespace, service and port (and Kiali's web_root).
    url: Kiali's own address, None where it is asked through the Kubernetes API.
    """

    kubectl: str
    kiali: t.Mapping[str, t.Any]
    prometheus: t.Mapping[str, t.Any]
    url: str | None = None

    def describe(self, where: t.Mapping[str, t.Any]) -> str:
        """Command that shows a Service with its endpoints."""
        return f"{self.kubectl} -n {where['namespace']} describe service {where['service']}"

    def ask_kiali(self, path: str, **query: str) -> str:
        """Command that asks Kiali's API; path: below its web root."""
        asked = path + ("?" + urllib.parse.urlencode(query) if query else "")
        if self.url:
            return f"curl -sS {shlex.quote(self.url.rstrip('/') + asked)}"
        return self.raw(service_proxy(self.kiali) + asked)

    def ask_prometheus(self, path: str, **query: str) -> str:
        """Command that asks Prometheus' API."""
        return self.raw(f"{service_proxy(self.prometheus)}{path}?{urllib.parse.urlencode(query)}")

    def raw(self, path: str) -> str:
        """Command that asks what stands behind the Kubernetes API's proxies."""
        return f"{self.kubectl} get --raw {shlex.quote(path)}"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What is broken, and the command to look further. telemetry: counting or drawing is, not the traffic."""

    text: str
    look: str
    telemetry: bool = True


def diagnose(pair: Pair, facts: Facts, places: Places, answered: bool, graph: t.Mapping[str, str]) -> Finding:
    """The first part that is broken, in the order in which the data come to the picture's reader, backwards.

    Args:
        pair: the edge that is missing.
        facts: of it.
        places: how the user reaches the parts.
        answered: whether the last round had a request on it that would be counted.
        graph: parameters of the last question to Kiali.
    """
    rules = itertools.chain(_servers(facts, places), _proxies(pair, facts, places, answered))
    last = _stored(pair, facts, places, answered, graph)
    return next(rules, last)


def _servers(facts: Facts, places: Places) -> t.Iterator[Finding]:
    kiali, where = facts.kiali, places.prometheus
    if kiali.problem and not kiali.reached:
        name = places.url or f"{places.kiali['namespace']}/{places.kiali['service']}"
        look = places.ask_kiali("/healthz") if places.url else places.describe(places.kiali)
        yield Finding(f"Kiali ({name}) does not answer: {kiali.problem}", look)
    if facts.prometheus:
        text = f"Prometheus ({where['namespace']}/{where['service']}) does not answer: {facts.prometheus}"
        ready = "" if facts.endpoints is None else f"; {facts.endpoints} of its endpoints are ready"
        yield Finding(text + ready, places.describe(where))
    # Its own refusal comes after Prometheus, because Kiali refuses while it has none.
    if kiali.problem:
        logs = f"{places.kubectl} -n {places.kiali['namespace']} logs service/{places.kiali['service']} --tail=20"
        yield Finding(kiali.problem, places.ask_kiali("/api/status") if places.url else logs)


def _proxies(pair: Pair, facts: Facts, places: Places, answered: bool) -> t.Iterator[Finding]:
    namespace = pair.target.namespace
    if not facts.proxies and pair.reporter == "ztunnel":
        look = f"{places.kubectl} get pods -A -l {ZTUNNEL_SELECTOR}"
        yield Finding("there is no ztunnel pod, so nobody counts", look)
    elif not facts.proxies:
        text = f"there is no waypoint pod in namespace {namespace}, so nobody counts HTTP requests there"
        yield Finding(text, f"{places.kubectl} -n {namespace} get gateways,pods")
    look = places.ask_prometheus("/api/v1/targets", state="active")
    for proxy in facts.proxies:
        named = f"{pair.reporter} {proxy}" + ("" if proxy.ready else " (not ready)")
        if proxy.scraped is None:
            yield Finding(f"Prometheus has no target for {named}, so it does not know what it counts", look)
        elif proxy.scraped[0] != "up":
            health, error = proxy.scraped
            state = "has not been scraped yet" if health == "unknown" else f"is {health}"
            yield Finding(f"Prometheus' target {named} {state}: {error or 'no error given'}", look)
    if not any(proxy.exports for proxy in facts.proxies):
        yield _not_exported(pair, facts.proxies, places, answered)


def _not_exported(pair: Pair, proxies: t.Sequence[Proxy], places: Places, answered: bool) -> Finding:
    for proxy in proxies:
        if proxy.exports is None:
            named = f"{pair.reporter} {proxy}" + ("" if proxy.ready else " (not ready)")
            look = f"{places.kubectl} -n {proxy.namespace} describe pod {proxy.pod}"
            return Finding(f"{named} does not hand out its metrics: {proxy.problem}", look)
    metrics = proxy_path("pods", proxies[0].namespace, proxies[0].pod, METRICS_PORT) + METRICS_PATH[pair.reporter]
    look = f"{places.raw(metrics)} | grep {pair.metric}"
    ends, names = f"{pair.source} to {pair.target}", _names(pair, proxies)
    if not answered:
        return Finding(f"no request from {ends} was answered, and {names} counted none", look, telemetry=False)
    text = f"requests from {ends} were answered, but {names} has no {pair.metric} of them"
    if pair.reporter == "waypoint":
        text += " (did they go through the waypoint? the Service needs istio.io/use-waypoint)"
    return Finding(text, look)


def _stored(pair: Pair, facts: Facts, places: Places, answered: bool, graph: t.Mapping[str, str]) -> Finding:
    """Every proxy counts, and is scraped."""
    rise = facts.increase or 0
    if rise > 0:
        text = f"Prometheus has {pair.metric} of this pair (up by {rise:g} in the window), but Kiali does not draw it"
        return Finding(text, places.ask_kiali("/api/namespaces/graph", **graph))
    how = "has no series of" if facts.increase is None else "saw no increase in the window of"
    text = f"{_names(pair, facts.proxies)} exports {pair.metric} of this pair, but Prometheus {how} it"
    if not answered:
        text = f"no request from {pair.source} to {pair.target} was answered in the window"
    return Finding(text, places.ask_prometheus("/api/v1/query", query=pair.selector), telemetry=answered)


def _names(pair: Pair, proxies: t.Sequence[Proxy]) -> str:
    return f"{pair.reporter} {', '.join(str(proxy) for proxy in proxies)}"
