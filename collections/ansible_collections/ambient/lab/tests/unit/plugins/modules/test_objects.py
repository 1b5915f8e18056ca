# ambient.lab.objects against a small cluster: what is applied, what check mode foresees, what is refused, what goes.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import pathlib
import typing as t

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.ambient.lab.plugins.module_utils._common.module import Call
from ansible_collections.ambient.lab.plugins.modules.objects import SPEC, WORK
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi
from ansible_collections.ambient.lab.tests.unit.fakes.cluster import Cluster

Object = dict[str, t.Any]
LABEL = "app.kubernetes.io/managed-by"
NAMESPACE: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
RIGHT = "Give the kubeconfig's user this right, or use another kubeconfig"


def thing(kind: str, name: str = "app", version: str = "v1", **content: t.Any) -> Object:
    """An object of the shop."""
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "shop"}, **content}


ACCOUNT, POD = thing("ServiceAccount"), thing("Pod", spec={"serviceAccountName": "app"})
CONFIG, WIDGET = thing("ConfigMap", data={"a": "1"}), thing("Widget", version="example.org/v1")
LAB = [NAMESPACE, ACCOUNT, POD, CONFIG]
NOTHING = {"changed": False, "objects": [], "diff": []}


class Shop:
    """A cluster and the module."""

    def __init__(self, api: FakeApi, folder: pathlib.Path) -> None:
        self.cluster, self._kubeconfig = Cluster(api), api.kubeconfig(folder)
        self._api = api

    def run(self, definition: object, check: bool = False, **options: t.Any) -> Object:
        """What the module returns."""
        given = {"kubeconfig": self._kubeconfig, "definition": definition, "wait_timeout": 5, **options}
        params = ArgumentSpecValidator(SPEC).validate(given).validated_parameters
        return WORK.answer(Call(params, check))

    @property
    def applied(self) -> list[str]:
        """The paths that somebody applied to, in a dry run or not."""
        return [path for path, _headers in self._api.asked if "fieldManager=" in path]


@pytest.fixture
def shop(tmp_path: pathlib.Path) -> t.Iterator[Shop]:
    """An empty one."""
    with FakeApi({}) as api:
        yield Shop(api, tmp_path)


def test_check_mode_says_what_is_done_then(shop: Shop) -> None:
    paths = [shop.cluster.knows(item) for item in LAB]
    lab = "\n---\n".join(map(json.dumps, LAB))
    planned, made, again = (shop.run(lab, check, owner="lab") for check in (True, False, False))
    assert made["objects"] == ["Namespace shop", "ServiceAccount shop/app", "Pod shop/app", "ConfigMap shop/app"]
    assert (planned["objects"], planned["diff"], planned["changed"]) == (made["objects"], made["diff"], True)
    # What is as it should be is not written again.
    assert again == NOTHING
    assert shop.cluster.written == [f"PATCH {path}" for path in paths]
    assert shop.cluster.objects[paths[0]]["metadata"]["labels"] == {LABEL: "lab"}
    assert all("fieldManager=ambient-lab&force=true" in path for path in shop.applied)

    other = {**CONFIG, "data": {"a": "2"}}
    planned, changed = shop.run(other, check=True), shop.run(other)
    assert planned == changed
    (diff,) = changed["diff"]
    assert diff["before_header"] == diff["after_header"] == "ConfigMap shop/app"
    assert ("  a: '1'\n" in diff["before"], "  a: '2'\n" in diff["after"]) == (True, True)
    assert "resourceVersion" not in diff["before"] + diff["after"]

    going = [*LAB[1:], WIDGET]
    planned, gone, again = (shop.run(going, check, owner="lab", state="absent") for check in (True, False, False))
    assert planned == gone
    assert gone["objects"] == ["ServiceAccount shop/app", "Pod shop/app", "ConfigMap shop/app"]
    assert [item["after"] for item in gone["diff"]] == ["", "", ""]
    assert again == NOTHING
    assert shop.cluster.written[5:] == [f"DELETE {path}" for path in paths[1:]]


