"""The roles' policies and claims, by the role policy_proof: mutation scores, findings, and when they fail."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
import yaml
from fleet import play
from project import ROOT
from test_predictions import lab_objects

LAB = {"ansible_connection": "local", "lab": {"disposable": True}}
ONE = [{"name": "mine", "from": {"pod": "curl-allow"}, "to": "http://sample-app:8080/", "expect": "allowed"}]
# By name one of the lab's own lists, which notices less.
WEAK = [{**ONE[0], "name": name} for name in ("curl-allow reaches sample-app", "curl-deny is cut off by ztunnel")]
HOSTS: dict[str, dict[str, Any]] = {
    "l4": {"role": "l4_authz"},
    "l7": {"role": "l7_waypoint"},
    "own": {"role": "l4_authz", "l4_authz_claims": ONE},
    "strict": {"role": "l4_authz", "l4_authz_claims": ONE, "l4_authz_min_score": 90},
    "red": {"role": "l4_authz", "l4_authz_claims": [{**ONE[0], "expect": "denied_l4"}]},
    "weak": {"role": "l4_authz", "l4_authz_claims": WEAK},
    "foreign": {"role": "l4_authz", "l4_authz_claims": WEAK, "lab": {"disposable": False}},
}


@dataclasses.dataclass(frozen=True)
class Said:
    """What the play has printed, and by host what it has kept of the claims."""

    text: str
    kept: dict[str, dict[str, Any]]


@pytest.fixture(scope="module", name="said")
def fixture_said(tmp_path_factory: pytest.TempPathFactory) -> Said:
    """A play of that task file alone, in labs that are what the roles apply."""
    path = tmp_path_factory.mktemp("score")
    for role in ("l4_authz", "l7_waypoint"):
        (path / "roles" / role / "tasks").mkdir(parents=True)
        for part in ("defaults", "vars", "templates"):
            (path / "roles" / role / part).symlink_to(ROOT / "roles" / role / part)
        given = {"policy_proof_part": "{{ __" + role + "_part }}"}
        task = {"ansible.builtin.include_role": {"name": "policy_proof", "tasks_from": "mutation"}, "vars": given}
        (path / "roles" / role / "tasks/main.yml").write_text(json.dumps([task]))
    (path / "roles/policy_proof").symlink_to(ROOT / "roles/policy_proof")
    (path / "mesh").mkdir()
    (path / "mesh/lab.yaml").write_text(yaml.safe_dump_all(lab_objects()))
    hosts = {name: {**LAB, "lab_dir": str(path / name), **given} for name, given in HOSTS.items()}
    for name in hosts:
        (path / name).mkdir()
    (path / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}))
    folder = {"manifests": str(path / "mesh")}
    modules = {"ambient.lab.policy_lint": folder, "ambient.lab.claims_mutation": folder}
    tasks = [{"ansible.builtin.include_role": {"name": "{{ role }}"}}]
    (path / "play.json").write_text(
        json.dumps([{"hosts": "all", "gather_facts": False, "module_defaults": modules, "tasks": tasks}])
    )
    ran = play("-i", str(path / "hosts.json"), str(path / "play.json"), ANSIBLE_ROLES_PATH=str(path / "roles"))
    results = {name: json.loads((path / name / "results.json").read_text()) for name in hosts}
    return Said(ran.stdout, {name: results[name][given["role"]]["mutation"] for name, given in HOSTS.items()})


def test_the_labs_own_claims_must_notice_all_and_a_users_list_what_is_asked_for(said: Said) -> None:
    assert {name: (kept["score"], kept["min_score"]) for name, kept in said.kept.items()} == {
        "l4": (100, 100),
        "l7": (100, 100),
        "own": (57, 0),
        "strict": (57, 90),
        "red": (None, 0),
        "weak": (57, 100),
        "foreign": (57, 0),
    }
    recap = said.text.partition("PLAY RECAP")[2]
    assert {*re.findall(r"(\w+) +: .* failed=1 ", recap)} == {"strict", "weak"}


def test_what_the_lab_leaves_open_is_explained_and_survivors_are_named(said: Said) -> None:
    # The last task shows it.
    shown = {name: said.text.rpartition(f"\nok: [{name}]")[2].partition("\n\nTASK")[0] for name in HOSTS}
    l4, l7 = (shown[name].partition("\nok: ")[0] for name in ("l4", "l7"))
    assert "score 100 %: 7 of 7 mutants are killed" in l4
    assert "[no-identity]\n          The lab shows" in l4
    assert "score 100 %: 8 of 8 mutants are killed" in l7
    assert "[open-by-pod-ip]\n          The lab shows" in l7
    assert "mend:" not in l4 + l7
    assert "        survives: AuthorizationPolicy default/layer4-authz: removed\n" in shown["own"]
