# Likely causes: which objects explain which answer, and what waiting can't mend.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._check.causes import likely_cause
from ansible_collections.ambient.lab.plugins.module_utils._check.report import failed_row
from ansible_collections.ambient.lab.plugins.module_utils._check.run import ClaimRun
from ansible_collections.ambient.lab.plugins.module_utils._check.stable import Verdict
from ansible_collections.ambient.lab.plugins.module_utils._common.rounds import Reason, Retry
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh, Object
from ansible_collections.ambient.lab.plugins.module_utils._witness.attribution import Attribution
from ansible_collections.ambient.lab.tests.unit.fakes import meshes
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import gateway, mesh_of, pod, service, target
from ansible_collections.ambient.lab.tests.unit.fakes.objects import claim, claims, condition

IDENTITY = "cluster.local/ns/default/sa/curl"
DENY_CLIENT = [{"from": [{"source": {"principals": [IDENTITY]}}]}]
GET_ONLY = [{"to": [{"operation": {"methods": ["GET"]}}]}]
OTHER = {"matchLabels": {"app": "other"}}
OPTED_OUT = {"istio.io/dataplane-mode": "none"}
ENROLLED = {"istio.io/use-waypoint": "waypoint"}
CURL = pod("curl", ip="10.0.0.9")
APP = pod("sample-app", ip="10.0.0.1")
URL = "http://sample-app:8080/"


def policy(name: str = "p", **spec: t.Any) -> Object:
    conditions = spec.pop("conditions", [])
    item = meshes.policy(name, **spec)
    item["metadata"]["generation"] = 2
    return {**item, "status": {"conditions": conditions}}


def denying(**spec: t.Any) -> Object:
    return policy(**{"action": "DENY", "rules": DENY_CLIENT, **spec})


def world(*objects: t.Any, app: Object = APP, front: Object | None = None) -> Mesh:
    return mesh_of(CURL, app, service("sample-app") if front is None else front, *objects)


def enrolled(*objects: t.Any, **fields: t.Any) -> Mesh:
    point = gateway(namespace="default", **fields)
    return world(point, *objects, front=service("sample-app", labels=ENROLLED))


UNBOUND = policy(
    targetRefs=target("sample-app"),
    rules=GET_ONLY,
    conditions=[condition("AncestorNotBound", kind="WaypointAccepted", status="False")],
)


def why(expect: str, seen: str, mesh: Mesh, code: int = 200, **fields: t.Any) -> Reason:
    """Likely cause of a claim that expects one thing and sees another."""
    attribution, message = fields.pop("attribution", None), fields.pop("message", "")
    (parsed,) = claims(claim(expect=expect, **fields))
    run = ClaimRun.of(parsed, "after", mesh)
    run.seen, run.verdict = Seen(seen, code, 0, message), Verdict("fail", "not as expected")
    run.attribution = attribution
    return likely_cause(run, mesh)


