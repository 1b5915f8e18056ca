# Pods that a cluster would make of a folder's objects: who is injected, who is captured, and by which labels.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import json
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._mesh.destinations import Request
from ansible_collections.ambient.lab.plugins.module_utils._mesh.folder import assembled, laid_over, read_objects
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh, MeshConfig, Object, account_of
from ansible_collections.ambient.lab.plugins.module_utils._mesh.predictions import predict
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import ask, mesh_of, pod, service
from ansible_collections.ambient.lab.tests.unit.plugins.module_utils._mesh.test_folder import (
    GATEWAY,
    PLAIN,
    SHOP,
    WAYPOINT,
)

MODE, INJECTION, INJECT = "istio.io/dataplane-mode", "istio-injection", "sidecar.istio.io/inject"
AMBIENT, ENABLED = {MODE: "ambient"}, {INJECTION: "enabled"}


def read(*texts: str | Object) -> list[Object]:
    """Objects as a folder has them; JSON is YAML."""
    written = [text if isinstance(text, str) else json.dumps(text) for text in texts]
    return read_objects([(f"{number}.yaml", text) for number, text in enumerate(written)], "here")[0]


def started(labels: dict[str, str], space: dict[str, str], **spec: t.Any) -> str:
    """Where a new pod's traffic goes: "ztunnel", "sidecar" or "nobody"."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "labels": space}}
    meta = {"name": "p", "namespace": "a", "labels": labels, "annotations": spec.pop("annotations", {})}
    mesh = assembled(read(namespace, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}))
    member = mesh.membership(mesh.get("Pod", "a", "p") or {})
    return "ztunnel" if member.captured else "sidecar" if member.sidecar else "nobody"


@pytest.mark.parametrize(
    ("labels", "space", "wanted"),
    [
        ({}, AMBIENT, "ztunnel"),
        ({MODE: "none"}, AMBIENT, "nobody"),
        ({}, {}, "nobody"),
        ({}, ENABLED, "sidecar"),
        ({INJECT: "false"}, ENABLED, "nobody"),
        ({INJECT: "true"}, {}, "sidecar"),
        ({"istio.io/rev": "stable"}, {}, "sidecar"),
        ({INJECT: "true"}, {INJECTION: "disabled"}, "nobody"),
        # istio-cni leaves pods with a sidecar alone, and the injector does not look at the mode.
        ({}, {**AMBIENT, **ENABLED}, "sidecar"),
        ({}, {**AMBIENT, "istio.io/rev": "stable"}, "sidecar"),
        ({INJECT: "true"}, AMBIENT, "sidecar"),
        (AMBIENT, ENABLED, "sidecar"),
        ({INJECT: "false"}, {**AMBIENT, **ENABLED}, "ztunnel"),
        ({}, {**AMBIENT, INJECTION: "disabled", "istio.io/rev": "stable"}, "ztunnel"),
    ],
)
def test_the_injector_comes_before_istio_cni(labels: dict[str, str], space: dict[str, str], wanted: str) -> None:
    assert started(labels, space) == wanted
    assert started(labels, space, hostNetwork=True) == "nobody"


def test_what_a_sidecar_lets_in_is_not_known() -> None:
    found = ask(
        assembled(read(PLAIN.replace("istio.io/dataplane-mode: ambient", "istio-injection: enabled"))),
        "http://app/",
        "client",
        "shop",
    )
    assert (found.outcome, "sidecar" in found.why) == ("unknown", True)


def test_an_annotation_keeps_the_injector_away() -> None:
    assert started({}, ENABLED, annotations={INJECT: "false"}) == "nobody"
    assert started({INJECT: "true"}, {}, annotations={INJECT: "false"}) == "sidecar"


TEMPLATE: Object = {"metadata": {"labels": {"app": "w"}}, "spec": {"containers": [{"name": "m"}]}}


def workload(version: str, kind: str, **spec: t.Any) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "w", "namespace": "shop"}, "spec": spec}


@pytest.mark.parametrize(
    "item",
    [
        workload("batch/v1", "CronJob", jobTemplate={"spec": {"template": TEMPLATE}}),
        workload("argoproj.io/v1alpha1", "Rollout", template=TEMPLATE),
        workload("apps.kruise.io/v1alpha1", "CloneSet", replicas=2, template=TEMPLATE),
        # Its pods are no Service of Kubernetes.
        workload("serving.knative.dev/v1", "Service", template=TEMPLATE),
    ],
)
def test_every_controller_with_a_template_makes_pods(item: Object) -> None:
    mesh = assembled(read(PLAIN, item))
    assert len(mesh.selected("shop", {"app": "w"})) == 1
    assert mesh.get("Service", "shop", "w") is None


def test_what_another_api_would_refuse_is_left_out() -> None:
    mesh = assembled(read(PLAIN, workload("x.example/v1", "Thing", template={"spec": {"containers": [{"ports": 1}]}})))
    assert {item["metadata"]["name"] for item in mesh.items("Pod")} == {"app-deployment-0", "client"}


DENIED = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: l4, namespace: shop}
spec: {selector: {matchLabels: {statefulset.kubernetes.io/pod-name: app-1}}, action: DENY, rules: [{}]}
"""


