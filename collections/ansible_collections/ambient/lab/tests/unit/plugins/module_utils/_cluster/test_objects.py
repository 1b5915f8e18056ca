# Answers of kubernetes.core.k8s, read: one diff an object, what check mode foresees, whose objects are left alone.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import copy
import json
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._cluster.objects import documents, outcome, owned, title
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError

Object = dict[str, t.Any]
LABEL = "app.kubernetes.io/managed-by"
NAMESPACE: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
ACCOUNT: Object = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "app", "namespace": "shop"}}
POD: Object = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app", "namespace": "shop"}}
CONFIG: Object = {**POD, "kind": "ConfigMap", "data": {"a": "1"}}
WIDGET: Object = {**POD, "apiVersion": "example.org/v1", "kind": "Widget"}
# What the API keeps for itself and what a controller writes; each changes by itself.
KEPT = {"uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [{}], "resourceVersion": "7"}


def _labelled(item: Object, owner: str) -> Object:
    return {**item, "metadata": {**item["metadata"], "labels": {LABEL: owner}}}


@pytest.mark.parametrize(
    ("definition", "found"),
    [
        ([POD, CONFIG], [POD, CONFIG]),
        (POD, [POD]),
        ("---\n" + json.dumps(POD) + "\n---\n# nothing\n---\n" + json.dumps(CONFIG), [POD, CONFIG]),
        ("", []),
        ("---\n---\n", []),
        ([], []),
        ({}, []),
        (None, []),
        ([None, POD, {}], [POD]),
    ],
)
def test_documents(definition: object, found: list[Object]) -> None:
    assert documents(definition) == found


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ("a: [", "definition is no YAML: while parsing a flow node"),
        ("a:\n\tb", "definition is no YAML: while scanning"),
        ("words", 'without apiVersion, kind or metadata.name: "words"'),
        (["words"], 'without apiVersion, kind or metadata.name: "words"'),
        ({"metadata": {"name": "a"}}, 'without apiVersion, kind or metadata.name: {"metadata": {"name": "a"}}'),
        ({"kind": "Pod"}, "without apiVersion, kind or metadata.name"),
        ([POD, {"kind": "Pod", "metadata": None}], "without apiVersion, kind or metadata.name"),
        ({"kind": "Pod", "metadata": {"namespace": "shop"}}, "without apiVersion, kind or metadata.name"),
        ({"kind": "Pod", "metadata": {"name": "app"}}, "without apiVersion, kind or metadata.name"),
        ({**POD, "metadata": "words"}, "without apiVersion, kind or metadata.name"),
        ("2026-01-01", 'without apiVersion, kind or metadata.name: "2026-01-01"'),
        ({"kind": "x" * 500}, 'without apiVersion, kind or metadata.name: {"kind": "xxx'),
    ],
)
def test_what_is_no_definition(definition: object, message: str) -> None:
    with pytest.raises(LabError) as caught:
        documents(definition)
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 250


def test_title() -> None:
    assert title(NAMESPACE) == "Namespace shop"
    assert title(POD) == "Pod shop/app"


def test_what_is_made_gets_the_owners_label() -> None:
    given = copy.deepcopy([_labelled(POD, "somebody"), CONFIG])
    given[0]["metadata"]["labels"]["app"] = "app"
    made = owned(given, [_labelled(CONFIG, "lab")], "lab", "present")
    assert [item["metadata"]["labels"] for item in made] == [{LABEL: "lab", "app": "app"}, {LABEL: "lab"}]
    assert [title(item) for item in made] == [title(item) for item in given]
    # The definition is somebody else's variable.
    assert given[0]["metadata"]["labels"][LABEL] == "somebody"
    assert "labels" not in given[1]["metadata"]


@pytest.mark.parametrize("there", [POD, _labelled(POD, "somebody"), {**POD, "metadata": {**KEPT, **POD["metadata"]}}])
def test_what_is_somebody_elses_is_refused(there: Object) -> None:
    with pytest.raises(LabError) as caught:
        owned([CONFIG, POD], [there], "lab", "present")
    assert caught.value.message == (
        f"Pod shop/app is there already and is not the lab's (it has no label {LABEL}=lab): "
        "remove it, or choose another name or namespace"
    )
    assert caught.value.result == {"refused": ["Pod shop/app"]}


def test_only_what_is_the_owners_is_removed() -> None:
    there = [_labelled(POD, "lab"), _labelled(CONFIG, "somebody"), ACCOUNT]
    assert owned([POD, CONFIG, ACCOUNT, NAMESPACE], there, "lab", "absent") == [POD]


def _answer(*results: Object) -> Object:
    """An answer for many objects; one object's result stands by itself."""
    if len(results) == 1:
        return {**results[0], "failed": False}
    changed = any(result["changed"] for result in results)
    return {"changed": changed, "failed": False, "result": {"results": list(results)}}


