# A lab's facts, and what must be there before a playbook goes on.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import pathlib
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import RIGHT, START, missing_right
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._lab.lab_info import FACTS, hinted, read_lab, require
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi


def _lab(folder: pathlib.Path, kubeconfig: str) -> dict[str, t.Any]:
    lab = {**dict.fromkeys(FACTS, ""), "kubeconfig": kubeconfig, "context": None}
    (folder / "lab.json").write_text(json.dumps(lab))
    return read_lab(str(folder), "make it")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ": make it"),
        ("{", "can't be read"),
        ("[]", "lacks provider"),
        ('{"provider": "kind"}', "lacks cluster_name"),
        (
            json.dumps({**dict.fromkeys(FACTS, ""), "kubeconfig": "/nowhere"}),
            "kubeconfig /nowhere does not exist",
        ),
    ],
)
def test_no_lab(tmp_path: pathlib.Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "lab.json").write_text(content)
    with pytest.raises(LabError) as caught:
        read_lab(str(tmp_path), "make it")
    assert words in caught.value.message
    assert caught.value.message.endswith(": make it")
    assert "\n" not in caught.value.message


NAMESPACE = {"kind": "Namespace", "api_version": "v1", "name": "istio-system", "hint": "install the mesh first"}
POLICY = {
    "kind": "AuthorizationPolicy",
    "api_version": "security.istio.io/v1",
    "name": "p",
    "namespace": "default",
    "hint": None,
}


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (
            {},
            "Namespace istio-system is missing: install the mesh first",
        ),
        (
            {"/api/v1/namespaces/istio-system": {}},
            "AuthorizationPolicy p in namespace default is missing",
        ),
    ],
)
def test_what_must_be_there(tmp_path: pathlib.Path, objects: dict[str, t.Any], message: str) -> None:
    with FakeApi(objects) as api:
        lab = _lab(tmp_path, api.kubeconfig(tmp_path))
        with pytest.raises(LabError) as caught:
            require(lab, [NAMESPACE, POLICY], [])
    assert caught.value.message == message


def test_all_that_must_be_there_is(tmp_path: pathlib.Path) -> None:
    objects = {
        "/api/v1/namespaces/istio-system": {},
        "/apis/security.istio.io/v1/namespaces/default/authorizationpolicies/p": {},
        # Of a kind that is asked for, because it is none of the common ones.
        "/apis/example.org/v1": {"resources": [{"kind": "Thing", "name": "things"}]},
        "/apis/example.org/v1/things": {"items": [{"x": 1}, {"x": 2}]},
    }
    thing = {"kind": "Thing", "api_version": "example.org/v1"}
    other = {"kind": "Other", "api_version": "example.org/v1"}
    with FakeApi(objects) as api:
        found = require(_lab(tmp_path, api.kubeconfig(tmp_path)), [NAMESPACE, POLICY], [thing, other])
    assert found == [{"apiVersion": "example.org/v1", "kind": "Thing", "x": number} for number in (1, 2)]


def test_a_lab_whose_cluster_is_gone(tmp_path: pathlib.Path) -> None:
    with FakeApi({}) as api:
        lab = _lab(tmp_path, api.kubeconfig(tmp_path))
    with pytest.raises(LabError) as caught:
        require(lab, [], [])
    assert f"does not answer at {api.url}" in caught.value.message
    assert caught.value.message.endswith(f"; {START}")


def test_a_right_that_is_missing_needs_no_new_lab(tmp_path: pathlib.Path) -> None:
    refused = (403, {"message": "namespaces is forbidden: you cannot get it"})
    with FakeApi({"/api/v1/namespaces/istio-system": refused}) as api:
        lab = _lab(tmp_path, api.kubeconfig(tmp_path))
        with pytest.raises(LabError) as caught:
            require(lab, [NAMESPACE], [])
    assert caught.value.message == missing_right("namespaces is forbidden: you cannot get it")


@pytest.mark.parametrize(("end", "hint"), [(START, "start.sh does"), (RIGHT, "see rights.md"), ("correct it", "")])
def test_a_caller_knows_more_of_a_cluster_and_of_rights(end: str, hint: str) -> None:
    known = {"lab": "make it", "cluster": "start.sh does", "rights": "see rights.md"}
    for hints, added in ((known, f"; {hint}" if hint else ""), (dict.fromkeys(known), "")):
        with pytest.raises(LabError) as caught, hinted(hints):
            raise LabError(f"What is wrong; {end}")
        assert caught.value.message == f"What is wrong; {end}{added}"
