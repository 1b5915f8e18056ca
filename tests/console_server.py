"""A server with the routes and the answers of Kiali v1.89.0, as far as the graph page needs them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".mjs": "text/javascript"}
Answer = tuple[int, Any]
Graph = dict[str, Any]


def digest(*words: str) -> str:
    """An id as Kiali makes it: a hash of what it names."""
    return hashlib.md5(" ".join(words).encode()).hexdigest()


def node(name: str, namespace: str = "default", kind: str = "workload", **more: object) -> Graph:
    """A node (graph/config/cytoscape/cytoscape.go, NodeData)."""
    names = {"service": name} if kind == "service" else {"workload": name, "app": name, "version": "latest"}
    where = {"cluster": "Kubernetes", "namespace": namespace}
    return {"id": digest(kind, name, namespace), "nodeType": kind, **where, **names, "healthData": None, **more}


def edge(source: Graph, target: Graph, protocol: str, rate: float, codes: dict[str, float], mtls: int = 100) -> Graph:
    """An edge (EdgeData); codes: share of each response code in percent."""
    failed = sum(share for code, share in codes.items() if code[0] in "45")
    rates = {protocol: f"{rate:.2f}"} | ({f"{protocol}PercentErr": f"{failed:.1f}"} if failed else {})
    responses = {code: {"flags": {"-": f"{share:.1f}"}, "hosts": {}} for code, share in codes.items()}
    return {
        "id": digest(source["id"], target["id"], protocol),
        "source": source["id"],
        "target": target["id"],
        **({"isMTLS": str(mtls)} if mtls else {}),
        "traffic": {"protocol": protocol, "rates": rates, "responses": responses},
    }


def graph(nodes: list[Graph], edges: list[Graph]) -> Graph:
    """A whole answer."""
    elements = {"nodes": [{"data": one} for one in nodes], "edges": [{"data": one} for one in edges]}
    return {"timestamp": 1790000000, "duration": 60, "graphType": "workload", "elements": elements}


def namespace(name: str, ambient: bool = False) -> Graph:
    """One of GET api/namespaces (models/namespace.go)."""
    return {"name": name, "cluster": "Kubernetes", "isAmbient": ambient, "labels": {}, "annotations": None}


@dataclass
class Kiali:
    """What the server answers, and the graphs that it was asked for.

    :param console: the folder with the page.
    """

    console: Path
    graph: Answer | Callable[[dict[str, str]], Answer] = (200, {"elements": {"nodes": [], "edges": []}})
    namespaces: Answer = (200, [namespace("layer7", True), namespace("default", True), namespace("istio-system")])
    asked: list[dict[str, str]] = field(default_factory=list)
    address: str = ""

    def answer(self, target: str) -> tuple[int, str, bytes]:
        """Status, content type and body, as routing/router.go finds them."""
        url = urlsplit(target)
        path = url.path.removeprefix("/kiali/")
        if path == "" or path.startswith("console"):
            page = (self.console / "index.html").read_bytes()
            return 200, "text/html", page.replace(b'<base href="/"', b'<base href="/kiali/"')
        if path.startswith("api/"):
            status, content = self._api(path, {name: values[0] for name, values in parse_qs(url.query).items()})
            return status, "application/json", json.dumps(content).encode()
        file = self.console / path
        if not file.is_file():
            return 404, "text/plain", b"404 page not found"
        return 200, TYPES.get(file.suffix, "image/svg+xml"), file.read_bytes()

    def _api(self, path: str, query: dict[str, str]) -> Answer:
        if path == "api/namespaces":
            return self.namespaces
        if path == "api/config":
            return 200, {"prometheus": {"globalScrapeInterval": 15}}
        assert path == "api/namespaces/graph"
        self.asked.append(query)
        status, content = self.graph(query) if callable(self.graph) else self.graph
        # Every answer carries its time: the tests see by it that the page has drawn it.
        return status, {**content, "timestamp": 1790000000 + len(self.asked)} if status == 200 else content

    @contextmanager
    def serve(self) -> Iterator[None]:
        """Answer on a port of the loopback."""
        kiali = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, kind, body = kiali.answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing: the tests look at what was asked."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{server.server_port}/kiali/"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
