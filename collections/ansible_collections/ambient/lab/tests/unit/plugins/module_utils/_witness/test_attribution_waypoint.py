# What a waypoint says of a refusal, and what the destination's ztunnel says of the waypoint.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._check.run import judge
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Expectation
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen
from ansible_collections.ambient.lab.plugins.module_utils._witness.attribution import NOT_MET, Query, attribute
from ansible_collections.ambient.lab.plugins.module_utils._witness.evidence import Evidence, Said
from ansible_collections.ambient.lab.plugins.module_utils._witness.logs import Request
from ansible_collections.ambient.lab.tests.unit.fakes import meshes
from ansible_collections.ambient.lab.tests.unit.fakes.attribution import (
    BEHIND,
    BY_NOBODY,
    DENIED,
    DENIED_L7,
    DENIED_UPSTREAM,
    ID,
    L7,
    OLD,
    QUERY,
    SOURCE,
    UNMATCHED,
    WP,
    WP2,
    Z2,
    Case,
    answered,
    conclude,
    counted,
    counted_l7,
    inbound,
    logged,
)

AT_WAYPOINT: list[Case] = [
    (
        "log and counter agree",
        DENIED_L7, BEHIND, [counted_l7(answered(WP, L7))],
        "waypoint", "default/layer7-authz", "",
    ),
    ("log not written yet", DENIED_L7, BEHIND, [counted_l7(WP)], "waypoint", None, ""),
    (
        "counters can't be asked",
        DENIED_L7, BEHIND, [answered(WP, L7, counter_problem="HTTP 403: no")],
        "waypoint", "default/layer7-authz", "",
    ),
    (
        "the application itself answered 403",
        DENIED_L7, BEHIND, [answered(WP, Request(ID, 403, "via_upstream", None, False))],
        "network", None, "via_upstream",
    ),
    (
        "counter and log disagree: the answer was another's",
        DENIED_L7, BEHIND, [counted_l7(answered(WP, Request(ID, 403, "via_upstream", None, False)))],
        "-", None, "the witnesses disagree",
    ),
    (
        "log and counter disagree",
        DENIED_L7, BEHIND, [answered(WP, L7)],
        "-", None, "the witnesses disagree",
    ),
    (
        "another's request",
        DENIED_L7, BEHIND, [answered(WP, dataclasses.replace(L7, request_id="probe-0a-2"))],
        "network", None, NOT_MET,
    ),
    (
        "the counter of another code, source or Service",
        DENIED_L7, BEHIND,
        [
            counted(counted_l7(counted_l7(WP, 401), 503), workload="other", response_code="403"),
            counted(WP2, response_code="403", destination_service_name="other"),
        ],
        "network", None, NOT_MET,
    ),
    (
        "a token is missing",
        Seen("denied_l7", 401, 0, request_id=ID), BEHIND,
        [counted_l7(answered(WP, Request(ID, 401, "jwt_authn_access_denied{Jwt_is_missing}", None, True)), 401)],
        "waypoint", None, "",
    ),
    (
        "one ALLOW policy lets nobody in",
        DENIED_L7, dataclasses.replace(BEHIND, waypoint_allowing=("default/only",), allowing=("default/l4",)),
        [counted_l7(answered(WP, BY_NOBODY))],
        "waypoint", "default/only", "",
    ),
    (
        "one of several ALLOW policies",
        DENIED_L7, dataclasses.replace(BEHIND, waypoint_allowing=("default/a", "default/b")),
        [counted_l7(answered(WP, BY_NOBODY))],
        "waypoint", None, "",
    ),
    (
        "an ALLOW policy has nothing to do with a refusal of another kind",
        DENIED_L7, dataclasses.replace(BEHIND, waypoint_allowing=("default/only",)),
        [counted_l7(answered(WP, Request(ID, 403, "ext_authz_denied", None, True)))],
        "waypoint", None, "",
    ),
    (
        "two replicas, either may have answered",
        DENIED_L7, dataclasses.replace(BEHIND, waypoint_addresses=("10.0.1.7", "10.0.1.8")),
        [WP, counted_l7(answered(WP2, L7))],
        "waypoint", "default/layer7-authz", "",
    ),
    (
        "two replicas, the one that answered can't be asked for its counters",
        DENIED_L7, dataclasses.replace(BEHIND, waypoint_addresses=("10.0.1.7", "10.0.1.8")),
        [WP, answered(WP2, L7, counter_problem="HTTP 503: no")],
        "waypoint", "default/layer7-authz", "",
    ),
    ("no waypoint on the path", DENIED_L7, QUERY, [counted_l7(answered(WP, L7))], "network", None, "no waypoint"),
    (
        "nobody can be asked",
        DENIED_L7, BEHIND, [answered(WP, log_problem="HTTP 403: no", counter_problem="HTTP 403: no")],
        "-", None, "nobody could say",
    ),
    (
        "a log in a format of the user's own, no counters",
        DENIED_L7, BEHIND,
        [answered(WP, Request(ID, 0, "", None, None), counter_problem="HTTP 403: no")],
        "-", None, "format of its own",
    ),
    (
        "a log in a format of the user's own",
        DENIED_L7, BEHIND, [counted_l7(answered(WP, Request(ID, 0, "", None, None)))],
        "waypoint", None, "",
    ),
]  # fmt: skip
FROM_WAYPOINT = inbound(UNMATCHED, "10.0.1.7:44444")
UPSTREAM: list[Case] = [
    (
        "the destination's ztunnel refused the waypoint",
        DENIED_UPSTREAM, dataclasses.replace(BEHIND, allowing=("default/only",)),
        [counted(logged(Z2, FROM_WAYPOINT), workload="wp"), WP],
        "ztunnel", "default/only", "",
    ),
    (
        "it refused the client, which is something else",
        DENIED_UPSTREAM, BEHIND, [counted(logged(Z2, inbound())), WP],
        "network", None, NOT_MET,
    ),
    (
        "it refused another waypoint",
        DENIED_UPSTREAM, BEHIND, [counted(logged(Z2, inbound(source="10.0.1.8:1")), workload="other")],
        "network", None, NOT_MET,
    ),
    ("the waypoint's counter alone", DENIED_UPSTREAM, BEHIND, [counted_l7(WP, 503)], "-", None, "nobody could say"),
    ("the log alone", DENIED_UPSTREAM, BEHIND, [logged(Z2, FROM_WAYPOINT, **OLD)], "ztunnel", None, ""),
    (
        "no waypoint on the path",
        DENIED_UPSTREAM, QUERY, [counted(logged(Z2, FROM_WAYPOINT), workload="wp")],
        "network", None, NOT_MET,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "seen", "query", "said", "decided", "policy", "problem"), [*AT_WAYPOINT, *UPSTREAM])
