# What a folder of manifests says of input that a cluster would refuse: one line each, with file and line.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._mesh.folder import laid_over, place_at, read_objects
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import (
    DATAPLANE_MODE,
    Object,
    annotations_of,
    labels_of,
)
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import gateway, mesh_of, pod, policy

HEAD = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\n"
NUMBERS = ", ".join(f"a{number}" for number in range(17))


def said(*texts: str) -> str:
    with pytest.raises(LabError) as caught:
        read_objects([(f"{number}.yaml", text) for number, text in enumerate(texts)], "here")
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: Service\nmetadata: {name: a}\n", "0.yaml:1: apiVersion is missing"),
        ("\n\napiVersion: v1\nmetadata: {name: a}\n", "0.yaml:3: kind is missing"),
        ("values: 1\n", "here holds no Kubernetes objects"),
        ("- a\n- b\n", "here holds no Kubernetes objects"),
        (HEAD.replace("/v1", "/v9"), "0.yaml:1: AuthorizationPolicy p: unknown apiVersion security.istio.io/v9: write"),
        (HEAD.replace("security.", "auth."), "unknown apiVersion auth.istio.io/v1: write security.istio.io/v1 or"),
        ("apiVersion: v1\nkind: List\nitems:\n- 1\n", "0.yaml:4: an item of a list is no object with a kind"),
        (f"{HEAD}---\n{HEAD}", "0.yaml:5: AuthorizationPolicy default/p is there already, at 0.yaml:1"),
    ],
)
def test_what_is_no_object_is_named(text: str, words: str) -> None:
    assert words in said(text)


@pytest.mark.parametrize(
    ("spec", "line", "words"),
    [
        ("selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: a}]", 4, "exclude each other"),
        ("targetRefs: [{kind: HTTPRoute, group: gateway.networking.k8s.io, name: a}]", 4, "can't name HTTPRoute"),
        ("targetRefs: [{kind: Service, name: a, namespace: b}]", 4, "must have no namespace"),
        ("action: DENY", 4, "DENY needs rules"),
        ("action: CUSTOM, rules: [{}]", 4, "CUSTOM needs provider.name"),
        ("provider: {name: a}", 4, "provider is for CUSTOM alone"),
        (
            "action: CUSTOM, provider: {name: a}, rules: [{from: [{source: {namespaces: [a]}}]}]",
            4,
            "can't use namespaces",
        ),
        ("rules: [\n {to: [{operation: {ports: [web]}}]}]", 5, "web is no port"),
        ("rules: [\n {},\n {from: [{source: {ipBlocks: [10.0.0.0/99]}}]}]", 6, "10.0.0.0/99 is neither an address"),
        ("rules: [{from: [{source: {serviceAccounts: ['a*']}}]}]", 4, "without wildcards"),
        ("rules: [{from: [{source: {serviceAccounts: [a], namespaces: [b]}}]}]", 4, "can't stand beside"),
        (f"rules: [{{from: [{{source: {{serviceAccounts: [{NUMBERS}]}}}}]}}]", 4, "at most 16"),
        ("rules: [{to: [{operation: {methods: ['']}}]}]", 4, "methods has an empty value"),
        ("rules: [{to: [{operation: {methods: []}}]}]", 4, "no field that says anything"),
        ("rules: [{to: [{operation: {paths: ['/{**}/{*}']}}]}]", 4, "{**} is the last"),
        ("rules: [{to: [{operation: {paths: ['/a{*}']}}]}]", 4, "whole segments"),
        ("rules: [{when: [{key: request.header, values: [a]}]}]", 4, "unknown key request.header"),
        ("rules: [{when: [{key: source.ip}]}]", 4, "needs values or notValues"),
        ("rules: [{when: [{key: source.ip, values: [x]}]}]", 4, "x is neither an address"),
    ],
)
def test_what_istios_webhook_refuses(spec: str, line: int, words: str) -> None:
    found = said(f"{HEAD}spec: {{{spec}}}")
    assert found.startswith(f"0.yaml:{line}: AuthorizationPolicy p: ")
    assert words in found


def other(kind: str, spec: str) -> str:
    return f"{HEAD.replace('AuthorizationPolicy', kind)}spec: {{{spec}}}"


