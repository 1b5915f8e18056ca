# Likely causes: which objects explain which answer.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._check.causes import Final, likely_cause
from ansible_collections.ambient.lab.plugins.module_utils._check.judge import Verdict
from ansible_collections.ambient.lab.plugins.module_utils._check.rounds import ClaimResult
from ansible_collections.ambient.lab.plugins.module_utils._check.stable import Observation
from ansible_collections.ambient.lab.plugins.module_utils._claims.sources import Target
from ansible_collections.ambient.lab.plugins.module_utils._cluster.snapshot import LISTS, take
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen
from ansible_collections.ambient.lab.plugins.module_utils._witness.paths import namespaces_of
from ansible_collections.ambient.lab.plugins.module_utils._witness.testimony import Testimony
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object, claim, claims, condition, pod, policy

CLIENT = "cluster.local/ns/default/sa/curl"
DENY_CLIENT = [{"from": [{"source": {"principals": [CLIENT]}}]}]
GET_ONLY = [{"to": [{"operation": {"methods": ["GET"]}}]}]
TO_SERVICE = [{"kind": "Service", "name": "sample-app"}]
HEADER = [{"when": [{"key": "request.headers[x]", "values": ["y"]}]}]
WITH_SCHEME = [{"from": [{"source": {"principals": [f"spiffe://{CLIENT}"]}}]}]
SERVICE_PORT = [{"to": [{"operation": {"ports": ["8080"]}}]}]
DENYING = policy("p", action="DENY", rules=DENY_CLIENT)
BOUND = policy("p", targetRefs=TO_SERVICE, rules=GET_ONLY)
APP = {"matchLabels": {"app": "sample-app"}}
ENROLLED = {"istio.io/use-waypoint": "waypoint"}
WAYPOINT_POD = pod("waypoint", labels={"gateway.networking.k8s.io/gateway-name": "waypoint"})
PROGRAMMED = {
    "metadata": {"name": "waypoint"},
    "status": {"conditions": [{"type": "Programmed", "status": "True"}]},
}


def service(labels: dict[str, str] | None = None, *, port: int = 8080, target: int = 8080) -> Object:
    """The Service of the sample app."""
    return {
        "metadata": {"name": "sample-app", "namespace": "default", "labels": labels or {}},
        "spec": {"selector": {"app": "sample-app"}, "ports": [{"port": port, "targetPort": target}]},
    }


class World:
    """A Reader over one namespace, a healthy one unless told otherwise."""

    def __init__(self, **lists: t.Any) -> None:
        self.labels = lists.pop("labels", {"istio.io/dataplane-mode": "ambient"})
        self.lists: dict[str, list[Object]] = {
            "pods": [pod("curl"), pod("sample-app"), WAYPOINT_POD],
            "services": [service()],
            "policies": [],
            "gateways": [],
            **lists,
        }

    def get(self, path: str) -> Object | None:
        """The namespace."""
        return {"metadata": {"name": "default", "labels": self.labels}} if path.endswith("/default") else None

    def items(self, path: str) -> list[Object]:
        """One of its lists; the root namespace has none."""
        kinds = [kind for kind, template in LISTS.items() if path == template.format("default")]
        return self.lists[kinds[0]] if kinds else []


def cause(expect: str, seen: str, world: World, http_code: int = 200, **fields: t.Any) -> str:
    """Likely cause of a claim that expects one thing and sees another."""
    (parsed,) = claims(claim(expect=expect, **fields))
    observation = Observation(Seen(seen, http_code, 0), Verdict("fail", "not as expected"))
    result = ClaimResult(parsed, observation, Target("default", "curl", "main"), [])
    return likely_cause(result, parsed.after, "after", take(world, namespaces_of([parsed])))


