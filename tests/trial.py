"""Random policies on a running lab: what the model predicts against what real requests meet.

    python tests/trial.py .lab/istio-ambient --sets 500 --seed 1

Every difference is a fault of the model, of the lab's ztunnel or of Istio. Its set can be drawn again by its number:
`--only 17`. Ends with 1 where there is one. Results: .cache/trial/<seed>.json.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "collections"))

from ansible_collections.ambient.lab.plugins.module_utils._check.curl_outcomes import KubeEdge
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Source
from ansible_collections.ambient.lab.plugins.module_utils._claims.sources import Target, Unusable, find_target
from ansible_collections.ambient.lab.plugins.module_utils._cluster.channel import status_message
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import APPLY
from ansible_collections.ambient.lab.plugins.module_utils._curl.control import Probe
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen
from ansible_collections.ambient.lab.plugins.module_utils._curl.probing import probe_all
from ansible_collections.ambient.lab.plugins.module_utils._mesh.destinations import Request
from ansible_collections.ambient.lab.plugins.module_utils._mesh.load import Asked, Loader
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import PATHS, Mesh
from ansible_collections.ambient.lab.plugins.module_utils._mesh.predictions import Prediction, predict
from running_lab import Lab
from trial_draws import Draws
from trial_world import APPS, CLIENTS, SPACE, objects

Object = dict[str, Any]
Asking = tuple[tuple[str, str], Request]
PROBE_SECONDS = 3.0
# A difference counts when it is there after so many looks: istiod needs a moment to hand a policy on.
LOOKS = 6
STATUS_SECONDS = 10.0


@dataclass
class Tally:
    """What all sets together have shown."""

    requests: int = 0
    differences: list[Object] = field(default_factory=list)
    predicted: collections.Counter[str] = field(default_factory=collections.Counter)
    unknown: collections.Counter[str] = field(default_factory=collections.Counter)
    refused: int = 0


class Trial:
    """The trial on one lab."""

    def __init__(self, lab: Lab, seed: int, requests: int) -> None:
        self._lab, self._seed, self._requests = lab, seed, requests
        self.edge = KubeEdge(lab.facts["kubeconfig"], None)
        self.there: dict[str, Object] = {}
        # By "service/<app>" and "pod/<app>".
        self.addresses: dict[str, str] = {}

    def set_up(self) -> None:
        """Make the trial's namespaces, and wait until everything is ready."""
        self._lab.apply(objects(self._lab.facts["images"]))
        spaces = sorted({SPACE, *(space for _name, space in CLIENTS)})
        for space in spaces:
            self._lab.kubectl("wait", "-n", space, "--for=condition=Ready", "pod", "--all", "--timeout=50s")
            for gateway in self._lab.get("-n", space, "gateways")["items"]:
                name = gateway["metadata"]["name"]
                wanted = ["--for=condition=Programmed", f"gateway/{name}", "--timeout=50s"]
                self._lab.kubectl("wait", "-n", space, *wanted)
        for app in APPS:
            service = self._lab.get("-n", SPACE, "service", app)
            pod = self._lab.get("-n", SPACE, "pod", app)
            self.addresses |= {f"service/{app}": service["spec"]["clusterIP"], f"pod/{app}": pod["status"]["podIP"]}

    def forget(self) -> None:
        """Remove the policies of the last set."""
        self.replace([])

    def clean_up(self) -> None:
        """Remove everything again, and wait until it is gone."""
        self.forget()
        spaces = sorted({SPACE, *(space for _name, space in CLIENTS)})
        self._lab.kubectl("delete", "namespace", *spaces, "--ignore-not-found", "--timeout=55s")

    def run(self, number: int, tally: Tally) -> None:
        """One set: apply its policies, ask, compare."""
        draws = Draws(self._seed, number)
        policies = draws.policies()
        asked = draws.requests(self.addresses, self._requests)
        tally.refused += self.replace(policies)
        self.await_status()
        left = list(range(len(asked)))
        mesh, predictions = self._predict(asked)
        seen: dict[int, Seen] = {}
        for look in range(LOOKS):
            if look:
                time.sleep(0.5 * look)
                mesh, predictions = self._predict(asked)
            answers = self.measure(mesh, [asked[index] for index in left])
            seen |= dict(zip(left, answers, strict=True))
            left = [index for index in left if differ(predictions[index], seen[index])]
            if not left:
                break
        tally.requests += len(asked)
        for index, prediction in enumerate(predictions):
            tally.predicted[prediction.outcome] += 1
            if not prediction.sure:
                tally.unknown[prediction.reasons[-1].text.partition(":")[0][:60]] += 1
            if index in left:
                tally.differences.append(self._difference(number, asked[index], prediction, seen[index]))

    def _difference(self, number: int, asking: Asking, prediction: Prediction, seen: Seen) -> Object:
        (name, space), request = asking
        return {
            "set": number,
            "from": f"{space}/{name}",
            "to": f"{request} {dict(request.headers)}",
            "predicted": prediction.outcome,
            "why": prediction.why,
            "measured": str(seen),
            "policies": list(self.there.values()),
        }

    def _predict(self, asked: list[Asking]) -> tuple[Mesh, list[Prediction]]:
        hosts = [Asked(request.host, request.port, space) for (_name, space), request in asked]
        mesh = Loader(self.edge, hosts, {space for _name, space in CLIENTS}).load()
        pods = {client: mesh.get("Pod", client[1], client[0]) for client in CLIENTS}
        return mesh, [predict(mesh, pods[client], request, client[1])[1] for client, request in asked]

    def measure(self, mesh: Mesh, asked: list[Asking]) -> list[Seen]:
        """What each request meets now."""
        sources = {client: Source(client[1], pod=client[0]) for client in CLIENTS}
        targets: dict[Source, Target | Unusable] = {
            source: find_target(source, mesh.items("Pod", source.namespace)) for source in sources.values()
        }
        probes = [Probe(sources[client], request) for client, request in asked]
        with concurrent.futures.ThreadPoolExecutor(len(CLIENTS)) as pool:
            return probe_all(probes, targets, PROBE_SECONDS, self.edge, pool)

    def replace(self, policies: list[Object]) -> int:
        """Have these policies and no others of the trial; how many the API refused."""
        wanted = {path_at(item): item for item in policies}
        for path in set(self.there) - set(wanted):
            self.edge.send("DELETE", path)
        refused = 0
        self.there = {}
        for path, item in wanted.items():
            answer = self.edge.send("PATCH", path, item, APPLY, fieldManager="trial", force="true")
            if answer.status in (200, 201):
                self.there[path] = json.loads(answer.body)
            else:
                refused += 1
                self.edge.send("DELETE", path)
                if answer.status not in (400, 422, 403):
                    raise RuntimeError(status_message(answer.body))
        return refused

    def await_status(self) -> None:
        """Wait until istiod has said of each AuthorizationPolicy what it makes of it."""
        deadline = time.monotonic() + STATUS_SECONDS
        for path, item in self.there.items():
            while item["kind"] == "AuthorizationPolicy" and time.monotonic() < deadline:
                now = self.edge.get(path) or {}
                generation = str(now.get("metadata", {}).get("generation"))
                said = [entry.get("observedGeneration") for entry in now.get("status", {}).get("conditions") or []]
                if any(str(entry) == generation for entry in said):
                    break
                time.sleep(0.05)