SELECTED = "selector: {matchLabels: {app: a}}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (other("PeerAuthentication", "portLevelMtls: {8080: {mode: STRICT}}"), "portLevelMtls needs a selector"),
        (
            other("PeerAuthentication", "selector: {matchLabels: {}}, portLevelMtls: {80: {mode: STRICT}}"),
            "needs a selector",
        ),
        (other("PeerAuthentication", f"{SELECTED}, portLevelMtls: {{}}"), "portLevelMtls must have a port"),
        (other("PeerAuthentication", f"{SELECTED}, portLevelMtls: {{0: {{mode: STRICT}}}}"), "0 is no port"),
        (other("PeerAuthentication", f"{SELECTED}, portLevelMtls: {{65536: {{mode: STRICT}}}}"), "65536 is no port"),
        (other("PeerAuthentication", "selector: {matchExpressions: []}"), "matchExpressions: there is no such field"),
        (other("PeerAuthentication", "selector: {matchLabels: {app: 'a*'}}"), "no wildcards and no empty key: app=a*"),
        (other("AuthorizationPolicy", "selector: {matchExpressions: [{key: a}]}"), "there is no such field"),
        (other("AuthorizationPolicy", "selector: {matchLabels: {app: '*'}}"), "takes no wildcards"),
        (other("AuthorizationPolicy", "selector: {matchLabels: {'': a}}"), "no empty key"),
        (other("RequestAuthentication", "selectr: {}"), "spec.selectr: there is no such field"),
        (other("RequestAuthentication", "jwtRules: [{isuer: a}]"), "spec.jwtRules[0].isuer: there is no such field"),
        (other("RequestAuthentication", "jwtRules: [{audiences: [a]}]"), "needs issuer or jwksUri"),
        (
            other("RequestAuthentication", f"{SELECTED}, targetRefs: [{{kind: Service, name: a}}]"),
            "exclude each other",
        ),
        (other("RequestAuthentication", "targetRefs: [{kind: HTTPRoute, name: a}]"), "can't name HTTPRoute"),
        (HEAD.replace("name: p", "name: My_Policy"), "'My_Policy' is no name that the API takes"),
        (HEAD.replace("name: p", f"name: {'a' * 254}"), "is no name that the API takes"),
        (HEAD.replace("name: p", "name: p, namespace: a.b"), "'a.b' is no namespace that the API takes"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: a.b}\n", "'a.b' is no name that the API takes"),
    ],
)
def test_what_the_api_refuses_of_names_and_of_other_policies(text: str, words: str) -> None:
    assert words in said(text)
    assert len(said(text).splitlines()) == 1


def test_what_the_api_takes_is_taken() -> None:
    jwt = (
        "{issuer: a, jwksUri: 'https://a.example', audiences: [a], fromHeaders: [{name: x, prefix: 'b '}], "
        "fromParams: [t], outputClaimToHeaders: [{header: x, claim: sub}], forwardOriginalToken: true, timeout: 5s}"
    )
    texts = [
        HEAD.replace("name: p", "name: a.b-c.0"),
        other("PeerAuthentication", f"{SELECTED}, mtls: {{mode: STRICT}}, portLevelMtls: {{8080: {{mode: DISABLE}}}}"),
        other("RequestAuthentication", f"{SELECTED}, jwtRules: [{jwt}]"),
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: x.example}\n",
    ]
    assert len(read_objects([(f"{number}.yaml", text) for number, text in enumerate(texts)], "here")[0]) == 4


def test_all_that_is_wrong_is_said_at_once() -> None:
    broken, denying = "a: [", f"{HEAD}spec: {{action: DENY}}"
    assert [line.partition(":")[0] for line in said(broken, denying, broken).splitlines()][1] == "1.yaml"
    assert len(said(broken, denying, broken).splitlines()) == 3


def test_where_a_field_stands() -> None:
    text = f"{HEAD}spec:\n  rules:\n  - {{}}\n  - to:\n    - operation: {{methods: [GET]}}\n"
    (item,), notes = read_objects([("a.yaml", text), ("values.yaml", "replicas: 1\n")], "here")
    assert [place_at(item), place_at(item, "spec", "rules", 1, "to"), place_at({})] == ["a.yaml:1", "a.yaml:7", ""]
    assert notes == ["values.yaml:1: left out, because it is no Kubernetes object"]


def applied(*objects: Object) -> list[Object]:
    """Objects as a folder has them."""
    return [{"apiVersion": "v1", **item} for item in objects]


def test_a_folder_is_laid_over_a_cluster() -> None:
    there = mesh_of(pod("app"), gateway(address=False), policy("a", action="ALLOW"), policy("b"))
    workload = {"kind": "Deployment", "metadata": {"name": "app", "namespace": "default"}}
    template = {"metadata": {"labels": {"app": "new"}}, "spec": {"serviceAccountName": "new", "containers": []}}
    spaces = {"kind": "Namespace", "metadata": {"name": "default", "labels": {DATAPLANE_MODE: "none"}}}
    waypoint = {**gateway()[0], "status": {}}
    found = laid_over(
        there, applied({**workload, "spec": {"template": template}}, spaces, waypoint, policy("a", action="DENY"))
    )
    assert {item["metadata"]["name"]: item["spec"].get("action") for item in found.items("AuthorizationPolicy")} == {
        "a": "DENY",
        "b": None,
    }
    app = found.get("Pod", "default", "app") or {}
    # It keeps its address, takes the template's labels, and leaves the mesh with its namespace.
    assert (app["status"]["podIP"], labels_of(app), app["spec"]["serviceAccountName"]) == (
        "10.0.0.1",
        {"app": "new"},
        "new",
    )
    assert annotations_of(app) == {}
    # Nobody but the cluster says that a waypoint is there.
    assert [bool((item.get("status") or {}).get("addresses")) for item in found.items("Gateway")] == [False]
    assert len(found.items("Pod", "layer7")) == 1


def test_what_a_cluster_does_not_have_comes_with_the_folder() -> None:
    found = laid_over(mesh_of(), applied({**gateway()[0], "status": {}}, pod("app", captured=False)))
    assert [item["status"]["addresses"] for item in found.items("Gateway")]
    assert found.membership(found.items("Pod", "default")[0]).captured
