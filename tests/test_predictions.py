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
from project import defaults
from test_manifests import PLACE, render

DEFAULT = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}
AMBIENT = {"istio.io/dataplane-mode": "ambient"}
LAYER7 = {"namespace": "layer7", "node_port": 0, "service_labels": {"istio.io/use-waypoint": "waypoint"}}
ROLES = ("l4_authz", "l7_waypoint")


def lab_objects() -> list[dict[str, Any]]:
    """All that the roles apply."""
    objects: list[dict[str, Any]] = [{**DEFAULT, "metadata": {"name": "default", "labels": AMBIENT}}]
    objects += render("sample_app", "app.yaml.j2")
    objects += render("sample_app", "app.yaml.j2", sample_app_deployment={**PLACE, **LAYER7})
    for role, templates in (("l4_authz", ("clients", "policy")), ("l7_waypoint", ("waypoint", "policy"))):
        for name in templates:
            objects += render(role, f"{name}.yaml.j2")
    return objects


@pytest.fixture(scope="module", name="mesh")
def fixture_mesh() -> Mesh:
    """The lab, as a folder of its objects."""
    return assembled(read_objects([("roles.yaml", yaml.safe_dump_all(lab_objects()))], "the roles")[0])


def claims() -> list[Claim]:
    """Of both roles, with their variables in place."""
    found: list[Claim] = []
    for role in ROLES:
        values = defaults(role)
        text = yaml.safe_dump(values[f"{role}_claims"])
        for name in (f"{role}_namespace", f"{role}_policy"):
            text = text.replace("{{ " + name + " }}", values[name])
        found += parse_claims(yaml.safe_load(text), values[f"{role}_namespace"])
    return found


def test_the_roles_claims_are_what_their_objects_say(mesh: Mesh) -> None:
    assert {claim.name: predicted_verdict(ClaimRun.of(claim, "after", mesh)).verdict for claim in claims()} == {
        claim.name: "pass" for claim in claims()
    }


def test_no_weakened_policy_of_the_lab_gets_past_its_claims(mesh: Mesh) -> None:
    found = list(judged(mesh, claims()))
    # The DENY names a port of one app; whether anything else listens, nobody knows.
    assert {(item.kind, str(item.mutant)) for item in found if item.kind in ("survived", "unclear")} == {
        ("unclear", "AuthorizationPolicy default/layer4-authz: rule 0 without to"),
        ("unclear", "AuthorizationPolicy default/layer4-authz: without its selector"),
    }
    assert sum(item.kind == "killed" for item in found) >= 12


def test_the_labs_policies_show_two_holes_on_purpose(mesh: Mesh) -> None:
    """The tutorial tells of both: a DENY by identity says nothing of clients without one, and a pod has an address."""
    assert {(item.rule, item.policy) for item in findings(mesh)} == {
        ("no-identity", "default/layer4-authz"),
        ("open-by-pod-ip", "layer7/layer7-authz"),
    }
