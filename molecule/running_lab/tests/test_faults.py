"""The fault table (docs/faults.md): one thing is broken, and the check must say so, and say what."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import fault_world as world
import pytest
from fault_world import CLAIMS, FORBIDS, NAMESPACE, SILENT, SLOW, Checked, applied, check, claim, policy
from running_lab import Lab

MISSING: dict[str, Any] = {}
GET = {"name": "GET passes", "from": {"pod": "curl"}, "to": "http://sample-app:8080/", "expect": "allowed"}
POST = {
    **GET,
    "name": "POST is refused",
    "to": {"url": "http://sample-app:8080/", "method": "POST"},
    "expect": "denied_l7",
    "by": "layer7/layer7-authz",
}
BAD = {"from": [{"source": {"principals": [f"cluster.local/ns/{NAMESPACE}/sa/bad"]}}]}


@pytest.fixture(autouse=True)
def whole_again(lab: Lab, faults: None) -> Iterator[None]:
    """What was red was red for what was broken: without it all claims hold."""
    yield
    after = check(lab, CLAIMS, timeout=30.0)
    assert after.verdict == "pass", after.message


def causes(checked: Checked) -> str:
    """Everything that the failure says, in one line."""
    return " ".join(checked.message.split())


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        (MISSING, "AuthorizationPolicy faults/deny-bad (the claim's `by`) does not exist"),
        (
            policy(rules=[{**BAD, "from": [{"source": {"principals": ["cluster.local/ns/faults/sa/worse"]}}]}]),
            "faults/deny-bad: it says principals is cluster.local/ns/faults/sa/worse; "
            "here it is cluster.local/ns/faults/sa/bad",
        ),
        (
            policy(rules=[{**BAD, "to": [{"operation": {"ports": ["80"]}}]}]),
            "faults/deny-bad: it says destinationPorts is 80; here it is the pod's port 8080",
        ),
        (
            policy(rules=[{"to": [{"operation": {"methods": ["GET"]}}]}]),
            "faults/deny-bad has methods, which ztunnel can't match: its DENY rule denies nothing",
        ),
        (
            policy(action="ALLOW", rules=[{"to": [{"operation": {"methods": ["GET"]}}]}]),
            "has methods, which ztunnel can't match: its ALLOW rule matches nothing, so all else is denied",
        ),
    ],
    ids=["policy deleted", "wrong principal", "wrong port", "L7 attribute, DENY", "L7 attribute, ALLOW"],
)
def test_a_policy_that_does_not_say_what_it_should(lab: Lab, changed: dict[str, Any], cause: str) -> None:
    with applied(lab, changed, policy()):
        seen = world.red(lab, CLAIMS)
    assert seen.verdict in ("fail", "error")
    assert cause in causes(seen)


def test_another_policy_refuses_first(lab: Lab) -> None:
    """As expected, but not by the policy that the claim names."""
    other = policy(rules=[BAD])
    other["metadata"]["name"] = "a-deny-all-of-bad"
    without = {**policy(), "spec": {**policy()["spec"], "rules": [{**BAD, "to": [{"operation": {"ports": ["9"]}}]}]}}
    with applied(lab, other, None), applied(lab, without, policy()):
        seen = world.red(lab, CLAIMS)
    assert seen.verdict == "fail"
    assert "denied by faults/a-deny-all-of-bad, not by faults/deny-bad" in causes(seen)


def test_the_waypoint_is_scaled_to_zero(lab: Lab) -> None:
    waypoint = ("-n", "layer7", "deployment/waypoint")
    lab.kubectl("scale", *waypoint, "--replicas=0")
    try:
        world.until(lambda: not lab.get("pod", "-n", "layer7", "-l", "gateway.networking.k8s.io/gateway-name")["items"])
        seen = check(lab, [GET, POST], namespace="layer7")
    finally:
        lab.kubectl("scale", *waypoint, "--replicas=1")
        lab.kubectl("rollout", "status", *waypoint, "--timeout=60s")
    assert seen.verdict in ("fail", "error")
    assert "no pod of the waypoint layer7/waypoint is ready" in causes(seen)
    assert check(lab, [GET, POST], namespace="layer7", timeout=30.0).verdict == "pass"


def test_the_service_is_not_enrolled(lab: Lab) -> None:
    service = ("-n", "layer7", "service/sample-app")
    lab.kubectl("label", *service, "istio.io/use-waypoint-")
    try:
        seen = world.red(lab, [GET, POST], namespace="layer7")
    finally:
        lab.kubectl("label", *service, "istio.io/use-waypoint=waypoint", "--overwrite")
    refused = seen.claims["POST is refused"]
    assert (refused["verdict"], refused["decided_by"]) == ("fail", "application")
    assert "Service layer7/sample-app is not enrolled with a waypoint" in causes(seen)
    assert check(lab, [GET, POST], namespace="layer7", timeout=30.0).verdict == "pass"


def test_a_request_to_the_pods_address_goes_around_the_waypoint(lab: Lab) -> None:
    (pod,) = lab.get("pod", "-n", "layer7", "-l", "app=sample-app")["items"]
    around = {**POST, "to": {"url": f"http://{pod['status']['podIP']}:8080/", "method": "POST"}}
    seen = check(lab, [GET, around], namespace="layer7")
    assert seen.verdict == "fail"
    assert "is a pod's address: such traffic goes around the Service's waypoint" in causes(seen)


def test_the_namespace_leaves_the_mesh(lab: Lab) -> None:
    """After a restart, too, istio-cni takes its rules out of the pods: nothing is cut off for want of a mesh."""
    members = world.redirected(lab)
    lab.kubectl("delete", "pod", "-n", "istio-system", "-l", "k8s-app=istio-cni-node")
    lab.kubectl("rollout", "status", "-n", "istio-system", "daemonset/istio-cni-node", "--timeout=60s")
    lab.kubectl("label", "namespace", NAMESPACE, "istio.io/dataplane-mode-")
    try:
        world.until(lambda: not world.redirected(lab))
        seen = check(lab, CLAIMS)
    finally:
        lab.kubectl("label", "namespace", NAMESPACE, "istio.io/dataplane-mode=ambient")
        world.until(lambda: world.redirected(lab) == members)
    assert seen.verdict == "fail"
    assert "namespace faults is not in the mesh: it lacks istio.io/dataplane-mode=ambient" in causes(seen)
    assert {item["seen"]["outcome"] for item in seen.claims.values()} == {"allowed"}, seen.claims


def enforcer(lab: Lab) -> dict[str, Any]:
    """The pod of ztunnel on the server's node."""
    node = lab.get("pod", "-n", NAMESPACE, "server")["spec"]["nodeName"]
    (pod,) = lab.get("pod", "-A", "-l", "app=ztunnel", f"--field-selector=spec.nodeName={node}")["items"]
    return dict(pod)


