# Gathers what explains a missing edge, from Kiali back to the proxy that counts; each thing is asked once.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import functools
import json
import typing as t
import urllib.parse

from .._cluster.api import ProxyReader
from .._mesh.mesh import GATEWAY_NAME, PATHS, Object, is_ready, name_of, namespace_of
from .._witness.counters import LABEL, METRICS_PATH, METRICS_PORT
from .._witness.proxies import ZTUNNEL_SELECTOR
from .http import Reply, get, proxy_path, service_proxy
from .parse import REPORTER, End

# What Kiali makes its edges of (graph/telemetry/istio/istio.go; rateTcp=sent reads what ztunnel received).
METRIC = {"ztunnel": "istio_tcp_received_bytes_total", "waypoint": "istio_requests_total"}


@dataclasses.dataclass(frozen=True)
class Pair:
    """An edge that is looked for: its ends, and the kind of proxy that counts it (ztunnel or waypoint)."""

    source: End
    target: End
    reporter: str

    @classmethod
    def of(cls, source: End, target: End, protocol: str | None) -> Pair:
        """Without a protocol it is what ztunnel counts, because it carries everything."""
        return cls(source, target, REPORTER[protocol or "tcp"])

    @property
    def metric(self) -> str:
        """The counter that the edge is made of."""
        return METRIC[self.reporter]

    @property
    def labels(self) -> dict[str, str]:
        """The counter's labels that mean this pair (istio.io, standard metrics)."""
        names: dict[str, str] = {}
        for end, side in ((self.source, "source"), (self.target, "destination")):
            if end.kind == "workload":
                names |= {f"{side}_workload": end.name, f"{side}_workload_namespace": end.namespace}
            else:
                names |= {"destination_service_name": end.name, "destination_service_namespace": end.namespace}
        return names

    @property
    def selector(self) -> str:
        """The counter's series of this pair, as Prometheus is asked for them."""
        return self.metric + "{" + ",".join(f"{key}={json.dumps(text)}" for key, text in self.labels.items()) + "}"


@dataclasses.dataclass(frozen=True)
class Proxy:
    """A pod that counts. scraped: health of Prometheus' target for it and its last error, None where there is none.

    exports: whether it has a series of the pair, None where it could not be asked (problem says why).
    """

    namespace: str
    pod: str
    ready: bool
    scraped: tuple[str, str] | None = None
    exports: bool | None = None
    problem: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.pod}"


@dataclasses.dataclass(frozen=True)
class Facts:
    """All that is known of the way from the proxy to the picture.

    kiali: its last reply. prometheus: why it does not answer, "" where it does. endpoints: of Prometheus that are
    ready, None where nobody asked. increase: of the pair's counter in the window, None where it has no series.
    """

    kiali: Reply
    prometheus: str = ""
    endpoints: int | None = None
    proxies: tuple[Proxy, ...] = ()
    increase: float | None = None


