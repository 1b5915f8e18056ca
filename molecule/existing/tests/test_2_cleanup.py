"""Clean-up takes back what the roles have made, and nothing else: in any order, twice, and after half a run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fleet import NO_GRAPH, Ran, play
from project import ROOT, load
from running_lab import Lab
from state import State, cluster, differences

VARIABLES = f"@{ROOT}/molecule/vars/existing.yml"
SHARED = ROOT / ".lab" / "molecule-default" / "lab.json"
# What is built here is only to be removed.
TAGS = ("l7", "l4", "sample_app", "kiali", "istio_ambient")
# Objects of somebody else's, in the places where the roles work: none of them may be touched.
STRANGERS: list[dict[str, Any]] = [
    {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "theirs", "namespace": "default"},
        "data": {"a": "b"},
    },
    {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "theirs", "namespace": "default"}},
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "theirs", "labels": {"app": "sample-app"}}},
]


def run(playbook: str, *arguments: str) -> Ran:
    """A playbook for the lab on the shared cluster, as its user."""
    return play(playbook, "-e", VARIABLES, *arguments)


def state() -> State:
    lab = json.loads(SHARED.read_text(encoding="utf-8"))
    return cluster(lab["kubeconfig"], lab["kubectl"])


def changed(ran: Ran) -> int:
    return int(re.findall(r"changed=(\d+)", ran.stdout)[-1])


def part_by_part(order: tuple[str, ...]) -> None:
    """Each part goes whatever else is there; the second time nothing is left to do."""
    for tag in order:
        first = run("playbooks/cleanup.yml", "--tags", tag)
        assert first.returncode == 0, first.stdout
    second = run("playbooks/cleanup.yml", "--tags", ",".join(order))
    assert (second.returncode, changed(second)) == (0, 0), second.stdout


@pytest.fixture(scope="module")
def bare() -> Iterator[State]:
    """The cluster's state without the lab, with somebody else's objects that were there when it went."""
    shared = Lab.at(SHARED.parent)
    try:
        shared.apply(STRANGERS)
        # Each namespace gets these two by itself, a moment later.
        for given in ("serviceaccount/default", "configmap/kube-root-ca.crt"):
            shared.kubectl("wait", "-n", "theirs", given, "--for=create", "--timeout=30s")
        part_by_part(TAGS)
        yield state()
    finally:
        for item in STRANGERS:
            shared.delete(item)


def test_nothing_of_a_whole_lab_is_left_but_what_is_somebody_elses(bare: State) -> None:
    before = json.loads((SHARED.parent / "bare.json").read_text(encoding="utf-8"))
    others = ("lab-user", "ambient-lab-user", "ambient-lab-installer")
    found = [line for line in differences(before, bare) if not any(name in line for name in others)]
    theirs = [*STRANGERS, {"kind": "ServiceAccount"}, {"kind": "ConfigMap"}]
    assert sorted(line.split()[1] for line in found) == sorted(item["kind"] for item in theirs), found
    assert all(line.startswith("+") and "theirs" in line for line in found), found


def test_in_the_other_order(bare: State) -> None:
    built = run("site.yml", "--tags", "cluster,istio_ambient,kiali,sample_app,l4,l7", "-e", NO_GRAPH)
    assert built.returncode == 0, built.stdout
    part_by_part(TAGS[::-1])
    assert differences(bare, state()) == []


def test_after_half_a_run(bare: State) -> None:
    """A run that breaks off in the middle leaves nothing that the clean-up does not find."""
    istio = load(ROOT / "molecule/vars/existing.yml")["cluster_istio"]
    charts = json.loads(SHARED.read_text(encoding="utf-8"))["helm"]["charts"]
    broken = {"cluster_istio": {**istio, "charts": {**charts, "ztunnel": "/nowhere"}}}
    half = run("site.yml", "-e", json.dumps(broken))
    assert half.returncode != 0
    assert differences(bare, state()) != []
    cleaned = run("playbooks/cleanup.yml")
    assert cleaned.returncode == 0, cleaned.stdout
    assert differences(bare, state()) == []
    again = run("playbooks/cleanup.yml")
    assert (again.returncode, changed(again)) == (0, 0), again.stdout
