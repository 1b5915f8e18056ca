# lab_info from its options to what it returns, in check mode, too.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import pathlib
import types
import typing as t

import pytest
import yaml
from ansible_collections.ambient.lab.plugins.module_utils._lab.lab_info import FACTS
from ansible_collections.ambient.lab.plugins.modules import lab_info
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi
from ansible_collections.ambient.lab.tests.unit.fakes.program import returned, start

NAMESPACE = {"kind": "Namespace", "api_version": "v1", "name": "istio-system", "hint": "install the mesh"}
PODS = {"kind": "Pod", "api_version": "v1", "namespace": "default"}
POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "curl"}}


def _run(module: types.ModuleType, check: bool = False, **options: object) -> tuple[bool, dict[str, t.Any]]:
    """Whether the module ended well, and what it returned; it is a process of its own, as Ansible runs it."""
    return returned(start(module, options, check))


def _lab(folder: pathlib.Path, api: FakeApi) -> str:
    (folder / "lab.json").write_text(json.dumps({**dict.fromkeys(FACTS, ""), "kubeconfig": api.kubeconfig(folder)}))
    return str(folder)


@pytest.mark.parametrize("check", [False, True])
def test_a_lab_that_is_there(tmp_path: pathlib.Path, check: bool) -> None:
    objects = {
        "/api/v1/namespaces/istio-system": {},
        "/api/v1/namespaces/default/pods": lambda query: {"items": [POD] * (query.get("labelSelector") == "app=curl")},
    }
    with FakeApi(objects) as api:
        look_for = [{**PODS, "label_selector": "app=curl"}, {**PODS, "label_selector": "app=other"}, PODS]
        options: dict[str, t.Any] = {"lab_dir": _lab(tmp_path, api), "requires": [NAMESPACE], "look_for": look_for}
        ok, told = _run(lab_info, check, **options)
    assert (ok, told["complete"], told["found"], told["changed"]) == (True, True, [POD], False)
    assert told["ansible_facts"]["lab"]["kubeconfig"] == f"{tmp_path}/kubeconfig"
    assert "warnings" not in told
    assert set(yaml.safe_load(lab_info.RETURN)) == set(told) - {"changed", "invocation"}


@pytest.mark.parametrize("missing", ["lab", "object", "cluster"])
def test_what_is_missing_fails_and_is_a_warning_in_check_mode(tmp_path: pathlib.Path, missing: str) -> None:
    with FakeApi({}) as api:
        lab_dir = str(tmp_path / "none") if missing == "lab" else _lab(tmp_path, api)
        options: dict[str, t.Any] = {"lab_dir": lab_dir, "requires": [NAMESPACE]}
        if missing != "cluster":
            failed, planned = _run(lab_info, **options), _run(lab_info, check=True, **options)
    if missing == "cluster":
        failed, planned = _run(lab_info, **options), _run(lab_info, check=True, **options)
    words = {
        "lab": f"No lab in {lab_dir}: write its facts with ambient.lab.lab_facts first",
        "object": "Namespace istio-system is missing: install the mesh",
        "cluster": f"The cluster does not answer at {api.url}: ",
    }[missing]
    assert (failed[0], failed[1]["failed"]) == (False, True)
    assert failed[1]["msg"].startswith(words)
    ok, told = planned
    assert (ok, told["complete"], told["found"], told["changed"]) == (True, False, [], False)
    assert "ansible_facts" not in told
    assert f"Check mode can't look further: {words}" in json.dumps(told["warnings"])


def test_whoever_mistypes_a_labs_name_is_told_which_there_are(tmp_path: pathlib.Path) -> None:
    for name in ("docs", "default"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lab.json").touch()
    _changed, told = _run(lab_info, lab_dir=str(tmp_path / "dosc"))
    assert "dosc (there are default, docs): write its facts" in told["msg"]
