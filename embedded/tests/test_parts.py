"""The recipes: every ingredient is in a part's key, and images are unpacked wherever the cache lies."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import zipfile
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
        tools.pip_install(tmp_path, parts.GRPC_TOOLS)
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


REQUIREMENTS = [
    *((package,) for package in (gobuild.GO_PACKAGE, npm.NODE_PACKAGE, parts.GRPC_TOOLS)),
    *(("-r", str(tools.EMBEDDED / folder / "requirements.txt")) for folder in ("ztunnel", "waypoint")),
]


@pytest.mark.parametrize("given", REQUIREMENTS, ids=lambda given: Path(given[-1]).parts[-2:][0])
def test_a_lock_has_what_is_asked_for_and_digests_of_all_that_it_names(given: tuple[str, ...]) -> None:
    lines = Path(given[1]).read_text().splitlines() if given[0] == "-r" else list(given)
    wanted = {line.partition("#")[0].strip() for line in lines} - {""}
    locked = re.sub(r" \\\n", "", tools.lock_of(*given).read_text()).splitlines()
    assert wanted <= {line.split()[0] for line in locked}
    assert [line for line in locked if not re.fullmatch(r"\S+==\S+( +--hash=sha256:[0-9a-f]{64})+", line)] == []


def test_a_wheel_that_is_not_the_locked_one_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of an index, or a mirror, that somebody else writes to."""
    wheel = tmp_path / "one-1.0-py3-none-any.whl"
    info = {
        "METADATA": "Metadata-Version: 2.1\nName: one\nVersion: 1.0\n",
        "RECORD": "",
        "WHEEL": "Wheel-Version: 1.0\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in {f"one-1.0.dist-info/{name}": text for name, text in info.items()}.items():
            archive.writestr(name, text)
    (tmp_path / "locks").mkdir()
    monkeypatch.setattr(tools, "EMBEDDED", tmp_path)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (tmp_path / "locks/one.txt").write_text(f"one==1.0 --hash=sha256:{digest}\n")
    tools.pip_install(tmp_path / "good", "one==1.0")
    assert (tmp_path / "good/one-1.0.dist-info").is_dir()
    (tmp_path / "locks/one.txt").write_text(f"one==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(LabError, match=digest):
        tools.pip_install(tmp_path / "bad", "one==1.0")
    assert not (tmp_path / "bad").exists()
