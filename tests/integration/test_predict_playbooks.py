"""playbooks/predict.yml, diff.yml, lint.yml, mutate.yml on a folder: what docs/how-to shows, how they end for CI."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fleet import play
from project import ROOT

HOW_TO = ROOT / "docs/how-to"
CLIENT = {"from": {"pod": "client", "namespace": "shop"}, "to": {"url": "http://app.shop/orders", "method": "POST"}}
POST = {"name": "POST is refused", **CLIENT, "expect": "denied_l7"}
GET = {"name": "GET passes", **CLIENT, "to": "http://app.shop/", "expect": "allowed"}
BAD = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: a, namespace: shop}
spec: {action: REFUSE, rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: b, namespace: shop}
spec: {rules: [{from: [{source: {serviceAccounts: ["a*"]}}]}]}
"""


def played(playbook: str, path: Path, **variables: Any) -> tuple[int, str]:
    """Exit code and words of a playbook on the folder `mesh`, with paths as the pages shorten them."""
    given = {"manifests": str(path / "mesh"), **variables}
    ran = play(f"playbooks/{playbook}.yml", "-e", json.dumps(given))
    return ran.returncode, " ".join(ran.stdout.replace(f"{path}/", "").split())


def missing(page: str, start: str, text: str) -> list[str]:
    """Lines of a page's example, which starts with some words, that a run has not printed."""
    block = (HOW_TO / page).read_text().partition(f"```\n{start}")[2].partition("\n```")[0]
    lines = [" ".join(line.split()) for line in f"{start}{block}".splitlines()]
    assert block
    return [line for line in lines if line not in ("", "...") and line not in text]


@pytest.fixture(name="mesh")
def fixture_mesh(tmp_path: Path) -> Path:
    """A git repository with the folder `mesh` of the pages, whose policy is wider than that of the last commit."""
    file = Path(shutil.copytree(HOW_TO / "mesh", tmp_path / "mesh")) / "shop.yaml"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for words in (["init", "-q"], ["add", "mesh"], ["commit", "-q", "-m", "a"]):
        subprocess.run([*git, *words], check=True)
    file.write_text(file.read_text().replace("[GET]", "[GET, POST]"))
    return tmp_path


def test_predict_shows_the_table_or_the_answer(mesh: Path) -> None:
    code, text = played("predict", mesh)
    assert code == 0
    assert "Service shop/app:80 GET or POST allowed shop/get rule 0" in text
    code, text = played("predict", mesh, revision="HEAD")
    assert (code, missing("predict.md", "FROM", text)) == (0, [])
    code, text = played("predict", mesh, question=CLIENT, revision="HEAD")
    assert (code, missing("predict.md", "No, shop/client", text)) == (0, [])
    (mesh / "mesh/bad.yaml").write_text(BAD)
    code, text = played("predict", mesh)
    assert (code, missing("predict.md", "mesh/bad.yaml:4", text)) == (2, [])


def test_diff_ends_with_2_where_something_opens_that_nobody_names(mesh: Path) -> None:
    names = ("diff.json", "diff.xml", "diff.html", "comment.md")
    files = dict(zip(("results_file", "junit", "html", "markdown"), (str(mesh / name) for name in names), strict=True))
    code, text = played("diff", mesh, **files, old_revision="HEAD")
    assert (code, missing("diff.md", "mesh at HEAD", text)) == (2, [])
    assert 'failures="4"' in (mesh / "diff.xml").read_text()
    assert "Something opens" in (mesh / "comment.md").read_text()
    assert "What the change opens and closes" in (mesh / "diff.html").read_text()
    code, text = played("diff", mesh, **files, old_revision="HEAD", allow_new=["* -> Service shop/app:80 POST"])
    assert (code, 'failures="0"' in (mesh / "diff.xml").read_text()) == (0, True)


def test_lint_and_mutate_end_with_2_on_what_is_wrong(mesh: Path) -> None:
    assert played("lint", mesh)[0] == 0
    file = mesh / "mesh/shop.yaml"
    file.write_text(file.read_text().replace("/sa/wp", "/sa/client"))
    assert played("lint", mesh, policies=["shop/g*"])[0] == 0
    code, text = played("lint", mesh)
    assert (code, missing("lint.md", "1 findings", text)) == (2, [])
    code, text = played("mutate", mesh, claims=[GET], revision="HEAD")
    assert (code, missing("mutate.md", "score 33", text.replace("HEAD:", "mesh/"))) == (2, [])
    code, text = played("mutate", mesh, claims=[POST, GET], revision="HEAD", only=["* shop/get: *"])
    assert (code, "score 100 %: 6 of 6 mutants" in text) == (0, True)
