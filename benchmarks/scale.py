"""What 100 claims cost in a small lab, and in one with thousands of pods of others: time, API calls, memory.

Run it on a lab that is up (`make up`): `.venv/bin/python benchmarks/scale.py .lab/istio-ambient`.
Everything it makes has a label and is removed at the end, on Ctrl-C too; `--remove` removes what a run that was killed
has left. The table is printed, and is written to scale.json in the lab's folder.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import multiprocessing
import re
import signal
import statistics
import sys
import time
import typing as t
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "collections"))

import scale_objects as objects
from ansible_collections.ambient.lab.plugins.module_utils._check.rounds import Settings, check
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import parse_claims
from ansible_collections.ambient.lab.plugins.module_utils._cluster.channel import Answer, status_message
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import Kube
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from claims import CountingEdge
from scale_objects import Object, Size

REPO = Path(__file__).resolve().parents[1]
# In the order in which they are made: what others name comes first.
PLURALS = {
    "Namespace": "namespaces",
    "ServiceAccount": "serviceaccounts",
    "ConfigMap": "configmaps",
    "Gateway": "gateways",
    "Service": "services",
    "AuthorizationPolicy": "authorizationpolicies",
    "Pod": "pods",
}
SELECTOR = ",".join(f"{key}={value}" for key, value in objects.OWNER.items())
PARALLEL = 8
POLL_SECONDS = 1.0
# Seconds for a check that waits until all proxies know of the crowd, and of one that is measured.
SETTLE_SECONDS = 180.0
# A stand-in that has just been told of thousands of pods is slow to answer; that is time, and no verdict.
PROBE_SECONDS = 20.0
CHECK_SECONDS = 120.0
REMOVE_SECONDS = 900.0
_LIST = re.compile(r"/(?:api/v1|apis/[^/]+/[^/]+)(?:/namespaces/[^/]+)?/([a-z]+)")


class Counting(CountingEdge):
    """Counts what goes to the API, by verb and kind."""

    def __init__(self, kubeconfig: str | None, context: str | None) -> None:
        super().__init__(kubeconfig, context)
        self.received = 0

    def ask(self, path: str, **query: str) -> Answer:
        """GET a path."""
        self.calls[call_of(path)] += 1
        answer = Kube.ask(self, path, **query)
        self.received += len(answer.body)
        return answer


def call_of(path: str) -> str:
    """Verb and kind of a GET request."""
    for end in ("log", "metrics", "stats/prometheus"):
        if path.endswith(f"/{end}"):
            return "get log" if end == "log" else "get metrics"
    found = _LIST.fullmatch(path)
    return f"list {found[1]}" if found else f"get {path.split('/')[-2]}"


@dataclasses.dataclass(frozen=True)
class Figures:
    """Of one check. Times in seconds, memory and what was received in MiB."""

    rounds: int
    verdict: str
    seconds: float
    processor: float
    memory: float
    received: float
    calls: dict[str, int]
    failed: str = ""


def measure(kubeconfig: str, context: str | None, stable: int, timeout: float) -> Figures:
    """Check the claims with all witnesses. Runs in a process of its own, whose memory is looked at."""
    claims = parse_claims(objects.claims(), objects.NAMESPACE)
    edge = Counting(kubeconfig, context)
    started, used = time.monotonic(), time.process_time()
    result = check(
        claims, Settings(stable=stable, timeout=timeout, probe_timeout=PROBE_SECONDS, witnesses="required"), edge
    )
    seconds, processor = time.monotonic() - started, time.process_time() - used
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    failed = next((f"{run.claim.name}: {run.verdict.reason}" for run in result.claims if not run.holds), "")
    calls = dict(sorted(edge.calls.items()))
    memory, received = int(peak[1]) / 1024 if peak else 0.0, edge.received / 1024**2
    return Figures(result.rounds, result.verdict, seconds, processor, memory, received, calls, failed)


class Bench:
    """Makes objects in a lab, measures, removes them.

    Args:
        lab: what stands in its lab.json.
        size: of the crowd.
        limit: seconds for everything but the removal.
    """

    def __init__(self, lab: t.Mapping[str, t.Any], size: Size, limit: float) -> None:
        self._access = (str(lab["kubeconfig"]), lab.get("context"))
        self._images, self._size, self._limit = lab["images"], size, limit
        self._kube = Kube(*self._access)
        self._end = time.monotonic() + limit

    def run(self, repeats: int) -> dict[str, dict[str, Figures]]:
        """Figures of each kind of check, in the small lab and in the large one."""
        app = (REPO / "roles/sample_app/files/app.py").read_text(encoding="utf-8")
        spaces = objects.namespaces(self._size)
        self.make("namespaces", spaces)
        for space in spaces:
            # A pod is refused before its namespace has one.
            self.wait_for(self._path("ServiceAccount", space["metadata"]["name"]) + "/default")
        small = objects.small(app, self._images)
        self.make("the claims' own objects", small)
        self.settle()
        found = {"small": self.checks("small lab", repeats)}
        self.make("the crowd", objects.crowd(self._size))
        self.settle()
        return {**found, "large": self.checks("large lab", repeats)}

    def checks(self, where: str, repeats: int) -> dict[str, Figures]:
        """The median (by time) of each kind of check."""
        found = {}
        for name, stable in (("one round", 1), ("three rounds", 3)):
            all_of_them = []
            for turn in range(repeats):
                all_of_them.append(self.measured(stable, CHECK_SECONDS))
                print(f"{where}, {name}, {turn + 1}/{repeats}: {all_of_them[-1].seconds:.1f} s", flush=True)
            middle = statistics.median_low([item.seconds for item in all_of_them])
            found[name] = next(item for item in all_of_them if item.seconds == middle)
        return found

    def settle(self) -> None:
        """Wait until the claims hold, so that what is measured is no waiting."""
        print("waiting until the claims hold", flush=True)
        while (figures := self.measured(1, SETTLE_SECONDS, required=False)).verdict != "pass":
            print(f"not yet: {figures.failed[:150]}", flush=True)
            time.sleep(POLL_SECONDS)

    def measured(self, stable: int, timeout: float, required: bool = True) -> Figures:
        """A check in a new process."""
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            figures = pool.submit(measure, *self._access, stable, min(timeout, self.left())).result()
        if required and figures.verdict != "pass":
            raise RuntimeError(f"the claims do not hold: {figures.failed}")
        return figures

    def left(self) -> float:
        """Seconds that are left.

        Raises:
            TimeoutError: when there are none.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"not done after {self._limit:g} s: give it more with --limit, or make fewer objects")
        return left

    def make(self, what: str, items: t.Sequence[Object]) -> None:
        """Create objects, a few at a time; a pod of the crowd gets its status, too."""
        started, done = time.monotonic(), 0
        with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
            try:
                for kind in PLURALS:
                    for _ in pool.map(self._make, [item for item in items if item["kind"] == kind]):
                        done += 1
                        if done % 500 == 0:
                            print(f"{what}: {done}/{len(items)} after {time.monotonic() - started:.0f} s", flush=True)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        print(f"{what}: {done} made in {time.monotonic() - started:.1f} s", flush=True)

    def _make(self, item: Object) -> None:
        self.left()
        meta, kind = item["metadata"], item["kind"]
        path = self._path(kind, meta.get("namespace", ""))
        self._sent("POST", path, item)
        if kind == "Pod" and "schedulingGates" in item["spec"]:
            body = {"status": objects.status(item)}
            self._sent("PATCH", f"{path}/{meta['name']}/status", body, "application/strategic-merge-patch+json")

    def _sent(self, method: str, path: str, body: Object | None, content: str = "application/json") -> None:
        answer = self._kube.send(method, path, body, content)
        if answer.status >= 300 and (method, answer.status) != ("DELETE", 404):
            raise RuntimeError(f"{method} {path}: HTTP {answer.status}, {status_message(answer.body)}")

    @staticmethod
    def _path(kind: str, space: str) -> str:
        group = objects.item(kind, "")["apiVersion"]
        root = f"/apis/{group}" if "/" in group else f"/api/{group}"
        return f"{root}{f'/namespaces/{space}' if space else ''}/{PLURALS[kind]}"

    def wait_for(self, path: str) -> None:
        """Wait until an object is there."""
        while self._kube.get(path) is None:
            self.left()
            time.sleep(POLL_SECONDS)

    def remove(self) -> None:
        """Remove everything with the owner's label, and wait until it is gone."""
        started, last = time.monotonic(), -1
        self._kube.send("DELETE", self._path("AuthorizationPolicy", objects.ROOT), labelSelector=SELECTOR)
        while left := self._kube.items("/api/v1/namespaces", labelSelector=SELECTOR):
            for space in left:
                if "deletionTimestamp" not in space["metadata"]:
                    self._sent("DELETE", f"/api/v1/namespaces/{space['metadata']['name']}", None)
            if len(left) != last:
                print(f"removing: {len(left)} namespaces left after {time.monotonic() - started:.0f} s", flush=True)
            last = len(left)
            if time.monotonic() - started > REMOVE_SECONDS:
                raise TimeoutError(f"{last} namespaces are still there: run again with --remove")
            time.sleep(POLL_SECONDS)


