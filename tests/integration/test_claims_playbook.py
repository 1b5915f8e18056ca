"""playbooks/claims.yml where no cluster answers, or there is none: what is wrong is said, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet import line_of, play, prove

LAST = "Every claim of every cluster holds"
CLAIM = {"name": "a calls b", "from": {"pod": "a"}, "to": "http://b/", "expect": "allowed"}


def test_each_cluster_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_text("claims: []\n")
    ran = prove(
        tmp_path,
        {
            "unasked": {},
            "unfound": {"claims_file": "none.yml"},
            "empty": {"claims_file": "mine.yml"},
            "unknown": {"claims": [{**CLAIM, "form": "a typing error"}]},
            "unreachable": {"claims": [CLAIM], "cluster_kubeconfig": str(tmp_path / "none")},
        },
        "--check",
    )
    assert ran.returncode == 2
    said = {name: line_of(ran, LAST, name) for name in ("unasked", "unfound", "empty", "unknown", "unreachable")}
    assert said["unasked"].endswith("There are no claims: set claims, or claims_file to a YAML file with claims in it")
    assert f"{tmp_path}/none.yml (claims_file) does not exist" in said["unfound"]
    assert "claims is empty" in said["empty"]
    assert "Invalid claims" in said["unknown"]
    assert "Can't use kubeconfig" in said["unreachable"]
    assert not (tmp_path / "claims").exists()
    assert "Write the report" not in ran.stdout


def test_an_older_run_says_nothing_of_a_cluster_that_does_not_answer_now(tmp_path: Path) -> None:
    old = tmp_path / "claims/unreachable/results.json"
    old.parent.mkdir(parents=True)
    old.write_text('{"fleet": {}}')
    ran = prove(tmp_path, {"unreachable": {"claims": [CLAIM], "cluster_kubeconfig": str(tmp_path / "none")}})
    assert ran.returncode == 2
    assert line_of(ran, LAST, "unreachable")
    assert not (tmp_path / "claims/report").exists()


def test_a_wrong_path_of_an_inventory_is_an_error(tmp_path: Path) -> None:
    ran = play("-i", str(tmp_path / "none.yml"), "playbooks/claims.yml")
    assert ran.returncode == 1, ran.stdout
    words = " ".join(ran.stdout.split())
    assert f"Unable to parse {tmp_path}/none.yml as an inventory source" in words
    assert "No inventory was parsed" in words
    assert "PLAY" not in words


@pytest.mark.parametrize("content", ["", "all: {hosts: {}}\n"])
def test_an_inventory_without_clusters_is_an_error(tmp_path: Path, content: str) -> None:
    inventory = tmp_path / "fleet.yml"
    inventory.write_text(content)
    ran = play("-i", str(inventory), "playbooks/claims.yml")
    assert ran.returncode == 2, ran.stdout
    assert line_of(ran, "Refuse tags and variables that nobody knows", "localhost").endswith(
        "The inventory has no host in the group `all`, so this run would do nothing"
    )
    assert "Check the cluster" not in ran.stdout