def test_who_decided(
    name: str, seen: Seen, query: Query, said: list[Said], decided: str, policy: str | None, problem: str
) -> None:
    conclude(seen, query, said, decided, policy, problem)


def test_the_newest_line_of_the_same_answers_is_taken() -> None:
    older = dataclasses.replace(L7, request_id="probe-0a-0", policy="default/old")
    said = [counted_l7(answered(WP, L7, older))]
    assert attribute(DENIED_L7, BEHIND, Evidence(said), [ID, "probe-0a-0"]).policy == "default/layer7-authz"
    assert attribute(DENIED_L7, BEHIND, Evidence(said), ["probe-0a-9", "probe-0a-0"]).policy == "default/old"


def test_late() -> None:
    assert attribute(DENIED_L7, BEHIND, Evidence([counted_l7(WP)])).late
    assert not attribute(DENIED_L7, BEHIND, Evidence([counted_l7(answered(WP, L7))])).late
    assert not attribute(DENIED, QUERY, Evidence([counted(logged(Z2, inbound()))])).late


# A waypoint on which a DENY policy and an authorizer's are in force; the first one is not for GET.
GUARDED = meshes.mesh_of(
    meshes.pod("client"),
    meshes.pod("app"),
    meshes.service("app", labels={"istio.io/use-waypoint": "waypoint"}),
    meshes.gateway("waypoint", "default"),
    meshes.policy(
        "post", action="DENY", rules=[{"to": [{"operation": {"methods": ["POST"]}}]}], targetRefs=meshes.target()
    ),
    meshes.policy("get", action="DENY", rules=[{}], targetRefs=meshes.target()),
    meshes.policy(
        "login", action="CUSTOM", rules=[{"to": [{"operation": {"methods": ["PUT"]}}]}], targetRefs=meshes.target()
    ),
)
JWT = Request(ID, 401, "jwt_authn_access_denied{Jwt_is_missing}", None, True)
AUTHORIZER = Request(ID, 403, "ext_authz_denied", None, True)


