"""OCI images: layers as reproducible tar files, and the image layout that containerd imports.

Formats: OCI Image Specification v1.1 (image-layout, manifest, config). Layers stay uncompressed, so that a
layer's digest is its diff id and nothing is compressed only to be decompressed at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Image:
    """An image to make: its name (``registry/name:tag``), layer files bottom first, and its configuration."""

    reference: str
    layers: tuple[Path, ...]
    config: Mapping[str, Any]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """What is not content (owner, time) is the same in every build."""
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    info.mtime = 0
    return info


def write_layer(target: Path, files: Iterable[tuple[Path, str]], links: Mapping[str, str] | None = None) -> None:
    """Write a layer that holds ``(source file or folder, path in the image)`` pairs.

    :param links: symbolic links to make: path in the image to what it points to.
    """
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as layer:
        for source, path in sorted(files, key=lambda pair: pair[1]):
            layer.add(source, arcname=path, filter=_plain)
        for path, destination in sorted((links or {}).items()):
            info = tarfile.TarInfo(path)
            info.type, info.linkname = tarfile.SYMTYPE, destination
            layer.addfile(info)


def _add_blob(layout: Path, data: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


def _add_layer(layout: Path, layer: Path) -> dict[str, Any]:
    """A layer becomes a blob by a hard link: the cache holds its bytes once."""
    digest = file_digest(layer)
    blob = layout / "blobs/sha256" / digest
    if not blob.exists():
        try:
            os.link(layer, blob)
        except OSError:
            shutil.copyfile(layer, blob)
    return {"mediaType": LAYER_TYPE, "digest": f"sha256:{digest}", "size": layer.stat().st_size}


def write_layout(layout: Path, images: Iterable[Image]) -> None:
    """Write an OCI image layout that holds the images; ``index.json`` is the same for the same content."""
    (layout / "blobs/sha256").mkdir(parents=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    known: dict[Path, dict[str, Any]] = {}
    manifests = []
    for image in images:
        for layer in set(image.layers) - known.keys():
            known[layer] = _add_layer(layout, layer)
        layers = [known[layer] for layer in image.layers]
        config = {
            "architecture": ARCHITECTURES[os.uname().machine],
            "os": "linux",
            "config": dict(image.config),
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, **_add_blob(layout, json.dumps(config).encode())},
            "layers": layers,
        }
        manifests.append(
            {
                "mediaType": MANIFEST_TYPE,
                **_add_blob(layout, json.dumps(manifest).encode()),
                # containerd names the image after this annotation.
                "annotations": {"io.containerd.image.name": image.reference},
            }
        )
    index = {"schemaVersion": 2, "manifests": manifests}
    (layout / "index.json").write_text(json.dumps(index, indent=1))


def damaged_blob(layout: Path) -> Path | None:
    """The first blob that is not what its name, a SHA-256 digest, says; None when all are."""
    blobs = sorted((layout / "blobs/sha256").iterdir())
    return next((blob for blob in blobs if file_digest(blob) != blob.name), None)
