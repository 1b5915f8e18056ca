"""The graph page as a part: npm of this machine or from PyPI, exactly what the lock file names, errors that help."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from ambient_embedded import cache, npm
from ambient_embedded.errors import LabError
from ambient_embedded.npm import Npm
from ambient_embedded.tools import EMBEDDED

PAGE = EMBEDDED / npm.PAGE


def built(folder: Path) -> dict[str, bytes]:
    """Build the part in a cache of its own; the files that it consists of."""
    tool = Npm(folder / "cache", folder / "work")
    tool.cache.mkdir()
    parts = [*tool.console.needs, tool.console]
    assert cache.build(tool.cache, parts, lambda _: None) == parts
    top = tool.console.folder(tool.cache)
    return {str(file.relative_to(top)): file.read_bytes() for file in top.rglob("*") if file.is_file()}


@pytest.fixture
def no_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without Node.js: of the programs only what pip needs is found."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def test_the_page_and_its_library_are_one_folder(tmp_path: Path) -> None:
    files = built(tmp_path)
    own = {str(file.relative_to(PAGE)) for file in PAGE.rglob("*")} - set(npm.PACKAGE_FILES)
    assert set(files) == own | set(npm.LIBRARY.values())
    assert files["index.html"] == (PAGE / "index.html").read_bytes()
    version = json.loads((PAGE / "package.json").read_text())["dependencies"]["cytoscape"]
    assert f'"{version}"'.encode() in files["cytoscape.esm.min.mjs"]


@pytest.mark.usefixtures("no_npm")
def test_without_node_the_same_comes_by_pypi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing stays where temporary files are: newer ones keep what they have compiled there."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    assert npm.installed_npm() is None
    files = built(tmp_path)
    assert list((tmp_path / "temporary").iterdir()) == []
    assert files["index.html"] == (PAGE / "index.html").read_bytes()
    assert b"cytoscape" in files["cytoscape.esm.min.mjs"]


def test_what_npm_delivers_is_checked_and_its_error_names_a_fix(tmp_path: Path) -> None:
    """A lock file with another checksum stands for a registry that delivers something else."""
    package, folder = tmp_path / "package", tmp_path / "folder"
    folder.mkdir()
    shutil.copytree(PAGE, package)
    lock = json.loads((package / "package-lock.json").read_text())
    lock["packages"]["node_modules/cytoscape"]["integrity"] = "sha512-" + "A" * 86 + "=="
    (package / "package-lock.json").write_text(json.dumps(lock))
    tool = Npm(tmp_path / "cache", tmp_path / "work")
    tool.cache.mkdir()
    cache.build(tool.cache, tool.console.needs, lambda _: None)
    with pytest.raises(LabError, match=r"(?s)EINTEGRITY.*npm ping"):
        tool.install(package, folder)


def test_the_lock_file_fits_and_names_no_registry() -> None:
    """Whoever builds uses the registry that their npm is set to."""
    lock = json.loads((PAGE / "package-lock.json").read_text())
    assert lock["packages"][""]["dependencies"] == json.loads((PAGE / "package.json").read_text())["dependencies"]
    assert all("resolved" not in package for package in lock["packages"].values())
    assert all("integrity" in package for name, package in lock["packages"].items() if name)