@pytest.mark.parametrize(
    ("request_", "by", "required", "verdict", "reason"),
    [
        # The log names a filter that is no AuthorizationPolicy, or that only CUSTOM policies have.
        (JWT, "default/get", False, "fail", "denied by a RequestAuthentication, not by default/get"),
        (AUTHORIZER, "default/get", False, "fail", "denied by default/login, not by default/get"),
        (AUTHORIZER, "default/login", True, "pass", ""),
        # No log at all: the objects say which policy can have decided.
        (None, "default/get", False, "pass", ""),
        (
            None,
            "default/post",
            False,
            "fail",
            "default/post does not match it; by the objects it is denied by default/get",
        ),
        (None, "default/other", False, "fail", "it is not in force at the waypoint"),
    ],
)
def test_the_policy_in_by_at_a_waypoint(
    request_: Request | None, by: str, required: bool, verdict: str, reason: str
) -> None:
    way = meshes.way(GUARDED, "http://app:8080/")
    query = dataclasses.replace(Query.of(way[0], SOURCE), services=("sample-app",), waypoint_addresses=("10.0.1.7",))
    code = request_.code if request_ else 403
    seen = dataclasses.replace(DENIED_L7, http_code=code)
    said = [counted_l7(answered(WP, request_), code)] if request_ else []
    found = attribute(seen, query, Evidence(said, "" if said else "no right to read logs"), (ID,))
    expect = Expectation("denied_l7", http_codes=frozenset({code}))
    judged = judge(meshes.run_of(way, expect, seen, found, by), None, required=required)
    assert (judged.verdict, reason in judged.reason) == (verdict, True), judged


def test_where_gateways_can_not_be_read_nobody_knows_which_policy_is_in_force() -> None:
    objects = [item for item in GUARDED.objects() if item["kind"] != "Namespace"]
    way = meshes.way(meshes.mesh_of(objects, Gateway="forbidden"), "http://app:8080/")
    judged = judge(meshes.run_of(way, Expectation("denied_l7"), DENIED_L7, by="default/get"), None, required=True)
    assert (judged.verdict, "default/get is not known to be in force at the waypoint" in judged.reason) == (
        "error",
        True,
    )


def test_a_service_entry_is_counted_by_each_of_its_hosts() -> None:
    entry = {
        "kind": "ServiceEntry",
        "metadata": {"name": "partners", "namespace": "default"},
        "spec": {"hosts": ["a.example", "b.example"], "addresses": ["240.0.0.1"], "ports": [{"number": 80}]},
    }
    path, _prediction = meshes.way(meshes.mesh_of(meshes.pod("client"), entry), "http://b.example/")
    assert Query.of(path, SOURCE).services == ("a.example", "b.example")


def test_a_custom_policy_without_its_provider_is_named_with_its_fault() -> None:
    name = "istio-ext-authz-p-ns[default]-policy[c]-rule[0]-deny-due-to-bad-CUSTOM-action"
    line = Request(ID, 403, f"rbac_access_denied_matched_policy[{name}]", "default/c", True)
    found = attribute(DENIED_L7, BEHIND, Evidence((counted_l7(answered(WP, line)),)))
    assert found.policy == "default/c"
    assert any("whose provider istiod does not have" in item.said for item in found.statements)
