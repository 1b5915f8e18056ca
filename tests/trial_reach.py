"""What-if and mutation on a running lab: what is predicted of a change is applied, measured and compared.

    python tests/trial_reach.py .lab/istio-ambient --changes 50 --mutants 50 --seed 1

A change replaces one of the trial's random policies. Before it is applied, every pair of the trial's clients and apps
is predicted for both states; then the pairs are measured in both, and each must be as predicted.
Mutants are judged by random claims that hold; each that is tried is applied, and the claims must turn red where the
model says so, and nowhere else. Ends with 1 on a difference. Results: .cache/trial/reach-<seed>.json.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "collections"))

from ansible_collections.ambient.lab.plugins.module_utils._check.rounds import predicted_verdict
from ansible_collections.ambient.lab.plugins.module_utils._check.run import ClaimRun
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Claim, parse_claims
from ansible_collections.ambient.lab.plugins.module_utils._mesh.load import Loader
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh
from ansible_collections.ambient.lab.plugins.module_utils._reach.doors import Door
from ansible_collections.ambient.lab.plugins.module_utils._reach.reach import Cell, cells
from ansible_collections.ambient.lab.plugins.module_utils._reach.told import claim_of
from ansible_collections.ambient.lab.plugins.module_utils._reach.verdicts import Verdict, judged
from running_lab import Lab
from trial import LOOKS, Asking, Trial, differ, path_at
from trial_draws import Draws
from trial_world import APPS, CLIENTS, SPACE

Object = dict[str, Any]
POLICIES = ("AuthorizationPolicy", "PeerAuthentication")
# Claims that judge the mutants of one set of policies, and mutants of each fate that are tried.
CLAIMS, TRIED = 8, 5


class ReachTrial(Trial):
    """What-if and mutation on one lab."""

    differences: list[Object]

    def __init__(self, lab: Lab, seed: int) -> None:
        super().__init__(lab, seed, 0)
        self._seed, self.differences, self.pairs, self.opened, self.closed = seed, [], 0, 0, 0

    def mesh(self) -> Mesh:
        """The whole mesh as it is."""
        return Loader(self.edge, (), ()).load_all()

    def put(self, policies: list[Object]) -> list[Object]:
        """Have these policies alone; those that the API has taken."""
        self.replace(policies)
        self.await_status()
        return [item for item in policies if path_at(item) in self.there]

    def change(self, number: int) -> None:
        """Predict what a change opens and closes, apply it, and compare."""
        policies = self.put(Draws(self._seed, number).policies())
        changed = [*Draws(self._seed, number + 100_000).policies()[:1], *policies[1:]]
        old = self.mesh()
        # Nothing of the new state is read from the cluster: what it is compared with was predicted before.
        found = cells([old, with_policies(old, changed)], is_app)
        asked = [(client, cell) for cell in found for client in CLIENTS if is_caller(cell, client)]
        before = self.settled(number, asked, 0)
        if len(self.put(changed)) < len(changed):
            return
        after = self.settled(number, asked, 1)
        moved = [(was == "allowed", now == "allowed") for was, now in zip(before, after, strict=True)]
        self.pairs += len(asked)
        self.opened += moved.count((False, True))
        self.closed += moved.count((True, False))

    def settled(self, number: int, asked: list[tuple[tuple[str, str], Cell]], state: int) -> list[str]:
        """What each pair meets, once it is as predicted; differences are kept where it never is."""
        requests: list[Asking] = [(client, cell.kind.request) for client, cell in asked]
        seen = dict(enumerate(self.measure(self.mesh(), requests)))
        left: list[int] = []
        for look in range(1, LOOKS + 1):
            left = [index for index, (_client, cell) in enumerate(asked) if differ(cell.found[state], seen[index])]
            if not left or look == LOOKS:
                break
            time.sleep(0.5 * look)
            again = self.measure(self.mesh(), [requests[index] for index in left])
            seen |= dict(zip(left, again, strict=True))
        for index in left:
            client, cell = asked[index]
            what = f"{client} -> {cell.door.name} {cell.kind.request}"
            self.note(number, what, cell.found[state].outcome, seen[index])
        return [seen[index].outcome for index in range(len(asked))]

    def mutate(self, number: int, wanted: int) -> int:
        """Try mutants of a set of policies; how many."""
        policies, chance = self.put(Draws(self._seed, number).policies()), random.Random(number)
        mesh = self.mesh()
        found = [(client, cell) for cell in cells([mesh], is_app) for client in CLIENTS if is_caller(cell, client)]
        raw = [claim for client, cell in found if (claim := pod_claim(client, cell))]
        if not raw:
            return 0
        claims = parse_claims(chance.sample(raw, min(CLAIMS, len(raw))), SPACE)
        mine = (item for item in judged(mesh, claims) if is_trials(item.mutant.old))
        # Its namespaces have such names, too.
        tried = [item for item in mine if item.mutant.old["kind"] in POLICIES]
        chosen = [item for fate in ("survived", "killed") for item in sample(chance, tried, fate)][:wanted]
        for item in chosen:
            changed = [new for policy in policies if (new := applied(policy, item))]
            if len(self.put(changed)) < len(changed):
                continue
            mutated = item.mutant.applied(mesh)
            fates = {claim.name: predicted_verdict(ClaimRun.of(claim, "after", mutated)).verdict for claim in claims}
            red = self.red(claims, fates)
            if differing(fates, red):
                self.note(number, str(item.mutant), str(fates), f"red: {sorted(red)}")
        return len(chosen)

    def red(self, claims: tuple[Claim, ...], fates: Mapping[str, str]) -> set[str]:
        """Claims that do not hold; waits for them to be as predicted."""
        asked: list[Asking] = [((str(claim.source.pod), claim.source.namespace), claim.request) for claim in claims]
        red: set[str] = set()
        for look in range(1, LOOKS + 1):
            seen = self.measure(self.mesh(), asked)
            red = {one.name for one, got in zip(claims, seen, strict=True) if got.outcome != one.after.outcome}
            if not differing(fates, red):
                break
            time.sleep(0.5 * look)
        return red

    def note(self, number: int, what: str, predicted: str, measured: object) -> None:
        """Keep a difference."""
        there = list(self.there.values())
        self.differences.append(
            {"set": number, "what": what, "predicted": predicted, "measured": str(measured), "policies": there}
        )


def differing(fates: Mapping[str, str], red: set[str]) -> bool:
    """Whether claims turned red otherwise than predicted; what can't be predicted may do as it likes."""
    return any((name in red) != (fate == "fail") for name, fate in fates.items() if fate != "error")


