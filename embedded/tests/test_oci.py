"""Container images: what is written is what the OCI Image Specification v1.1 asks for."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ambient_embedded import oci

CONFIG = {"Entrypoint": ["/hello"], "User": "1337:1337", "Env": ["PATH=/bin"]}


def tree(folder: Path, time: int = 1) -> Path:
    """A small program folder whose files carry the given modification time."""
    (folder / "package").mkdir(parents=True)
    for name, mode in (("hello", 0o755), ("package/b.py", 0o644), ("package/a.py", 0o644)):
        (folder / name).write_text(f"content of {name}")
        (folder / name).chmod(mode)
        os.utime(folder / name, (time, time))
    os.utime(folder / "package", (time, time))
    return folder


def layer(target: Path, folder: Path) -> Path:
    files = [(folder / "package", "opt/package"), (folder / "hello", "hello")]
    oci.write_layer(target, files, {"usr/bin/hello": "/hello"})
    return target


@pytest.fixture
def layers(tmp_path: Path) -> tuple[Path, Path]:
    """A base layer and one to stand on it."""
    base, top = layer(tmp_path / "base.tar", tree(tmp_path / "files")), tmp_path / "top.tar"
    oci.write_layer(top, [(tmp_path / "files/hello", "top")])
    return base, top


@pytest.fixture
def layout(tmp_path: Path, layers: tuple[Path, Path]) -> Path:
    """A layout with two images that share their base layer."""
    images = [oci.Image("localhost/lab/one:1", layers[:1], CONFIG), oci.Image("localhost/lab/two:1", layers, CONFIG)]
    oci.write_layout(tmp_path / "layout", images)
    return tmp_path / "layout"


def blob(layout: Path, descriptor: dict[str, Any]) -> bytes:
    """What a descriptor names, once its digest and size are proven."""
    algorithm, digest = descriptor["digest"].split(":")
    data: bytes = (layout / "blobs" / algorithm / digest).read_bytes()
    assert algorithm == "sha256"
    assert hashlib.sha256(data).hexdigest() == digest
    assert len(data) == descriptor["size"]
    return data


def test_every_descriptor_of_the_layout_holds(layout: Path, layers: tuple[Path, Path]) -> None:
    assert json.loads((layout / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((layout / "index.json").read_text())
    assert index["schemaVersion"] == 2
    seen: set[str] = set()
    for entry, name, content in zip(index["manifests"], ("one", "two"), (layers[:1], layers), strict=True):
        assert entry["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
        assert entry["annotations"] == {"io.containerd.image.name": f"localhost/lab/{name}:1"}
        manifest = json.loads(blob(layout, entry))
        assert (manifest["schemaVersion"], manifest["mediaType"]) == (2, entry["mediaType"])
        assert manifest["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
        config = json.loads(blob(layout, manifest["config"]))
        assert config["config"] == CONFIG
        assert (config["os"], config["architecture"]) == ("linux", oci.ARCHITECTURES[os.uname().machine])
        assert config["rootfs"]["type"] == "layers"
        for descriptor, diff_id, file in zip(manifest["layers"], config["rootfs"]["diff_ids"], content, strict=True):
            assert descriptor["mediaType"] == "application/vnd.oci.image.layer.v1.tar"
            assert blob(layout, descriptor) == file.read_bytes()
            assert diff_id == descriptor["digest"]  # not compressed: the diff id is the digest of the same bytes
        seen |= {item["digest"] for item in (entry, manifest["config"], *manifest["layers"])}
    assert {f"sha256:{path.name}" for path in (layout / "blobs/sha256").iterdir()} == seen


def test_a_shared_layer_is_stored_once_and_by_a_link(layout: Path, layers: tuple[Path, Path]) -> None:
    base = layout / "blobs/sha256" / oci.file_digest(layers[0])
    assert base.stat().st_ino == layers[0].stat().st_ino
    assert len(list((layout / "blobs/sha256").iterdir())) == 2 + 2 + 2  # layers, configurations, manifests


def test_layers_with_the_same_content_are_stored_once(tmp_path: Path) -> None:
    same = [layer(tmp_path / f"{number}.tar", tree(tmp_path / number)) for number in ("1", "2")]
    oci.write_layout(tmp_path / "layout", [oci.Image("localhost/lab/one:1", tuple(same), CONFIG)])
    assert len(list((tmp_path / "layout/blobs/sha256").iterdir())) == 1 + 1 + 1


def test_a_layer_is_copied_where_links_are_not_possible(
    tmp_path: Path, layers: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    oci.write_layout(tmp_path / "copied", [oci.Image("localhost/lab/one:1", layers, CONFIG)])
    assert oci.damaged_blob(tmp_path / "copied") is None


def test_layers_and_index_do_not_depend_on_time_owner_or_order(tmp_path: Path) -> None:
    indexes = []
    for number, time in enumerate((1, 1_700_000_000)):
        source = tree(tmp_path / f"files{number}", time)
        if number and os.geteuid() == 0:
            os.chown(source / "hello", 4711, 4711)
        made = layer(tmp_path / f"{number}.tar", source)
        oci.write_layout(tmp_path / f"layout{number}", [oci.Image("localhost/lab/one:1", (made,), CONFIG)])
        indexes.append((tmp_path / f"layout{number}/index.json").read_bytes())
    assert (tmp_path / "0.tar").read_bytes() == (tmp_path / "1.tar").read_bytes()
    assert indexes[0] == indexes[1]


def test_a_layer_keeps_names_modes_and_links(layers: tuple[Path, Path]) -> None:
    with tarfile.open(layers[0]) as archive:
        members = {member.name: member for member in archive.getmembers()}
        assert {name for name, member in members.items() if member.isfile()} == {
            "hello", "opt/package/a.py", "opt/package/b.py",
        }  # fmt: skip
        assert (members["hello"].mode & 0o777, members["opt/package/a.py"].mode & 0o777) == (0o755, 0o644)
        assert (members["usr/bin/hello"].issym(), members["usr/bin/hello"].linkname) == (True, "/hello")
        assert {(member.uid, member.gid, member.mtime) for member in members.values()} == {(0, 0, 0)}


@pytest.mark.parametrize("damage", ["one bit", "cut short", "empty"])
def test_a_damaged_blob_is_found(layout: Path, layers: tuple[Path, Path], damage: str) -> None:
    assert oci.damaged_blob(layout) is None
    victim = layout / "blobs/sha256" / oci.file_digest(layers[1])
    data = victim.read_bytes()
    bad = {"one bit": bytes([data[0] ^ 1]) + data[1:], "cut short": data[:-1], "empty": b""}[damage]
    victim.unlink()
    victim.write_bytes(bad)
    assert oci.damaged_blob(layout) == victim