def test_what_the_cluster_keeps_for_itself_is_no_change(shop: Shop) -> None:
    """A field manager that is new is written down by the cluster, and is no difference that anybody made."""
    shop.cluster.has(NAMESPACE)
    path = shop.cluster.has(CONFIG)
    shop.cluster.objects[path]["metadata"]["managedFields"] = []
    shop.cluster.objects[path]["status"] = {"seen": 1}
    assert shop.run(CONFIG) == NOTHING
    assert shop.cluster.written == []


def test_a_secret_is_shown_without_its_content(shop: Shop) -> None:
    """As `kubectl diff` does it; not in the API's refusal, either."""
    last = {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "planted"}}
    secret = thing("Secret", data={"same": "planted", "token": "planted1"})
    secret["metadata"] |= last
    shop.cluster.has(NAMESPACE)
    path = shop.cluster.knows(secret)
    new = shop.run(secret)
    changed = shop.run({**secret, "data": {"same": "planted", "token": "planted2", "new": "planted3"}})
    (diff,) = changed["diff"]
    assert (changed["changed"], "*** (before)" in diff["before"], "*** (after)" in diff["after"]) == (True, True, True)
    assert "same: '***'" in diff["after"]
    for value in ("planted", '&value.valueUnstructured{Value:map[string]interface {}{"a":"planted"}}'):
        said = f"failed to create typed patch object (/v1, Kind=Secret): .data.pin: expected string, got {value}"
        shop.cluster.api.objects[f"PATCH {path}"] = (500, {"kind": "Status", "message": said})
        refused = shop.run(thing("Secret", data={"pin": {"a": "planted"}}))
        assert refused["msg"].endswith(".data.pin: expected string, got ***")
    gone = shop.run(secret, state="absent")
    assert gone["objects"] == ["Secret shop/app"]
    assert [item for item in (new, changed, refused, gone) if "planted" in json.dumps(item)] == []


def test_a_date_without_quotes_is_shown(shop: Shop) -> None:
    shop.cluster.has(NAMESPACE)
    shop.cluster.knows(CONFIG)
    text = "{apiVersion: v1, kind: ConfigMap, metadata: {name: app, namespace: shop}, data: {day: 2026-01-01}}"
    (diff,) = shop.run(text)["diff"]
    assert "day: '2026-01-01'" in diff["after"]


def test_what_is_somebody_elses_stays(shop: Shop) -> None:
    for item in (NAMESPACE, CONFIG):
        shop.cluster.has(item)
    shop.cluster.knows(ACCOUNT)
    new = shop.cluster.knows(thing("ConfigMap", "new"))
    made = shop.run([ACCOUNT, CONFIG], owner="lab")
    assert (made["failed"], made["changed"]) == (True, False)
    assert made["msg"].startswith("ConfigMap shop/app is there already and is not the lab's")
    assert shop.run([ACCOUNT, CONFIG], owner="lab", state="absent") == NOTHING
    assert shop.run(thing("ConfigMap", "new"), owner="lab")["objects"] == ["ConfigMap shop/new"]
    assert shop.cluster.written == [f"PATCH {new}"]


@pytest.mark.parametrize("owner", [{}, {"owner": "lab"}])
def test_what_names_no_namespace_is_not_taken_for_gone(shop: Shop, owner: Object) -> None:
    """The API would answer that it is not there."""
    shop.cluster.has(CONFIG)
    bare = {**CONFIG, "metadata": {"name": "app"}}
    told = shop.run([NAMESPACE, WIDGET, bare], state="absent", **owner)
    assert shop.cluster.written == []
    assert told["msg"] == "ConfigMap app has no metadata.namespace: add the one that it is to be removed from"


