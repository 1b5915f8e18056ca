# A token in a claim's header or body is written down nowhere: not in a log, a result, a results file or a report.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import pathlib
import shutil
import sys
import types
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._common.module import Call
from ansible_collections.ambient.lab.plugins.modules import curl_outcomes, kiali_graph, objects, policy_convergence
from ansible_collections.ambient.lab.plugins.plugin_utils._report.claims_report import write_report
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object, claim, pod
from ansible_collections.ambient.lab.tests.unit.fakes.program import start
from ansible_collections.ambient.lab.tests.unit.fakes.servers import WatchingServer

TOKEN = "planted-94c3e0"
PODS = "/api/v1/namespaces/default/pods"
# The part of python-systemd that AnsibleModule writes to.
JOURNAL = """
import os
def sendv(*fields): ...
def send(**fields):
    with open(os.environ["JOURNAL"], "a") as file: print(fields, file=file)
"""


def planted(url: str, **fields: t.Any) -> Object:
    """A claim with a token in its header and its body, and with a header whose value is an ordinary word."""
    headers = {"authorization": f"Bearer {TOKEN}", "x-team": "default"}
    return claim(to={"url": url, "method": "POST", "headers": headers, "body": f"password={TOKEN}"}, **fields)


def run(folder: pathlib.Path, module: types.ModuleType, options: Object) -> tuple[Object, str]:
    """What a module of its own process returns with -vvv, and all that it has printed and logged."""
    (folder / "systemd").mkdir()
    (folder / "systemd" / "__init__.py").write_text("")
    (folder / "systemd" / "daemon.py").write_text("def booted(): return True\n")
    (folder / "systemd" / "journal.py").write_text(JOURNAL)
    log = folder / "journal"
    path = os.pathsep.join([str(folder), *sys.path])
    with start(module, {**options, "_ansible_verbosity": 3}, PYTHONPATH=path, JOURNAL=str(log)) as program:
        stdout, stderr = program.communicate(timeout=60)
    # Where Ansible refuses the options, nothing is logged.
    return json.loads(stdout), stdout + stderr + (log.read_text() if log.exists() else "")


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
@pytest.mark.parametrize("expect", ["allowed", "denied_l7"])
@pytest.mark.parametrize("is_program", [True, False], ids=["program", "in Ansible's process"])
def test_a_check_writes_it_nowhere(tmp_path: pathlib.Path, is_program: bool, expect: str) -> None:
    results = tmp_path / "results.json"
    with WatchingServer(TOKEN) as server, FakeApi({PODS: {"items": [pod("curl")]}}) as api:
        options = {
            "kubeconfig": api.kubeconfig(tmp_path),
            "claims": [planted(server.url("ok"), expect=expect)],
            "witnesses": "none", "timeout": 0, "stable": 1, "results_file": str(results), "section": "role",
        }  # fmt: skip
        if is_program:
            returned, said = run(tmp_path, curl_outcomes, options)
            assert "Invoked with" in said
        else:
            defaults = {name: option.get("default") for name, option in curl_outcomes.SPEC.items()}
            returned = curl_outcomes.WORK.answer(Call({**defaults, **options}, verbosity=3))
            said = json.dumps(returned)
        assert [TOKEN.encode() in request for request in server.requests] == [True]
        asked = [path for path, _headers in api.asked]
    # What is no secret stays readable, though it is the value of a header.
    assert (returned["claims"][0]["from"], returned.get("failed", False)) == ("default/curl", expect != "allowed")
    reports = {kind: str(tmp_path / kind) for kind in ("html", "junit", "json", "schema")}
    write_report(
        {"results": [{"cluster": "lab", "path": str(results)}], "title": "t", "fail_on": "never", **reports},
        check_mode=False, diff=False,
    )  # fmt: skip
    written = {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()}
    assert written.keys() >= {"results.json", *reports}
    assert [name for name, text in written.items() if TOKEN in text] == []
    assert TOKEN not in said
    assert TOKEN not in "\n".join(asked)
    assert server.seen == []


POLICY = {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "p"}}
SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"token": TOKEN}}
CLAIM = planted("http://app/")


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (curl_outcomes, {"claims": [CLAIM]}),
        (curl_outcomes, {"claims": json.dumps([CLAIM])}),
        # Ansible refuses these before the module begins.
        (curl_outcomes, {"claim": [CLAIM]}),
        (curl_outcomes, {"claims": [CLAIM], "stable": "many"}),
        (curl_outcomes, {"claims": [{**CLAIM, "to": [CLAIM["to"]]}]}),
        (policy_convergence, {"claims": [CLAIM], "definition": POLICY}),
        (kiali_graph, {"claims": [], "traffic": [CLAIM]}),
        (kiali_graph, {"checks": [{"claims": [], "traffic": [CLAIM]}]}),
        (kiali_graph, {"checks": [{"claims": [], "traffics": [CLAIM]}]}),
        (kiali_graph, {"checks": [json.dumps({"claims": [CLAIM]})]}),
        (objects, {"definition": SECRET}),
    ],
    ids=lambda item: item.__name__.rpartition(".")[2] if isinstance(item, types.ModuleType) else "",
)
def test_a_module_that_fails_logs_and_returns_it_nowhere(
    tmp_path: pathlib.Path, module: types.ModuleType, options: Object
) -> None:
    returned, said = run(tmp_path, module, {"kubeconfig": str(tmp_path / "none"), **options})
    assert returned["failed"]
    assert returned["invocation"]["module_args"]["kubeconfig"] == str(tmp_path / "none")
    assert TOKEN not in said
