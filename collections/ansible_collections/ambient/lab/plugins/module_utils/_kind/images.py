# Archives of images: what is in them, and which nodes do not have it yet.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import hashlib
import json
import tarfile
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._kind.config import full_name


class Image(t.NamedTuple):
    """One name of an image, and the digest of its configuration, by which the kubelet knows it."""

    name: str
    digest: str


def read_archive(path: str) -> frozenset[Image]:
    """The images of an archive as `docker save` writes it: Docker Image Specification v1.2, combined image JSON.

    Raises:
        LabError: when it can't be read or is none.
    """
    try:
        with tarfile.open(path) as archive:
            manifest = json.loads(_content(archive, "manifest.json"))
            found = frozenset(
                Image(full_name(name), "sha256:" + hashlib.sha256(_content(archive, item["Config"])).hexdigest())
                for item in manifest
                for name in item.get("RepoTags") or ()
            )
            if not found:
                raise ValueError("it names no image")
            return found
    except (OSError, tarfile.TarError, ValueError, KeyError, TypeError) as error:
        raise LabError(
            f"image_archives: {path} is no archive of images ({error}): make one with `docker save -o FILE IMAGE`"
        ) from error


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is no file in it")
    return file.read()


def of_node(listed: str) -> frozenset[Image]:
    """The images of a node, from what `crictl images --output json` writes."""
    images = json.loads(listed or "{}").get("images") or ()
    return frozenset(Image(full_name(name), image["id"]) for image in images for name in image.get("repoTags") or ())
