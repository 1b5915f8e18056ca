"""What predictions of everything cost: pairs, a what-if, and mutants. Needs no lab.

`.venv/bin/python benchmarks/reach.py`: seconds of one core. A pair is a source, a destination and a class of requests.
"""

from __future__ import annotations

import collections
import copy
import random
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "collections"))

from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import parse_claims
from ansible_collections.ambient.lab.plugins.module_utils._mesh.folder import assembled
from ansible_collections.ambient.lab.plugins.module_utils._reach.reach import cells
from ansible_collections.ambient.lab.plugins.module_utils._reach.verdicts import Verdict, judged

Object = dict[str, Any]
AMBIENT = {"istio.io/dataplane-mode": "ambient"}
LISTENER = {"name": "mesh", "port": 15008, "protocol": "HBONE"}
MUTANTS = 500
CLAIMS: list[Object] = [
    {"name": name, "from": {"service_account": name}, "to": "http://sample-app:8080/", "expect": outcome}
    for name, outcome in (("curl-allow", "allowed"), ("curl-deny", "denied_l4"))
] + [
    {
        "name": method,
        "from": {"service_account": "curl", "namespace": "layer7"},
        "to": {"url": "http://sample-app:8080/", "method": method},
        "expect": "allowed" if method == "GET" else "denied_l7",
    }
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
]


def cluster(workloads: int, policies: int, spaces: int) -> list[Object]:
    """Workloads with a Service each, every third one with a waypoint, and policies of every kind."""
    chance, found = random.Random(17), []
    names = [f"team-{number}" for number in range(spaces)]
    for space in names:
        found.append(item("Namespace", space, "", labels=AMBIENT))
        listener = {"name": "mesh", "port": 15008, "protocol": "HBONE"}
        found.append(
            item("Gateway", "waypoint", space, {"gatewayClassName": "istio-waypoint", "listeners": [listener]})
        )
    for number in range(workloads):
        space, name = names[number % spaces], f"app-{number}"
        found.append(workload(name, space))
        ports = [{"name": "http", "port": 80, "targetPort": 8080}]
        labels = {"istio.io/use-waypoint": "waypoint"} if number % 3 == 0 else {}
        found.append(item("Service", name, space, {"selector": {"app": name}, "ports": ports}, labels=labels))
    for number in range(policies):
        app = chance.randrange(workloads)
        callers = [f"cluster.local/ns/{names[one % spaces]}/sa/app-{one}" for one in chance.sample(range(workloads), 2)]
        rule: Object = {"from": [{"source": {"principals": callers}}]}
        spec: Object = {"selector": {"matchLabels": {"app": f"app-{app}"}}}
        if app % 3 == 0:
            spec = {"targetRefs": [{"group": "", "kind": "Service", "name": f"app-{app}"}]}
            rule["to"] = [{"operation": {"methods": ["GET", "POST"], "paths": [f"/v{number}/*", "/health"]}}]
        spec |= {"action": chance.choice(["ALLOW", "ALLOW", "DENY"]), "rules": [rule]}
        found.append(item("AuthorizationPolicy", f"p-{number}", names[app % spaces], spec))
    return found


def item(kind: str, name: str, space: str, spec: Object | None = None, **metadata: Any) -> Object:
    """An object as a folder has it."""
    meta = {"name": name, **({"namespace": space} if space else {}), **metadata}
    return {"kind": kind, "metadata": meta, "spec": spec or {}}


def lab() -> list[Object]:
    """The lab's two policies and what they are about, as the roles apply it."""
    found = [item("Namespace", name, "", labels=AMBIENT) for name in ("default", "layer7")]
    for space, labels in (("default", {}), ("layer7", {"istio.io/use-waypoint": "waypoint"})):
        ports = [{"name": "http", "port": 8080, "targetPort": 8080}]
        selector = {"selector": {"app": "sample-app"}, "ports": ports}
        found.append(item("Service", "sample-app", space, selector, labels=labels))
        found.append(workload("sample-app", space))
    found += [workload(name, "default") for name in ("curl", "curl-allow", "curl-deny")] + [workload("curl", "layer7")]
    found.append(item("Gateway", "waypoint", "layer7", {"gatewayClassName": "istio-waypoint", "listeners": [LISTENER]}))
    denied = {"principals": ["cluster.local/ns/default/sa/curl-deny"]}
    rule = {"from": [{"source": denied}], "to": [{"operation": {"ports": ["8080"]}}]}
    l4: Object = {"selector": {"matchLabels": {"app": "sample-app"}}, "action": "DENY", "rules": [rule]}
    refs = [{"group": "", "kind": "Service", "name": "sample-app"}]
    l7: Object = {"targetRefs": refs, "action": "ALLOW", "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}
    policies = [("layer4-authz", "default", l4), ("layer7-authz", "layer7", l7)]
    return [*found, *(item("AuthorizationPolicy", *policy) for policy in policies)]


def workload(name: str, space: str) -> Object:
    """A Deployment with a ServiceAccount of its own name."""
    container = {"name": "main", "ports": [{"containerPort": 8080}] if "app" in name else []}
    spec = {"serviceAccountName": name, "containers": [container]}
    return item("Deployment", name, space, {"template": {"metadata": {"labels": {"app": name}}, "spec": spec}})


def changed(objects: list[Object]) -> list[Object]:
    """The same with ten policies changed."""
    found = copy.deepcopy(objects)
    for policy in [one for one in found if one["kind"] == "AuthorizationPolicy"][::20]:
        policy["spec"]["action"] = "DENY" if policy["spec"]["action"] == "ALLOW" else "ALLOW"
    return found


def main() -> int:
    few = assembled(cluster(32, 20, 4))
    started = time.process_time()
    pairs = sum(len(cell.sources) for cell in cells([few]))
    print(f"{pairs} pairs predicted in {time.process_time() - started:.2f} s")
    objects = cluster(300, 200, 20)
    old, new = assembled(objects), assembled(changed(objects))
    started = time.process_time()
    found = cells([old, new])
    differ = [cell for cell in found if cell.found[0].outcome != cell.found[1].outcome]
    seconds, pairs = time.process_time() - started, sum(len(cell.sources) for cell in found)
    what = f"{pairs} pairs in {len(found)} classes, {len(differ)} classes differ"
    print(f"what-if of 200 policies and 300 workloads: {seconds:.2f} s ({what})")
    mesh, claims = assembled(lab()), parse_claims(CLAIMS, "default")
    started = time.process_time()
    verdicts: list[Verdict] = []
    while len(verdicts) < MUTANTS:
        verdicts += judged(mesh, claims)
    kinds = dict(collections.Counter(verdict.kind for verdict in verdicts))
    print(f"{len(verdicts)} mutants of the lab's list: {time.process_time() - started:.2f} s ({kinds})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