def is_app(door: Door) -> bool:
    """Whether a destination is one of the trial's apps, at a port where something listens."""
    return door.namespace == SPACE and not door.supposed and any(f"/{app}:" in door.name for app in APPS)


def is_caller(cell: Cell, client: tuple[str, str]) -> bool:
    """Whether a client is one of a cell's sources, and can call it without calling itself."""
    return any(source.name == f"{client[1]}/{client[0]}" for source in cell.sources)


def with_policies(mesh: Mesh, policies: list[Object]) -> Mesh:
    """The mesh with other policies of the trial."""
    rest = [item for item in mesh.objects() if not (item["kind"] in POLICIES and is_trials(item))]
    return Mesh([*rest, *policies], mesh.config, mesh.unread, mesh.read)


def is_trials(item: Object) -> bool:
    return str(item["metadata"]["name"]).startswith("trial-")


def pod_claim(client: tuple[str, str], cell: Cell) -> Object | None:
    """A claim of a client's own pod."""
    source = next(one for one in cell.sources if one.name == f"{client[1]}/{client[0]}")
    claim = claim_of(cell, source, cell.found[0])
    # A claim that only names another policy is red for its evidence, which is not asked for here.
    kept = {key: value for key, value in (claim or {}).items() if key != "by"}
    return {**kept, "from": {"pod": client[0], "namespace": client[1]}} if claim else None


def sample(chance: random.Random, found: list[Verdict], fate: str) -> list[Verdict]:
    """Some mutants of a fate."""
    fitting = [item for item in found if item.kind == fate]
    return chance.sample(fitting, min(TRIED, len(fitting)))


def applied(policy: Object, verdict: Verdict) -> Object | None:
    """A drawn policy as a mutant has it; the cluster's own object has more fields than may be applied."""
    old, new = verdict.mutant.old, verdict.mutant.new
    same = (policy["kind"], policy["metadata"]["name"]) == (old["kind"], old["metadata"]["name"])
    return policy if not same else {**policy, "spec": new["spec"]} if new else None


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Predicted changes and mutants against real requests.")
    parser.add_argument("lab", type=Path, help="folder of the lab (lab.json)")
    parser.add_argument("--changes", type=int, default=50)
    parser.add_argument("--mutants", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="leave the namespaces, for the next run")
    chosen = parser.parse_args()
    trial, start, mutants = ReachTrial(Lab.at(chosen.lab), chosen.seed), time.monotonic(), 0
    try:
        trial.set_up()
        for number in range(chosen.changes):
            trial.change(number)
            if number % 10 == 9:
                print(f"  {number + 1} changes, {len(trial.differences)} differences", flush=True)
        for number in numbers():
            if mutants >= chosen.mutants:
                break
            mutants += trial.mutate(number, chosen.mutants - mutants)
    finally:
        if not chosen.keep:
            trial.clean_up()
    folder = Path(".cache/trial")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"reach-{chosen.seed}.json").write_text(json.dumps(trial.differences, indent=2), encoding="utf-8")
    for item in trial.differences[:20]:
        print(f"set {item['set']}: {item['what']}\n  predicted {item['predicted']}, measured {item['measured']}")
    what = f"{trial.pairs} pairs: {trial.opened} opened, {trial.closed} closed"
    print(f"{chosen.changes} changes, {what}; {mutants} mutants; {time.monotonic() - start:.0f} s")
    print(f"{len(trial.differences)} differences")
    return 1 if trial.differences else 0


def numbers() -> Iterator[int]:
    """Sets of policies to mutate; there are enough."""
    yield from range(200_000, 200_500)


if __name__ == "__main__":
    sys.exit(main())
