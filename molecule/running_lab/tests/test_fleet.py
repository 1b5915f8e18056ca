"""A fleet of two (docs/how-to/fleet.md): the lab's application, and the namespace `faults` as if of another cluster."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import fault_world as world
import pytest
from fleet import Ran, line_of, prove
from project import defaults
from running_lab import Lab

LAST = "Every claim of every cluster holds"
DENIED = "curl-deny is cut off by ztunnel"
CUT_OFF = {"denied_l4 000/52", "denied_l4 000/56"}

pytestmark = pytest.mark.usefixtures("faults")


def clusters(lab: Lab) -> dict[str, dict[str, Any]]:
    """Two clusters by their names: the L4 part's claims as they are written, and claims of the same names."""
    named = {"by": "default/layer4-authz"}
    first = [claim | named if "by" in claim else claim for claim in defaults("l4_authz")["l4_authz_claims"]]
    second = [{**claim, "name": own["name"]} for claim, own in zip(world.CLAIMS, first, strict=True)]
    shared = {"cluster_kubeconfig": str(lab.folder / "kubeconfig"), "claims_timeout": 8}
    return {"first": {**shared, "claims": first}, "second": {**shared, "claims": second}}


def report(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "claims/report/report.json").read_text())
    return loaded


def shown(ran: Ran, claim: str) -> list[list[str]]:
    """The rows of a claim in the report's table: clusters that are alike, and what was seen."""
    table = ran.stdout.partition("\nCLUSTERS ")[2].partition("\n\n")[0].splitlines()
    return [[part.strip() for part in line.split(claim)] for line in table if claim in line]


def test_the_same_claims_hold_in_both(lab: Lab, tmp_path: Path) -> None:
    planned = prove(tmp_path, clusters(lab), "--check")
    assert (planned.returncode, (tmp_path / "claims").exists()) == (0, False), planned.stdout
    ran = prove(tmp_path, clusters(lab))
    assert ran.returncode == 0, ran.stdout
    ((clusters_alike, seen),) = shown(ran, DENIED)
    assert (clusters_alike, seen in CUT_OFF) == ("", True)
    found = report(tmp_path)
    assert (found["verdict"], [one["name"] for one in found["clusters"]]) == ("pass", ["first", "second"])


def test_a_policy_that_one_has_lost_and_a_cluster_that_is_gone(lab: Lab, tmp_path: Path) -> None:
    with world.applied(lab, {}, world.policy()):
        gone = {"third": {**clusters(lab)["first"], "cluster_kubeconfig": str(tmp_path / "none")}}
        ran = prove(tmp_path, clusters(lab) | gone)
    assert ran.returncode == 2, ran.stdout
    usual, other = shown(ran, DENIED)
    assert (usual[1] in CUT_OFF, other) == (True, ["second", "allowed 200/0 FAIL"])
    assert line_of(ran, LAST, "first").startswith("ok:")
    assert "1 of 2 claims of fleet did not hold" in line_of(ran, LAST, "second")
    assert "Can't use kubeconfig" in line_of(ran, LAST, "third")
    assert [one["verdict"] for one in report(tmp_path)["clusters"]] == ["pass", "fail"]
    suites = ET.parse(tmp_path / "claims/report/junit.xml").getroot()
    assert {suite.get("name"): suite.get("failures") for suite in suites} == {"first: fleet": "0", "second: fleet": "1"}