def _applied(before: Object, after: Object) -> Object:
    """The result of an object that was applied, where something differs."""
    return {"changed": True, "diff": {"before": before, "after": after}, "method": "apply", "result": {}}


def _made(item: Object) -> Object:
    return _applied({}, {**item, "metadata": {**item["metadata"], **KEPT}})


def _status(code: int, message: str, verb: str = "apply") -> Object:
    """The result of an object that the API refused."""
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}
    said = {"msg": f"Failed to {verb} object: {json.dumps(status)}", "reason": "Forbidden"}
    return {"changed": False, "error": said, "result": {}}


SAME: Object = {"changed": False, "diff": {}, "method": "apply", "result": {}}
GONE: Object = {"changed": True, "method": "delete", "duration": 0, "result": {"kind": "Status", "status": "Success"}}
NOT_THERE: Object = {"changed": False, "method": "delete", "result": {}}
NO_KIND: Object = {
    "changed": False,
    "error": {"msg": "Failed to find exact match for example.org/v1.Widget by [kind, name, singularName, shortNames]"},
    "result": {},
}
NO_ACCOUNT = _status(
    403, 'pods "app" is forbidden: error looking up service account shop/app: serviceaccount "app" not found'
)
NO_NAMESPACE = _status(404, 'namespaces "shop" not found')
CANNOT = 'pods "app" is forbidden: User "somebody" cannot patch resource "pods" in API group "" in the namespace "shop"'
RIGHT = (
    "Give the kubeconfig's user this right (for claims docs/how-to/own-policies.md#rights, for the lab "
    "docs/how-to/rbac.yaml), or use another kubeconfig"
)


@pytest.mark.parametrize("check", [False, True])
def test_one_diff_an_object(check: bool) -> None:
    changed = _applied(
        {"data": {"a": "0"}, "metadata": {**KEPT, "labels": {"x": "y"}}, "status": {"seen": 1}},
        {"data": {"a": "1"}, "metadata": {**KEPT, "resourceVersion": "8", "labels": {}}, "status": {"seen": 2}},
    )
    result = outcome([ACCOUNT, CONFIG, POD], _answer(SAME, changed, _made(POD)), "present", check)
    assert result["changed"] is True
    assert result["objects"] == ["ConfigMap shop/app", "Pod shop/app"]
    assert result["diff"] == [
        {
            "before": "data:\n  a: '0'\nmetadata:\n  labels:\n    x: y\n",
            "after": "data:\n  a: '1'\n",
            "before_header": "ConfigMap shop/app",
            "after_header": "ConfigMap shop/app",
        },
        {
            "before": "",
            "after": "apiVersion: v1\nkind: Pod\nmetadata:\n  name: app\n  namespace: shop\n",
            "before_header": "Pod shop/app",
            "after_header": "Pod shop/app",
        },
    ]


NOTHING = {"changed": False, "objects": [], "diff": []}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"metadata": {"managedFields": [{"time": 1}]}}, {"metadata": {"managedFields": [{"time": 2}]}}),
        ({"metadata": {**KEPT, "generation": 1}}, {"metadata": {"uid": "v", "generation": 2, "resourceVersion": "8"}}),
        ({"metadata": KEPT, "status": {"seen": 1}}, {"metadata": {**KEPT, "resourceVersion": "8"}, "status": {}}),
        # A definition says {} where the API says nothing.
        ({"metadata": {"resourceVersion": "7"}}, {"metadata": {"resourceVersion": "8", "labels": {}}}),
    ],
)
def test_bookkeeping_is_no_change(before: Object, after: Object) -> None:
    answer = _answer(_applied(before, after), SAME)
    assert outcome([CONFIG, POD], answer, "present", False) == NOTHING


@pytest.mark.parametrize(("result", "changed"), [(SAME, []), (_made(POD), ["Pod shop/app"])])
def test_one_object(result: Object, changed: list[str]) -> None:
    assert outcome([POD], _answer(result), "present", False)["objects"] == changed


def test_a_date_without_quotes_is_shown() -> None:
    (item,) = documents("{apiVersion: v1, kind: ConfigMap, metadata: {name: app}, data: {day: 2026-01-01}}")
    (diff,) = outcome([item], _answer(_made(item)), "present", False)["diff"]
    assert "day: '2026-01-01'" in diff["after"]


def test_what_goes() -> None:
    result = outcome([POD, CONFIG, WIDGET], _answer(GONE, NOT_THERE, NO_KIND), "absent", False)
    assert (result["changed"], result["objects"]) == (True, ["Pod shop/app"])
    (diff,) = result["diff"]
    assert (diff["before"], diff["after"]) == (
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: app\n  namespace: shop\n",
        "",
    )


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize(("state", "fails"), [("present", True), ("absent", False)])
def test_a_kind_without_a_crd_is_not_there_but_cannot_be_made(state: str, fails: bool, check: bool) -> None:
    if not fails:
        assert outcome([WIDGET], _answer(NO_KIND), state, check) == NOTHING
        return
    with pytest.raises(LabError, match=r"Widget shop/app: Failed to find exact match for example.org/v1.Widget"):
        outcome([WIDGET], _answer(NO_KIND), state, check)


