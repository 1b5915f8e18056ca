# Who wrote an answer: by what it looks like, by what is on the way, by what a proxy's access log says of it.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import HIDDEN, by_log, classify, on_the_way
from ansible_collections.ambient.lab.plugins.module_utils._curl.script import Record

ENVOY = {"server": "istio-envoy"}
UPSTREAM = {**ENVOY, "x-envoy-upstream-service-time": "1"}
RBAC = "RBAC: access denied"
RESET = "upstream connect error or disconnect/reset before headers. reset reason: connection termination"


def record(code: int, headers: dict[str, str] | None = None, body: str = "", **fields: t.Any) -> Record:
    values = {"exit_code": 0, "errormsg": "", "connected": True, "received": 9, "elapsed": 0.1, **fields}
    return Record(http_code=code, headers=headers or {}, body=body, **values)


@pytest.mark.parametrize(
    ("code", "headers", "body", "outcome", "writer"),
    [
        (200, UPSTREAM, "", "allowed", "application"),
        (403, UPSTREAM, RBAC, "allowed", "application"),
        (403, ENVOY, RBAC, "denied_l7", "proxy"),
        # A mesh that hides the server's name; with another name it may be the application.
        (403, {}, RBAC, "denied_l7", "proxy"),
        (403, {"server": "acme"}, RBAC, "allowed", "unmarked"),
        (401, ENVOY, "Jwt is missing", "denied_l7", "proxy"),
        (503, ENVOY, RESET, "denied_upstream", "proxy"),
        (403, ENVOY, "no", "denied_l7", "envoy-like"),
        (200, {**ENVOY, "grpc-status": "7"}, "", "denied_l7", "envoy-like"),
        (200, {**UPSTREAM, "grpc-status": "7"}, "", "allowed", "application"),
        (301, ENVOY, "", "local_reply", "envoy-like"),
        (200, ENVOY, "", "local_reply", "envoy-like"),
        (404, ENVOY, "", "unroutable", "envoy-like"),
        (503, ENVOY, "no healthy upstream", "unroutable", "envoy-like"),
        (403, {"server": "SimpleHTTP"}, "no", "allowed", "unmarked"),
        (200, {}, "", "allowed", "unmarked"),
    ],
)
def test_by_its_looks(code: int, headers: dict[str, str], body: str, outcome: str, writer: str) -> None:
    seen = classify(record(code, headers, body))
    assert (seen.outcome, seen.writer) == (outcome, writer)


def test_a_response_that_began_was_let_through_however_it_ended() -> None:
    assert classify(record(200, UPSTREAM, exit_code=28)).outcome == "allowed"
    assert classify(record(0, exit_code=28, received=0)).outcome == "timeout"


@pytest.mark.parametrize(
    ("headers", "envoys", "hides", "unclear"),
    [
        ({"server": "SimpleHTTP"}, False, True, False),
        # Without an Envoy on the way nobody else can have written it.
        (ENVOY, False, True, False),
        (ENVOY, True, False, False),
        (ENVOY, True, True, True),
        ({}, True, True, True),
        # Envoy says who it is, so what says nothing hides something.
        ({"server": "SimpleHTTP"}, True, False, True),
        (UPSTREAM, True, True, False),
    ],
)
def test_by_what_is_on_the_way(headers: dict[str, str], envoys: bool, hides: bool, unclear: bool) -> None:
    assert on_the_way(classify(record(403, headers, "no")), envoys, hides).unclear == (HIDDEN if unclear else "")


@pytest.mark.parametrize(
    ("code", "headers", "body", "details", "refused", "outcome"),
    [
        # Headers hidden: the application's own answers.
        (200, ENVOY, "", "via_upstream", False, "allowed"),
        (403, {}, "", "via_upstream", False, "allowed"),
        (403, {}, "", "rbac_access_denied_matched_policy[none]", True, "denied_l7"),
        # An authorizer may answer anything.
        (302, ENVOY, "", "ext_authz_denied", True, "denied_l7"),
        (301, ENVOY, "", "direct_response", False, "local_reply"),
        (404, ENVOY, "", "route_not_found", False, "unroutable"),
        # HEAD has no body that could say it.
        (503, ENVOY, "", "upstream_reset_before_response_started{connection_termination}", False, "denied_upstream"),
        (503, ENVOY, RESET, "upstream_reset_before_response_started{remote_reset}", False, "denied_upstream"),
        (503, ENVOY, "", "no_healthy_upstream", False, "unroutable"),
    ],
)
def test_by_the_access_log(
    code: int, headers: dict[str, str], body: str, details: str, refused: bool, outcome: str
) -> None:
    seen = by_log(on_the_way(classify(record(code, headers, body)), True, True), code, details, refused)
    assert (seen.outcome, seen.unclear) == (outcome, "")


def test_a_line_about_another_answer_says_nothing() -> None:
    seen = on_the_way(classify(record(403, ENVOY, "no")), True, True)
    assert by_log(seen, 200, "via_upstream", False) == seen


@pytest.mark.parametrize(
    "said",
    [
        "Recv failure: Connection reset by peer",
        "gnutls_handshake() failed: The TLS connection was non-properly terminated.",
        "gnutls_handshake() failed: Error in the pull function.",
        "OpenSSL SSL_connect: SSL_ERROR_SYSCALL in connection to app:443",
        "ssl_handshake returned: (-0x7280) SSL - The connection indicated an EOF",
        "rustls_connection_process_new_packets: connection closed",
    ],
)
def test_a_handshake_that_is_cut_off_is_a_denial_with_every_tls_library(said: str) -> None:
    assert classify(record(0, exit_code=35, errormsg=said, received=0)).outcome == "denied_l4"
    assert classify(record(0, exit_code=35, errormsg="certificate has expired", received=0)).outcome == "tls"
