# What two states differ in: an unknown hides no change, and what can only have closed is no opening.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._reach.changes import Change, changes_of
from ansible_collections.ambient.lab.plugins.module_utils._reach.reach import cells
from ansible_collections.ambient.lab.tests.unit.plugins.module_utils._mesh.test_folder import L4, SHOP, WAYPOINT
from ansible_collections.ambient.lab.tests.unit.plugins.module_utils._reach.test_mutation import mesh_of

HEAD = L4.partition("spec")[0]
SERVED = "targetRefs: [{kind: Service, name: app}]"


def written(spec: str, name: str = "l4") -> str:
    """An AuthorizationPolicy."""
    return f"{HEAD.replace('l4', name)}spec: {{{spec}}}\n"


def for_app(name: str) -> str:
    """A policy that denies all to one app."""
    return written(f"selector: {{matchLabels: {{app: {name}}}}}, rules: []", f"p-{name}")


def source(fields: str) -> str:
    return written(f"rules: [{{from: [{{source: {{{fields}}}}}]}}]")


def changes(old: list[str], new: list[str]) -> list[Change]:
    meshes = mesh_of(*old), mesh_of(*new)
    return changes_of(cells(meshes), *meshes)


ISOLATED = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: np, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{}]}
"""
CUSTOM = written(f"{SERVED}, action: CUSTOM, provider: {{name: oauth}}, rules: [{{}}]", "c")
ALL = written("rules: [{}]")
PATHS = WAYPOINT.replace("methods: [GET]", "paths: ['%s']")
DENIED = written("")
OTHER = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: b, namespace: shop}
spec:
  template:
    metadata: {labels: {app: b, s: all}}
    spec: {containers: [{name: main, ports: [{containerPort: 8080}]}]}
"""
PLAIN = SHOP.replace("istio.io/use-waypoint: wp", "a: b")
TWO = (
    PLAIN.replace("{app: app}}", "{app: app, s: all}}").replace("selector: {app: app}", "selector: {s: all}")
    + "---"
    + OTHER
)
TWIN = PLAIN + "---" + OTHER.replace("name: b,", "name: app,").replace("Deployment", "StatefulSet")
UNKNOWN = "unclear", True
BARE = SHOP.replace("{labels: {app: app}}", "{labels: {app: b}}")


@pytest.mark.parametrize(
    ("old", "new", "client"),
    [
        # What a NetworkPolicy hides, policies may open, and close, and it may itself.
        ([SHOP, ISOLATED, L4.replace("client", "x")], [SHOP, ISOLATED, ALL], UNKNOWN),
        ([SHOP, ISOLATED, ALL], [SHOP, ISOLATED, L4.replace("client", "x")], ("unclear", False)),
        ([SHOP, ISOLATED.replace("{}]", "{ports: []}]")], [SHOP, ISOLATED], UNKNOWN),
        ([PLAIN, ISOLATED, L4], [PLAIN, ISOLATED, ALL], None),
        # Through a waypoint that may stand elsewhere it is the waypoint that calls.
        ([SHOP, ISOLATED, L4], [SHOP, ISOLATED, ALL], UNKNOWN),
        ([SHOP, source("ipBlocks: [10.0.0.0/16]")], [SHOP, source("ipBlocks: [10.0.0.0/8]")], UNKNOWN),
        # An authorizer's answer is not known; what nobody may call any more has not opened.
        ([SHOP, WAYPOINT, CUSTOM], [SHOP, CUSTOM], UNKNOWN),
        (
            [SHOP, WAYPOINT, CUSTOM],
            [SHOP, WAYPOINT, CUSTOM.replace("CUSTOM", "DENY").replace("provider: {name: oauth}, ", "")],
            ("unclear", False),
        ),
        ([SHOP, WAYPOINT, CUSTOM], [SHOP, WAYPOINT, CUSTOM], None),
        # A waypoint may normalise these before it compares them.
        *(([SHOP, PATHS % "/a"], [SHOP, PATHS % f"/a', '{path}"], UNKNOWN) for path in ("/my%20x/*", "//b", "/a\\\\b")),
        # The same name leads to other pods.
        ([TWO], [TWO.replace("selector: {s: all}", "selector: {app: b}")], ("changed", False)),
        # The pods behind the Service stand elsewhere.
        ([BARE, L4.replace("client", "x")], [BARE, ALL], UNKNOWN),
    ],
)
def test_an_unknown_hides_no_change(old: list[str], new: list[str], client: tuple[str, bool] | None) -> None:
    found = {
        (one.kind, one.opens)
        for one in changes(old, new)
        if one.cell.door.name.startswith("Service") and "shop/client" in one.names
    }
    assert found == ({client} if client else set())


PORT = "rules: [{to: [{operation: {ports: [%s]}}]}]"
PEER = L4.replace("AuthorizationPolicy", "PeerAuthentication").partition("spec")[0]
STRICT = "spec: {selector: {matchLabels: {app: app}}, mtls: {mode: STRICT}%s}\n"


@pytest.mark.parametrize(
    ("old", "new", "door"),
    [
        # Containers need not declare their ports.
        ([SHOP, written(PORT % "'8080'")], [SHOP, written(PORT % "'8080', '9090'")], "pod shop/app:9090"),
        ([SHOP, written(PORT % "'8080'")], [SHOP, ALL], "pod shop/app:any other port"),
        (
            [SHOP, PEER + STRICT % ""],
            [SHOP, PEER + STRICT % ", portLevelMtls: {9090: {mode: PERMISSIVE}}"],
            "pod shop/app:9090",
        ),
        (
            [SHOP.replace("ports: [{containerPort: 8080}]", ""), DENIED],
            [SHOP.replace("ports: [{containerPort: 8080}]", "")],
            "pod shop/client:any other port",
        ),
        # A Service stands for its pods where all are alike.
        ([TWO, for_app("app"), for_app("b")], [TWO, for_app("app")], "pod shop/b:8080"),
        # Workloads of two kinds have one name.
        ([TWIN, for_app("b")], [TWIN], "pod shop/app (StatefulSet):8080"),
    ],
)
def test_every_port_of_every_pod_is_looked_at(old: list[str], new: list[str], door: str) -> None:
    assert "opened" in {one.kind for one in changes(old, new) if one.cell.door.name == door}