def test_what_somebody_else_removes_meanwhile_is_gone() -> None:
    gone = _status(404, 'configmaps "app" not found', "delete")
    result = outcome([POD, CONFIG], _answer(GONE, gone), "absent", False)
    assert (result["changed"], result["objects"]) == (True, ["Pod shop/app"])
    with pytest.raises(LabError, match='ConfigMap shop/app: configmaps "app" is forbidden'):
        outcome([POD, CONFIG], _answer(GONE, _status(403, 'configmaps "app" is forbidden')), "absent", False)


OTHER_ACCOUNT = {**ACCOUNT, "metadata": {"name": "app", "namespace": "other"}}


@pytest.mark.parametrize(
    ("maker", "error", "state", "check", "foreseen"),
    [
        (ACCOUNT, NO_ACCOUNT, "present", True, True),
        (NAMESPACE, NO_NAMESPACE, "present", True, True),
        # Whoever really applies gets the error, and so does whoever makes something else.
        (ACCOUNT, NO_ACCOUNT, "present", False, False),
        (NAMESPACE, NO_NAMESPACE, "present", False, False),
        (CONFIG, NO_ACCOUNT, "present", True, False),
        (OTHER_ACCOUNT, NO_ACCOUNT, "present", True, False),
        (ACCOUNT, NO_NAMESPACE, "present", True, False),
        (ACCOUNT, NO_ACCOUNT, "absent", True, False),
        (ACCOUNT, _status(403, CANNOT), "present", True, False),
        (ACCOUNT, _status(500, "etcdserver: request timed out"), "present", True, False),
    ],
)
def test_check_mode_foresees_what_the_task_itself_makes(
    maker: Object, error: Object, state: str, check: bool, foreseen: bool
) -> None:
    answer = _answer(_made(maker), error)
    if not foreseen:
        with pytest.raises(LabError, match=r"^Pod shop/app: "):
            outcome([maker, POD], answer, state, check)
        return
    result = outcome([maker, POD], answer, state, check)
    assert result["objects"] == [title(maker), "Pod shop/app"]
    assert result["diff"][1]["before"] == ""
    assert "kind: Pod" in result["diff"][1]["after"]


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (
            _status(403, CANNOT),
            f"{CANNOT}. {RIGHT}",
        ),
        (
            _status(403, CANNOT, "retrieve requested"),
            f"{CANNOT}. {RIGHT}",
        ),
        (
            NO_ACCOUNT,
            'pods "app" is forbidden: error looking up service account shop/app: serviceaccount "app" not found',
        ),
        (_status(422, "Pod is invalid:\n  spec: Required value"), "Pod is invalid: spec: Required value"),
        ({"changed": False, "error": {"msg": "no\nJSON"}, "result": {}}, "no JSON"),
        ({"changed": False, "error": {"msg": "Failed: {broken"}, "result": {}}, "Failed: {broken"),
        (
            {"changed": False, "error": {"msg": '"Pod" "app": Timed out waiting on resource', "changed": True}},
            '"Pod" "app": Timed out waiting on resource',
        ),
    ],
)
def test_what_is_refused_is_one_line(result: Object, words: str) -> None:
    with pytest.raises(LabError) as caught:
        outcome([CONFIG, POD], _answer(SAME, result), "present", False)
    assert caught.value.message == f"Pod shop/app: {words}"
    assert caught.value.result == {"refused": [caught.value.message]}


def test_all_that_is_refused_is_counted() -> None:
    with pytest.raises(LabError) as caught:
        outcome([CONFIG, POD, WIDGET], _answer(_made(CONFIG), NO_ACCOUNT, NO_KIND), "present", False)
    assert caught.value.message.startswith("Pod shop/app: ")
    assert caught.value.message.endswith(" (and 1 more)")
    assert [line.partition(":")[0] for line in caught.value.result["refused"]] == ["Pod shop/app", "Widget shop/app"]


@pytest.mark.parametrize("wanted", [[POD], [POD, CONFIG]])
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"failed": True, "msg": "Could not create API client:\nInvalid kube-config file"}, "Could not create API"),
        ({"failed": True, "msg": ""}, "kubernetes.core.k8s gave no answer"),
        ({}, "kubernetes.core.k8s gave no answer"),
    ],
)
def test_an_answer_that_is_none_is_a_failure(wanted: list[Object], answer: Object, message: str) -> None:
    with pytest.raises(LabError) as caught:
        outcome(wanted, answer, "present", False)
    assert message in caught.value.message
    assert "\n" not in caught.value.message
