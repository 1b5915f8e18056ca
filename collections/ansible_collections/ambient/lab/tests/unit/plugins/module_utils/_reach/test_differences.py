# An object that differs is silent only where it was evaluated, or where it can mean nothing.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh
from ansible_collections.ambient.lab.plugins.module_utils._reach.changes import Change, changes_of
from ansible_collections.ambient.lab.plugins.module_utils._reach.reach import cells
from ansible_collections.ambient.lab.tests.unit.plugins.module_utils._mesh.test_folder import L4, SHOP, WAYPOINT
from ansible_collections.ambient.lab.tests.unit.plugins.module_utils._reach.test_changes import (
    CONFIG,
    CUSTOM,
    GATEWAY,
    HEAD,
    ISOLATED,
    PLAIN,
    SERVED,
    changes,
    for_app,
    written,
)
from ansible_collections.ambient.lab.tests.unit.plugins.module_utils._reach.test_mutation import mesh_of

NAMESPACE, _, REST = SHOP.partition("---")
GET = written(f"{SERVED}, rules: [{{to: [{{operation: {{methods: [GET]}}}}]}}]")
REVISED = SHOP.replace("ambient}", "ambient, istio.io/rev: stable}")
CANARY = SHOP.replace("use-waypoint: wp", "use-waypoint: wp, istio.io/use-waypoint-canary: %s")
SECOND = GATEWAY.replace("name: wp", "name: w2")
CANARIES = (CANARY % "w2").partition("---")[2]
AT_SECOND = written("targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: w2}], rules: []")
CHOSEN = GATEWAY.replace(
    "protocol: HBONE",
    "protocol: HBONE, allowedRoutes: {namespaces: {from: Selector, selector: "
    "{matchExpressions: [{key: team, operator: In, values: [%s]}]}}}",
)
INGRESS = GATEWAY.replace("istio-waypoint", "istio").replace("name: wp", "name: web")
AT_INGRESS = AT_SECOND.replace("w2", "web")
ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec: {parentRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: web}], rules: [{}]}
"""
WIKI = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wiki, namespace: shop, labels: {istio.io/use-waypoint: wp}}
spec:
  hosts: ['*.wikipedia.org']
  addresses: [240.0.0.9]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DYNAMIC_DNS
"""
AT_WIKI = written("targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: wiki}], rules: []")
PROVIDER = "extensionProviders: [{{name: oauth, envoyExtAuthzHttp: {{service: {}, port: 80}}}}]"
FILTER = """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: f, namespace: shop}
spec: {workloadSelector: {labels: {app: far}}, configPatches: []}
"""
PEERS = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: np, namespace: shop}
spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: a}}}]}]}
"""


def told(found: list[Change]) -> set[tuple[str, str]]:
    return {(one.cell.door.name, one.because) for one in found if one.kind == "unclear" and one.opens}


GONE, CHANGED = "shop/l4 is gone", "has changed"


@pytest.mark.parametrize(
    ("old", "new", "door", "because"),
    [
        # Nobody knows whether a waypoint serves, so what is bound to it counts.
        ([REVISED, GATEWAY, GET], [REVISED, GATEWAY], "Service shop/app:80", GONE),
        (
            [SHOP, GATEWAY.replace("istio-waypoint", "own"), GET],
            [SHOP, GATEWAY.replace("istio-waypoint", "own")],
            "Service shop/app:80",
            GONE,
        ),
        ([SHOP, CHOSEN % "a"], [SHOP, CHOSEN % "b"], "Service shop/app:80", f"Gateway shop/wp {CHANGED}"),
        ([CANARY % "w2", GATEWAY], [CANARY % "w3", GATEWAY], "Service shop/app:80", f"Service shop/app {CHANGED}"),
        # The waypoint, or the namespace, is not in the folder.
        ([SHOP, GET], [SHOP], "AuthorizationPolicy shop/l4", GONE),
        (
            [REST, GATEWAY.replace("wp", "w2"), GET],
            [REST, GATEWAY.replace("wp", "w2")],
            "AuthorizationPolicy shop/l4",
            GONE,
        ),
        # An ingress enforces, and routes, what no destination shows.
        (
            [PLAIN, INGRESS, L4],
            [PLAIN, INGRESS, written("rules: [{}]")],
            "AuthorizationPolicy shop/l4",
            f"shop/l4 {CHANGED}",
        ),
        ([SHOP, INGRESS], [SHOP, INGRESS, ROUTE], "HTTPRoute shop/r", "HTTPRoute shop/r is new"),
        # A host of a wildcard is a destination.
        ([SHOP, GATEWAY, WIKI, AT_WIKI], [SHOP, GATEWAY, WIKI], "ServiceEntry shop/wiki *.wikipedia.org:80", GONE),
        # The mesh's configuration: whatever of it is not evaluated.
        *(
            (
                [SHOP, GATEWAY, CUSTOM, CONFIG.format(old)],
                [SHOP, GATEWAY, CUSTOM, CONFIG.format(new)],
                "ConfigMap the mesh's configuration",
                f"the mesh's configuration has changed: {what}",
            )
            for old, new, what in (
                (PROVIDER.format("a.b"), PROVIDER.format("a.c"), "extensionProviders oauth"),
                ("", "pathNormalization: {normalization: NONE}", "pathNormalization"),
                ("", "discoverySelectors: [{matchLabels: {a: b}}]", "discoverySelectors"),
                ("", "defaultConfig: {gatewayTopology: {numTrustedProxies: 1}}", "defaultConfig.gatewayTopology"),
            )
        ),
        ([SHOP], [SHOP, FILTER], "EnvoyFilter shop/f", "EnvoyFilter shop/f is new"),
        # Labels that selectors name which are not evaluated.
        (
            [SHOP, PEERS],
            [SHOP.replace("{istio.io/data", "{team: a, istio.io/data"), PEERS],
            "label team of Namespace shop",
            f"label team of Namespace shop {CHANGED}",
        ),
    ],
)
def test_what_differs_and_was_not_evaluated_is_unclear(old: list[str], new: list[str], door: str, because: str) -> None:
    assert (door, because) in told(changes(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # What authors of other tools write, and what the API does.
        (
            [SHOP, WAYPOINT],
            [SHOP, WAYPOINT.replace("name: get,", "name: get, annotations: {kubectl.kubernetes.io/x: y},")],
        ),
        (
            [SHOP, WAYPOINT],
            [SHOP.replace("labels: {istio.io/use", "labels: {helm.sh/chart: a, istio.io/use"), WAYPOINT],
        ),
        ([SHOP, WAYPOINT], [SHOP.replace("ambient}}", "ambient}, annotations: {a: b}}"), WAYPOINT]),
        ([SHOP, GATEWAY], [SHOP, f"{GATEWAY}status: {{addresses: [{{value: 192.0.2.1}}]}}\n"]),
        # A waypoint that nobody uses yet, and what is bound to a Service that has none.
        ([PLAIN], [PLAIN, GATEWAY]),
        ([PLAIN], [PLAIN, GET]),
        # The same said otherwise.
        ([SHOP, GATEWAY, GET], [SHOP, GATEWAY, GET.replace("[GET]", "[GET, GET]")]),
        ([SHOP, GATEWAY, ISOLATED, GET], [SHOP, GATEWAY, ISOLATED, GET.replace("[GET]", "[GET, GET]")]),
        ([SHOP, CONFIG.format("")], [SHOP, CONFIG.format("accessLogFile: /dev/stdout")]),
        ([SHOP, CONFIG.format("")], [SHOP, CONFIG.format(PROVIDER.format("nobody.asks"))]),
    ],
)
def test_what_can_not_matter_is_silent(old: list[str], new: list[str]) -> None:
    assert told(changes(old, new)) == set()


POD = """
apiVersion: v1
kind: Pod
metadata: {{name: p, namespace: shop, labels: {{app: b, {labels}}}, annotations: {{{annotations}}}}}
spec: {{containers: [{{name: main}}]}}
"""
SIDECAR = POD.format(labels="a: b", annotations="sidecar.istio.io/status: x")


def whole(*texts: str) -> Mesh:
    mesh = mesh_of(*texts)
    mesh.config = dataclasses.replace(mesh.config, whole=True)
    return mesh


GATE = POD.format(labels="istio: ingressgateway", annotations="")
AT_POLICY = "AuthorizationPolicy shop/l4"


@pytest.mark.parametrize(
    ("old", "new", "door"),
    [
        ([SIDECAR, for_app("b")], [SIDECAR], "pod shop/p:any other port"),
        ([SIDECAR, for_app("b")], [SIDECAR.replace("app: b", "app: c"), for_app("b")], "pod shop/p:any other port"),
        ([GATE, for_app("b")], [GATE], "AuthorizationPolicy shop/p-b"),
        ([INGRESS, AT_INGRESS], [INGRESS], AT_POLICY),
        ([CANARIES, GATEWAY, SECOND, AT_SECOND], [CANARIES, GATEWAY, SECOND], AT_POLICY),
    ],
)
def test_what_an_envoy_outside_of_the_model_enforces_is_unclear(old: list[str], new: list[str], door: str) -> None:
    plain = NAMESPACE.replace("dataplane-mode: ambient", "a: b")
    meshes = whole(plain, *old), whole(plain, *new)
    assert door in {name for name, _because in told(changes_of(cells(meshes), *meshes))}


@pytest.mark.parametrize(
    "item",
    [
        for_app("nobody"),
        FILTER,
        AT_SECOND,
        HEAD.replace("AuthorizationPolicy", "PeerAuthentication") + "spec: {selector: {matchLabels: {a: b}}}",
    ],
)
def test_what_selects_nothing_of_a_whole_mesh_is_silent(item: str) -> None:
    labelled = PLAIN.replace("{name: client, namespace: shop}", "{name: client, namespace: shop, labels: {c: d}}")
    meshes = whole(labelled), whole(labelled, item)
    assert changes_of(cells(meshes), *meshes) == []
