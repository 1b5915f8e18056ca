# Helm's releases: only one that is there, deployed, of this chart and with these values needs no helm.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import gzip
import json
import pathlib
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._cluster.releases_info import outdated
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError

Object = dict[str, t.Any]
VALUES = {"profile": "ambient", "replicas": 1}


class Reader:
    """Answers with these Secrets, and remembers what it was asked."""

    def __init__(self, *secrets: Object) -> None:
        self.secrets = list(secrets)
        self.asked: list[tuple[str, dict[str, str]]] = []

    def items(self, path: str, **query: str) -> list[Object]:
        self.asked.append((path, query))
        return self.secrets


def secret(revision: int = 1, status: str = "deployed", version: str = "1.0", **changes: Object | None) -> Object:
    """A release as Helm 3 keeps it, with these values of the user's; changes may be another `config`."""
    config = {"config": VALUES, **changes}["config"]
    chart = {"metadata": {"name": "istiod", "version": version}, "templates": []}
    release = {"name": "istiod", "version": revision, "info": {"status": status}, "chart": chart, "config": config}
    packed = base64.b64encode(gzip.compress(json.dumps(release).encode()))
    return {"data": {"release": base64.b64encode(packed).decode()}}


def wanted(folder: pathlib.Path, **changes: t.Any) -> Object:
    """The release as it is to be: of a chart in a folder."""
    (folder / "Chart.yaml").write_text("{name: istiod, version: '1.0'}")
    return {"name": "istiod", "chart": str(folder), "version": None, "values": VALUES, **changes}


@pytest.mark.parametrize(
    ("secrets", "is_as"),
    [
        ([secret()], True),
        ([secret(2), secret(1, "superseded", config={})], True),
        ([], False),
        ([secret(1), secret(2, "failed")], False),
        ([secret(1), secret(2, "pending-upgrade")], False),
        ([secret(version="0.9")], False),
        ([secret(config={**VALUES, "replicas": 2})], False),
        ([secret(config=None)], False),
        ([{"data": {"release": "AAAA"}}], False),
        ([{"data": None}], False),
    ],
)
def test_what_needs_helm(tmp_path: pathlib.Path, secrets: list[Object], is_as: bool) -> None:
    reader = Reader(*secrets)
    assert outdated([wanted(tmp_path)], "istio-system", reader) == ([] if is_as else ["istiod"])
    path, query = reader.asked[0]
    assert path == "/api/v1/namespaces/istio-system/secrets"
    assert query == {"labelSelector": "owner=helm,name in (istiod)"}


@pytest.mark.parametrize(("version", "is_as"), [("1.0", True), ("1.1", False), (None, False)])
def test_a_chart_of_a_repository_has_the_version_that_is_asked_for(version: str | None, is_as: bool) -> None:
    release = {"name": "istiod", "chart": "istio/istiod", "version": version, "values": VALUES}
    assert outdated([release], "istio-system", Reader(secret())) == ([] if is_as else ["istiod"])


def test_a_release_without_values_of_the_users(tmp_path: pathlib.Path) -> None:
    assert outdated([wanted(tmp_path, values={})], "istio-system", Reader(secret(config=None))) == []


def test_a_folder_without_a_chart_is_said(tmp_path: pathlib.Path) -> None:
    release = wanted(tmp_path)
    (tmp_path / "Chart.yaml").unlink()
    with pytest.raises(LabError, match="is no Helm chart"):
        outdated([release], "istio-system", Reader(secret()))
