# Names the first broken part between a proxy's counter and Kiali's picture, from facts.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import shlex
import typing as t
import urllib.parse

from ansible_collections.ambient.lab.plugins.module_utils._graph.facts import (
    Facts,
    Pair,
    Proxy,
)
from ansible_collections.ambient.lab.plugins.module_utils._graph.http import proxy_path, service_proxy
from ansible_collections.ambient.lab.plugins.module_utils._witness.counters import METRICS_PATH, METRICS_PORT
from ansible_collections.ambient.lab.plugins.module_utils._witness.proxies import ZTUNNEL_SELECTOR


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

    @property
    def kiali_name(self) -> str:
        """Its address, or namespace/name of its Service."""
        return self.url or f"{self.kiali['namespace']}/{self.kiali['service']}"

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
class Case:
    """An edge that is missing.

    answered: whether the last round had a request on it that would be counted. graph: parameters of the last question
    to Kiali.
    """

    pair: Pair
    facts: Facts
    places: Places
    answered: bool
    graph: t.Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Finding:
    """What is broken, and the command to look further. telemetry: counting or drawing is, not the traffic."""

    text: str
    look: str
    telemetry: bool = True


def diagnose(case: Case) -> Finding:
    """The first part that is broken, in the order in which the data come to the picture's reader, backwards."""
    return next(finding for rule in _RULES for finding in [rule(case)] if finding)


def _kiali_silent(case: Case) -> Finding | None:
    kiali, places = case.facts.kiali, case.places
    if not kiali.problem or kiali.reached:
        return None
    look = places.ask_kiali("/healthz") if places.url else places.describe(places.kiali)
    return Finding(f"Kiali ({places.kiali_name}) does not answer: {kiali.problem}", look)


def _prometheus_silent(case: Case) -> Finding | None:
    if not case.facts.prometheus:
        return None
    where = case.places.prometheus
    text = f"Prometheus ({where['namespace']}/{where['service']}) does not answer: {case.facts.prometheus}"
    if case.facts.endpoints is not None:
        text += f"; {case.facts.endpoints} of its endpoints are ready"
    return Finding(text, case.places.describe(where))


def _kiali_refuses(case: Case) -> Finding | None:
    problem, places = case.facts.kiali.problem, case.places
    if not problem:
        return None
    if places.url:
        return Finding(problem, places.ask_kiali("/api/status"))
    where = places.kiali
    return Finding(problem, f"{places.kubectl} -n {where['namespace']} logs service/{where['service']} --tail=20")


def _no_proxy(case: Case) -> Finding | None:
    if case.facts.proxies:
        return None
    if case.pair.reporter == "ztunnel":
        look = f"{case.places.kubectl} get pods -A -l {ZTUNNEL_SELECTOR}"
        return Finding("there is no ztunnel pod, so nobody counts", look)
    namespace = case.pair.target.namespace
    text = f"there is no waypoint pod in namespace {namespace}, so nobody counts HTTP requests there"
    return Finding(text, f"{case.places.kubectl} -n {namespace} get gateways,pods")


def _not_scraped(case: Case) -> Finding | None:
    look = case.places.ask_prometheus("/api/v1/targets", state="active")
    for proxy in case.facts.proxies:
        if proxy.scraped is None:
            return Finding(
                f"Prometheus has no target for {_named(case, proxy)}, so it does not know what it counts", look
            )
        health, error = proxy.scraped
        if health != "up":
            state = "has not been scraped yet" if health == "unknown" else f"is {health}"
            return Finding(f"Prometheus' target {_named(case, proxy)} {state}: {error or 'no error given'}", look)
    return None


def _not_exported(case: Case) -> Finding | None:
    proxies = case.facts.proxies
    if any(proxy.exports for proxy in proxies):
        return None
    silent = [proxy for proxy in proxies if proxy.exports is None]
    if silent:
        text = f"{_named(case, silent[0])} does not hand out its metrics: {silent[0].problem}"
        return Finding(text, f"{case.places.kubectl} -n {silent[0].namespace} describe pod {silent[0].pod}")
    look = f"{case.places.raw(_metrics(case, proxies[0]))} | grep {case.pair.metric}"
    pair = f"{case.pair.source} to {case.pair.target}"
    if not case.answered:
        text = f"no request from {pair} was answered, and {_names(case)} counted none"
        return Finding(text, look, telemetry=False)
    text = f"requests from {pair} were answered, but {_names(case)} has no {case.pair.metric} of them"
    if case.pair.reporter == "waypoint":
        text += " (did they go through the waypoint? the Service needs istio.io/use-waypoint)"
    return Finding(text, look)


def _not_stored(case: Case) -> Finding | None:
    if (case.facts.increase or 0) > 0:
        return None
    how = "has no series of" if case.facts.increase is None else "saw no increase in the window of"
    text = f"{_names(case)} exports {case.pair.metric} of this pair, but Prometheus {how} it"
    if not case.answered:
        text = f"no request from {case.pair.source} to {case.pair.target} was answered in the window"
    look = case.places.ask_prometheus("/api/v1/query", query=case.pair.selector)
    return Finding(text, look, telemetry=case.answered)


def _not_drawn(case: Case) -> Finding:
    rise = f"{case.facts.increase or 0:g}"
    text = f"Prometheus has {case.pair.metric} of this pair (up by {rise} in the window), but Kiali does not draw it"
    return Finding(text, case.places.ask_kiali("/api/namespaces/graph", **case.graph))


# Kiali's own refusal comes after Prometheus, because Kiali refuses while it has none.
_RULES: tuple[t.Callable[[Case], Finding | None], ...] = (
    _kiali_silent,
    _prometheus_silent,
    _kiali_refuses,
    _no_proxy,
    _not_scraped,
    _not_exported,
    _not_stored,
    _not_drawn,
)


def _named(case: Case, proxy: Proxy) -> str:
    state = "" if proxy.ready else " (not ready)"
    return f"{case.pair.reporter} {proxy}{state}"


def _names(case: Case) -> str:
    return f"{case.pair.reporter} {', '.join(str(proxy) for proxy in case.facts.proxies)}"


def _metrics(case: Case, proxy: Proxy) -> str:
    return proxy_path("pods", proxy.namespace, proxy.pod, METRICS_PORT) + METRICS_PATH[case.pair.reporter]
