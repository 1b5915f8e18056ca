"""ambient.lab.objects as a playbook runs it, with the real kubernetes.core.k8s, against an API on the loopback."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi
from ansible_collections.ambient.lab.tests.unit.fakes.cluster import Cluster
from fleet import Ran, play

Object = dict[str, Any]
LABEL = "app.kubernetes.io/managed-by"
NAMESPACE: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
RIGHT = (
    "Give the kubeconfig's user this right (for claims docs/how-to/own-policies.md#rights, for the lab "
    "docs/how-to/rbac.yaml), or use another kubeconfig"
)


def thing(kind: str, name: str = "app", version: str = "v1", **content: Any) -> Object:
    """An object of the shop."""
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "shop"}, **content}


ACCOUNT, POD = thing("ServiceAccount"), thing("Pod", spec={"serviceAccountName": "app"})
CONFIG, WIDGET = thing("ConfigMap", data={"a": "1"}), thing("Widget", version="example.org/v1")
LAB = [NAMESPACE, ACCOUNT, POD, CONFIG]


def run(folder: Path, kubeconfig: str, *tasks: Object, arguments: tuple[str, ...] = ()) -> tuple[Ran, list[Object]]:
    """Tasks, each with options of the module (check: in check mode); what was printed, and what each returned."""
    plays: list[Object] = []
    for number, given in enumerate(tasks):
        options = {"kubeconfig": kubeconfig, **given}
        check = {"check_mode": True} if options.pop("check", False) else {}
        plays += [
            {"ambient.lab.objects": options, **check, "register": "told", "failed_when": False},
            {
                "ansible.builtin.copy": {"content": "{{ told | to_json }}", "dest": f"{folder}/{number}.json"},
                "check_mode": False,
                "diff": False,
            },
        ]
    playbook = folder / "objects.json"
    playbook.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": plays}]))
    python = f"ansible_python_interpreter={sys.executable}"
    ran = play("-i", "localhost,", "-c", "local", "-e", python, *arguments, str(playbook))
    assert ran.returncode == 0, ran.stdout
    return ran, [json.loads((folder / f"{number}.json").read_text()) for number in range(len(tasks))]


def test_check_mode_says_what_is_done_then(tmp_path: Path) -> None:
    with FakeApi({}) as api:
        cluster = Cluster(api)
        paths = [cluster.knows(item) for item in LAB]
        apply = {"definition": "\n---\n".join(map(json.dumps, LAB)), "owner": "lab"}
        remove = {"definition": [*LAB[1:], WIDGET], "owner": "lab", "state": "absent", "wait_timeout": 5}
        one = {"definition": {**CONFIG, "data": {"a": "2"}}}
        tasks = ({**apply, "check": True}, apply, apply, {**one, "check": True}, one, {**remove, "check": True}, remove)
        ran, told = run(tmp_path, api.kubeconfig(tmp_path), *tasks, remove, arguments=("--diff",))
        applied = [path for path, _headers in api.asked if "fieldManager=" in path]
    assert [item["objects"] for item in told] == [
        *[["Namespace shop", "ServiceAccount shop/app", "Pod shop/app", "ConfigMap shop/app"]] * 2,
        [],
        *[["ConfigMap shop/app"]] * 2,
        *[["ServiceAccount shop/app", "Pod shop/app", "ConfigMap shop/app"]] * 2,
        [],
    ]
    assert [item["changed"] for item in told] == [True, True, False, True, True, True, True, False]
    # Check mode has written nothing, and foresaw the same as was done. What is as it should be is not written again.
    assert cluster.written == [
        *[f"PATCH {path}" for path in [*paths, paths[3]]],
        *[f"DELETE {path}" for path in paths[1:]],
    ]
    assert told[0]["diff"] == told[1]["diff"]
    assert told[3]["diff"] == told[4]["diff"]
    # Four objects planned, applied, and seen to be the same; one that differs, looked at twice and planned and applied.
    assert len(applied) == 16
    assert all("fieldManager=ambient-lab&force=true" in path for path in applied)
    assert cluster.objects[paths[0]]["metadata"]["labels"] == {LABEL: "lab"}
    assert "--- before: ConfigMap shop/app\n+++ after: ConfigMap shop/app\n" in ran.stdout
    assert "-  a: '1'\n+  a: '2'\n" in ran.stdout
    assert "resourceVersion" not in ran.stdout


def test_what_is_somebody_elses_stays(tmp_path: Path) -> None:
    with FakeApi({}) as api:
        cluster = Cluster(api)
        for item in (NAMESPACE, CONFIG):
            cluster.has(item)
        cluster.knows(ACCOUNT)
        theirs = {"definition": [ACCOUNT, CONFIG], "owner": "lab"}
        kubeconfig = api.kubeconfig(tmp_path)
        path = cluster.knows(thing("ConfigMap", "new"))
        new = {"definition": thing("ConfigMap", "new"), "owner": "lab"}
        ran, (made, removed, added) = run(tmp_path, kubeconfig, theirs, {**theirs, "state": "absent"}, new)
    assert made["msg"].startswith("ConfigMap shop/app is there already and is not the lab's")
    assert (removed["changed"], removed["objects"]) == (False, [])
    assert (added["objects"], cluster.written) == (["ConfigMap shop/new"], [f"PATCH {path}"])
    # Without --diff the changes are not shown.
    assert "before: " not in ran.stdout


@pytest.mark.parametrize("owner", [{}, {"owner": "lab"}])
def test_what_names_no_namespace_is_not_taken_for_gone(tmp_path: Path, owner: Object) -> None:
    """The API would answer that it is not there."""
    bare = {**CONFIG, "metadata": {"name": "app"}}
    with FakeApi({}) as api:
        cluster = Cluster(api)
        cluster.has(CONFIG)
        options = {"definition": [NAMESPACE, WIDGET, bare], "state": "absent", **owner}
        told = run(tmp_path, api.kubeconfig(tmp_path), options)[1][0]
    assert cluster.written == []
    assert told["msg"] == "ConfigMap app has no metadata.namespace: add the one that it is to be removed from"


def test_what_somebody_else_removes_meanwhile_is_gone(tmp_path: Path) -> None:
    """The API removes a token's Secret when its ServiceAccount goes, just when the Secret is to be removed itself."""
    with FakeApi({}) as api:
        cluster = Cluster(api)
        account, racing = cluster.has(ACCOUNT), cluster.has(CONFIG)
        cluster.racing = {racing}
        remove = {"definition": [ACCOUNT, CONFIG], "state": "absent", "wait_timeout": 5}
        told = run(tmp_path, api.kubeconfig(tmp_path), remove)[1][0]
    assert (told.get("msg"), told["objects"]) == (None, ["ServiceAccount shop/app"])
    assert cluster.written == [f"DELETE {account}"]


