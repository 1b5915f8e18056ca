# The module curl_outcomes as a whole: from parameters to results, with real curl.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import pathlib
import typing as t

import pytest
import yaml
from ansible_collections.ambient.lab.plugins.module_utils._check.curl_outcomes import prove
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.modules import curl_outcomes
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object, claim, pod
from ansible_collections.ambient.lab.tests.unit.fakes.servers import ScriptedServer

PODS = "/api/v1/namespaces/default/pods"


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
    kept = json.loads(results.read_text())["role"]
    assert (kept["before"], [item["name"] for item in kept["after"]["claims"]]) == (None, ["GET", "POST", "cut off"])
    assert len(server.requests) == 18


def test_what_others_keep_meanwhile_stays(tmp_path: pathlib.Path) -> None:
    results = tmp_path / "results.json"

    def pods(_query: object) -> Object:
        results.write_text(json.dumps({"other": {}}))
        return {"items": [pod("curl")]}

    with ScriptedServer() as server, FakeApi({PODS: pods}) as api:
        kept = {"results_file": str(results), "section": "role", "witnesses": "none"}
        prove(params(api, tmp_path, [claim(to=server.url("ok"))], **kept), check_mode=False)
    assert set(json.loads(results.read_text())) == {"other", "role"}


def test_a_check_that_fails_says_why_and_is_kept(tmp_path: pathlib.Path) -> None:
    results = tmp_path / "results.json"
    with ScriptedServer() as server, FakeApi({PODS: {"items": [pod("curl")]}}) as api:
        given = [claim("open", to=server.url("ok"), expect="denied_l4", by="default/p")]
        arguments = params(api, tmp_path, given, results_file=str(results), section="role", timeout=0)
        with pytest.raises(LabError) as caught:
            prove(arguments, check_mode=False)
    assert "why:  AuthorizationPolicy default/p (the claim's `by`) does not exist" in caught.value.message
    assert caught.value.result["claims"][0]["likely_cause"].startswith("AuthorizationPolicy default/p")
    assert json.loads(results.read_text())["role"]["after"]["verdict"] == "fail"


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
