"""ambient.lab.objects as a playbook runs it: Ansible's own types in a definition, and one diff an object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi
from ansible_collections.ambient.lab.tests.unit.fakes.cluster import Cluster
from fleet import Ran, play

Object = dict[str, Any]
CONFIG = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "app", "namespace": "shop"}}


@pytest.mark.parametrize("shows", [True, False])
def test_what_changes_is_shown_with_diff(tmp_path: Path, shows: bool) -> None:
    """The definition is a template's result, and one that is put together of variables."""
    task = {"ambient.lab.objects": {"definition": "{{ [base | combine({'data': {'a': value}})] }}"}}
    playbook = tmp_path / "objects.json"
    playbook.write_text(
        json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [task], "vars": {"base": CONFIG}}])
    )

    def run(value: str) -> Ran:
        arguments = ["-i", "localhost,", "-c", "local", "-e", f"value={value}", *(["--diff"] if shows else [])]
        return play(*arguments, str(playbook), KUBECONFIG=api.kubeconfig(tmp_path))

    with FakeApi({}) as api:
        cluster = Cluster(api)
        cluster.has({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
        path = cluster.has({**CONFIG, "data": {"a": "1"}})
        ran, again = run("2"), run("2")
        assert cluster.objects[path]["data"] == {"a": "2"}
    assert "changed=1" in ran.stdout, ran.stdout
    assert "changed=0" in again.stdout, again.stdout
    assert ("--- before: ConfigMap shop/app\n+++ after: ConfigMap shop/app\n" in ran.stdout) is shows
    assert ("-  a: '1'\n+  a: '2'\n" in ran.stdout) is shows
