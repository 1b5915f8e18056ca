# The modules as a whole: documentation, lab facts, and a check from parameters to results.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ast
import inspect
import json
import pathlib
import types
import typing as t

import pytest
import yaml
from ansible_collections.ambient.lab.plugins.action import results_table as results_table_action
from ansible_collections.ambient.lab.plugins.doc_fragments import _check as check_fragment
from ansible_collections.ambient.lab.plugins.doc_fragments import _kube as kube_fragment
from ansible_collections.ambient.lab.plugins.module_utils._errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._kube import KUBE_SPEC
from ansible_collections.ambient.lab.plugins.module_utils._lab import FACTS, read_lab, require
from ansible_collections.ambient.lab.plugins.module_utils._prove import CHECK_SPEC, prove
from ansible_collections.ambient.lab.plugins.modules import (
    curl_outcomes,
    graph_picture,
    kiali_graph,
    lab_info,
    ready,
    results_table,
)
from ansible_collections.ambient.lab.tests.unit.fake_api import FakeApi
from ansible_collections.ambient.lab.tests.unit.fakes import Object, claim, pod
from ansible_collections.ambient.lab.tests.unit.servers import ScriptedServer

PODS = "/api/v1/namespaces/default/pods"


def _documented(module: types.ModuleType) -> dict[str, dict[str, t.Any]]:
    documentation = yaml.safe_load(module.DOCUMENTATION)
    options = dict(documentation.get("options") or {})
    for name, fragment in {"ambient.lab._kube": kube_fragment, "ambient.lab._check": check_fragment}.items():
        if name in documentation.get("extends_documentation_fragment", []):
            options |= yaml.safe_load(fragment.ModuleDocFragment.DOCUMENTATION)["options"]
    return options


def _same(documented: dict[str, dict[str, t.Any]], spec: dict[str, dict[str, t.Any]]) -> None:
    assert set(documented) == set(spec)
    for name, option in spec.items():
        for key in ("type", "required", "default", "choices", "elements"):
            assert documented[name].get(key) == option.get(key), (name, key)
        if "options" in option:
            _same(documented[name]["suboptions"], option["options"])


@pytest.mark.parametrize(
    ("module", "spec"),
    [
        (curl_outcomes, curl_outcomes.SPEC),
        (graph_picture, graph_picture.SPEC),
        (kiali_graph, kiali_graph.SPEC),
        (lab_info, lab_info.SPEC),
        (ready, ready.SPEC),
        (results_table, results_table_action.SPEC),
    ],
)
def test_documentation_and_specification_agree(module: types.ModuleType, spec: dict[str, t.Any]) -> None:
    _same(_documented(module), spec)


def test_kube_options_are_the_fragments() -> None:
    _same(yaml.safe_load(kube_fragment.ModuleDocFragment.DOCUMENTATION)["options"], KUBE_SPEC)


def test_check_options_are_the_fragments() -> None:
    _same(yaml.safe_load(check_fragment.ModuleDocFragment.DOCUMENTATION)["options"], CHECK_SPEC)


@pytest.mark.parametrize("module", [curl_outcomes, graph_picture, kiali_graph, lab_info, ready])
def test_main_is_thin(module: types.ModuleType) -> None:
    assert len(inspect.getsource(module.main).splitlines()) <= 25


def test_examples_are_valid() -> None:
    for module in (curl_outcomes, graph_picture, kiali_graph, lab_info, ready, results_table):
        tasks = yaml.safe_load(module.EXAMPLES)
        for task in tasks:
            (arguments,) = [value for key, value in task.items() if key.startswith("ambient.lab.")]
            assert set(arguments) <= set(_documented(module)), task


def params(api: FakeApi, folder: pathlib.Path, claims: list[Object], **changed: t.Any) -> dict[str, t.Any]:
    """Parameters of curl_outcomes with their defaults."""
    defaults = {name: option.get("default") for name, option in curl_outcomes.SPEC.items()}
    return {**defaults, "kubeconfig": api.kubeconfig(folder), "claims": claims, "interval": 0, **changed}


