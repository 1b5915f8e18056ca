"""Authorization as a table (embedded provider alone)."""

from __future__ import annotations

import logging
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from ambient_ztunnel.accesslog import Formatter
from ambient_ztunnel.config import load
from ambient_ztunnel.identity import Identity
from ambient_ztunnel.model import (
    Action,
    Match,
    MatchKind,
    Policy,
    Scope,
    ServiceAccountMatch,
    StringMatch,
    Workload,
)
from ambient_ztunnel.rbac import Connection, authorize, policy_matches
from ambient_ztunnel.state import State

ALICE = Identity("td", "ns-a", "alice")
CONN = Connection(ip_address("10.0.0.1"), 12345, ip_address("10.0.0.2"), 8080, ALICE)
PLAIN = replace(CONN, identity=None)


def exact(value: str) -> tuple[StringMatch, ...]:
    return (StringMatch(MatchKind.EXACT, value),)


def prefix(value: str) -> tuple[StringMatch, ...]:
    return (StringMatch(MatchKind.PREFIX, value),)


def suffix(value: str) -> tuple[StringMatch, ...]:
    return (StringMatch(MatchKind.SUFFIX, value),)


PRESENT = (StringMatch(MatchKind.PRESENCE),)


@pytest.mark.parametrize(
    ("match", "with_identity", "without"),
    [
        (Match(principals=exact("td/ns/ns-a/sa/alice")), True, False),
        (Match(principals=exact("spiffe://td/ns/ns-a/sa/alice")), False, False),
        (Match(principals=exact("td/ns/ns-a/sa/bob")), False, False),
        (Match(principals=exact("td/ns/ns-a/sa/bob") + exact("td/ns/ns-a/sa/alice")), True, False),
        (Match(principals=prefix("td/ns/ns-a/")), True, False),
        (Match(principals=prefix("other/")), False, False),
        (Match(principals=suffix("/sa/alice")), True, False),
        (Match(principals=suffix("/sa/bob")), False, False),
        (Match(principals=PRESENT), True, False),
        (Match(not_principals=exact("td/ns/ns-a/sa/alice")), False, True),
        (Match(not_principals=exact("td/ns/ns-a/sa/bob")), True, True),
        (Match(not_principals=PRESENT), False, True),
        (Match(principals=prefix("td/"), not_principals=suffix("/alice")), False, False),
        (Match(namespaces=exact("ns-a")), True, False),
        (Match(namespaces=exact("ns-b")), False, False),
        (Match(namespaces=prefix("ns-")), True, False),
        (Match(namespaces=suffix("-a")), True, False),
        (Match(namespaces=PRESENT), True, False),
        (Match(not_namespaces=exact("ns-a")), False, True),
        (Match(not_namespaces=PRESENT), False, True),
        (Match(service_accounts=(ServiceAccountMatch("ns-a", "alice"),)), True, False),
        (Match(service_accounts=(ServiceAccountMatch("ns-b", "alice"),)), False, False),
        (Match(service_accounts=(ServiceAccountMatch("ns-a", "bob"),)), False, False),
        (Match(not_service_accounts=(ServiceAccountMatch("ns-a", "alice"),)), False, True),
        (Match(source_ips=(ip_network("10.0.0.0/24"),)), True, True),
        (Match(source_ips=(ip_network("10.0.0.2/32"),)), False, False),
        (Match(source_ips=(ip_network("10.0.0.2/32"), ip_network("10.0.0.1/32"))), True, True),
        (Match(source_ips=(ip_network("fd00::/8"),)), False, False),
        (Match(not_source_ips=(ip_network("10.0.0.0/8"),)), False, False),
        (Match(not_source_ips=(ip_network("192.168.0.0/16"),)), True, True),
        (Match(destination_ips=(ip_network("10.0.0.2/32"),)), True, True),
        (Match(destination_ips=(ip_network("10.0.0.1/32"),)), False, False),
        (Match(not_destination_ips=(ip_network("10.0.0.2/32"),)), False, False),
        (Match(destination_ports=(80, 8080)), True, True),
        (Match(destination_ports=(80,)), False, False),
        (Match(not_destination_ports=(8080,)), False, False),
        (Match(not_destination_ports=(80,)), True, True),
        (Match(principals=PRESENT, destination_ports=(8080,)), True, False),
        (Match(principals=PRESENT, destination_ports=(80,)), False, False),
        (Match(), False, False),
    ],
)
def test_one_match(match: Match, with_identity: bool, without: bool) -> None:
    policy = Policy("p", "ns", Scope.NAMESPACE, Action.DENY, (((match,),),))
    assert policy_matches(policy, CONN) is with_identity
    assert policy_matches(policy, PLAIN) is without


