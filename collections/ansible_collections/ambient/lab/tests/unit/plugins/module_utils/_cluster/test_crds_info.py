# Which CustomResourceDefinitions have objects: to remove one removes everybody's.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pathlib
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._cluster.crds_info import crds
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import Kube
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
MINE, OTHERS = "app.kubernetes.io/part-of=mine", "app=other"


def _crd(plural: str) -> dict[str, t.Any]:
    # As Istio's: the first version is not served any more.
    versions = [{"name": "v1alpha1", "served": False}, {"name": "v1", "served": True}, {"name": "v2", "served": True}]
    spec = {"group": "example.org", "names": {"plural": plural}, "versions": versions}
    return {"metadata": {"name": f"{plural}.example.org"}, "spec": spec}


def _named(plural: str) -> dict[str, t.Any]:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.example.org"},
    }


def _objects(owners: list[str]) -> t.Callable[[dict[str, str]], dict[str, t.Any]]:
    """A list of objects with these owners' labels, as a selector and a limit shorten it."""

    def answer(query: dict[str, str]) -> dict[str, t.Any]:
        unwanted = query.get("labelSelector", "").partition("!=")[2]
        items = [{"metadata": {"name": owner}} for owner in owners if owner != unwanted]
        return {"items": items[: int(query["limit"])]}

    return answer


def _api(**kinds: list[str]) -> dict[str, t.Any]:
    """A cluster with these kinds, each with objects of these owners; the first letter says whose the kind is."""

    def listed(query: dict[str, str]) -> dict[str, t.Any]:
        letter = {MINE: "m", OTHERS: "o"}[query["labelSelector"]]
        return {"items": [_crd(kind) for kind in kinds if kind.startswith(letter)]}

    return {CRDS: listed, **{f"/apis/example.org/v1/{kind}": _objects(owners) for kind, owners in kinds.items()}}


@pytest.mark.parametrize(
    ("selectors", "owner", "unused", "used"),
    [
        ([MINE], None, ["m-free"], ["m-foreign.example.org", "m-lab.example.org"]),
        ([MINE], "lab", ["m-free", "m-lab"], ["m-foreign.example.org"]),
        ([MINE, OTHERS], "lab", ["m-free", "m-lab", "o-free"], ["m-foreign.example.org"]),
        ([OTHERS, OTHERS], None, ["o-free"], []),
        ([], None, [], []),
    ],
)
def test_crds(
    tmp_path: pathlib.Path, selectors: list[str], owner: str | None, unused: list[str], used: list[str]
) -> None:
    objects = _api(**{"m-free": [], "m-foreign": ["lab", "somebody"], "m-lab": ["lab"], "o-free": []})
    with FakeApi(objects) as api:
        found = crds(Kube(api.kubeconfig(tmp_path), None), selectors, owner)
    assert found == ([_named(plural) for plural in unused], used)
    # One object is enough to know.
    assert all("limit=1" in path for path, _headers in api.asked if path.startswith("/apis/example.org"))


def test_a_kind_that_is_gone_meanwhile_has_no_objects(tmp_path: pathlib.Path) -> None:
    with FakeApi({CRDS: {"items": [_crd("things")]}}) as api:
        assert crds(Kube(api.kubeconfig(tmp_path), None), [MINE]) == ([_named("things")], [])


def test_an_api_that_refuses_is_no_kind_without_objects(tmp_path: pathlib.Path) -> None:
    said = 'things.example.org is forbidden: User "a" cannot list resource "things"'
    objects = {CRDS: {"items": [_crd("things")]}, "/apis/example.org/v1/things": (403, {"message": said})}
    with FakeApi(objects) as api, pytest.raises(LabError) as caught:
        crds(Kube(api.kubeconfig(tmp_path), None), [MINE])
    assert caught.value.message.startswith(f"{said}. Give the kubeconfig's user this right")
