"""The collection's tarball has what git knows and nothing else, and is used from another folder with Ansible alone."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
import yaml
from installed import build, install, used
from programs import output
from project import COLLECTION, ROOT, tracked

# What tools leave in a folder that they have worked in.
LEFTOVERS = (
    ".mypy_cache/3.11/cache.json",
    ".ansible/collections/x",
    "plugins/.ruff_cache/x",
    "plugins/modules/__pycache__/ready.cpython-311.pyc",
    "tests/output/junit/x.xml",
    "tests/unit/.hypothesis/x",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has the collection, and nothing else."""
    made = tmp_path_factory.mktemp("installed")
    install(made)
    return made


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """An empty folder."""
    return tmp_path


def test_the_tarball_has_what_git_knows(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    target.mkdir()
    shutil.copytree(COLLECTION, source)
    for name in LEFTOVERS:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("left")
    with tarfile.open(build(target, source)) as tarball:
        packed = {member.name for member in tarball if member.isfile()}
    prefix = f"{COLLECTION.relative_to(ROOT)}/"
    known = {path.removeprefix(prefix) for path in tracked(prefix)}
    assert packed == (known - {"galaxy.yml"}) | {"MANIFEST.json", "FILES.json"}


@pytest.mark.parametrize("what", ["module", "callback"])
def test_ansible_doc_lists_every_plugin(folder: Path, elsewhere: Path, what: str) -> None:
    plugins = COLLECTION / "plugins" / {"module": "modules"}.get(what, what)
    shown = used(folder, "ansible-doc", "--json", "--list", "--type", what, "ambient.lab", at=elsewhere)
    assert set(json.loads(shown.stdout)) == {f"ambient.lab.{path.stem}" for path in plugins.glob("*.py")}, shown.stderr


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        ("curl_outcomes", {"claims": []}, "claims is empty"),
        ("claims_report", {"results": []}, "results is empty"),
        ("lab_info", {"lab_dir": "none"}, "write its facts with ambient.lab.lab_facts first"),
        ("link_encryption", {"claims": [], "interface": "lo"}, "claims is empty"),
        ("policy_ready", {"policies": ["one"]}, "must be namespace/name of an AuthorizationPolicy"),
    ],
)
def test_what_is_wrong_is_one_line(
    folder: Path, elsewhere: Path, module: str, arguments: dict[str, object], words: str
) -> None:
    ran = used(folder, "ansible", "localhost", "-m", f"ambient.lab.{module}", "-a", json.dumps(arguments), at=elsewhere)
    assert ran.returncode == 2
    (line,) = [line for line in (ran.stdout + ran.stderr).splitlines() if line.startswith("fatal: ")]
    assert words in line
    assert "Traceback" not in ran.stdout + ran.stderr


def test_an_execution_environment_gets_what_the_modules_import(tmp_path: Path) -> None:
    found = yaml.safe_load(output(["ansible-builder", "introspect", ROOT / "collections"]))
    assert {line.partition(" ")[0] for line in found["python"]} == {"kubernetes", "jmespath"}
    output(["ansible-builder", "create", "-f", ROOT / "execution-environment.yml", "-c", tmp_path])
    assert (tmp_path / "_build/requirements.txt").is_file()
