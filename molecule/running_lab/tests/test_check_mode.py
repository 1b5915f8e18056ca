"""`--check --diff` tells the truth: on a bare machine, and after something was changed by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

from fleet import NO_GRAPH, Ran, play
from ports import free_port
from project import ROOT
from running_lab import Lab
from state import cluster, differences

VARIABLES = ("-e", f"@{ROOT}/molecule/vars/lab.yml")
POLICY = "authorizationpolicy/layer4-authz"
# What somebody may do to a lab, and what the next run would do about it: header and changed lines of each diff.
BY_HAND = [
    # It now keeps everybody out whom it let in, the application's own client too.
    ["patch", POLICY, "--type=json", "-p", '[{"op":"replace","path":"/spec/action","value":"ALLOW"}]'],
    ["label", "service/sample-app", "-n", "layer7", "istio.io/use-waypoint-"],
    ["scale", "deployment/sample-app-blue", "--replicas=2"],
    ["delete", "pod/curl-allow", "--now"],
]
SHOWN = {
    "AuthorizationPolicy default/layer4-authz": ["-  action: ALLOW", "+  action: DENY"],
    "Service layer7/sample-app": ["+    istio.io/use-waypoint: waypoint"],
    "Deployment default/sample-app-blue": ["-  replicas: 2", "+  replicas: 1"],
}
ANSWERS = "TASK [sample_app : Check that the application answers the mesh]"
CREATED = "Pod default/curl-allow"


def run(*arguments: str) -> Ran:
    return play(*arguments, *VARIABLES)


def diffs(ran: Ran) -> dict[str, list[str]]:
    """The changed lines by the header of their diff."""
    found: dict[str, list[str]] = {}
    for part in ran.stdout.split("--- before")[1:]:
        head, _, rest = part.partition("\n+++")
        body = rest.partition("\n")[2].partition("\n\n")[0]
        found[head.removeprefix(": ")] = [line for line in body.splitlines() if line[:1] in "+-"]
    return found


def recap(ran: Ran) -> tuple[int, int]:
    """Exit code, and the number of changed tasks."""
    return ran.returncode, int(re.findall(r"changed=(\d+)", ran.stdout)[-1])


def state(lab: Lab) -> dict[str, str]:
    return cluster(lab.facts["kubeconfig"], lab.facts["kubectl"])


def test_nothing_is_there_yet(tmp_path: Path) -> None:
    """The cluster would be made; what comes after it can't be looked at, and that is said. Nothing is made."""
    bare = ["-e", "cluster_name=bare", "-e", f"lab_dir={tmp_path}/lab", "-e", f"cluster_state_dir={tmp_path}/state"]
    ports = {"cluster_node_ports": {"30080": free_port(), "32766": free_port()}, "cluster_provider": "embedded"}
    ran = play("site.yml", "--check", "--diff", *bare, "-e", json.dumps(ports))
    assert recap(ran) == (0, 1), ran.stdout
    assert "look further: the cluster of" in " ".join(ran.stdout.split())
    assert list(tmp_path.iterdir()) == []


def test_what_was_changed_by_hand_is_shown_and_nothing_else(lab: Lab) -> None:
    """Check mode shows it and changes nothing; the run does what was shown."""
    before = state(lab)
    for change in BY_HAND:
        lab.kubectl(*change)
    changed = state(lab)
    try:
        planned = run("site.yml", "--check", "--diff", "-e", NO_GRAPH)
        # The application, L4's clients, its policy, and the application behind the waypoint.
        assert recap(planned) == (0, 4), planned.stdout
        assert "checks no claim" in planned.stdout
        assert differences(changed, state(lab)) == []
    finally:
        done = run("site.yml", "--diff", "-e", NO_GRAPH)
    assert recap(done) == (0, 4), done.stdout
    # At the end of the run, because the policy kept the application's client out.
    assert done.stdout.find(ANSWERS) > done.stdout.find("TASK [l7_waypoint : ") > 0
    for ran in (planned, done):
        shown = diffs(ran)
        created = shown.pop(CREATED)
        assert created[0] == "+apiVersion: v1"
        assert all(line.startswith("+") for line in created)
        assert shown == SHOWN, ran.stdout
    assert differences(before, state(lab)) == []


def test_what_is_to_come_into_a_namespace_that_is_not_there_is_shown(lab: Lab) -> None:
    """As it is written, because the cluster can't be asked about it; and that is said."""
    before = state(lab)
    ran = run("site.yml", "--check", "--diff", "--tags", "l7", "-e", NO_GRAPH, "-e", "l7_waypoint_namespace=elsewhere")
    # The application, the waypoint and the policy.
    assert recap(ran) == (0, 3), ran.stdout
    shown = {*diffs(ran)}
    assert {"Namespace elsewhere", "Gateway elsewhere/waypoint", "AuthorizationPolicy elsewhere/layer7-authz"} <= shown
    assert "Check mode takes as new:" in ran.stdout
    assert differences(before, state(lab)) == []


def test_clean_up_says_what_it_would_remove_and_removes_nothing(lab: Lab) -> None:
    before = state(lab)
    ran = run("playbooks/cleanup.yml", "--check", "--diff", "--tags", "l4,l7")
    assert recap(ran) == (0, 2), ran.stdout
    names = {"AuthorizationPolicy default/layer4-authz", "Pod default/curl-deny", "Namespace layer7"}
    assert names <= set(diffs(ran))
    assert differences(before, state(lab)) == []