YES = Match(destination_ports=(8080,))
NO = Match(destination_ports=(1,))


@pytest.mark.parametrize(
    ("groups", "want"),
    [
        ((), False),  # no group at all
        (((),), True),  # a group without rules: nothing is asked
        ((((),),), True),  # a rule without matches: nothing is asked
        ((((YES,),),), True),
        ((((NO,),),), False),
        ((((NO, YES),),), True),  # matches are ORed
        ((((YES,), (NO,)),), False),  # rules are ANDed
        ((((YES,), (YES,)),), True),
        ((((NO,),), ((YES,),)), True),  # groups are ORed
        ((((Match(),),),), False),  # a match whose fields were all for L7 never holds
        ((((Match(), YES),),), True),
        ((((YES,), (Match(),)),), False),
    ],
)
def test_structure(groups: tuple[tuple[tuple[Match, ...], ...], ...], want: bool) -> None:
    assert policy_matches(Policy("p", "ns", Scope.NAMESPACE, Action.ALLOW, groups), CONN) is want


def policy(name: str, action: Action, match: Match, *, dry_run: bool = False) -> Policy:
    return Policy(name, "ns", Scope.NAMESPACE, action, (((match,),),), dry_run)


@pytest.mark.parametrize(
    ("policies", "allowed", "reason"),
    [
        ([], True, ""),
        ([policy("a", Action.ALLOW, YES)], True, ""),
        ([policy("a", Action.ALLOW, NO)], False, "allow policies exist, but none allowed"),
        ([policy("a", Action.ALLOW, NO), policy("b", Action.ALLOW, YES)], True, ""),
        ([policy("d", Action.DENY, YES)], False, "explicitly denied by: ns/d"),
        ([policy("d", Action.DENY, NO)], True, ""),
        (
            [policy("a", Action.ALLOW, YES), policy("d", Action.DENY, YES)],
            False,
            "explicitly denied by: ns/d",
        ),
        (
            [policy("d", Action.DENY, NO), policy("a", Action.ALLOW, NO)],
            False,
            "allow policies exist, but none allowed",
        ),
        ([policy("a", Action.ALLOW, Match())], False, "allow policies exist, but none allowed"),
        ([policy("d", Action.DENY, Match())], True, ""),
        ([policy("d", Action.DENY, YES, dry_run=True)], True, ""),
        ([policy("a", Action.ALLOW, NO, dry_run=True)], True, ""),
    ],
)
def test_verdict(policies: list[Policy], allowed: bool, reason: str) -> None:
    verdict = authorize(policies, CONN)
    assert (verdict.allowed, verdict.reason) == (allowed, reason)


TRIED_DENY = policy("td", Action.DENY, YES, dry_run=True)
TRIED_ALLOW = policy("ta", Action.ALLOW, YES, dry_run=True)
OTHER_ALLOW = policy("to", Action.ALLOW, NO, dry_run=True)


@pytest.mark.parametrize(
    ("policies", "steps"),
    [
        ([], ["no allow policies, allow"]),
        ([TRIED_DENY], ["dry-run: deny policy match ns/td", "no allow policies, allow"]),
        ([TRIED_ALLOW], ["dry-run: allow policy match ns/ta", "no allow policies, allow"]),
        ([OTHER_ALLOW], ["dry-run: no allow policies match", "no allow policies, allow"]),
        (
            [policy("a", Action.ALLOW, YES), OTHER_ALLOW, TRIED_DENY],
            ["dry-run: deny policy match ns/td", "allow policy match ns/a"],
        ),
        ([policy("a", Action.ALLOW, NO)], ["no allow policies matched"]),
        (
            [TRIED_ALLOW, TRIED_DENY, policy("d", Action.DENY, YES)],
            ["dry-run: deny policy match ns/td", "deny policy match ns/d"],
        ),
    ],
)
def test_how_it_came_about(policies: list[Policy], steps: list[str]) -> None:
    assert [" ".join(filter(None, step)) for step in authorize(policies, CONN).steps] == steps


