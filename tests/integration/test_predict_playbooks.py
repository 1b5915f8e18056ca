"""playbooks/predict.yml, diff.yml, lint.yml and mutate.yml on a folder: what they say, and how they end for CI."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ambient.lab.tests.unit.plugins.module_utils._mesh.test_folder import L4, SHOP, WAYPOINT
from fleet import play

CLIENT = {"from": {"pod": "client", "namespace": "shop"}, "to": {"url": "http://app.shop/", "method": "POST"}}
POST = {"name": "POST is refused", **CLIENT, "expect": "denied_l7"}
GET = {"name": "GET passes", **CLIENT, "to": "http://app.shop/", "expect": "allowed"}


def played(playbook: str, path: Path, **variables: Any) -> tuple[int, str]:
    """Exit code and words of a playbook on the folder `mesh`."""
    given = {"manifests": str(path / "mesh"), **variables}
    ran = play(f"playbooks/{playbook}.yml", "-e", json.dumps(given))
    return ran.returncode, " ".join(ran.stdout.split())


@pytest.fixture(name="mesh")
def fixture_mesh(tmp_path: Path) -> Path:
    """A git repository with the folder `mesh`, whose policy is wider than that of the last commit."""
    (tmp_path / "mesh").mkdir()
    file = tmp_path / "mesh/shop.yaml"
    file.write_text("\n---\n".join([SHOP, WAYPOINT]))
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for words in (["init", "-q"], ["add", "mesh"], ["commit", "-q", "-m", "a"]):
        subprocess.run([*git, *words], check=True)
    file.write_text("\n---\n".join([SHOP, WAYPOINT.replace("[GET]", "[GET, POST]")]))
    return tmp_path


def test_predict_shows_the_table_or_the_answer(mesh: Path) -> None:
    code, text = played("predict", mesh)
    assert code == 0
    assert "Service shop/app:80 GET or POST allowed shop/get rule 0" in text
    code, text = played("predict", mesh, question=CLIENT, revision="HEAD")
    assert (code, "No, shop/client may not call" in text) == (0, True)


def test_diff_ends_with_2_where_something_opens_that_nobody_names(mesh: Path) -> None:
    files = {"results_file": str(mesh / "diff.json"), "junit": str(mesh / "diff.xml"), "old_revision": "HEAD"}
    code, text = played("diff", mesh, **files, markdown=str(mesh / "comment.md"))
    assert (code, "4 opened, 0 unclear, 0 closed" in text) == (2, True)
    assert 'failures="4"' in (mesh / "diff.xml").read_text()
    assert "Something opens" in (mesh / "comment.md").read_text()
    code, text = played("diff", mesh, **files, allow_new=["* -> Service shop/app:80 POST"])
    assert (code, 'failures="0"' in (mesh / "diff.xml").read_text()) == (0, True)


def test_lint_and_mutate_end_with_2_on_what_is_wrong(mesh: Path) -> None:
    (mesh / "mesh/l4.yaml").write_text(L4)
    code, text = played("lint", mesh)
    assert (code, "l4.yaml:5: error: shop/l4: it refuses the waypoint shop/wp" in text) == (2, True)
    (mesh / "mesh/l4.yaml").unlink()
    assert played("lint", mesh)[0] == 0
    code, text = played("mutate", mesh, claims=[POST, GET], revision="HEAD")
    assert (code, "score 100 %" in text) == (0, True)
    code, text = played("mutate", mesh, claims=[GET], revision="HEAD")
    assert (code, "missing claims:" in text) == (2, True)
