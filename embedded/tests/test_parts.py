"""The recipes: every ingredient is in a part's key, and images are unpacked wherever the cache lies."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import pytest
from ambient_embedded import gobuild, npm, oci, parts, tools
from ambient_embedded.errors import LabError
from ambient_embedded.parts import Bill


@pytest.mark.parametrize(
    ("module", "name", "other", "changed"),
    [
        (parts, "CHARTS", {"base": "elsewhere"}, {"sources"}),
        (parts, "DOCUMENTATION", (), {"node-image"}),
        (npm, "OPTIONS", (), {"console"}),
        (npm, "LIBRARY", {**npm.LIBRARY, "LICENSE": "LICENSE"}, {"console"}),
        (gobuild, "BUILD_FLAGS", (), {"sources", "go-kubernetes-istio", "go-containerd", "go-kiali"}),
        (gobuild, "ENVIRONMENT", {}, {"sources", "go-kubernetes-istio", "go-containerd", "go-kiali"}),
    ],
)
def test_every_ingredient_changes_the_key(
    module: Any, name: str, other: object, changed: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {part.name: part.key for part in Bill(tmp_path).parts()}
    monkeypatch.setattr(module, name, other)
    after = {part.name: part.key for part in Bill(tmp_path).parts()}
    assert {part for part in before if before[part] != after[part]} >= changed


def test_after_the_last_words_of_what_fails_comes_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pip.py").write_text("raise SystemExit('no route to host')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(LabError, match=r"no route to host\nIs PyPI within reach\? PIP_INDEX_URL"):
        tools.pip_install(tmp_path, "anything")
    with pytest.raises(LabError, match=r"status 1:\Z"):
        tools.run(["false"])
    (tmp_path / "mmdebstrap").write_text("#!/bin/sh\necho no route to host >&2\nexit 25\n")
    (tmp_path / "mmdebstrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(LabError, match=r"no route to host\nIs the public mirror of sid within reach\?"):
        tools.debian_install(tmp_path / "tree", "sid", ["bash"])


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """An OCI layout with one small image."""
    (tmp_path / "file").write_text("content")
    oci.write_layer(tmp_path / "layer.tar", [(tmp_path / "file", "file")])
    oci.write_layout(tmp_path / "layout", [oci.Image("localhost/unit/one:1", (tmp_path / "layer.tar",), {})])
    return tmp_path / "layout"


@pytest.mark.root
def test_images_are_unpacked_below_a_long_path_with_a_space(programs: Path, layout: Path, tmp_path: Path) -> None:
    store = tmp_path / "a b" / ("x" * 100)
    store.mkdir(parents=True)
    parts.unpack_images(programs, layout, store)
    (file,) = store.rglob("snapshots/*/fs/file")
    assert file.read_text() == "content"


@pytest.mark.root
def test_a_containerd_that_fails_has_the_last_word(layout: Path, tmp_path: Path) -> None:
    for name, does in (("containerd", "echo the disk is full; exit 1"), ("ctr", "cat > /dev/null; exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(LabError, match="the disk is full"):
        parts.unpack_images(tmp_path, layout, tmp_path)


@pytest.mark.parametrize(
    ("release", "suite"),
    [
        ({"ID": "debian", "VERSION_CODENAME": "bookworm"}, "bookworm"),
        ({"ID": "linuxmint", "VERSION_CODENAME": "zena", "UBUNTU_CODENAME": "noble"}, "noble"),
        ({"ID": "linuxmint", "VERSION_CODENAME": "gigi", "DEBIAN_CODENAME": "trixie"}, "trixie"),
        ({"ID": "fedora", "VERSION_CODENAME": ""}, "stable"),
        ({}, "stable"),
    ],
)
def test_a_derivatives_node_is_of_the_release_that_it_is_made_of(
    release: dict[str, str], suite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    assert tools.debian_release()["VERSION_CODENAME"] == suite
