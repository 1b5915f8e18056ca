"""The lab's own policies and claims, by the model: predicted is declared, the lint, and the mutation score."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.ambient.lab.plugins.module_utils._check.rounds import predicted_verdict
from ansible_collections.ambient.lab.plugins.module_utils._check.run import ClaimRun
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Claim, parse_claims
from ansible_collections.ambient.lab.plugins.module_utils._mesh.folder import assembled, read_objects
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh
from ansible_collections.ambient.lab.plugins.module_utils._reach.policy_lint import findings
from ansible_collections.ambient.lab.plugins.module_utils._reach.verdicts import judged
from project import ROOT, defaults, load
from test_manifests import PLACE, render

DEFAULT = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}
AMBIENT = {"istio.io/dataplane-mode": "ambient"}
LAYER7 = {"namespace": "layer7", "node_port": 0, "clients": ["curl", "curl-other"]}
ENROLLED = {"istio.io/use-waypoint": "waypoint"}
ROLES = ("l4_authz", "l7_waypoint")


def lab_objects(form: str = "allow", enrolled: str = "service") -> list[dict[str, Any]]:
    """All that the roles apply, with the L7 policy's form and what is enrolled with the waypoint."""
    objects: list[dict[str, Any]] = [{**DEFAULT, "metadata": {"name": "default", "labels": AMBIENT}}]
    objects += render("sample_app", "app.yaml.j2")
    objects += render(
        "sample_app", "app.yaml.j2", sample_app_deployment={**PLACE, **LAYER7, f"{enrolled}_labels": ENROLLED}
    )
    for role, templates in (("l4_authz", ("clients", "policy")), ("l7_waypoint", ("waypoint", "policy"))):
        for name in templates:
            objects += render(role, f"{name}.yaml.j2", l7_waypoint_policy_form=form)
    return objects


def assembled_lab(form: str, enrolled: str) -> Mesh:
    """The lab, as a folder of its objects."""
    objects = yaml.safe_dump_all(lab_objects(form, enrolled))
    return assembled(read_objects([("roles.yaml", objects)], "the roles")[0])


LABS = {
    (form, enrolled): assembled_lab(form, enrolled)
    for form in ("allow", "deny")
    for enrolled in ("service", "namespace")
}
EVERY_LAB = pytest.mark.parametrize("lab", LABS, ids="-".join)


def claims(form: str) -> list[Claim]:
    """Of both roles, with their variables in place."""
    found: list[Claim] = []
    for role in ROLES:
        values = defaults(role)
        other = load(ROOT / "roles/l7_waypoint/vars/main.yml")["__l7_waypoint_other_client"][form]
        listed = [
            {**claim, "expect": other} if "__l7_waypoint_other_client" in str(claim["expect"]) else claim
            for claim in values[f"{role}_claims"]
        ]
        text = yaml.safe_dump(listed)
        for name in (f"{role}_namespace", f"{role}_policy"):
            text = text.replace("{{ " + name + " }}", values[name])
        found += parse_claims(yaml.safe_load(text), values[f"{role}_namespace"])
    return found


@EVERY_LAB
def test_the_roles_claims_are_what_their_objects_say(lab: tuple[str, str]) -> None:
    runs = [ClaimRun.of(claim, "after", LABS[lab]) for claim in claims(lab[0])]
    assert [run.claim.name for run in runs if predicted_verdict(run).verdict != "pass"] == []


@EVERY_LAB
def test_no_weakened_policy_of_the_lab_gets_past_its_claims(lab: tuple[str, str]) -> None:
    found = list(judged(LABS[lab], claims(lab[0])))
    # The DENY names a port of one app; whether anything else listens, nobody knows.
    assert {(item.kind, str(item.mutant)) for item in found if item.kind in ("survived", "unclear")} == {
        ("unclear", "AuthorizationPolicy default/layer4-authz: rule 0 without to"),
        ("unclear", "AuthorizationPolicy default/layer4-authz: without its selector"),
    }
    assert sum(item.kind == "killed" for item in found) >= 12


@EVERY_LAB
def test_the_labs_policies_show_two_holes_on_purpose(lab: tuple[str, str]) -> None:
    """The tutorial tells of both: a DENY by identity says nothing of clients without one, and a pod has an address."""
    assert {(item.rule, item.policy) for item in findings(LABS[lab])} == {
        ("no-identity", "default/layer4-authz"),
        ("open-by-pod-ip", "layer7/layer7-authz"),
    }
