"""Modules run in Ansible's own process where that is the same, and as modules do where it is not."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi
from ansible_collections.ambient.lab.tests.unit.fakes.objects import pod
from ansible_collections.ambient.lab.tests.unit.fakes.tls import Pair, encoded
from fleet import Ran, play

Object = dict[str, Any]
NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": {"conditions": []}}
READY = {**NODE, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}


def run(folder: Path, options: Object, *arguments: str, **keywords: object) -> Ran:
    """One task with ambient.lab.ready on this machine."""
    task = {"ambient.lab.ready": {"objects": [{"kind": "Node"}], "timeout": 0, **options}, **keywords}
    playbook = folder / "ready.json"
    playbook.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [task]}]))
    return play("-i", "localhost,", "-c", "local", *arguments, str(playbook))


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another Python, which leaves a mark when it is started."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ntouch {tmp_path}/started\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python


@pytest.mark.parametrize("is_other", [False, True])
def test_it_runs_here_or_where_the_user_wants_it(tmp_path: Path, other: Path, is_other: bool) -> None:
    """With the same answer, and the options of the play's module_defaults or its variables evaluated."""
    python = other if is_other else sys.executable
    with FakeApi({"/api/v1/nodes": {"items": [READY]}}) as api:
        kubeconfig = api.kubeconfig(tmp_path)
        ran = run(
            tmp_path,
            {"kubeconfig": "{{ lookup('ansible.builtin.env', 'LAB') or mine }}"},
            *("-e", f"mine={kubeconfig}", "-e", f"ansible_python_interpreter={python}"),
        )
    assert ran.returncode == 0, ran.stdout
    assert (tmp_path / "started").exists() is is_other


def test_a_token_in_a_claim_is_not_shown(tmp_path: Path, other: Path) -> None:
    """Also with -vvv, in a Python of its own, and where the claim does not hold."""
    to = {"url": "http://127.0.0.1:1/", "headers": {"authorization": "{{ lookup('ansible.builtin.env', 'TOKEN') }}"}}
    claim = {"name": "a claim", "from": {"pod": "curl"}, "to": to, "expect": "allowed"}
    log = tmp_path / "log"
    with FakeApi({"/api/v1/namespaces/default/pods": {"items": [pod("curl")]}}) as api:
        options = {"kubeconfig": api.kubeconfig(tmp_path), "claims": [claim], "timeout": 0, "witnesses": "none"}
        task = {"ambient.lab.curl_outcomes": options}
        playbook = tmp_path / "claims.json"
        playbook.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [task]}]))
        arguments = ("-i", "localhost,", "-c", "local", "-vvv", "-e", f"ansible_python_interpreter={other}")
        ran = play(*arguments, str(playbook), TOKEN="planted-5ac018", ANSIBLE_LOG_PATH=str(log))
    assert "1 of 1 claims did not hold" in ran.stdout, ran.stdout
    assert "planted-5ac018" not in ran.stdout + log.read_text()


@pytest.mark.parametrize("options", [{}, {"kubeconfig": "$KUBECONFIG"}])
def test_a_tasks_environment_counts_here_too(tmp_path: Path, options: Object) -> None:
    with FakeApi({"/api/v1/nodes": {"items": [READY]}}) as api:
        ran = run(tmp_path, options, environment={"KUBECONFIG": api.kubeconfig(tmp_path), "LEVEL": 1})
    assert ran.returncode == 0, ran.stdout


def test_a_failure_is_its_message_and_a_wrong_option_is_named(tmp_path: Path) -> None:
    with FakeApi({"/api/v1/nodes": {"items": [NODE]}}) as api:
        kubeconfig = api.kubeconfig(tmp_path)
        failed = run(tmp_path, {"kubeconfig": kubeconfig})
        wrong = run(tmp_path, {"kubeconfig": kubeconfig, "patience": 3})
    assert (failed.returncode, "1 of 1 objects are not ready" in failed.stdout) == (2, True), failed.stdout
    assert (wrong.returncode, "patience" in wrong.stdout) == (2, True), wrong.stdout


def test_no_key_of_the_kubeconfig_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ansible-core ends a task's process without its exit handlers."""
    pair = Pair("admin")
    user = {"client-certificate-data": encoded(pair.certificate), "client-key-data": encoded(pair.key)}
    with FakeApi({}) as api:
        api.url = "https://127.0.0.1:1"
        kubeconfig = api.kubeconfig(tmp_path, user=user)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("ANSIBLE_LOCAL_TEMP", str(temporary / "run"))
    ran = run(tmp_path, {"kubeconfig": kubeconfig})
    assert "https://127.0.0.1:1" in ran.stdout
    assert [path for path in temporary.rglob("*") if os.path.isfile(path)] == []
