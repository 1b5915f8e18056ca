# Reads what Helm keeps of its releases, and compares it with what they are to be.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import binascii
import gzip
import json
import os
import typing as t

from .._common.errors import LabError
from .api import Lister

try:
    import yaml
except ImportError:  # the library `kubernetes` brings it along
    yaml = None  # type: ignore[assignment]

Release = dict[str, t.Any]


def outdated(wanted: t.Sequence[t.Mapping[str, t.Any]], namespace: str, reader: Lister) -> list[str]:
    """The releases that are not there, or not as they are wanted, in the order they were given.

    wanted: name, chart, version (of a chart that is no folder) and values of each.

    Raises:
        LabError: when the API does not answer, or refuses.
    """
    names = ",".join(str(item["name"]) for item in wanted)
    secrets = reader.items(f"/api/v1/namespaces/{namespace}/secrets", labelSelector=f"owner=helm,name in ({names})")
    newest: dict[str, Release] = {}
    for secret in secrets:
        release = unpacked(secret)
        if release.get("version", 0) >= newest.get(release.get("name", ""), {}).get("version", 0):
            newest[release.get("name", "")] = release
    return [str(item["name"]) for item in wanted if not _is_as(item, newest.get(item["name"], {}))]


def unpacked(secret: t.Mapping[str, t.Any]) -> Release:
    """The release in a Secret; empty where it is packed in another way.

    Source: Helm's storage driver for Secrets (pkg/storage/driver/util.go): JSON, gzip, base64, and the Secret's own.
    """
    try:
        packed = base64.b64decode(base64.b64decode(secret["data"]["release"]))
        found = json.loads(gzip.decompress(packed))
    except (KeyError, TypeError, ValueError, OSError, EOFError, binascii.Error):
        return {}
    return found if isinstance(found, dict) else {}


def _is_as(wanted: t.Mapping[str, t.Any], release: Release) -> bool:
    """What kubernetes.core.helm compares without helm-diff: state, chart with its versions, and the user's values."""
    chart = (release.get("chart") or {}).get("metadata") or {}
    return (
        (release.get("info") or {}).get("status") == "deployed"
        and _chart(wanted).items() <= {"appVersion": "", **chart}.items()
        and (release.get("config") or {}) == wanted["values"]
    )


def _chart(wanted: t.Mapping[str, t.Any]) -> dict[str, str]:
    """Name and version, and of a folder appVersion too. Raises LabError for a folder without a chart."""
    folder = str(wanted["chart"])
    if not os.path.isdir(folder):
        return {"name": folder.rpartition("/")[2], "version": str(wanted["version"] or "")}
    path = os.path.join(folder, "Chart.yaml")
    try:
        with open(path, encoding="utf-8") as file:
            chart = yaml.safe_load(file)
        known = {"name": chart["name"], "version": chart["version"], "appVersion": chart.get("appVersion") or ""}
        return {key: str(value) for key, value in known.items()}
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise LabError(f"{folder} is no Helm chart ({error}): name the folder of one") from error