def restarts(pod: dict[str, Any]) -> int:
    """How often its container was started again."""
    return int(pod["status"]["containerStatuses"][0]["restartCount"])


def test_ztunnel_is_killed_during_the_probes(lab: Lab) -> None:
    """What was cut off by its death is no denial by the policy; when it is there again, all claims hold again.

    The process itself is killed: of a pod that is deleted the next one may take over without a gap.
    """
    ztunnel = enforcer(lab)
    ours = f"pod{ztunnel['metadata']['uid']}/"

    def kill() -> None:
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it ended meanwhile
                if ours in (process / "cgroup").read_text() and b"ztunnel" in (process / "cmdline").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)

    with world.after_two_rounds(lab, kill):
        seen = check(lab, CLAIMS, stable=20, timeout=60.0)
    assert restarts(enforcer(lab)) > restarts(ztunnel)
    assert seen.verdict == "pass", seen.message
    history = [change["verdict"] for change in seen.claims["good passes"]["history"]]
    assert history[0] == history[-1] == "pass"
    assert set(history) != {"pass"}


def test_the_source_is_deleted_during_the_probes(lab: Lab) -> None:
    def delete() -> None:
        lab.kubectl("delete", "pod", "-n", NAMESPACE, "bad", "--grace-period=0", "--force")

    try:
        with world.after_two_rounds(lab, delete):
            seen = check(lab, CLAIMS, stable=20, timeout=20.0)
    finally:
        lab.apply([world.client(lab, "bad")])
        lab.kubectl("wait", "-n", NAMESPACE, "--for=condition=Ready", "pod/bad", "--timeout=60s")
    assert seen.verdict == "error"
    assert seen.claims["bad is cut off"]["seen"]["outcome"] == "probe_error"
    assert "pod faults/bad does not exist" in causes(seen)


def test_the_application_itself_answers_403(lab: Lab) -> None:
    seen = check(lab, [CLAIMS[0], claim("good is refused", "denied_l7", FORBIDS)])
    refused = seen.claims["good is refused"]
    assert (seen.verdict, refused["verdict"], refused["decided_by"]) == ("fail", "fail", "application")
    assert "the application itself answered HTTP 403, no proxy refused" in causes(seen)


