# A folder of manifests as a mesh: what a cluster would make of it, and what is wrong with a file.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import copy
import pathlib
import random
import re
import typing as t

import pytest
import yaml
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._mesh.folder import (
    Place,
    assembled,
    checked,
    laid_over,
    read_folder,
)
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import ask

SHOP = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: app, namespace: shop}
spec:
  template:
    metadata: {labels: {app: app}}
    spec: {serviceAccountName: app, containers: [{name: main, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: List
items:
  - apiVersion: v1
    kind: Service
    metadata: {name: app, namespace: shop, labels: {istio.io/use-waypoint: wp}}
    spec: {selector: {app: app}, ports: [{name: http, port: 80, targetPort: 8080}]}
  - {apiVersion: v1, kind: Pod, metadata: {name: client, namespace: shop}, spec: {serviceAccountName: client}}
"""
WAYPOINT = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: get, namespace: shop}
spec: {targetRefs: [{kind: Service, name: app}], rules: [{to: [{operation: {methods: [GET]}}]}]}
"""
# The same without a waypoint, and the waypoint without a policy.
PLAIN = SHOP.replace("istio.io/use-waypoint: wp", "a: b")
GATEWAY = WAYPOINT.partition("---")[0]
L4 = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: l4, namespace: shop}
spec: {rules: [{from: [{source: {serviceAccounts: [client]}}]}]}
"""


def folder(path: pathlib.Path, **files: str) -> str:
    (path / "more").mkdir(exist_ok=True)
    for name, text in files.items():
        (path / "more" / f"{name}.yaml").write_text(text, encoding="utf-8")
    (path / "values.yaml").write_text("replicas: 1\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("files", "method", "outcome"),
    [
        ({"shop": PLAIN}, "POST", "allowed"),
        ({"shop": SHOP}, "POST", "unknown"),
        ({"shop": PLAIN.partition("---")[2]}, "POST", "unknown"),
        ({"shop": PLAIN.partition("---")[2], "l4": L4}, "POST", "unknown"),
        ({"shop": SHOP, "waypoint": WAYPOINT}, "POST", "denied_l7"),
        ({"shop": SHOP, "waypoint": WAYPOINT}, "GET", "allowed"),
        # The policy of the pods forgets the waypoint.
        ({"shop": SHOP, "waypoint": WAYPOINT, "l4": L4}, "GET", "denied_upstream"),
        ({"shop": PLAIN, "l4": L4}, "GET", "allowed"),
        ({"shop": PLAIN, "l4": L4.replace("client", "other")}, "GET", "denied_l4"),
        # Nobody knows a pod's address yet.
        ({"shop": SHOP, "l4": L4.replace("serviceAccounts: [client]", "ipBlocks: [10.0.0.0/8]")}, "GET", "unknown"),
    ],
)
def test_what_a_folder_says(tmp_path: pathlib.Path, files: dict[str, str], method: str, outcome: str) -> None:
    mesh = read_folder(folder(tmp_path, **files))
    found = ask(mesh, "http://app/", "client", "shop", method=method)
    assert found.outcome == outcome, found.why


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "bad.yaml can't be read as YAML"),
        # The text may be a Secret's.
        ("stringData: {token: *planted}", "bad.yaml can't be read as YAML at line 1, column 21"),
        ("apiVersion: v1\nkind: Pod\n", "bad.yaml:1: Pod without a name: metadata is missing"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: 1\n", "Pod p: spec must be a mapping"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: [a]}\n", "metadata.labels must be a mapping"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path: pathlib.Path, text: str, words: str) -> None:
    with pytest.raises(LabError, match=words.replace(".", r"\.")):
        read_folder(folder(tmp_path, bad=text))


def test_a_folder_without_objects_proves_nothing(tmp_path: pathlib.Path) -> None:
    with pytest.raises(LabError, match="holds no Kubernetes objects"):
        read_folder(folder(tmp_path))


# One object of each kind, with every field that is read.
EVERYTHING = """
- {kind: Namespace, metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: wp}}}
- {kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: "trustDomain: td"}}
- kind: Deployment
  metadata: {name: istiod, namespace: istio-system, labels: {app.kubernetes.io/version: 1.31.0}}
  spec: {template: {spec: {containers: [{image: "pilot:1.31", args: [--domain, c], env: [{name: A, value: b}]}]}}}
- kind: StatefulSet
  metadata: {name: app, namespace: shop}
  spec:
    replicas: 2
    serviceName: headless
    template:
      metadata: {labels: {app: app}, annotations: {a: b}}
      spec: {serviceAccountName: app, containers: [{ports: [{name: web, containerPort: 8080}]}]}