@pytest.mark.parametrize("kind", ["AuthorizationPolicy", "PeerAuthentication"])
def test_a_policy_that_no_destination_shows_is_unclear(kind: str) -> None:
    old = HEAD.replace("shop", "far").replace("AuthorizationPolicy", kind) + "spec: {selector: {matchLabels: {a: b}}}"
    (found,) = changes([SHOP, old], [SHOP, old.replace("a: b", "a: c")])
    assert (found.kind, found.opens, found.cell.door.name) == ("unclear", True, f"{kind} far/l4")
    assert changes([SHOP, old], [SHOP, old]) == []


SERVICE = "Service shop/app:80"
GATEWAY = WAYPOINT.partition("---")[0]


def on(paths: str, name: str = "l4", action: str = "ALLOW") -> str:
    return written(f"{SERVED}, action: {action}, rules: [{{to: [{{operation: {{{paths}}}}}]}}]", name)


def of(fields: str) -> str:
    return written(f"{SERVED}, rules: [{{from: [{{source: {{{fields}}}}}]}}]")


def header(*conditions: str) -> str:
    when = ", ".join(f"{{key: 'request.headers[x]', {one}}}" for one in conditions)
    return written(f"{SERVED}, rules: [{{when: [{when}]}}]")


NOBODY_AT_ALL = written("rules: []")
NOBODY = written(f"{SERVED}, rules: []")
MORE = ", ".join(f"'/s{number}/t{number}'" for number in range(8))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # What stands for all others is none of those that a policy names.
        (NOBODY, on("paths: ['*'], notPaths: ['/a*', '/']")),
        (NOBODY, header("values: ['*']", "notValues: ['*r']")),
        (of("namespaces: ['a*', shop]"), of("namespaces: ['*']")),
        # Templates, beside what begins and ends with a text.
        (on("paths: ['/a/{*}'], notPaths: ['*.html']"), on("paths: ['/a/{*}']")),
        (on("paths: ['/files/{*}/get'], notPaths: ['/files/s*']"), on("paths: ['/files/{*}/get']")),
        (on("paths: ['/app/{**}'], notPaths: ['*.php']"), on("paths: ['/app/{**}']")),
        (
            on(f"paths: ['/a/{{*}}/{{*}}/{{*}}', {MORE}], notPaths: ['/{{*}}/b/{{*}}/{{*}}']"),
            on(f"paths: ['/a/{{*}}/{{*}}/{{*}}', {MORE}]"),
        ),
        # A waypoint takes every star.
        (NOBODY, of("namespaces: ['*prod*']")),
        (NOBODY, of("namespaces: ['prod-*-eu-*']")),
        # The end of an identity may begin within its namespace.
        (NOBODY, of("principals: ['*/foo/sa/bar']")),
        (NOBODY, of("principals: ['*oo/sa/bar']")),
    ],
)
def test_no_request_and_no_caller_is_forgotten(old: str, new: str) -> None:
    found = {one.kind for one in changes([SHOP, GATEWAY, old], [SHOP, GATEWAY, new]) if one.cell.door.name == SERVICE}
    assert "opened" in found


CONFIG = """
apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data:
  mesh: "{}"
"""


def test_a_mesh_that_has_another_trust_domain_is_a_caller() -> None:
    config = CONFIG.format("trustDomain: own")
    old, new = "own/ns/a/sa/b", "own/ns/a/sa/b, cluster.local/ns/a/sa/b"
    found = changes([PLAIN, config, source(f"principals: [{old}]")], [PLAIN, config, source(f"principals: [{new}]")])
    assert ("opened", ("cluster.local/a/b",)) in {(one.kind, one.names) for one in found}


def test_one_destination_that_is_too_rich_hides_no_other() -> None:
    lists = {"methods": "M", "paths": "/", "hosts": "h"}
    fields = [f"{key}: [{', '.join(f'{text}{number}' for number in range(30))}]" for key, text in lists.items()]
    rich, poor = on(", ".join(fields), "rich"), on("methods: [GET]", "rich")
    world = [SHOP, GATEWAY, OTHER]
    found = changes([*world, rich, for_app("b")], [*world, rich])
    assert {one.kind for one in found if one.cell.door.name == "pod shop/b:8080"} == {"opened", "unclear"}
    assert SERVICE not in {one.cell.door.name for one in found}
    (lost,) = [one for one in changes([*world, rich], [*world, poor]) if one.cell.door.name == SERVICE]
    assert (lost.kind, lost.names, lost.because) == ("unclear", ("anybody",), "shop/rich has changed")
    assert "more than 20000 requests apart" in lost.values()["now"]


def test_what_is_not_ready_now_is_compared_as_if_it_were() -> None:
    none = SHOP.replace("spec:\n  template", "spec:\n  replicas: 0\n  template")
    found = {(one.kind, one.values()["was"]) for one in changes([none, NOBODY_AT_ALL], [none])}
    assert ("opened", "denied_l4 (no ALLOW rule of shop/l4)") in found
    # That it is ready in one state alone is no opening.
    assert changes([none], [SHOP]) == []