def test_the_application_closes_without_answering(lab: Lab) -> None:
    """To the client it looks like ztunnel's denial."""
    seen = check(lab, [CLAIMS[0], claim("good is cut off", "denied_l4", SILENT)])
    cut_off = seen.claims["good is cut off"]
    assert cut_off["seen"]["outcome"] == "denied_l4"
    assert (seen.verdict, cut_off["verdict"], cut_off["decided_by"]) == ("error", "error", "application")
    assert "no proxy says that it refused this" in causes(seen)
    assert "carried the connection" in causes(seen)


def test_a_hundred_refusals_of_another_source_are_not_ours(lab: Lab) -> None:
    """The same, while ztunnel refuses somebody else all the time."""
    url = f"http://server.{NAMESPACE}:{world.OK}/"
    noise = f"for i in $(seq 100); do curl -s -o /dev/null {url}; done; true"
    process = subprocess.Popen([*lab.command(), "exec", "-n", NAMESPACE, "bad", "--", "sh", "-c", noise])
    try:
        seen = check(
            lab, [CLAIMS[0], claim("good is cut off", "denied_l4", SILENT), claim("good is cut", "denied_l4", SILENT)]
        )
    finally:
        assert process.wait(timeout=60) == 0
    assert seen.verdict == "error"
    for name in ("good is cut off", "good is cut"):
        assert (seen.claims[name]["decided_by"], seen.claims[name]["policy"]) == ("application", None)


def test_the_application_is_slow(lab: Lab) -> None:
    seen = check(lab, [CLAIMS[0], claim("good waits", "allowed", SLOW)], timeout=0.0)
    waits = seen.claims["good waits"]
    assert (seen.verdict, waits["seen"]["outcome"], waits["decided_by"]) == ("fail", "timeout", "network")
    assert "Service faults/server, port 8083 took the connection and did not answer within probe_timeout" in causes(
        seen
    )


def test_dns_is_broken(lab: Lab) -> None:
    """ztunnel answers for Services itself, so the source is a pod that is not in the mesh."""
    claims = [claim("outside passes", "allowed")]
    assert check(lab, claims).verdict == "pass"
    coredns = ("-n", "kube-system", "deployment/coredns")
    lab.kubectl("scale", *coredns, "--replicas=0")
    try:
        slices = ("endpointslice", "-n", "kube-system", "-l", "k8s-app=kube-dns")
        world.until(lambda: not any(item.get("endpoints") for item in lab.get(*slices)["items"]))
        seen = check(lab, claims, timeout=0.0)
    finally:
        lab.kubectl("scale", *coredns, "--replicas=1")
        lab.kubectl("rollout", "status", *coredns, "--timeout=60s")
    assert seen.verdict == "fail"
    # Without an endpoint a question is refused, but not every one: the kernel sends only some refusals a second.
    assert seen.claims["outside passes"]["seen"]["outcome"] in ("dns", "timeout")
    assert "the source can't resolve server.faults, which is Service faults/server" in causes(seen)


def test_ztunnels_log_is_rotated_all_the_time(lab: Lab) -> None:
    """The log may have lost the lines: the counter still confirms the denial, but nobody names the policy."""
    ztunnel = enforcer(lab)
    folder = lab.folder / "logs" / ztunnel["spec"]["nodeName"] / "pods"
    logs = list(folder.glob(f"*_{ztunnel['metadata']['name']}_*/istio-proxy/*.log"))
    assert logs

    def rotate() -> None:
        for log in logs:
            log.write_bytes(b"")

    with world.meanwhile(rotate, 0.02) as rotated:
        nameless = [CLAIMS[0], claim("bad is cut off", "denied_l4")]
        seen = check(lab, nameless, timeout=20.0)
        named = check(lab, CLAIMS)
    assert len(rotated) > 10
    cut_off = seen.claims["bad is cut off"]
    assert (seen.verdict, cut_off["decided_by"]) == ("pass", "ztunnel"), seen.message
    assert named.verdict == "pass" or "no proxy names the policy" in causes(named)
    said = {item["witness"]: item["supports"] for item in cut_off["witnesses"]}
    assert said["ztunnel counter"] is True
    assert said["ztunnel log"] is not False


def test_all_of_it_at_once_is_still_told_apart(lab: Lab) -> None:
    """Several claims fail for several reasons in one check; each has its own."""
    with ExitStack() as stack:
        stack.enter_context(applied(lab, MISSING, policy()))
        seen = check(
            lab,
            [*CLAIMS, claim("good is refused", "denied_l7", FORBIDS), claim("good is cut off", "denied_l4", SILENT)],
        )
    assert {name: item["verdict"] for name, item in seen.claims.items()} == {
        "good passes": "pass",
        "bad is cut off": "fail",
        "good is refused": "fail",
        "good is cut off": "error",
    }