def test_every_failure_is_a_failure_in_one_line(tmp_path: Path) -> None:
    with FakeApi({}) as api:
        kubeconfig = api.kubeconfig(tmp_path)
        cluster = Cluster(api)
        cluster.has(NAMESPACE)
        cluster.knows(CONFIG)
        cluster.refused = {"configmaps"}
        denied, unknown, nothing, wrong = run(
            tmp_path,
            kubeconfig,
            {"definition": CONFIG},
            {"definition": WIDGET, "check": True},
            {"definition": ""},
            {"definition": "a: ["},
        )[1]
    gone = run(tmp_path, kubeconfig, {"definition": CONFIG}, {"definition": LAB}, {"definition": LAB, "owner": "lab"})[
        1
    ]
    assert denied["msg"].startswith('ConfigMap shop/app: configmaps "app" is forbidden: User "somebody" cannot patch')
    assert denied["msg"].endswith(RIGHT)
    assert unknown["msg"].startswith("Widget shop/app: Failed to find exact match for example.org/v1.Widget")
    assert (nothing["changed"], nothing["objects"], nothing.get("msg")) == (False, [], None)
    assert wrong["msg"].startswith("definition is no YAML")
    assert [f"does not answer at {api.url}" in item.get("msg", "") for item in gone] == [True, True, True]
    assert all("\n" not in item.get("msg", "") for item in (denied, unknown, wrong, *gone))


def test_no_key_of_the_kubeconfig_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ansible-core ends the process of an action plugin without its exit handlers."""
    key = base64.b64encode(b"a key").decode()
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        json.dumps(
            {
                "clusters": [
                    {"name": "lab", "cluster": {"server": "https://127.0.0.1:1", "certificate-authority-data": key}}
                ],
                "users": [{"name": "lab", "user": {"client-certificate-data": key, "client-key-data": key}}],
                "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
                "current-context": "lab",
            }
        )
    )
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("ANSIBLE_LOCAL_TEMP", str(temporary / "run"))
    _ran, told = run(tmp_path, str(kubeconfig), {"definition": CONFIG, "owner": "lab"})
    assert "https://127.0.0.1:1" in told[0]["msg"]
    assert [path for path in temporary.rglob("*") if path.is_file()] == []