- kind: Pod
  metadata: {name: client, namespace: shop, labels: {app: client}}
  spec: {serviceAccountName: client, nodeName: n, containers: [{ports: [{containerPort: 80}]}]}
  status: {phase: Running, podIP: 10.0.0.9, podIPs: [{ip: 10.0.0.9}], hostIP: 192.0.2.1}
- kind: Service
  metadata: {name: app, namespace: shop, labels: {a: b}}
  spec: {clusterIP: 10.96.0.1, selector: {app: app}, ports: [{name: http, port: 80, targetPort: web, nodePort: 30080}]}
- kind: Service
  metadata: {name: headless, namespace: shop}
  spec: {clusterIP: None, publishNotReadyAddresses: true, selector: {app: app}, ports: [{port: 8080, protocol: TCP}]}
- {kind: Service, metadata: {name: alias, namespace: shop}, spec: {type: ExternalName, externalName: app.shop.svc.c}}
- {kind: Service, metadata: {name: bare, namespace: shop}, spec: {ports: [{port: 80}]}}
- kind: EndpointSlice
  metadata: {name: bare, namespace: shop, labels: {kubernetes.io/service-name: bare}}
  ports: [{port: 8080}]
  endpoints: [{addresses: [10.0.0.9], conditions: {ready: true}, targetRef: {kind: Pod}}]
- kind: Gateway
  metadata: {name: wp, namespace: shop, labels: {istio.io/waypoint-for: all}}
  spec:
    gatewayClassName: istio-waypoint
    listeners:
      - port: 15008
        protocol: HBONE
        allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {a: b}}}}
- {kind: GatewayClass, metadata: {name: istio-waypoint}, spec: {controllerName: istio.io/mesh-controller}}
- kind: HTTPRoute
  metadata: {name: r, namespace: shop}
  spec:
    parentRefs: [{group: "", kind: Service, name: app, port: 80}]
    rules:
      - matches: [{path: {type: PathPrefix, value: /}, method: GET, headers: [{name: x, value: y}]}]
        filters: [{type: URLRewrite}]
        backendRefs: [{name: app, port: 80, weight: 1}]
- kind: ServiceEntry
  metadata: {name: out, namespace: shop}
  spec:
    hosts: [api.example]
    addresses: [240.0.0.1]
    ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
    endpoints: [{address: 192.0.2.9, ports: {http: 8081}}]
    workloadSelector: {labels: {app: app}}
- kind: WorkloadEntry
  metadata: {name: vm, namespace: shop}
  spec: {address: 192.0.2.8, labels: {app: app}, ports: {http: 1}}
- kind: AuthorizationPolicy
  metadata: {name: l4, namespace: shop, annotations: {a: b}, creationTimestamp: "2026-01-01T00:00:00Z"}
  spec:
    selector: {matchLabels: {app: app}}
    action: DENY
    rules:
      - from: [{source: {namespaces: [a], notIpBlocks: [10.9.0.0/16]}}]
        to: [{operation: {ports: ["80"]}}]
        when: [{key: source.ip, values: [10.0.0.1]}]
- kind: AuthorizationPolicy
  metadata: {name: l7, namespace: shop}
  spec:
    targetRefs: [{group: "", kind: Service, name: app}]
    action: CUSTOM
    provider: {name: p}
    rules: [{to: [{operation: {methods: [PUT], paths: [/a], hosts: [b]}}]}]
- kind: PeerAuthentication
  metadata: {name: p, namespace: shop}
  spec: {selector: {matchLabels: {app: app}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: PERMISSIVE}}}
- {kind: RequestAuthentication, metadata: {name: j, namespace: shop}, spec: {targetRefs: [{kind: Service, name: app}]}}
- kind: NetworkPolicy
  metadata: {name: n, namespace: shop}
  spec: {podSelector: {matchLabels: {app: x}}, policyTypes: [Ingress]}