def test_a_namespace_that_means_nothing_hides_no_object_of_the_clusters(shop: Shop) -> None:
    """As with kubectl: a Namespace is in none, whatever its manifest says."""
    path = shop.cluster.knows(NAMESPACE)
    shop.cluster.has({**NAMESPACE, "metadata": {"name": "other"}})
    odd = {**NAMESPACE, "metadata": {"name": "shop", "namespace": "other"}}
    assert shop.run(odd)["changed"]
    assert shop.run(odd, state="absent")["changed"]
    assert shop.cluster.written == [f"PATCH {path}", f"DELETE {path}"]


def test_what_somebody_else_removes_meanwhile_is_gone(shop: Shop) -> None:
    """The API removes a token's Secret when its ServiceAccount goes, just when the Secret is to be removed itself."""
    account, racing = shop.cluster.has(ACCOUNT), shop.cluster.has(CONFIG)
    shop.cluster.racing = {racing}
    told = shop.run([ACCOUNT, CONFIG], state="absent")
    assert (told.get("msg"), told["objects"]) == (None, ["ServiceAccount shop/app"])
    assert shop.cluster.written == [f"DELETE {account}"]


def test_what_does_not_go_is_said(shop: Shop) -> None:
    path = shop.cluster.has(CONFIG)
    shop.cluster.api.objects[f"DELETE {path}"] = {"kind": "ConfigMap"}
    shop.cluster.objects[path]["metadata"]["finalizers"] = ["example.org/kept"]
    told = shop.run(CONFIG, state="absent", wait_timeout=0)
    assert told["msg"].startswith("ConfigMap shop/app is still there after 0 s (example.org/kept holds it)")


@pytest.mark.parametrize("namespace", [True, False])
def test_check_mode_takes_as_new_what_the_cluster_cannot_look_at(shop: Shop, namespace: bool) -> None:
    """A pod whose ServiceAccount or namespace is still to be made is shown as it is written, and said so."""
    shop.cluster.knows(POD)
    shop.cluster.knows(NAMESPACE)
    if namespace:
        shop.cluster.has(NAMESPACE)
    planned, real = shop.run(POD, check=True), shop.run(POD)
    assert (planned["changed"], planned["objects"]) == (True, ["Pod shop/app"])
    assert (planned["diff"][-1]["before"], "kind: Pod" in planned["diff"][-1]["after"]) == ("", True)
    assert "Check mode takes as new: Pod shop/app (" in planned["warnings"][0]
    assert "Pod shop/app: " in real["msg"]
    assert "not found" in real["msg"]


def test_every_failure_is_one_line(shop: Shop, tmp_path: pathlib.Path) -> None:
    shop.cluster.has(NAMESPACE)
    shop.cluster.knows(CONFIG)
    shop.cluster.refused = {"configmaps"}
    denied, unknown = shop.run(CONFIG), shop.run(WIDGET, check=True)
    wrong, both = shop.run("a: ["), shop.run([CONFIG, WIDGET])
    assert denied["msg"].startswith('ConfigMap shop/app: configmaps "app" is forbidden: User "somebody" cannot patch')
    assert denied["msg"].endswith(RIGHT)
    assert denied["msg"] == f"{both['msg'].removesuffix(' (and 1 more)')}"
    assert unknown["msg"] == "Widget shop/app: the API knows no kind Widget in example.org/v1: install its CRD first"
    assert wrong["msg"].startswith("definition is no YAML")
    assert shop.run("") == NOTHING
    assert all("\n" not in item["msg"] for item in (denied, unknown, wrong, both))
    assert shop.cluster.written == []


@pytest.mark.parametrize("owner", [{}, {"owner": "lab"}])
def test_a_cluster_that_does_not_answer_is_one_line(tmp_path: pathlib.Path, owner: Object) -> None:
    with FakeApi({}) as api:
        shop = Shop(api, tmp_path)
    told = shop.run(LAB, **owner)
    assert f"does not answer at {api.url}" in told["msg"]
    assert "\n" not in told["msg"]