def test_a_policy_for_one_pod_of_a_statefulset_is_for_that_one() -> None:
    ordered = PLAIN.replace("kind: Deployment", "kind: StatefulSet").replace("spec:\n  template", "spec:\n  %stemplate")
    two, one = ordered.replace("%s", "replicas: 2\n  "), ordered.replace("%s", "")
    found = ask(assembled(read(two, DENIED)), "http://app/", "client", "shop")
    assert (found.outcome, "it depends on which endpoint answers" in found.why) == ("unknown", True)
    assert ask(assembled(read(one, DENIED)), "http://app/", "client", "shop").outcome == "allowed"
    assert len(assembled(read(two)).items("Pod", "shop")) == 2


def test_what_is_laid_over_a_cluster_keeps_what_controllers_gave() -> None:
    own = {"statefulset.kubernetes.io/pod-name": "app-0", "pod-template-hash": "x"}
    running = pod("app", labels={"app": "old", **own})
    item = workload("apps/v1", "Deployment", template=TEMPLATE)
    item["metadata"] = {"name": "app", "namespace": "default"}
    (found,) = [one for one in laid_over(mesh_of(running), read(item)).items("Pod") if "app" in one["metadata"]["name"]]
    assert found["metadata"]["labels"] == {"app": "w", **own}


def test_a_namespace_that_can_not_be_read_leaves_its_pods_where_they_are() -> None:
    """Whoever may not read Namespaces still sees by the annotations who is captured."""
    there = Mesh([pod("app", "a")], MeshConfig(), {("Namespace", ""): "HTTP 403"})
    item = workload("apps/v1", "Deployment", template=TEMPLATE)
    item["metadata"] = {"name": "app", "namespace": "a"}
    found = laid_over(there, read(item))
    assert found.membership(found.get("Pod", "a", "app") or {}).captured
    item["metadata"]["name"] = "new"
    found = laid_over(there, read(item))
    assert "HTTP 403" in found.membership(found.get("Pod", "a", "new-deployment-0") or {}).doubt


INGRESS = GATEWAY.replace("name: wp", "name: web").replace("istio-waypoint", "istio")


@pytest.mark.parametrize(
    ("annotations", "account"),
    [
        ("", "web-istio"),
        (", annotations: {gateway.istio.io/service-account: other}", "other"),
        (", annotations: {gateway.istio.io/name-override: named}", "named"),
    ],
)
def test_a_gateway_has_the_account_that_istiod_gives_it(annotations: str, account: str) -> None:
    text = INGRESS.replace("namespace: shop", f"namespace: shop{annotations}")
    assert account_of(assembled(read(text)).items("Pod")[0]) == account


@pytest.mark.parametrize("texts", [(SHOP, WAYPOINT, INGRESS), (PLAIN, INGRESS)])
def test_an_ingress_gateway_neither_calls_in_plain_text_nor_through_the_waypoint(texts: tuple[str, ...]) -> None:
    found = ask(assembled(read(*texts)), "http://app/", "web-gateway-0", "shop", method="POST")
    assert found.outcome == "unknown"
    assert "istio.io/ingress-use-waypoint" in found.why


def test_an_ingress_gateway_of_the_charts_is_known_by_how_it_is_started() -> None:
    router = {"containers": [{"name": "istio-proxy", "args": ["proxy", "router", "--domain", "x"]}]}
    mesh = mesh_of(pod("ig", captured=False, spec=router), service("app"), pod("app", ip="10.0.0.9"))
    assert ask(mesh, "http://app:8080/", "ig").outcome == "unknown"
    # Nor does ztunnel decide what it lets in.
    assert predict(mesh, pod("client"), Request("http://10.0.0.1:8080/"), "default")[1].outcome == "unknown"


@pytest.mark.parametrize(
    ("object_", "words"), [(PLAIN.partition("---")[2], "Namespace shop"), (SHOP, "Gateway shop/wp")]
)
def test_what_is_missing_and_how_to_add_it_is_said(object_: str, words: str) -> None:
    mesh = assembled(read(object_))
    found = ask(mesh, "http://app/", "client", "shop")
    assert f"{words} is not in the folder, and the cluster may have it: add it to the folder" in found.why
    # In a cluster that was read what is not there does not exist.
    mesh = Mesh(mesh.objects(), dataclasses.replace(mesh.config, whole=True))
    assert f"{words} is not in the folder" not in ask(mesh, "http://app/", "client", "shop").why


def test_pods_that_say_themselves_that_they_are_in_the_mesh_need_no_namespace() -> None:
    text = PLAIN.partition("---")[2].replace(
        "{labels: {app: app}}", "{labels: {app: app, istio.io/dataplane-mode: ambient}}"
    )
    text = text.replace("labels: {a: b}", "labels: {istio.io/use-waypoint: none}")
    text = text.replace(
        "name: client, namespace: shop}", "name: client, namespace: shop, labels: {istio.io/dataplane-mode: ambient}}"
    )
    assert ask(assembled(read(text)), "http://app/", "client", "shop").outcome == "allowed"
