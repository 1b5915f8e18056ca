# Definitions, and whose objects are left alone.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import copy
import json
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._cluster.objects import documents, owned, title
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError

Object = dict[str, t.Any]
LABEL = "app.kubernetes.io/managed-by"
NAMESPACE: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
ACCOUNT: Object = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "app", "namespace": "shop"}}
POD: Object = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app", "namespace": "shop"}}
CONFIG: Object = {**POD, "kind": "ConfigMap", "data": {"a": "1"}}
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
        ("a: [", "definition is no YAML at line 1, column 5: correct it"),
        ("a:\n\tb", "definition is no YAML at line 2, column 1"),
        # Nothing of the text is in the message: a Secret may be.
        ("stringData: {token: *planted}", "definition is no YAML at line 1, column 21: correct it"),
        ("words", "definition: object 1 needs apiVersion, kind and metadata.name; it has no keys"),
        (["words"], "object 1 needs"),
        ({"metadata": {"name": "a"}, "data": {"a": "planted"}}, "it has metadata, data"),
        ({"kind": "Pod"}, "it has kind"),
        ([POD, {"kind": "Pod", "metadata": None}], "object 2 needs"),
        ({"kind": "Pod", "metadata": {"namespace": "shop"}}, "needs apiVersion, kind and metadata.name"),
        ({"kind": "Pod", "metadata": {"name": "app"}}, "needs apiVersion, kind and metadata.name"),
        ({**POD, "metadata": "words"}, "needs apiVersion, kind and metadata.name"),
        ("2026-01-01", "it has no keys"),
        ({"x" * 500: "Pod"}, "it has xxx"),
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
