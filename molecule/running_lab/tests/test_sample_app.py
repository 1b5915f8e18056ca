"""An application that does not answer because of a policy: the check says which, and that the host has no identity."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from fleet import verify
from running_lab import Lab

POLICY = "authorizationpolicy/layer4-authz"


@contextmanager
def only_for(lab: Lab, client: str) -> Iterator[None]:
    """The L4 policy lets this client in alone; afterwards it is as it was."""
    spec = lab.get(POLICY)["spec"]
    rules = [{"from": [{"source": {"principals": [f"cluster.local/ns/default/sa/{client}"]}}]}]
    try:
        lab.kubectl("patch", POLICY, "--type=merge", "-p", json.dumps({"spec": {"action": "ALLOW", "rules": rules}}))
        yield
    finally:
        lab.kubectl("patch", POLICY, "--type=merge", "-p", json.dumps({"spec": spec}))


def test_a_policy_in_the_way_is_told_by_its_name(lab: Lab) -> None:
    with only_for(lab, "somebody"):
        ran = verify(lab.folder, "sample_app")
    assert ran.returncode != 0, ran.stdout
    assert "AuthorizationPolicy default/layer4-authz" in " ".join(ran.stdout.split())


def test_a_policy_that_keeps_only_the_host_out(lab: Lab) -> None:
    with only_for(lab, "curl"):
        ran = verify(lab.folder, "sample_app")
    assert ran.returncode != 0, ran.stdout
    said = " ".join(ran.stdout.split())
    assert f"answers the mesh, but not the host at {lab.url('30080')}/" in said
    assert "a policy that allows only some identities keeps it out" in said


def test_without_it_the_application_answers(lab: Lab) -> None:
    ran = verify(lab.folder, "sample_app")
    assert ran.returncode == 0, ran.stdout