- {kind: VirtualService, metadata: {name: v, namespace: shop}, spec: {hosts: [x], gateways: [mesh]}}
- {kind: DestinationRule, metadata: {name: d, namespace: shop}, spec: {host: x}}
- {kind: EnvoyFilter, metadata: {name: e, namespace: shop}, spec: {workloadSelector: {labels: {a: b}}}}
- {kind: WasmPlugin, metadata: {name: w, namespace: shop}, spec: {selector: {matchLabels: {a: b}}}}
- {kind: BackendTLSPolicy, metadata: {name: b, namespace: shop}, spec: {targetRefs: [{kind: Service, name: x}]}}
"""
ODD: tuple[t.Any, ...] = (None, True, -1, 1.5, "", "text", [], [None], ["a"], [[]], {}, {"a": None}, {"a": {"b": 1}})
URLS = ("http://app/", "http://headless:8080/", "http://alias/", "http://bare/", "http://api.example/",
        "http://10.96.0.1/", "http://10.0.0.9/", "http://192.0.2.1:30080/", "http://app-0.headless:8080/")  # fmt: skip


WHERE = Place("all.yaml", yaml.compose(EVERYTHING))


def places(node: t.Any) -> t.Iterator[tuple[t.Any, t.Any]]:
    """Every mapping and list of a document, with each of its keys."""
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        yield node, key
        if isinstance(value, (dict, list)):
            yield from places(value)


def spoiled(chance: random.Random, items: list[t.Any]) -> list[t.Any]:
    """The objects with up to two places changed to something odd, or removed."""
    items = copy.deepcopy(items)
    for _time in range(chance.randint(1, 2)):
        node, key = chance.choice([place for item in items for place in places(item)])
        if chance.random() < 0.2 and isinstance(node, dict):
            node.pop(key, None)
        elif node and (isinstance(node, dict) or key < len(node)):
            node[key] = copy.deepcopy(chance.choice(ODD))
    return [item for item in items if item.get("kind")]


def outcome_of(items: list[t.Any]) -> str:
    """Why the objects are refused; "" where all requests can be answered."""
    try:
        mesh = assembled([checked(item, WHERE) for item in items])
    except LabError as error:
        return str(error)
    for url in URLS:
        ask(mesh, url, "client", "shop")
    return ""


def test_no_odd_object_gets_past_the_door() -> None:
    chance, items = random.Random(7), yaml.safe_load(EVERYTHING)
    assert outcome_of(items) == ""
    found = [outcome_of(spoiled(chance, items)) for _turn in range(300)]
    refused = [why for why in found if why]
    assert all(why.startswith("all.yaml:") for why in refused)
    assert 100 < len(refused) < 250


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("{rules: [null]}", "spec.rules[0] must be a mapping"),
        ("{rules: [{to: [{}]}]}", "spec.rules[0].to[0].operation is missing"),
        ("{rules: [{to: [{operation: {ports: [80]}}]}]}", "spec.rules[0].to[0].operation.ports[0] must be a text"),
        ("{selector: {matchLabels: {version: 1}}}", "spec.selector.matchLabels.version must be a text"),
        ("{targetRefs: [{name: app}]}", "spec.targetRefs[0].kind is missing"),
        ("{action: deny}", "spec.action must be one of ALLOW, AUDIT, CUSTOM, DENY"),
        ("{action: DENY, rules: [{from: []}]}", "spec.rules[0].from must have at least one item, or not be there"),
    ],
)
def test_the_field_that_is_wrong_is_named(tmp_path: pathlib.Path, spec: str, words: str) -> None:
    head = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec: "
    with pytest.raises(LabError, match=f"bad.yaml:4: AuthorizationPolicy p: {re.escape(words)}"):
        read_folder(folder(tmp_path, bad=head + spec))


POLICY = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # Istio's kinds under another group, and other kinds under Istio's: nobody would enforce them.
        (
            POLICY.replace("security.istio.io/v1", "v1"),
            "bad.yaml:1: AuthorizationPolicy p: unknown apiVersion v1: write",
        ),
        (POLICY.replace("istio.io/v1", "istio.io"), "bad.yaml:1: AuthorizationPolicy p: unknown apiVersion"),
        (POLICY.replace("Authoriz", "Authoris"), "bad.yaml:2: unknown kind AuthorisationPolicy of security.istio.io"),
        (
            "apiVersion: apps/v1\nkind: ServiceEntry\nmetadata: {name: e}\nspec: {hosts: [a]}\n",
            "bad.yaml:1: ServiceEntry e: unknown apiVersion",
        ),
        ("apiVersion: v1\nkind: List\nitems: [{kind: AuthorizationPolicy}]\n", "bad.yaml:3: an item of a list"),
        (
            f"{POLICY}spec: {{rules: [{{form: []}}]}}\n",
            "bad.yaml:4: AuthorizationPolicy p: spec.rules[0].form: there is no",
        ),
        (f"{POLICY}spec: {{selectors: {{}}}}\n", "spec.selectors: there is no such field; known are action, provider"),
        (f"{POLICY}rules: [{{}}]\n", "bad.yaml:4: AuthorizationPolicy p: rules: there is no such field"),
        (
            f"{POLICY.replace('Authorization', 'Peer').replace('Policy', 'Authentication')}spec: {{mtl: {{}}}}\n",
            "spec.mtl: there",
        ),
        (
            f"{POLICY}spec:\n  rules: [{{}}]\n  rules: []\n",
            "bad.yaml:6: AuthorizationPolicy p: rules stands there twice",
        ),
        ("apiVersion: v1\nkind: List\nitems: {a: b}\n", "bad.yaml:3: items of a List must be a list"),
        ("apiVersion: v1\nkind: List\nitems: abc\n", "bad.yaml:3: items of a List must be a list"),
    ],
)
def test_what_no_api_would_take_is_one_clear_line(tmp_path: pathlib.Path, text: str, words: str) -> None:
    with pytest.raises(LabError, match=re.escape(words)) as caught:
        read_folder(folder(tmp_path, bad=text))
    assert len(caught.value.message.splitlines()) == 1


def test_null_is_nothing(tmp_path: pathlib.Path) -> None:
    head = "\n---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy"
    nulls = f"{head}\nmetadata: {{name: p, namespace: shop, labels: null}}\n"
    mesh = read_folder(folder(tmp_path, shop=PLAIN, none=f"{nulls}spec: {{selector: null, action: null, rules: null}}"))
    assert ask(mesh, "http://app/", "client", "shop").among == ("shop/p",)


OTHER = """
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: app, namespace: shop}
spec: {template: {metadata: {labels: {app: other}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: app, namespace: shop}
spec: {gatewayClassName: istio-waypoint}
"""


def test_what_is_applied_keeps_what_the_cluster_gave() -> None:
    peer = {
        "kind": "PeerAuthentication",
        "metadata": {"name": "p", "namespace": "a", "creationTimestamp": "2026-01-01"},
    }
    there: list[dict[str, t.Any]] = [
        {"kind": "Namespace", "metadata": {"name": "a", "labels": {"x": "y"}}},
        {"kind": "Service", "metadata": {"name": "s", "namespace": "a"}, "spec": {"clusterIP": "10.96.0.5"}},
        peer,
    ]
    new = {"kind": "PeerAuthentication", "metadata": {"name": "q", "namespace": "a"}}
    bare = [
        {"kind": item["kind"], "metadata": {"name": item["metadata"]["name"], "namespace": "a"}} for item in there[1:]
    ]
    mesh = laid_over(Mesh(there), [{"kind": "Namespace", "metadata": {"name": "a"}}, *bare, new])
    assert (mesh.namespace("a") or {})["metadata"]["labels"] == {"x": "y"}
    assert mesh.service_at("10.96.0.5")
    ages = {
        item["metadata"]["name"]: item["metadata"]["creationTimestamp"] for item in mesh.items("PeerAuthentication")
    }
    assert ages["p"] == "2026-01-01" < ages["q"]


def test_objects_of_one_name_have_pods_of_their_own(tmp_path: pathlib.Path) -> None:
    mesh = read_folder(folder(tmp_path, shop=SHOP, other=OTHER))
    names = {item["metadata"]["name"] for item in mesh.items("Pod", "shop")}
    assert names == {"app-deployment-0", "app-0", "app-gateway-0", "client"}


def test_a_workload_without_replicas_has_no_pod(tmp_path: pathlib.Path) -> None:
    mesh = read_folder(folder(tmp_path, shop=PLAIN.replace("spec:\n  template", "spec:\n  replicas: 0\n  template")))
    assert ask(mesh, "http://app/", "client", "shop").outcome == "broken"


@pytest.mark.parametrize(
    "text",
    [
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [a.yaml]\n",
        "apiVersion: batch/v1\nkind: CronJob\nmetadata: {generateName: x-}\n",
        # The API makes a name of it.
        "apiVersion: batch/v1\nkind: Job\nmetadata: {generateName: x-}\n",
        "apiVersion: x/v1\nkind: CustomResourceDefinition\nmetadata: {name: x}\nspec: {enum: [=, a]}\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: d, annotations: {released: 2026-01-01}}\n",
        "apiVersion: v1\nkind: PodList\nitems: [{metadata: {name: x}}]\n",
        # Kinds of other groups that have the name of one that the mesh reads.
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: wp, namespace: shop}\nspec: 1\n",
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: app, namespace: shop}\nspec: {a: b}\n",
        "apiVersion: policy.linkerd.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: l}\nspec: {rules: 1}\n",
    ],
)
def test_objects_that_the_mesh_does_not_read_stop_nothing(tmp_path: pathlib.Path, text: str) -> None:
    mesh = read_folder(folder(tmp_path, shop=SHOP, waypoint=WAYPOINT, zz=text))
    assert ask(mesh, "http://app/", "client", "shop", method="POST").outcome == "denied_l7"


def test_several_istiods_of_a_folder_have_no_revision(tmp_path: pathlib.Path) -> None:
    head = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {namespace: istio-system, labels: {app: istiod}, name: "
    istiods = "\n---\n".join(f"{head}{name}}}" for name in ("istiod", "istiod-canary"))
    assumed = read_folder(folder(tmp_path, shop=SHOP, mesh=istiods)).config.assumed
    assert any(text.startswith("several istiods may be in charge") for text in assumed)