@pytest.mark.parametrize(
    ("expect", "seen", "world", "words"),
    [
        ("denied_l4", "allowed", World(), "no AuthorizationPolicy selects the pods behind sample-app.default:8080"),
        (
            "denied_l4", "allowed",
            World(policies=[policy("p", rules=DENY_CLIENT, selector={"matchLabels": {"app": "other"}})]),
            "the selector of AuthorizationPolicy default/p (app=other) matches no pod",
        ),
        (
            "denied_l4", "allowed",
            World(policies=[policy("p", action="DENY", rules=GET_ONLY, selector=APP)]),
            "has methods, which ztunnel can't match: its DENY rule is not enforced as written",
        ),
        (
            "allowed", "denied_l4",
            World(policies=[policy("p", rules=GET_ONLY, selector=APP)]),
            "has methods, which ztunnel can't match: its ALLOW rule matches nothing, so all is denied",
        ),
        (
            "allowed", "denied_l4",
            World(policies=[policy("p", action="DENY", rules=[{**DENY_CLIENT[0], **GET_ONLY[0]}])]),
            "only the rest of its DENY rule is enforced",
        ),
        (
            "denied_l4", "allowed",
            World(policies=[policy("p", action="DENY", rules=HEADER)]),
            "has request.headers[x], which ztunnel can't match",
        ),
        (
            "denied_l4", "allowed",
            World(policies=[policy("p", rules=WITH_SCHEME)]),
            "write it without spiffe://",
        ),
        (
            "denied_l4", "allowed",
            World(
                services=[service(port=8080, target=9090)],
                policies=[policy("p", action="DENY", rules=SERVICE_PORT)],
            ),
            "names the Service's port 8080; ztunnel sees the workload's port, 9090",
        ),
        (
            "denied_l4", "allowed",
            World(pods=[pod("curl"), pod("sample-app", mesh=False)], policies=[DENYING]),
            "the destination pod default/sample-app is not in the mesh",
        ),
        (
            "denied_l4", "allowed",
            World(pods=[pod("curl", mesh=False), pod("sample-app")], labels={}, policies=[DENYING]),
            "namespace default of the source is not in the mesh: it lacks istio.io/dataplane-mode=ambient",
        ),
        (
            "denied_l7", "allowed",
            World(policies=[BOUND]),
            "Service default/sample-app is not enrolled with a waypoint (label istio.io/use-waypoint",
        ),
        (
            "denied_l7", "allowed",
            World(services=[service(ENROLLED)], policies=[BOUND]),
            "enrolled with the waypoint default/waypoint, which does not exist",
        ),
        (
            "denied_l7", "allowed",
            World(services=[service(ENROLLED)], gateways=[{"metadata": {"name": "waypoint"}}]),
            "the waypoint default/waypoint is not programmed",
        ),
        (
            "denied_l7", "allowed",
            World(services=[service(ENROLLED)], gateways=[PROGRAMMED]),
            "no AuthorizationPolicy has Service default/sample-app or its waypoint in its targetRefs",
        ),
        (
            "denied_l7", "denied_upstream",
            World(services=[service(ENROLLED)], gateways=[PROGRAMMED], policies=[DENYING]),
            "default/p of the destination does not let the waypoint's own identity (cluster.local/ns/default/",
        ),
        (
            "allowed", "denied_l4", World(policies=[DENYING]),
            "AuthorizationPolicies in force for sample-app.default:8080: default/p (DENY)",
        ),
        (
            "denied_l4", "allowed",
            World(policies=[policy("p", action="DENY", rules=[{"to": [{"operation": {"ports": ["80", "81"]}}]}])]),
            "default/p names port 80, 81; ztunnel sees the workload's port, 8080",
        ),
        (
            "denied_l4", "allowed", World(policies=[policy("p", action="DENY", rules=[{}])]),
            "default/p (DENY), denies the source, ns/default/sa/curl",
        ),
        (
            "allowed", "denied_l4",
            World(services=[service(ENROLLED)], gateways=[PROGRAMMED], pods=[pod("curl"), pod("sample-app")]),
            "no pod of the waypoint default/waypoint is ready",
        ),
        # As expected, and yet not by the waypoint that its policy is bound to.
        (
            "allowed", "allowed", World(policies=[BOUND]),
            "Service default/sample-app is not enrolled with a waypoint (label istio.io/use-waypoint",
        ),
        ("allowed", "denied_l4", World(), "no AuthorizationPolicy explains the denial"),
        ("allowed", "dns", World(services=[]), "there is no Service sample-app in namespace default"),
        ("allowed", "refused", World(services=[service(port=80)]), "has no port 8080, it has 80"),
        (
            "allowed", "denied_l4", World(pods=[pod("curl"), pod("sample-app", ready=False)]),
            "no ready pod is behind sample-app.default:8080",
        ),
    ],
)  # fmt: skip
def test_cause(expect: str, seen: str, world: World, words: str) -> None:
    assert words in cause(expect, seen, world)


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
    said = cause("allowed", "dns", World(), to=url)
    assert words in said
    assert isinstance(said, Final) is bool(words)