def path_at(item: Object) -> str:
    """Path of an object in the API."""
    meta = item["metadata"]
    return f"{PATHS[item['kind']].format('/namespaces/' + meta['namespace'])}/{meta['name']}"


def differ(prediction: Prediction, seen: Seen) -> bool:
    """Whether an answer is another one than a sure prediction."""
    if prediction.outcome == "broken":
        return seen.outcome == "allowed"
    return prediction.sure and prediction.outcome != seen.outcome


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Predictions against real requests, on random policies.")
    parser.add_argument("lab", type=Path, help="folder of the lab (lab.json)")
    parser.add_argument("--sets", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--requests", type=int, default=24, help="in each set")
    parser.add_argument("--only", type=int, help="number of the one set to run")
    parser.add_argument("--keep", action="store_true", help="leave the namespaces, for the next run")
    chosen = parser.parse_args()
    trial, tally = Trial(Lab.at(chosen.lab), chosen.seed, chosen.requests), Tally()
    numbers = range(chosen.sets) if chosen.only is None else [chosen.only]
    start = time.monotonic()
    try:
        trial.set_up()
        for number in numbers:
            trial.run(number, tally)
            if number % 20 == 19:
                print(f"  {number + 1} sets, {len(tally.differences)} differences", flush=True)
    finally:
        if not chosen.keep:
            trial.clean_up()
    seconds = time.monotonic() - start
    folder = Path(".cache/trial")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{chosen.seed}.json").write_text(json.dumps(tally.differences, indent=2), encoding="utf-8")
    for item in tally.differences[:20]:
        print(f"set {item['set']}: {item['from']} {item['to']}\n  predicted {item['predicted']}: {item['why']}")
        print(f"  measured {item['measured']}")
    print(
        f"{len(numbers)} sets, {tally.refused} policies refused by the API, {tally.requests} requests, {seconds:.0f} s"
    )
    print(f"predicted: {dict(tally.predicted)}; unknown because: {dict(tally.unknown.most_common(8))}")
    print(f"{len(tally.differences)} differences")
    return 1 if tally.differences else 0


if __name__ == "__main__":
    sys.exit(main())
