"""The manifests, rendered with the roles' defaults, are what the architecture's table promises."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jinja2
import pytest
import yaml
from project import ROOT, defaults, load

LAB = {"images": {"app": "registry/app:1", "curl": "registry/curl:1"}}
PLACEMENT = load(ROOT / "inventory/group_vars/all.yml")["lab_placement"]
PLACE = {
    "namespace": "default",
    "node_port": 30080,
    "namespace_labels": {},
    "service_labels": {},
    "clients": ["curl"],
    "link_clients": False,
}


def render(role: str, template: str, **variables: Any) -> list[dict[str, Any]]:
    """Return the objects of a role's template, rendered with its defaults and the given variables."""
    files = ROOT / "roles" / role / "files"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "roles" / role / "templates"),
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,
    )
    environment.globals["lookup"] = lambda _plugin, name: (files / name).read_text(encoding="utf-8").rstrip()
    environment.filters |= {
        "to_json": json.dumps,
        "hash": lambda text, name: hashlib.new(name, text.encode()).hexdigest(),
        "combine": lambda left, right: left | right,
    }
    values: dict[str, Any] = (
        defaults(role) | {"lab": LAB, "lab_placement": PLACEMENT, "sample_app_deployment": PLACE} | variables
    )
    for name, value in values.items():  # defaults may refer to each other, once
        if isinstance(value, str) and "{{" in value:
            values[name] = environment.from_string(value).render(values)
    text = environment.get_template(template).render(values)
    return [found for found in yaml.safe_load_all(text) if found]


def identities(objects: list[dict[str, Any]]) -> set[tuple[str, str, str | None]]:
    """Return kind, name and namespace of each object."""
    return {(o["kind"], o["metadata"]["name"], o["metadata"].get("namespace")) for o in objects}


def one(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Return the only object of a kind."""
    (found,) = (o for o in objects if o["kind"] == kind)
    return found


def test_sample_app_in_the_default_namespace() -> None:
    """Deployment, Service with a NodePort, and a client; the namespace itself is not ours."""
    objects = render("sample_app", "app.yaml.j2")
    assert {
        ("Deployment", "sample-app-blue", "default"),
        ("Service", "sample-app", "default"),
        ("Pod", "curl", "default"),
    } < identities(objects)
    assert "Namespace" not in {o["kind"] for o in objects}
    (port,) = one(objects, "Service")["spec"]["ports"]
    assert (port["port"], port["targetPort"], port["nodePort"]) == (8080, 8080, 30080)
    assert len(one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]) == 1


def test_the_config_map_carries_the_app_unchanged() -> None:
    """What runs in the pod is the file of the role, byte for byte but the last newline."""
    data = one(render("sample_app", "app.yaml.j2"), "ConfigMap")["data"]["app.py"]
    assert data == (ROOT / "roles/sample_app/files/app.py").read_text(encoding="utf-8").rstrip()


def test_sample_app_in_a_namespace_of_its_own() -> None:
    """The copy behind the waypoint: a namespace in the mesh, an enrolled Service without a NodePort, more clients."""
    copy = {
        "namespace": "layer7",
        "node_port": 0,
        "namespace_labels": {"of": "mine"},
        "service_labels": {"istio.io/use-waypoint": "waypoint"},
        "clients": ["curl", "curl-other"],
        "link_clients": True,
    }
    objects = render("sample_app", "app.yaml.j2", sample_app_deployment=copy)
    pods = {found["metadata"]["name"]: found["spec"] for found in objects if found["kind"] == "Pod"}
    assert {*pods} == {"curl", "curl-other", "curl-inside", "curl-outside"}
    assert pods["curl-other"]["serviceAccountName"] == "curl-other"
    assert ("ServiceAccount", "curl-other", "layer7") in identities(objects)
    assert one(objects, "Namespace")["metadata"]["labels"] == {"istio.io/dataplane-mode": "ambient", "of": "mine"}
    service = one(objects, "Service")
    assert service["metadata"]["labels"] == {"app": "sample-app", "istio.io/use-waypoint": "waypoint"}
    assert service["spec"]["type"] == "ClusterIP"
    assert "nodePort" not in service["spec"]["ports"][0]


PODS = [("sample_app", "app.yaml.j2"), ("l4_authz", "clients.yaml.j2"), ("bypass", "client.yaml.j2")]


@pytest.mark.parametrize(("role", "template"), PODS)
def test_pods_run_without_privileges(role: str, template: str) -> None:
    """Every pod meets the restricted Pod Security Standard and has its own ServiceAccount."""
    for found in render(role, template):
        if found["kind"] not in {"Pod", "Deployment"}:
            continue
        spec = found["spec"]["template"]["spec"] if found["kind"] == "Deployment" else found["spec"]
        assert spec["serviceAccountName"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_l4_policy_denies_one_identity_on_the_workloads_port() -> None:
    """The policy binds to the pods, so ztunnel enforces it, and asks for nothing that ztunnel cannot see."""
    (policy,) = render("l4_authz", "policy.yaml.j2")
    assert (policy["metadata"]["name"], policy["metadata"]["namespace"]) == ("layer4-authz", "default")
    assert policy["spec"] == {
        "selector": {"matchLabels": {"app": "sample-app"}},
        "action": "DENY",
        "rules": [
            {
                "from": [{"source": {"principals": ["cluster.local/ns/default/sa/curl-deny"]}}],
                "to": [{"operation": {"ports": ["8080"]}}],
            }
        ],
    }


CURL = {"source": {"principals": ["cluster.local/ns/layer7/sa/curl"]}}
L7_FORMS = {
    "allow": {"action": "ALLOW", "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]},
    "deny": {
        "action": "DENY",
        "rules": [{"from": [CURL], "to": [{"operation": {"methods": ["POST", "PUT", "PATCH", "DELETE"]}}]}],
    },
}


@pytest.mark.parametrize("form", L7_FORMS)
def test_l7_policy_binds_to_the_service(form: str) -> None:
    """It names the Service, so the waypoint enforces it; only GET passes, or only what curl changes does not."""
    (policy,) = render("l7_waypoint", "policy.yaml.j2", l7_waypoint_policy_form=form)
    assert (policy["metadata"]["name"], policy["metadata"]["namespace"]) == ("layer7-authz", "layer7")
    targets = [{"group": "", "kind": "Service", "name": "sample-app"}]
    assert policy["spec"] == {"targetRefs": targets, **L7_FORMS[form]}


def test_what_closes_the_ways_around_the_waypoint_admits_only_its_identity() -> None:
    """Bound to the pods, so that ztunnel enforces it, whatever way a request comes."""
    (policy,) = render("bypass", "policy.yaml.j2", policy="only-the-waypoint", account="waypoint", selector=True)
    assert policy["spec"] == {
        "selector": {"matchLabels": {"app": "sample-app"}},
        "action": "ALLOW",
        "rules": [{"from": [{"source": {"principals": ["cluster.local/ns/layer7/sa/waypoint"]}}]}],
    }


def test_waypoint_is_a_gateway_on_hbones_port() -> None:
    """Class istio-waypoint, one HBONE listener on 15008."""
    (gateway,) = render("l7_waypoint", "waypoint.yaml.j2")
    assert gateway["spec"]["gatewayClassName"] == "istio-waypoint"
    (listener,) = gateway["spec"]["listeners"]
    assert (listener["port"], listener["protocol"]) == (15008, "HBONE")