@pytest.mark.parametrize(("wanted", "said"), [("true", True), ("false", False)])
def test_what_policies_decide_is_said_at_info_on_request(
    wanted: str, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    state = State(policy_log_level=load({"AUTHZ_POLICY_INFO_LOGGING": wanted}).policy_log_level)
    state.put_policy(replace(TRIED_DENY, namespace="here"))
    with caplog.at_level(logging.INFO, "state"):
        state.authorize(Workload("w", namespace="here"), CONN)
    assert ("dry-run: deny policy match" in caplog.messages) is said
    lines = [Formatter(as_json=False).format(record) for record in caplog.records]
    assert any(line.endswith('\tinfo\tstate\tdry-run: deny policy match\tpolicy="here/td"') for line in lines) is said


def scoped(name: str, namespace: str, scope: Scope) -> Policy:
    return Policy(name, namespace, scope, Action.DENY, (((YES,),),))


@pytest.mark.parametrize(
    ("given", "denied"),
    [
        (scoped("p", "istio-system", Scope.GLOBAL), True),
        (scoped("p", "here", Scope.NAMESPACE), True),
        (scoped("p", "elsewhere", Scope.NAMESPACE), False),
        (scoped("selected", "here", Scope.WORKLOAD), True),
        (scoped("other", "here", Scope.WORKLOAD), False),
        (scoped("static", "istio-system", Scope.WORKLOAD), True),
    ],
)
def test_scope(given: Policy, denied: bool) -> None:
    state = State()
    target = Workload("w", namespace="here", policies=("here/selected", "istio-system/static"))
    state.put_policy(given)
    assert state.authorize(target, CONN).allowed is not denied
    state.remove_policy(given.key)
    assert state.authorize(target, CONN).allowed


def test_policy_that_changes_scope_leaves_no_trace() -> None:
    state = State()
    target = Workload("w", namespace="here")
    state.put_policy(scoped("p", "here", Scope.NAMESPACE))
    state.put_policy(scoped("p", "here", Scope.WORKLOAD))
    assert state.authorize(target, CONN).allowed
    assert list(state.policies) == ["here/p"]


def test_unknown_policy_fails_open_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    target = Workload("w", namespace="here", policies=("here/late",))
    with caplog.at_level(logging.WARNING, "state"):
        assert State().authorize(target, CONN).allowed
    assert "skipping unknown policy here/late" in caplog.messages


# What istiod makes of PeerAuthentication mode STRICT
# (pilot/pkg/serviceregistry/kube/controller/ambient/policies.go).
STRICT = Policy(
    "istio_converted_static_strict",
    "istio-system",
    Scope.WORKLOAD,
    Action.DENY,
    (((Match(not_principals=PRESENT),),),),
)
# STRICT with port 9090 excepted.
STRICT_BUT_ONE_PORT = replace(
    STRICT, groups=(((Match(not_principals=PRESENT),), (Match(not_destination_ports=(9090,)),)),)
)


@pytest.mark.parametrize(
    ("given", "conn", "allowed"),
    [
        (STRICT, CONN, True),
        (STRICT, PLAIN, False),
        (STRICT_BUT_ONE_PORT, PLAIN, False),
        (STRICT_BUT_ONE_PORT, replace(PLAIN, dst_port=9090), True),
        (STRICT_BUT_ONE_PORT, CONN, True),
    ],
)
def test_strict_peer_authentication(given: Policy, conn: Connection, allowed: bool) -> None:
    assert authorize([given], conn).allowed is allowed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "td/ns/a/sa/b",
        "spiffe://td/ns/a/sa",
        "spiffe://td/xx/a/sa/b",
        "spiffe://td/ns/a/sa/b/c",
        "http://td/ns/a/sa/b",
    ],
)
def test_malformed_identity(text: str) -> None:
    with pytest.raises(ValueError, match="invalid spiffe identity"):
        Identity.parse(text)


def test_identity_round_trip() -> None:
    assert Identity.parse(str(ALICE)) == ALICE
