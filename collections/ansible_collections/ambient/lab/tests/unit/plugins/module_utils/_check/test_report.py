# What is told: the failure on one screen, the results file, the closing table.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._check.report import as_result, failure, kept
from ansible_collections.ambient.lab.plugins.module_utils._check.rounds import CheckResult, Settings, check
from ansible_collections.ambient.lab.plugins.module_utils._results.codec import plain
from ansible_collections.ambient.lab.plugins.module_utils._results.model import Phase, Section
from ansible_collections.ambient.lab.plugins.module_utils._results.store import checked
from ansible_collections.ambient.lab.plugins.plugin_utils._report.claims_report import results_table
from ansible_collections.ambient.lab.tests.unit.fakes.objects import (
    OK,
    RESET,
    Answer,
    FakeEdge,
    claim,
    claims,
    pod,
    policy,
)

PODS = [pod("curl-allow"), pod("curl-deny")]
CLAIMS = claims(
    claim("curl-allow reaches sample-app", source={"pod": "curl-allow"}),
    claim("curl-deny is cut off by ztunnel", source={"pod": "curl-deny"}, expect="denied_l4", by="default/p"),
)


def run(phase: Phase, deny: Answer = RESET, pods: t.Sequence[dict[str, t.Any]] = tuple(PODS)) -> CheckResult:
    """Check two claims."""
    edge = FakeEdge(list(pods), lambda name, *_: deny if name == "curl-deny" else OK)
    edge.authorization = [policy("p", action="DENY")]
    return check(CLAIMS, Settings(phase=phase, timeout=2), edge)


def test_failure_fits_a_screen_and_says_it_all() -> None:
    result = run("after", OK)
    result.claims[1].cause = "no AuthorizationPolicy selects it"
    text = failure(result, Settings(), "l4_authz", "kubectl --kubeconfig /k")
    lines = text.splitlines()
    assert lines[0].startswith("1 of 2 claims of l4_authz did not hold (after the policy, ")
    assert lines[2].split() == ["CLAIM", "EXPECTED", "SEEN", "FROM"]
    assert "curl-deny is cut off by ztunnel  denied_l4  allowed 200/0  default/curl-deny" in text
    assert "why:  no AuthorizationPolicy selects it" in lines
    assert "look: kubectl --kubeconfig /k -n default get authorizationpolicy p -o yaml" in lines
    assert max(len(line) for line in lines) <= 100
    assert len(lines) < 20


def test_failure_of_many_claims_still_fits() -> None:
    name = "a claim with a name that is rather long, as the names of claims tend to be, and a number too"
    many = claims(*[claim(f"{name}: {number}") for number in range(40)])
    edge = FakeEdge([pod("curl")], lambda *_: RESET)
    result = check(many, Settings(timeout=0), edge)
    lines = failure(result, Settings(), "", "kubectl").splitlines()
    assert len(lines) < 40
    assert max(len(line) for line in lines) <= 100
    assert lines[-1] == "(34 more: run again with -v)"


def test_failure_of_a_missing_source() -> None:
    text = failure(run("after", pods=PODS[:1]), Settings(), "l4_authz", "kubectl")
    assert "nothing was probed" in text
    assert "why:  pod default/curl-deny does not exist" in text
    assert "curl-allow" not in text
    assert "look: kubectl -n default get pods -o wide --show-labels" in text


def test_a_check_as_results_have_it() -> None:
    check = kept(run("after"))
    assert (check.verdict, check.rounds) == ("pass", 3)
    allow, deny = check.claims
    assert (allow.seen.outcome, allow.decided_by, deny.seen.text) == ("allowed", "-", "denied_l4 000/56")
    assert (deny.expected, deny.by, deny.from_) == ("denied_l4", "default/p", "default/curl-deny")
    assert kept(run("after", OK)).converged_after is None


def test_the_answer_is_returned_and_never_kept() -> None:
    result = run("after")
    returned, check = json.loads(json.dumps(as_result(result, kept(result)))), plain(kept(result))
    for mine, its in zip(returned["claims"], check["claims"], strict=True):
        more = {key for key in mine["seen"] if key not in its["seen"]}
        assert more == {"elapsed", "headers", "body", "sender", "request_id", "writer", "unclear"}
        assert mine | {"seen": 0} == its | {"seen": 0}


def test_the_table_fits_a_terminal() -> None:
    l4 = checked(checked(Section(), "before", kept(run("before", OK))), "after", kept(run("after")))
    results = {"l4_authz": l4, "failed": Section(after=kept(run("after", pods=PODS[:1])))}
    lines = results_table(results)
    assert lines[0].split("  ")[0] == "CLAIM"
    assert max(len(line) for line in lines) <= 100
    row = "curl-deny is cut off by ztunnel  -  allowed 200/0  denied_l4 000/56  -  0.1 s"
    assert lines[3].split() == row.split()
    assert "ERROR" in "\n".join(lines[4:])


def test_what_a_pod_says_does_not_drive_the_terminal() -> None:
    edge = FakeEdge(list(PODS), lambda *_: OK)
    edge.problem = "\x1b[2J gone"
    text = failure(check(CLAIMS, Settings(timeout=0), edge), Settings(), "", "kubectl")
    assert "\x1b" not in text


def test_by_hand_the_answer_is_the_same_and_no_secret_is_shown() -> None:
    request = {"url": "http://sample-app:8080/", "method": "POST", "headers": {"x-token": "s3cret"}, "body": "s3cret"}
    edge = FakeEdge(list(PODS), lambda *_: RESET)
    text = failure(
        check(claims(claim(source={"pod": "curl-allow"}, to=request)), Settings(timeout=0), edge), Settings(), "", "k"
    )
    assert "-H 'x-token: <as in the claim>' --data-raw" in text
    assert "s3cret" not in text