def test_no_policies_are_named_of_what_is_outside_of_the_cluster() -> None:
    assert cause("denied_l4", "allowed", World(), to="https://example.com/") == ""


NOT_CAPTURED = World(pods=[pod("curl"), pod("sample-app", mesh=False)], policies=[DENYING])


@pytest.mark.parametrize(
    ("expect", "world", "final"),
    [
        ("denied_l4", World(), True),
        ("denied_l4", World(policies=[policy("p", rules=WITH_SCHEME)]), True),
        ("denied_l7", World(policies=[BOUND]), True),
        # These may change without anybody doing anything.
        ("denied_l7", World(services=[service(ENROLLED)], policies=[BOUND]), False),
        ("denied_l4", NOT_CAPTURED, False),
    ],
)
def test_what_waiting_will_not_mend(expect: str, world: World, final: bool) -> None:
    assert isinstance(cause(expect, "allowed", world), Final) is final


def test_an_address_goes_around_the_waypoint() -> None:
    world = World(pods=[pod("curl"), pod("sample-app", ip="10.1.2.3")])
    assert "goes around the Service's waypoint" in cause("denied_l7", "allowed", world, to="http://10.1.2.3:8080/")


def test_the_application_refused() -> None:
    assert "the application itself answered HTTP 403" in cause("denied_l7", "allowed", _enforced(), 403)


def _enforced() -> World:
    return World(services=[service(ENROLLED)], gateways=[PROGRAMMED], policies=[BOUND])


@pytest.mark.parametrize(
    ("policies", "words"),
    [
        ([], "AuthorizationPolicy default/p (the claim's `by`) does not exist"),
        ([policy("p", conditions=[condition("UnsupportedValue")])], "ZtunnelAccepted=True, UnsupportedValue"),
    ],
)
def test_the_declared_policy_comes_first(policies: list[Object], words: str) -> None:
    assert words in cause("denied_l4", "allowed", World(policies=policies), by="default/p")


def test_nothing_is_said_of_a_claim_that_holds() -> None:
    (parsed,) = claims(claim())
    result = ClaimResult(parsed, Observation(Seen("allowed", 200, 0), Verdict("pass")), None, [])
    assert likely_cause(result, parsed.after, "after", take(World(), ["default"])) == ""


def test_nothing_is_guessed_of_a_probe_that_failed() -> None:
    assert cause("allowed", "probe_error", World(pods=[pod("curl")])) == ""


def test_what_is_behind_a_service_without_selector_is_not_known() -> None:
    manual = service()
    del manual["spec"]["selector"]
    assert "no ready pod" in cause("allowed", "refused", World(pods=[pod("curl")]))
    assert cause("allowed", "refused", World(pods=[pod("curl")], services=[manual])) == ""


@pytest.mark.parametrize(
    ("seen", "message", "words"),
    [
        ("dns", "Could not resolve host: sample-app", "can't resolve sample-app.default, which is a Service"),
        ("timeout", "Resolving timed out after 5000 milliseconds", "the source can't resolve sample-app"),
        ("timeout", "Operation timed out after 5000 milliseconds with 0 bytes received", "took the connection"),
        ("timeout", "Failed to connect to sample-app port 8080: Timed out", ""),
    ],
)
def test_where_a_request_got_stuck(seen: str, message: str, words: str) -> None:
    (parsed,) = claims(claim())
    observation = Observation(Seen(seen, errormsg=message), Verdict("fail", "not as expected"))
    result = ClaimResult(parsed, observation, Target("default", "curl", "main"), [])
    said = likely_cause(result, parsed.after, "after", take(World(), namespaces_of([parsed])))
    assert words in said
    assert bool(said) == bool(words)


def test_what_refused_is_the_witness_word() -> None:
    (parsed,) = claims(claim())
    testimony = Testimony("ztunnel", "default/other")
    observation = Observation(Seen("denied_l4", 0, 56), Verdict("fail", "not as expected"), testimony=testimony)
    result = ClaimResult(parsed, observation, Target("default", "curl", "main"), [])
    said = likely_cause(result, parsed.after, "after", take(World(policies=[DENYING]), namespaces_of([parsed])))
    assert said == "AuthorizationPolicy default/other refused it, as the ztunnel itself says"