def test_a_check_from_parameters_to_results(tmp_path: pathlib.Path) -> None:
    results = tmp_path / "results.json"
    sources = [pod("curl"), pod("curl-deny")]
    with ScriptedServer() as server, FakeApi({PODS: {"items": sources}}) as api:
        given = [
            claim("GET", to=server.url("ok")),
            claim("POST", to={"url": server.url("proxy_403"), "method": "POST", "body": "x"}, expect="denied_l7"),
            claim("cut off", source={"pod": "curl-deny"}, to=server.url("reset"), expect="denied_l4"),
        ]
        arguments = params(api, tmp_path, given, results_file=str(results), section="role", witnesses="none")
        returned = prove(arguments, check_mode=True)
        assert not results.exists()
        returned = prove(arguments, check_mode=False)
    assert (returned["verdict"], returned["rounds"]) == ("pass", 3)
    assert [item["seen"]["outcome"] for item in returned["claims"]] == ["allowed", "denied_l7", "denied_l4"]
    documented = yaml.safe_load(curl_outcomes.RETURN)
    assert set(documented) >= set(returned) - {"changed"}
    assert set(documented["claims"]["contains"]) == set(returned["claims"][0])
    assert [item["before"] for item in json.loads(results.read_text())["role"]["claims"]] == [None] * 3
    assert len(server.requests) == 18


def test_a_check_that_fails_says_why_and_is_kept(tmp_path: pathlib.Path) -> None:
    results = tmp_path / "results.json"
    with ScriptedServer() as server, FakeApi({PODS: {"items": [pod("curl")]}}) as api:
        given = [claim("open", to=server.url("ok"), expect="denied_l4", by="default/p")]
        arguments = params(api, tmp_path, given, results_file=str(results), section="role", timeout=0)
        with pytest.raises(LabError) as caught:
            prove(arguments, check_mode=False)
    assert "why:  AuthorizationPolicy default/p (the claim's `by`) does not exist" in caught.value.message
    assert caught.value.result["claims"][0]["likely_cause"].startswith("AuthorizationPolicy default/p")
    assert json.loads(results.read_text())["role"]["verdict"] == "fail"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"claims": []}, "claims is empty"),
        ({"claims": [claim(expect="open")]}, "unknown outcome 'open'"),
        ({"stable": 0}, "stable must be at least 1"),
        ({"concurrency": 0}, "concurrency must be from 1 to 64"),
        ({"timeout": -1.0}, "timeout must be from 0 to 3600 seconds"),
        ({"probe_timeout": 0.0}, "probe_timeout must be from 0.1"),
        ({"results_file": "/nowhere/results.json"}, "needs section"),
        ({"results_file": "/nowhere/results.json", "section": "x"}, "the folder of /nowhere/results.json"),
        ({"kubeconfig": "/nowhere/kubeconfig"}, "Can't use kubeconfig /nowhere/kubeconfig"),
    ],
)
def test_wrong_input_fails_before_any_traffic(tmp_path: pathlib.Path, changed: dict[str, t.Any], words: str) -> None:
    with ScriptedServer() as server, FakeApi({PODS: {"items": [pod("curl")]}}) as api:
        arguments = params(api, tmp_path, [claim(to=server.url("ok"))]) | changed
        with pytest.raises(LabError) as caught:
            prove(arguments, check_mode=False)
        assert (server.requests, api.connections) == ([], set())
    assert words in caught.value.message


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
    assert caught.value.message.endswith("run `ansible-playbook site.yml --tags cluster`")


def test_files_are_short_and_say_what_they_are_for() -> None:
    root = pathlib.Path(inspect.getfile(curl_outcomes)).parents[2]
    for path in root.rglob("*.py"):
        lines = path.read_text().splitlines()
        assert len(lines) < 400, path
        assert lines[0].startswith("#"), path
        assert any("GNU General Public License v3.0+" in line for line in lines[:4]), path
        ast.parse(path.read_text())