def lines(found: t.Mapping[str, t.Mapping[str, Figures]], size: Size) -> t.Iterator[str]:
    """The table."""
    yield (
        f"{objects.CLAIMS} claims, all witnesses; crowd: {size.pods} pods, {size.services} Services, "
        f"{size.policies} policies, {size.waypoints} waypoints in {len(size.spaces)} namespaces"
    )
    yield f"{'':34}{'small':>10}{'large':>10}{'ratio':>8}"
    for name, small in found["small"].items():
        large = found["large"][name]
        rows = {
            "seconds": (small.seconds, large.seconds),
            "seconds of processor": (small.processor, large.processor),
            "API calls": (sum(small.calls.values()), sum(large.calls.values())),
            "MiB received": (small.received, large.received),
            "MiB of memory at most": (small.memory, large.memory),
        }
        for what, (few, many) in rows.items():
            yield f"{name + ', ' + what:34}{few:10.2f}{many:10.2f}{many / few:8.2f}"
        for call in sorted({*small.calls, *large.calls}):
            few, many = small.calls.get(call, 0), large.calls.get(call, 0)
            if few != many:
                yield f"    {call:30}{few:10}{many:10}"


def arguments() -> argparse.Namespace:
    """What stands on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("lab_dir", type=Path, help="folder of the lab, with lab.json")
    for field in dataclasses.fields(Size):
        parser.add_argument(f"--{field.name}", type=int, default=field.default, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="checks of each kind; the median counts")
    parser.add_argument("--limit", type=float, default=3600, help="seconds for all of it, without the removal")
    parser.add_argument("--remove", action="store_true", help="only remove what an earlier run has left")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    size = Size(**{field.name: getattr(given, field.name) for field in dataclasses.fields(Size)})
    lab = json.loads((given.lab_dir / "lab.json").read_text(encoding="utf-8"))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    bench = Bench(lab, size, given.limit)
    bench.remove()
    if given.remove:
        return 0
    try:
        found = bench.run(given.repeats)
    finally:
        # Who asks twice gets it no sooner.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        bench.remove()
    table = list(lines(found, size))
    plain = {where: {name: dataclasses.asdict(item) for name, item in kinds.items()} for where, kinds in found.items()}
    text = json.dumps({"size": dataclasses.asdict(size), "figures": plain}, indent=2)
    (given.lab_dir / "scale.json").write_text(text + "\n", encoding="utf-8")
    print("\n".join(table))
    return 0


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        try:
            sys.exit(main())
        except (LabError, RuntimeError, OSError) as problem:
            sys.exit(f"scale.py: {problem}")
        except KeyboardInterrupt:
            sys.exit("scale.py: interrupted; what it had made is removed")