class Gatherer:
    """Asks the cluster for facts, and remembers the answers for the next pair.

    Args:
        cluster: to ask.
        prometheus: namespace, service and port.
        kiali: its last reply.
        window: begin and end of what Kiali was asked about, Unix times; None where it never was.
    """

    def __init__(
        self,
        cluster: ProxyReader,
        prometheus: t.Mapping[str, t.Any],
        kiali: Reply,
        window: tuple[int, int] | None,
    ) -> None:
        self._cluster, self._where, self._kiali, self._window = cluster, prometheus, kiali, window
        self._base = service_proxy(prometheus)
        self._ask, self._items = functools.cache(cluster.ask), functools.cache(cluster.items)

    def facts(self, pair: Pair, nodes: t.Collection[str]) -> Facts:
        """What is known about a pair; nodes: of the pods at its ends.

        Raises:
            LabError: when the Kubernetes API does not answer, or refuses.
        """
        if self._targets.problem:
            return Facts(self._kiali, self._targets.problem, self._endpoints())
        if pair.reporter == "waypoint":
            path = f"/api/v1/namespaces/{pair.target.namespace}/pods"
            pods = self._items(path, labelSelector=GATEWAY_NAME)
        else:
            ztunnels = self._items("/api/v1/pods", labelSelector=ZTUNNEL_SELECTOR)
            pods = [pod for pod in ztunnels if _node(pod) in nodes] or ztunnels
        return Facts(self._kiali, proxies=tuple(self._proxy(pod, pair) for pod in pods), increase=self._increase(pair))

    def unseen(self, nodes: t.Collection[str]) -> str:
        """Why nobody would know of what the ztunnels of some nodes count; "" where one of them is scraped.

        So it is, too, where Prometheus can't be asked, or scrapes no ztunnel at all: another one may do so.

        Raises:
            LabError: when the Kubernetes API does not answer, or refuses.
        """
        ztunnels = [] if self._targets.problem else self._items("/api/v1/pods", labelSelector=ZTUNNEL_SELECTOR)
        near = [name_of(pod) for pod in ztunnels if _node(pod) in nodes]
        scraped = {_node(pod) for pod in ztunnels if (self._scraped(pod) or ("",))[0] == "up"}
        if not near or not scraped or scraped & set(nodes):
            return ""
        return f"Prometheus scrapes other ztunnels, but not those of its pods' nodes ({', '.join(near)})"

    @functools.cached_property
    def _targets(self) -> Reply:
        return get(self._cluster, f"{self._base}/api/v1/targets", "Prometheus", state="active")

    def _endpoints(self) -> int:
        """How many of Prometheus' endpoints are ready; one that says nothing is (discovery/v1)."""
        path = PATHS["EndpointSlice"].format(f"/namespaces/{self._where['namespace']}")
        slices = self._items(path, labelSelector=f"kubernetes.io/service-name={self._where['service']}")
        ends = [end for item in slices for end in item.get("endpoints") or []]
        return sum((end.get("conditions") or {}).get("ready") is not False for end in ends)

    def _proxy(self, pod: Object, pair: Pair) -> Proxy:
        namespace, name = namespace_of(pod), pod["metadata"]["name"]
        answer = self._ask(proxy_path("pods", namespace, name, METRICS_PORT) + METRICS_PATH[pair.reporter])
        exports, problem = None, f"HTTP {answer.status}"
        if answer.status == 200:
            exports, problem = has_series(answer.body.decode("utf-8", "replace"), pair), ""
        return Proxy(namespace, name, is_ready(pod), self._scraped(pod), exports, problem)

    def _scraped(self, pod: Object) -> tuple[str, str] | None:
        """Health and last error of the pod's target; a pod without one that is up may have several."""
        address = pod.get("status", {}).get("podIP")
        found = [
            (str(item.get("health")), str(item.get("lastError") or ""))
            for item in (self._targets.body.get("data") or {}).get("activeTargets") or []
            if urllib.parse.urlsplit(str(item.get("scrapeUrl"))).hostname == address
        ]
        return next((item for item in found if item[0] == "up"), found[0] if found else None)

    def _increase(self, pair: Pair) -> float | None:
        if self._window is None:
            return None
        begin, end = self._window
        query = f"sum(increase({pair.selector}[{max(1, end - begin)}s]))"
        reply = get(self._cluster, f"{self._base}/api/v1/query", "Prometheus", query=query, time=str(end))
        result = ((reply.body or {}).get("data") or {}).get("result") or []
        return float(result[0]["value"][1]) if result else None


def _node(pod: Object) -> t.Any:
    return pod.get("spec", {}).get("nodeName")


def has_series(text: str, pair: Pair) -> bool:
    """Whether metrics in Prometheus' text format have a series of the pair."""
    wanted = pair.labels.items()
    return any(
        line.startswith(pair.metric + "{") and wanted <= dict(LABEL.findall(line)).items() for line in text.splitlines()
    )
