# Asks Kiali for its configuration and its graph, and says in one line why an answer is none.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import email.utils
import json
import typing as t
import urllib.parse

from .._cluster.api import Asker
from .._cluster.channel import Answer
from .._common.errors import LabError
from .._common.rounds import Retry

# Kiali v1.89.0, graph/options.go; ambientTraffic is what later versions choose the reporters by (1.89 ignores it).
GRAPH_QUERY = {
    "graphType": "workload",
    "appenders": "ambient,securityPolicy",
    "waypoints": "true",
    "ambientTraffic": "total",
    "includeIdleEdges": "false",
    "rateGrpc": "requests",
    "rateHttp": "requests",
    "rateTcp": "sent",
}


@dataclasses.dataclass(frozen=True)
class Reply:
    """What came back. body: JSON of a good answer. date: of the server, Unix time in seconds.

    problem: one line, "" for a good answer. reached: the one that was asked answered, not a proxy in its place.
    retry: whether it may answer in a moment.
    """

    body: t.Any = None
    date: float | None = None
    problem: str = ""
    reached: bool = False
    retry: Retry = Retry.USEFUL


def proxy_path(kind: str, namespace: str, name: str, port: int) -> str:
    """Path of the Kubernetes API that leads to a port of a Service or pod; kind: services or pods."""
    return f"/api/v1/namespaces/{namespace}/{kind}/{name}:{port}/proxy"


class Kiali:
    """Kiali's API, through the Kubernetes API's service proxy or at an address of its own.

    Each request stands alone, without a cookie: Kiali from 2.21 keeps graphs per session.

    Args:
        asker: what to ask.
        base: path before Kiali's own (proxy and web root).
    """

    def __init__(self, asker: Asker, base: str) -> None:
        self._asker = asker
        self.base = base

    def config(self) -> Reply:
        """What Kiali says of itself; prometheus.globalScrapeInterval is in seconds (handlers/config.go)."""
        return get(self._asker, self.base + "/api/config", "Kiali")

    def graph(self, namespaces: t.Sequence[str], start: int, end: int, inject: bool) -> Reply:
        """The graph of a stretch of time.

        Args:
            namespaces: in which an edge has an end.
            start: Unix time in seconds.
            end: the same.
            inject: put Services between the workloads.
        """
        query = graph_query(namespaces, start, end, inject)
        return get(self._asker, self.base + "/api/namespaces/graph", "Kiali", **query)


def graph_query(namespaces: t.Sequence[str], start: int, end: int, inject: bool) -> dict[str, str]:
    """Parameters of api/namespaces/graph."""
    return {
        **GRAPH_QUERY,
        "namespaces": ",".join(namespaces),
        "duration": f"{end - start}s",
        "queryTime": str(end),
        "injectServiceNodes": str(inject).lower(),
    }


def get(asker: Asker, path: str, name: str, **query: str) -> Reply:
    """GET a path and understand the answer; name: of what stands behind it."""
    try:
        return understand(asker.ask(path, **query), name)
    except LabError as error:
        return Reply(problem=error.message)


def understand(answer: Answer, name: str) -> Reply:
    """What an answer means. A Status object is the Kubernetes API's own, which could not reach what was asked."""
    try:
        body = json.loads(answer.body)
    except ValueError:
        body = None
    fields = body if isinstance(body, dict) else {}
    if answer.status != 200 and fields.get("kind") == "Status" and "apiVersion" in fields:
        text = f"the Kubernetes API could not reach {name}, HTTP {answer.status}: {_line(fields.get('message'))}"
        # Its own 403 means that the user may not use the proxy.
        return Reply(problem=text, retry=Retry.unless(answer.status == 403))
    date = _date(answer.headers.get("date"))
    if answer.status == 401:
        text = f"{name} asks for a login (HTTP 401); it must allow anonymous access (auth.strategy: anonymous)"
        return Reply(date=date, problem=text, reached=True, retry=Retry.POINTLESS)
    if answer.status != 200:
        said = _line(fields.get("error") or body if isinstance(body, (dict, str)) else "no reason given")
        return Reply(date=date, problem=f"{name} answered HTTP {answer.status}: {said}", reached=True)
    if not fields:
        return Reply(date=date, problem=f"{name} answered with something else than a JSON object", reached=True)
    return Reply(body=body, date=date, reached=True)


def service_proxy(where: t.Mapping[str, t.Any]) -> str:
    """Path of the Kubernetes API that leads to a Service, given its namespace, name and port, and its web root."""
    root = str(where.get("web_root") or "").strip("/")
    path = proxy_path("services", where["namespace"], where["service"], where["port"])
    return path + (f"/{urllib.parse.quote(root)}" if root else "")


def _date(header: str | None) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(header).timestamp() if header else None
    except ValueError:
        return None


def _line(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= 300 else line[:300] + "..."
