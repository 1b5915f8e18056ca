"""playbooks/report.yml as it is run, on results without a cluster: one lab, a fleet, nothing, a lab without Kiali."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from ansible_collections.ambient.lab.tests.unit.fakes import report as fakes
from fleet import Ran, play

PICTURES = {f"{section}-{phase}.svg" for section in ("l4_authz",) for phase in ("before", "after")}
FILES = {"index.html", "junit.xml", "report.json", "report.schema.json"}


def run(folder: Path, *labs: str, arguments: tuple[str, ...] = ()) -> Ran:
    """Run the playbook for labs whose folders are in a folder."""
    hosts = "\n".join(f"host-{name} cluster_name={name} lab_dir={folder}/{name}" for name in labs)
    inventory = folder / "hosts.ini"
    inventory.write_text(f"[lab]\n{hosts}\n[lab:vars]\nansible_python_interpreter={sys.executable}\n")
    return play("-i", str(inventory), "playbooks/report.yml", *arguments, ANSIBLE_LOCAL_TEMP=str(folder / "tmp"))


def lab(folder: Path, name: str, results: object) -> Path:
    """A lab's folder with results; where its report goes."""
    (folder / name).mkdir()
    (folder / name / "results.json").write_text(json.dumps(results))
    return folder / name / "report"


def test_one_lab(tmp_path: Path) -> None:
    report = lab(tmp_path, "mine", fakes.lab(broken=True))
    planned = run(tmp_path, "mine", arguments=("--check",))
    assert (planned.returncode, report.exists()) == (0, False), planned.stdout
    ran = run(tmp_path, "mine")
    assert ran.returncode == 0, ran.stdout
    assert {item.name for item in report.iterdir()} == FILES | PICTURES
    assert re.search(r"^POST is refused by the .* allowed 200/0", ran.stdout, re.MULTILINE)
    assert json.loads((report / "report.json").read_text())["verdict"] == "error"
    again = run(tmp_path, "mine")
    assert "changed=0" in again.stdout


def test_a_fleet_has_one_report_and_a_lab_without_kiali_no_pictures(tmp_path: Path) -> None:
    plain = {"l4_authz": fakes.section(fakes.claim("c", None, fakes.denial()))}
    first, second = lab(tmp_path, "one", fakes.lab()), lab(tmp_path, "two", plain)
    ran = run(tmp_path, "one", "two")
    assert ran.returncode == 0, ran.stdout
    found = json.loads((first / "report.json").read_text())
    assert [cluster["name"] for cluster in found["clusters"]] == ["one", "two"]
    suites = ET.parse(first / "junit.xml").getroot()
    assert [suite.get("name") for suite in suites][:2] == ["one: l4_authz", "two: l4_authz"]
    assert {item.name for item in first.iterdir()} == FILES | PICTURES
    assert list(second.iterdir()) == []


def test_nothing_was_checked_yet(tmp_path: Path) -> None:
    ran = run(tmp_path, "mine")
    assert ran.returncode == 2
    assert f"No results in {tmp_path}/mine/results.json (cluster mine): check claims with" in ran.stdout
    assert not (tmp_path / "mine").exists()
