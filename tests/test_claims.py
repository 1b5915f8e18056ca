"""The claims that the roles ship: complete, and of the outcomes the issue asks for."""

from __future__ import annotations

from typing import Any

import pytest
from project import defaults


def outcome(expectation: Any) -> str:
    """Return the outcome of an expectation in its short or its long form, or the template that decides."""
    return str(expectation["outcome"] if isinstance(expectation, dict) else expectation)


@pytest.mark.parametrize("role", ["l4_authz", "l7_waypoint"])
def test_every_claim_says_what_was_before(role: str) -> None:
    """A policy's effect is a difference: allowed before, and at least one denial after."""
    claims = defaults(role)[f"{role}_claims"]
    assert {outcome(claim["before"]) for claim in claims} == {"allowed"}
    assert {outcome(claim["expect"]) for claim in claims} > {"allowed"}
    denied = [claim for claim in claims if outcome(claim["expect"]).startswith("denied")]
    assert all(claim["by"] for claim in denied)


def test_l7_claims_cover_every_method() -> None:
    """GET passes, and everything else that changes something is refused with 403: with a body, below / as well."""
    claims = [c for c in defaults("l7_waypoint")["l7_waypoint_claims"] if c["from"] == {"pod": "curl"}]
    refused = {"outcome": "denied_l7", "http_code": 403}
    assert {c["to"]["method"] for c in claims} == {"GET", "POST", "PUT", "PATCH", "DELETE"}
    for claim in claims:
        passes = claim["to"]["method"] == "GET"
        assert claim["expect"] == ({"outcome": "allowed", "http_code": 200} if passes else refused)
    posts = [c["to"] for c in claims if c["to"]["method"] == "POST"]
    assert [("body" in to, to["url"].endswith(":8080/")) for to in posts] == [(0, 1), (1, 1), (0, 0)]
