# A lab's facts, and what must be there before a playbook goes on.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import pathlib
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import START, missing_right
from ansible_collections.ambient.lab.plugins.module_utils._cluster.lab_info import FACTS, read_lab, require
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi


def _lab(folder: pathlib.Path, kubeconfig: str) -> dict[str, t.Any]:
    lab = {**dict.fromkeys(FACTS, ""), "kubeconfig": kubeconfig, "context": None}
    (folder / "lab.json").write_text(json.dumps(lab))
    return read_lab(str(folder))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "run `ansible-playbook site.yml` first"),
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
        read_lab(str(tmp_path))
    assert words in caught.value.message
    assert "\n" not in caught.value.message


NAMESPACE = {"kind": "Namespace", "api_version": "v1", "name": "istio-system", "made_by": "istio_ambient"}
POLICY = {
    "kind": "AuthorizationPolicy",
    "api_version": "security.istio.io/v1",
    "name": "p",
    "namespace": "default",
    "made_by": "l4_authz",
}


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (
            {},
            "The mesh is not installed (Namespace istio-system is missing): "
            "run `ansible-playbook site.yml --tags istio_ambient` first",
        ),
        (
            {"/api/v1/namespaces/istio-system": {}},
            "The L4 policy is not set up (AuthorizationPolicy p in namespace default is missing): "
            "run `ansible-playbook site.yml --tags l4_authz` first",
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