@pytest.mark.parametrize(
    ("expect", "seen", "mesh", "words", "pointless"),
    [
        ("denied_l4", "allowed", world(), "no AuthorizationPolicy is in force here", False),
        (
            "denied_l4", "allowed", world(denying(selector=OTHER)),
            "AuthorizationPolicy default/p is not for it: its selector is app=other, and the pod differs in app", False,
        ),
        (
            "denied_l4", "allowed", world(denying(rules=GET_ONLY)),
            "default/p has methods, which ztunnel can't match: its DENY rule denies nothing; "
            "bind it to a waypoint with targetRefs", False,
        ),
        (
            "allowed", "denied_l4", world(policy(rules=GET_ONLY)),
            "default/p has methods, which ztunnel can't match: its ALLOW rule matches nothing", True,
        ),
        (
            "denied_l4", "allowed", world(denying(rules=[{"from": [{"source": {"principals": [f"spiffe://{IDENTITY}"]}}]}])),
            f"it says principals is spiffe://{IDENTITY} (write it without spiffe://); here it is {IDENTITY}", False,
        ),
        (
            "denied_l4", "allowed",
            world(denying(rules=[{"to": [{"operation": {"ports": ["80"]}}]}]), front=service("sample-app", port=8080)),
            "default/p: it says destinationPorts is 80; here it is the pod's port 8080", False,
        ),
        (
            "denied_l4", "allowed", world(denying(), app=pod("sample-app", captured=False)),
            "pod default/sample-app is not in the mesh", False,
        ),
        (
            "denied_l4", "allowed",
            world(denying(), app=pod("sample-app", captured=False, labels={"app": "sample-app", **OPTED_OUT})),
            "has opted out of the mesh (its label istio.io/dataplane-mode=none)", True,
        ),
        # What keeps a path shut, a firewall for example, is in no object of the mesh: it may still come.
        (
            "timeout", "allowed",
            world(app=pod("sample-app", captured=False, labels={"app": "sample-app", **OPTED_OUT})),
            "has opted out of the mesh", False,
        ),
        (
            "denied_l4", "allowed", world(denying(), app=pod("sample-app", captured=False, spec={"hostNetwork": True})),
            "uses its node's network (hostNetwork)", True,
        ),
        (
            "denied_l7", "allowed", world(policy(targetRefs=target("sample-app"), rules=GET_ONLY)),
            "sample-app is not enrolled with a waypoint (label istio.io/use-waypoint is missing)", False,
        ),
        (
            "denied_l7", "allowed", world(front=service("sample-app", labels=ENROLLED)),
            "the waypoint default/waypoint does not exist, so the request goes around it", False,
        ),
        # As expected, and yet not by the waypoint that its policy is bound to.
        (
            "allowed", "allowed", world(UNBOUND, front=service("sample-app", labels=ENROLLED)),
            "the waypoint default/waypoint does not exist, so the request goes around it", False,
        ),
        ("allowed", "allowed", world(UNBOUND), "Service default/sample-app is not enrolled with a waypoint", False),
        (
            "denied_l7", "allowed", enrolled(address=False),
            "the waypoint default/waypoint is not programmed", False,
        ),
        ("allowed", "denied_l4", enrolled(ready=False), "no pod of the waypoint default/waypoint is ready", False),
        (
            "denied_l7", "allowed", enrolled(policy(targetRefs=target("else"), rules=GET_ONLY)),
            "AuthorizationPolicy default/p is not for it: it is bound to Service else", False,
        ),
        (
            "denied_l7", "allowed", enrolled(policy(targetRefs=target("sample-app"), rules=GET_ONLY)),
            "rule 0 of AuthorizationPolicy default/p (ALLOW) matches", False,
        ),
        (
            "allowed", "denied_upstream", enrolled(policy(rules=DENY_CLIENT)),
            "default/p: it says principals is cluster.local/ns/default/sa/curl; "
            "here it is cluster.local/ns/default/sa/waypoint", False,
        ),
        # A policy that is there and denies goes away by nobody's waiting.
        ("allowed", "denied_l4", world(denying()), "rule 0 of AuthorizationPolicy default/p (DENY) matches", True),
        ("denied_l4", "allowed", world(denying()), "by the cluster's objects it must be denied_l4", False),
        (
            "denied_upstream", "allowed", enrolled(policy(action="DENY", rules=[{}])),
            "the waypoint default/waypoint may use a connection that is older than the policy", False,
        ),
        ("allowed", "denied_l4", world(), "explains the denial: something else cut it off", False),
        ("allowed", "dns", mesh_of(CURL), "there is no Service sample-app in namespace default", False),
        ("allowed", "refused", world(front=service("sample-app", port=80)), "has no port 8080, it has 80", True),
        (
            "allowed", "denied_l4", world(app=pod("sample-app", ready=False)),
            "no ready pod is behind Service default/sample-app, port 8080", False,
        ),
    ],
)  # fmt: skip
def test_cause(expect: str, seen: str, mesh: Mesh, words: str, pointless: bool) -> None:
    found = why(expect, seen, mesh)
    assert words in found.text
    assert found.retry is Retry.unless(pointless)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://example.com/", ""),
        ("https://example.com.svc/", "there is no Service example in namespace com"),
        ("https://example.default/", "there is no Service example in namespace default"),
        ("https://example/", "there is no Service example in namespace default"),
    ],
)
def test_a_host_of_two_labels_may_be_outside_of_the_cluster(url: str, words: str) -> None:
    found = why("allowed", "dns", world(), to=url)
    assert words in found.text
    # The Service may still come.
    assert found.retry is Retry.USEFUL
    assert bool(found.text) is bool(words)


