"""The playbooks that measure: run on the lab, with few repeats; what they take away they give back."""

from __future__ import annotations

import json

from fleet import NO_GRAPH, play
from project import ROOT
from running_lab import Lab

VARIABLES = ("-e", f"@{ROOT}/molecule/vars/lab.yml")


def test_convergence_is_measured_and_the_policies_are_back(lab: Lab) -> None:
    policies = ("authorizationpolicies", "-A", "-o", "name")
    before = lab.kubectl("get", *policies)
    ran = play("playbooks/convergence.yml", *VARIABLES, "-e", "convergence_repeats=1")
    assert ran.returncode == 0, ran.stdout
    again = play("site.yml", *VARIABLES, "--tags", "l4,l7", "-e", NO_GRAPH)
    assert "changed=0" in again.stdout, again.stdout
    assert lab.kubectl("get", *policies) == before
    report = json.loads((lab.folder / "convergence.json").read_text(encoding="utf-8"))
    (cluster,) = report["clusters"]
    measured = {name: part["convergence"] for name, part in cluster["sections"].items() if part["convergence"]}
    assert {name: (item["verdict"], item["repeats"]) for name, item in measured.items()} == {
        "l4_authz": ("pass", 1),
        "l7_waypoint": ("pass", 1),
    }
    directions = [direction for item in measured.values() for direction in item["directions"].values()]
    leaking = [pair for direction in directions for pair in direction["pairs"] if pair["leaks"]]
    assert leaking
    assert {pair["stale_after_ready"] for pair in leaking} == {0}


def test_the_benchmark_compares_three_ways_and_leaves_nothing(lab: Lab) -> None:
    few = {
        "bench_allowed": ["client-0"], "bench_denied": ["client-7"], "bench_claims_each": 1,
        "bench_kubectl_requests": 1, "bench_k8s_exec_requests": 1,
    }  # fmt: skip
    ran = play("playbooks/bench.yml", *VARIABLES, "-e", json.dumps(few))
    assert ran.returncode == 0, ran.stdout
    for other in ("kubectl exec per request", "k8s_exec in a loop"):
        assert f"times as fast as {other}" in ran.stdout
    assert "ambient-lab-bench" not in lab.kubectl("get", "namespaces", "-o", "name")
