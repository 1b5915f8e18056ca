# What a waypoint logs: who answered a request, and which policy refused it.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._witness.logs import (
    Request,
    parse_request,
)

ID = "probe-0a1b2c3d4e5f-7"


def waypoint(code: int, details: str, *, request_id: str = ID, path: str = "/", agent: str = "curl/8.7.1") -> str:
    """A line in Istio's text format."""
    return (
        f'[2026-03-01T10:00:00.123Z] "POST {path} HTTP/1.1" {code} - {details} - "-" 0 19 0 - "-" "{agent}" '
        f'"{request_id}" "sample-app:8080" "-" inbound-vip|8080|http|sample-app.default.svc.cluster.local - '
        "10.96.0.7:8080 10.0.0.9:40000 - default"
    )


def waypoint_json(
    code: int, details: str | None, *, request_id: str = ID, path: str = "/", agent: str = "curl/8.7.1"
) -> str:
    """A line in Istio's JSON encoding."""
    fields = {"bytes_sent": 19, "method": "POST", "response_code_details": details, "authority": "sample-app:8080"}
    return json.dumps({**fields, "path": path, "user_agent": agent, "request_id": request_id, "response_code": code})


def matched(policy: str) -> str:
    """Envoy's details of a refusal."""
    return f"rbac_access_denied_matched_policy[{policy}]"


BOTH = pytest.mark.parametrize("line", [waypoint, waypoint_json])
L7 = matched("ns[default]-policy[layer7-authz]-rule[0]")
BAD = "ns[default]-policy[custom]-rule[0]-deny-due-to-bad-CUSTOM-action"


@BOTH
@pytest.mark.parametrize(
    ("code", "details", "policy", "rejected", "unmatched"),
    [
        (403, L7, "default/layer7-authz", True, False),
        (403, matched("ns[a-b]-policy[x.y]-rule[12]"), "a-b/x.y", True, False),
        # A CUSTOM policy whose provider istiod does not have.
        (403, matched(f"istio-ext-authz-a-b-{BAD}"), "default/custom", True, False),
        (403, matched(f"istio-ext-authz-{BAD}"), "default/custom", True, False),
        (403, matched("none"), None, True, True),
        (403, matched("mine"), None, True, False),
        (401, "jwt_authn_access_denied{Jwt_is_missing}", None, True, False),
        (403, "ext_authz_denied", None, True, False),
        (403, "via_upstream", None, False, False),
        (200, "via_upstream", None, False, False),
        (503, "upstream_reset_before_response_started{connection_termination}", None, False, False),
        (403, "direct_response", None, False, False),
    ],
)
def test_a_waypoints_answer(
    line: t.Callable[..., str], code: int, details: str, policy: str | None, rejected: bool, unmatched: bool
) -> None:
    assert parse_request(line(code, details)) == Request(ID, code, details, policy, rejected, unmatched)


@BOTH
@pytest.mark.parametrize(
    "request_id",
    [
        "8fed64e3-3ec9-4502-ac8d-01cad9e6aaed",
        "-",
        "probe-",
        "probe-xyz-1",
        f"x{ID}",
        f"{ID}x",
        f"/{ID}",
    ],
)
def test_other_peoples_requests(line: t.Callable[..., str], request_id: str) -> None:
    assert parse_request(line(200, "via_upstream", request_id=request_id)) is None
    assert parse_request(line(200, "via_upstream", request_id=request_id, path=f"/{ID}")) is None
    assert parse_request(line(200, "via_upstream", request_id=request_id, path=f"/?a={ID}&b")) is None


@BOTH
def test_only_the_details_name_a_policy(line: t.Callable[..., str]) -> None:
    forged = matched("ns[default]-policy[forged]-rule[0]")
    for found in (
        parse_request(line(403, matched("none"), path=f"/{forged}")),
        parse_request(line(403, matched("none"), agent=forged)),
        parse_request(line(403, matched("none"), agent=f'x" 200 - {forged} ')),
    ):
        assert found is not None
        assert (found.code, found.policy, found.unmatched) == (403, None, True)


@pytest.mark.parametrize(
    "line",
    [
        f"[2026] {ID} a format of the user's own 403",
        waypoint(403, "-"),
        waypoint_json(403, None),
        json.dumps({"id": ID, "code": 403}),
        '{"request_id":"' + ID + '","response_code":Infinity}',
        '{"request_id":"' + ID + '","response_code":"x"}',
        '{"request_id":"' + ID + '"',
        '{"a":"' + ID + '","b":' + "[" * 100_000,
    ],
)
def test_a_line_that_does_not_say_who_answered(line: str) -> None:
    found = parse_request(line)
    assert found is not None
    assert (found.request_id, found.policy, found.rejected) == (ID, None, None)