@pytest.mark.parametrize("url", ["http://10.0.0.1:8080/", "http://head:8080/"])
def test_what_goes_around_the_waypoint(url: str) -> None:
    headless = service("head", ip="None", selector={"app": "sample-app"}, labels=ENROLLED)
    found = why("denied_l7", "allowed", enrolled(headless), to=url)
    assert "goes around the Service's waypoint" in found.text
    assert found.retry is Retry.POINTLESS


def test_a_policy_that_must_decide_and_can_not_is_not_waited_for() -> None:
    found = why("denied_l4", "allowed", world(denying(rules=GET_ONLY)), by="default/p")
    assert (found.retry, "its DENY rule denies nothing" in found.text) == (Retry.POINTLESS, True)


def test_the_application_refused() -> None:
    mesh = enrolled(policy(targetRefs=target("sample-app"), rules=GET_ONLY))
    assert "the application itself answered HTTP 403" in why("denied_l7", "allowed", mesh, 403).text


@pytest.mark.parametrize(
    ("policies", "words"),
    [
        ([], "AuthorizationPolicy default/p (the claim's `by`) does not exist"),
        ([policy("p", conditions=[condition("UnsupportedValue")])], "ZtunnelAccepted=True, UnsupportedValue"),
    ],
)
def test_the_declared_policy_comes_first(policies: list[Object], words: str) -> None:
    assert words in why("denied_l4", "allowed", world(*policies), by="default/p").text


def test_an_audit_policy_that_ztunnel_does_not_take_is_no_cause() -> None:
    audit = policy("audit", action="AUDIT", rules=GET_ONLY, conditions=[condition("UnsupportedValue")])
    assert "audit" not in why("denied_l4", "allowed", world(audit)).text


def test_nothing_is_said_of_a_claim_that_holds_or_of_a_probe_that_failed() -> None:
    (parsed,) = claims(claim())
    run = ClaimRun.of(parsed, "after", world())
    assert likely_cause(run, world()).text == ""
    run.seen, run.verdict = Seen("allowed", 200, 0), Verdict("pass")
    assert likely_cause(run, world()).text == ""


@pytest.mark.parametrize(
    ("seen", "message", "words"),
    [
        ("dns", "Could not resolve host: sample-app", "can't resolve sample-app, which is Service default/sample-app"),
        ("timeout", "Resolving timed out after 5000 milliseconds", "the source can't resolve sample-app"),
        ("timeout", "Operation timed out after 5000 milliseconds with 0 bytes received", "took the connection"),
        ("timeout", "Failed to connect to sample-app port 8080: Timed out", ""),
    ],
)
def test_where_a_request_got_stuck(seen: str, message: str, words: str) -> None:
    found = why("allowed", seen, world(), message=message)
    assert words in found.text
    assert bool(found.text) == bool(words)


def test_what_refused_is_the_proxys_word() -> None:
    found = why("allowed", "denied_l4", world(denying()), attribution=Attribution("ztunnel", "default/other"))
    assert found.text == "AuthorizationPolicy default/other refused it, as the ztunnel itself says"
    named = why("allowed", "denied_l4", world(denying()), attribution=Attribution("ztunnel", "default/p"))
    assert "as the ztunnel itself says: ztunnel of pod default/sample-app: rule 0 of" in named.text


