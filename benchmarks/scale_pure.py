"""The part of benchmarks/scale.py that needs no lab: objects are read from memory, and 100 claims are predicted.

`.venv/bin/python benchmarks/scale_pure.py`, a few seconds: a small cluster, a large one, and one that has all its pods
in the claims' own two namespaces. Two rounds each, as a check has them; the figures are the second's.
"""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import re
import sys
import time
import typing as t
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "collections"))

import scale_objects as objects
from ansible_collections.ambient.lab.plugins.module_utils._check.rounds import predicted_verdict, read
from ansible_collections.ambient.lab.plugins.module_utils._check.run import ClaimRun
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import parse_claims
from ansible_collections.ambient.lab.plugins.module_utils._cluster.channel import Answer
from ansible_collections.ambient.lab.plugins.module_utils._mesh.load import Asked, Loader
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import NAMESPACE_PATH, PATHS, REDIRECTION, Mesh
from scale_objects import Object, Size

SIZES = {
    "small": Size(0, 0, 0, 0, 0),
    "large, spread over 50 namespaces": Size(),
    "large, all in the claims' own": Size(namespaces=0),
}
PAGE = 500
# Who has set which field: about half of an object as the API gives it.
MANAGED: list[Object] = [
    {"manager": name, "fieldsV1": {f"f:{one}": {f"f:{two}": {} for two in range(4)} for one in range(12)}}
    for name in ("kubectl", "kubelet")
]


class Cluster:
    """What a Loader reads, and an edge that has nothing but a mesh."""

    def __init__(self, items: t.Iterable[Object]) -> None:
        lists: dict[str, list[Object]] = {}
        self._bodies: dict[str, list[bytes]] = {}
        self._loader: Loader | None = None
        self.calls = self.received = 0
        for item in items:
            whole = {**item, "metadata": {**item["metadata"], "managedFields": MANAGED}}
            kind, space = whole.pop("kind"), item["metadata"].get("namespace", "")
            if kind == "Namespace":
                self._bodies[f"{NAMESPACE_PATH}/{item['metadata']['name']}"] = [json.dumps(whole).encode()]
            for where in (f"/namespaces/{space}", "") if kind in PATHS else ():
                lists.setdefault(PATHS[kind].format(where), []).append(whole)
        for path, found in lists.items():
            pages = [found[start : start + PAGE] for start in range(0, len(found), PAGE)]
            more = [{"continue": str(number + 1)} for number in range(len(pages) - 1)]
            self._bodies[path] = [
                json.dumps({"items": page, "metadata": meta}).encode()
                for page, meta in zip(pages, [*more, {}], strict=True)
            ]

    def ask(self, path: str, **query: str) -> Answer:
        """A page."""
        self.calls += 1
        pages = self._bodies.get(path)
        body = pages[int(query.get("continue", 0))] if pages else b""
        self.received += len(body)
        return Answer(200 if body else 404, {}, body)

    def mesh(self, asked: t.Iterable[Asked], namespaces: t.Iterable[str]) -> Mesh:
        """The mesh, again for each round."""
        self._loader = self._loader or Loader(self, asked, namespaces)
        self.calls = self.received = 0
        return self._loader.load()


def cluster(size: Size) -> list[Object]:
    """All objects, with what a cluster adds to them."""
    spaces = [*objects.namespaces(size), objects.item("Namespace", objects.ROOT)]
    point = objects.item("Pod", "point", objects.LAYER7, {}, labels={objects.GATEWAY_NAME: "waypoint"})
    point["spec"] = {"serviceAccountName": "waypoint", "containers": [{"name": "istio-proxy"}]}
    found = [*spaces, *objects.small("", {"app": "app", "curl": "curl"}), point, *objects.crowd(size)]
    for number, item in enumerate(found):
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        if item["kind"] == "Service":
            item["spec"] |= {"clusterIP": address, "clusterIPs": [address]}
        if item["kind"] == "Gateway":
            item["status"] = {"addresses": [{"value": address}]}
        if item["kind"] == "Pod":
            waits = "schedulingGates" in item["spec"]
            item["status"] = objects.status(item) if waits else objects.running(address, number)
            item["metadata"]["annotations"] = {REDIRECTION: "enabled"}
    return found


def measure(size: Size) -> tuple[float, float, int, float, float]:
    """Of a round: seconds of reading and predicting, API calls, MiB received; MiB of memory added at most."""
    edge: t.Any = Cluster(cluster(size))
    claims = parse_claims(objects.claims(), objects.NAMESPACE)
    before = _memory("VmRSS")
    for _round in range(2):
        started = time.process_time()
        mesh = read(claims, edge)
        middle = time.process_time()
        for claim in claims:
            verdict = predicted_verdict(ClaimRun.of(claim, "after", mesh))
            if verdict.verdict != "pass":
                raise RuntimeError(f"{claim.name}: {verdict.reason}")
    ended = time.process_time()
    memory = _memory("VmHWM") - before
    return middle - started, ended - middle, edge.calls, edge.received / 1024**2, memory


def _memory(field: str) -> float:
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"{field}:\s*(\d+) kB", text)
    return int(found[1]) / 1024 if found else 0.0


def main() -> int:
    print(f"{'':34}{'read, s':>10}{'predict, s':>12}{'API calls':>11}{'MiB':>8}{'memory, MiB':>13}")
    for name, size in SIZES.items():
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            reading, predicting, calls, received, memory = pool.submit(measure, size).result()
        print(f"{name:34}{reading:10.2f}{predicting:12.2f}{calls:11}{received:8.1f}{memory:13.0f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
