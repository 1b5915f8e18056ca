"""The collection's tarball, used on the running lab from another folder: a check of claims, a report, a red claim."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from installed import install, used
from running_lab import Lab

PLAYBOOK = """
- name: Who may call whom
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Check the claims
      ambient.lab.curl_outcomes:
        kubeconfig: "{{ kubeconfig }}"
        namespace: default
        claims:
          - {name: curl-allow gets an answer, from: {pod: curl-allow}, to: "http://sample-app:8080/", expect: allowed}
          - name: curl-deny gets none
            from: {pod: curl-deny}
            to: http://sample-app:8080/
            expect: "{{ denied }}"
            by: default/layer4-authz
        # A claim that does not hold is waited for; here nobody need wait long.
        timeout: 2
        results_file: "{{ playbook_dir }}/results.json"
        section: mine

    - name: Write the page
      ambient.lab.claims_report:
        results: [{cluster: lab, path: "{{ playbook_dir }}/results.json"}]
        html: "{{ playbook_dir }}/report.html"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has the collection, and nothing else."""
    made = tmp_path_factory.mktemp("installed")
    install(made)
    return made


@pytest.mark.parametrize(("denied", "code", "verdict"), [("denied_l4", 0, "pass"), ("denied_l7", 2, "fail")])
def test_a_playbook_of_ones_own(lab: Lab, folder: Path, tmp_path: Path, denied: str, code: int, verdict: str) -> None:
    (tmp_path / "prove.yml").write_text(PLAYBOOK)
    given = json.dumps({"kubeconfig": lab.facts["kubeconfig"], "denied": denied})
    ran = used(folder, "ansible-playbook", "prove.yml", "--extra-vars", given, at=tmp_path)
    assert ran.returncode == code, ran.stdout + ran.stderr
    section = json.loads((tmp_path / "results.json").read_text())["mine"]
    assert section["after"]["verdict"] == verdict
    allowed, refused = section["after"]["claims"]
    assert allowed["seen"]["outcome"] == "allowed"
    assert (refused["seen"]["outcome"], refused["decided_by"], refused["policy"]) == (
        "denied_l4",
        "ztunnel",
        "default/layer4-authz",
    )
    # The report is written of what holds; a red claim ends the play before it.
    assert (tmp_path / "report.html").exists() == (code == 0)