def test_strict_peer_authentication_is_named_and_not_the_policy_that_istiod_makes_of_it() -> None:
    spec = {"mtls": {"mode": "STRICT"}}
    strict = {"kind": "PeerAuthentication", "metadata": {"name": "mtls", "namespace": "default"}, "spec": spec}
    outside = pod("curl", captured=False, labels=OPTED_OUT)
    mesh = mesh_of(outside, APP, service("sample-app"), strict)
    said = Attribution("ztunnel", "istio-system/istio_converted_static_strict")
    found = why("allowed", "denied_l4", mesh, attribution=said)
    assert "PeerAuthentication default/mtls is STRICT, and the connection is plain text" in found.text
    assert "has opted out of the mesh" in found.text


def test_what_nobody_can_know_is_said() -> None:
    found = why("denied_l4", "allowed", mesh_of(CURL, APP, service("sample-app"), AuthorizationPolicy="forbidden"))
    assert "AuthorizationPolicy objects of namespace default can't be read: forbidden" in found.text
    assert found.retry is Retry.USEFUL


LOGS = (
    'HTTP 403: pods "z" is forbidden: User "me" cannot get resource "pods/log" in API group "" in the namespace '
    '"istio-system"'
)
LISTS = 'User "me" cannot list resource "gateways" in API group "gateway.networking.k8s.io" at the cluster scope'


def unproven(phase: str, seen: str, mesh: Mesh, message: str = "", attribution: Attribution | None = None) -> ClaimRun:
    """A claim on curl-deny, in its last round."""
    (parsed,) = claims(claim(expect="denied_l4"))
    run = ClaimRun.of(parsed, phase, mesh)
    run.seen, run.attribution = Seen(seen, 0, 56, message), attribution
    run.verdict = Verdict("error", attribution.problem if attribution else message)
    return run


@pytest.mark.parametrize(
    ("run", "lacks"),
    [
        (
            unproven("after", "denied_l4", world(), "", Attribution(problem=f"{LOGS}; {LOGS}; {LISTS}", silent=True)),
            "get pods/log in istio-system; list gateways in all namespaces",
        ),
        (unproven("after", "probe_error", world(), LOGS.replace("get", "create")), "create pods/log in istio-system"),
        # It may still come out as expected; a proxy that could be asked denies it.
        (unproven("after", "allowed", world(), "", Attribution(problem=LOGS, silent=True)), ""),
        (unproven("after", "denied_l4", world(), "", Attribution(problem=LOGS)), ""),
    ],
)
def test_no_wait_gives_a_right(run: ClaimRun, lacks: str) -> None:
    found = likely_cause(run, world())
    assert (f"may not {lacks}: give these rights" in found.text, found.retry is Retry.POINTLESS) == (bool(lacks),) * 2


def test_kubectl_is_asked_for_the_right_that_is_missing() -> None:
    run = unproven("after", "denied_l4", world(), "", Attribution(problem=f"{LISTS}; {LOGS}", silent=True))
    assert failed_row(run, "kubectl").look == "kubectl auth can-i list gateways.gateway.networking.k8s.io -A"
    run.verdict = Verdict("error", LOGS)
    assert failed_row(run, "kubectl").look == "kubectl auth can-i get pods/log -n istio-system"


def test_a_policy_that_is_there_already_is_named_and_not_waited_for() -> None:
    run = unproven("before", "denied_l4", world(denying()), "", Attribution("ztunnel", "default/p"))
    found = likely_cause(run, world(denying()))
    assert found.text.startswith("AuthorizationPolicy default/p refuses it already; ")
    assert found.retry is Retry.POINTLESS
    assert "delete it first" in found.text
    assert failed_row(run, "kubectl").look == "kubectl -n default get authorizationpolicy p -o yaml"
    # One that was deleted a moment ago is waited for.
    assert likely_cause(run, world()).retry is Retry.USEFUL
