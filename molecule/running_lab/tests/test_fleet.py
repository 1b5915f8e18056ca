"""Two clusters side by side: the lab of the scenario and a small one, with the same claims (docs/how-to/fleet.md).

The second lab takes about a minute on two cores; everything else here less than half of that.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet import Ran, line_of, play, prove
from project import defaults
from running_lab import Lab

LAST = "Every claim of every cluster holds"
DENIED = "curl-deny is cut off by ztunnel"
SECOND = {
    "cluster_name": "molecule-fleet",
    "cluster_node_ports": {"30080": 18181, "32766": 28181},
    "l4_authz_graph_claims": [],
}
POLICY = ("authorizationpolicy", "layer4-authz", "-n", "default")


@pytest.fixture(scope="module")
def second(lab: Lab) -> Iterator[Lab]:
    """A second lab, without Kiali and L7; it goes as a whole, also where only a part of it came up."""
    variables = json.dumps(SECOND)
    try:
        built = play("site.yml", "--tags", "cluster,istio_ambient,sample_app,l4", "-e", variables, timeout=600)
        assert built.returncode == 0, built.stdout
        yield Lab.at(lab.folder.parent / "molecule-fleet")
    finally:
        removed = play("playbooks/cleanup.yml", "-e", variables, timeout=120)
        assert removed.returncode == 0, removed.stdout


def clusters(*labs: Lab) -> dict[str, dict[str, Any]]:
    """The labs as somebody else's clusters, named by their order; the claims are the L4 part's, as they are written."""
    named = {"by": "default/layer4-authz"}
    claims = [claim | named if "by" in claim else claim for claim in defaults("l4_authz")["l4_authz_claims"]]
    names = ("first", "second")
    return {
        name: {"cluster_kubeconfig": str(one.folder / "kubeconfig"), "claims": claims}
        for name, one in zip(names, labs, strict=True)
    }


def report(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "claims/report/report.json").read_text())
    return loaded


def columns(ran: Ran, claim: str) -> list[str]:
    """The cells of a claim's row in the report's table, which comes after what each cluster says."""
    row = [line for line in ran.stdout.splitlines() if line.startswith(claim)][-1]
    return [cell.strip() for cell in row.removeprefix(claim).split("  ") if cell.strip()]


def test_the_same_claims_hold_in_both(lab: Lab, second: Lab, tmp_path: Path) -> None:
    planned = prove(tmp_path, clusters(lab, second), "--check")
    assert (planned.returncode, (tmp_path / "claims").exists()) == (0, False), planned.stdout
    ran = prove(tmp_path, clusters(lab, second))
    assert ran.returncode == 0, ran.stdout
    assert columns(ran, DENIED) == ["denied_l4 000/56", "denied_l4 000/56", "no"]
    found = report(tmp_path)
    assert (found["verdict"], [one["name"] for one in found["clusters"]]) == ("pass", ["first", "second"])


def test_a_policy_that_one_has_lost_and_a_cluster_that_is_gone(lab: Lab, second: Lab, tmp_path: Path) -> None:
    policy = second.get(*POLICY)
    second.kubectl("delete", *POLICY)
    try:
        gone = {"third": {**clusters(lab, second)["first"], "cluster_kubeconfig": str(tmp_path / "none")}}
        ran = prove(tmp_path, clusters(lab, second) | gone)
    finally:
        kept = {key: policy["metadata"][key] for key in ("name", "namespace")}
        second.apply([{**policy, "metadata": kept, "status": None}])
    assert ran.returncode == 2, ran.stdout
    assert columns(ran, DENIED) == ["denied_l4 000/56", "allowed 200/0 FAIL", "yes"]
    assert line_of(ran, LAST, "first").startswith("ok:")
    assert "1 of 2 claims of fleet did not hold" in line_of(ran, LAST, "second")
    assert "Can't use kubeconfig" in line_of(ran, LAST, "third")
    assert [one["verdict"] for one in report(tmp_path)["clusters"]] == ["pass", "fail"]
    suites = ET.parse(tmp_path / "claims/report/junit.xml").getroot()
    assert {suite.get("name"): suite.get("failures") for suite in suites} == {"first: fleet": "0", "second: fleet": "1"}
    assert prove(tmp_path, clusters(lab, second)).returncode == 0
