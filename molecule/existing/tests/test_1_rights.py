"""A right that the user lacks is one clear line that names it; with all that are documented the lab is whole.

The lab is the scenario's; the tests of the clean-up, which remove it, come after.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml
from fleet import play
from project import ROOT
from running_lab import Lab

VARIABLES = f"@{ROOT}/molecule/vars/existing.yml"
ROLES = list(yaml.safe_load_all((ROOT / "docs/how-to/rbac.yaml").read_text(encoding="utf-8")))
SHARED = Lab.at(ROOT / ".lab" / "molecule-default")


@contextmanager
def without(verb: str, resource: str) -> Iterator[None]:
    """The user's rights without one; all of them again afterwards."""
    fewer = copy.deepcopy(ROLES)
    for rule in (rule for role in fewer for rule in role["rules"] if resource in rule["resources"]):
        rule["verbs"] = [other for other in rule["verbs"] if other != verb] or ["watch"]
    SHARED.apply(fewer)
    try:
        yield
    finally:
        SHARED.apply(ROLES)


def words_for(verb: str, resource: str, group: str) -> str:
    """What must be said: the API server's words, or ours where it has none."""
    if resource == "pods/exec":
        return "is forbidden: the kubeconfig's user needs the rights to get and to create pods/exec"
    return f'cannot {verb} resource "{resource}" in API group "{group}"'


CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("patch", "authorizationpolicies", "security.istio.io", {"tags": "l4"}),
    ("create", "pods/exec", "", {"tags": "l4"}),
    ("list", "nodes", "", {"tags": "cluster"}),
    ("get", "daemonsets", "apps", {"tags": "l7"}),
    ("patch", "namespaces", "", {"tags": "istio_ambient"}),
    ("list", "secrets", "", {"tags": "kiali"}),
]


@pytest.mark.parametrize(("verb", "resource", "group", "where"), CASES, ids=[f"{c[0]} {c[1]}" for c in CASES])
def test_a_missing_right_is_one_clear_line(verb: str, resource: str, group: str, where: dict[str, Any]) -> None:
    quick = json.dumps({"l4_authz_timeout": 3, "l7_waypoint_timeout": 3, "cluster_wait_timeout": 3})
    with without(verb, resource):
        ran = play("site.yml", "-e", VARIABLES, "-e", quick, "--tags", where["tags"])
    assert ran.returncode != 0, ran.stdout
    words = " ".join(ran.stdout.split())
    assert words_for(verb, resource, group) in words, ran.stdout
    assert "Traceback" not in ran.stdout


def test_with_all_of_them_again_the_lab_is_whole() -> None:
    ran = play("site.yml", "-e", VARIABLES)
    assert ran.returncode == 0, ran.stdout
    assert "changed=0" in ran.stdout
    # A witness that may not look is silent while others bear the denial out, so only the results tell.
    results = (ROOT / ".lab/molecule-existing/results.json").read_text(encoding="utf-8")
    assert '"witnesses"' in results
    assert "forbidden" not in results
