# How ztunnel evaluates a policy: one row per fact of istiod's conversion and of ztunnel's matching.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._mesh.l4 import (
    Connection,
    Identity,
    convert,
    policy_matches,
)
from ansible_collections.ambient.lab.plugins.module_utils._mesh.policies import Match
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import policy

GOOD = Connection(Identity("cluster.local", "default", "good"), "10.0.0.1", "10.0.0.2", 8080)
OTHER = Connection(Identity("td2", "other", "bad"), "10.1.0.1", "10.1.0.2", 9090)
PLAIN = Connection(None, "10.0.0.1", "10.0.0.2", 8080)
BLIND = Connection(None, None, None, None)


def source(**fields: t.Any) -> dict[str, t.Any]:
    return {"from": [{"source": fields}]}


def ports(*numbers: str) -> dict[str, t.Any]:
    return {"to": [{"operation": {"ports": list(numbers)}}]}


def when(key: str, *values: str, **more: t.Any) -> dict[str, t.Any]:
    return {"when": [{"key": key, "values": list(values), **more}]}


# A rule of a DENY policy, and whether it matches: plain text, the good identity, another one.
TABLE: list[tuple[dict[str, t.Any], bool, bool, bool]] = [
    ({}, True, True, True),
    # Attributes alone, positive and negative (ztunnel, src/rbac.rs, its tests of one field each).
    (source(principals=["cluster.local/ns/default/sa/good"]), False, True, False),
    (source(notPrincipals=["cluster.local/ns/default/sa/good"]), True, False, True),
    (source(principals=["*"]), False, True, True),
    (source(notPrincipals=["*"]), True, False, False),
    (source(principals=["cluster.local/*"]), False, True, False),
    (source(principals=["*/sa/good"]), False, True, False),
    (source(principals=["spiffe://cluster.local/ns/default/sa/good"]), False, False, False),
    # A star in the middle is a letter like any other.
    (source(principals=["cluster.local/ns/*/sa/good"]), False, False, False),
    (source(namespaces=["default"]), False, True, False),
    (source(notNamespaces=["default"]), True, False, True),
    (source(namespaces=["*"]), False, True, True),
    (source(namespaces=["def*"]), False, True, False),
    (source(serviceAccounts=["good"]), False, True, False),
    (source(serviceAccounts=["default/good"]), False, True, False),
    (source(serviceAccounts=["other/bad"]), False, False, True),
    (source(notServiceAccounts=["good"]), True, False, True),
    (source(ipBlocks=["10.0.0.0/24"]), True, True, False),
    (source(ipBlocks=["10.0.0.1"]), True, True, False),
    (source(notIpBlocks=["10.0.0.0/24"]), False, False, True),
    (source(ipBlocks=["10.0.0.7/24"]), True, True, False),
    (ports("8080"), True, True, False),
    ({"to": [{"operation": {"notPorts": ["8080"]}}]}, False, False, True),
    (ports("8080", "9090"), True, True, True),
    (when("source.ip", "10.0.0.1"), True, True, False),
    (when("source.namespace", "default"), False, True, False),
    (when("source.principal", "cluster.local/ns/default/sa/good"), False, True, False),
    (when("destination.ip", "10.0.0.2"), True, True, False),
    (when("destination.ip", notValues=["10.0.0.2"]), False, False, True),
    (source(ipBlocks=["0.0.0.0/0"]), True, True, True),
    (when("destination.port", "8080"), True, True, False),
    (when("destination.port", notValues=["8080"]), False, False, True),
    # Positive and negative values of one attribute are AND, entries are OR, from, to and when are AND.
    (source(namespaces=["*"], notNamespaces=["other"]), False, True, False),
    ({"from": [{"source": {"namespaces": ["default"]}}, {"source": {"namespaces": ["other"]}}]}, False, True, True),
    (source(namespaces=["default"]) | ports("9090"), False, False, False),
    (source(namespaces=["other"]) | ports("9090"), False, False, True),
    (source(namespaces=["default"]) | when("destination.port", "8080"), False, True, False),
    # HTTP attributes: an entry that has nothing else never matches, and so doesn't its rule.
    ({"to": [{"operation": {"methods": ["GET"]}}]}, False, False, False),
    (source(namespaces=["default"]) | {"to": [{"operation": {"methods": ["GET"]}}]}, False, False, False),
    ({"to": [{"operation": {"methods": ["GET"], "ports": ["8080"]}}]}, True, True, False),
    ({"to": [{"operation": {"methods": ["GET"]}}, {"operation": {"ports": ["8080"]}}]}, True, True, False),
    (ports("8080") | when("request.headers[x]", "y"), False, False, False),
    (ports("8080") | when("source.serviceAccount", "good"), False, False, False),
    (source(requestPrincipals=["*"]), False, False, False),
    (source(remoteIpBlocks=["10.0.0.0/8"], namespaces=["default"]), False, True, False),
    # What is no number and no address is left out; nothing is left then.
    (ports("http"), False, False, False),
    (source(ipBlocks=["nonsense"]), False, False, False),
    (source(trustDomains=["cluster.local"]), False, False, False),
]


@pytest.mark.parametrize(("rule", "plain", "good", "other"), TABLE)
def test_a_rule_of_a_deny_policy(rule: dict[str, t.Any], plain: bool, good: bool, other: bool) -> None:
    found = convert(policy("p", action="DENY", rules=[rule]))
    assert found is not None
    seen = tuple(policy_matches(found, connection).truth for connection in (PLAIN, GOOD, OTHER))
    assert seen == (plain, good, other)


def test_a_policy_without_rules_never_matches_and_any_rule_is_enough() -> None:
    nothing = convert(policy("p", action="DENY"))
    assert nothing is not None
    assert policy_matches(nothing, GOOD) == Match(False, why_not="it has no rule")
    two = convert(policy("p", action="DENY", rules=[ports("1"), ports("8080")]))
    assert two is not None
    assert policy_matches(two, GOOD) == Match(True, 1)


def test_an_allow_rule_with_http_attributes_is_left_out_as_a_whole() -> None:
    rule = {"to": [{"operation": {"methods": ["GET"], "ports": ["8080"]}}]}
    found = convert(policy("p", rules=[rule, ports("9090")]))
    assert found is not None
    assert [policy_matches(found, item).truth for item in (GOOD, OTHER)] == [False, True]
    assert found.lost == {0: ("methods",)}


@pytest.mark.parametrize("action", ["AUDIT", "CUSTOM"])
def test_ztunnel_gets_nothing_of_other_actions(action: str) -> None:
    assert convert(policy("p", action=action, rules=[{}])) is None
    assert convert(policy("p", action="DENY", rules=[{}], targetRefs=[{"kind": "Service", "name": "a"}])) is None


def test_what_nobody_knows_of_a_connection_is_unknown_and_not_false() -> None:
    def seen(rule: dict[str, t.Any]) -> bool | None:
        found = convert(policy("p", action="DENY", rules=[rule]))
        return policy_matches(found, BLIND).truth if found else False

    assert seen(ports("8080")) is None
    assert seen(source(notIpBlocks=["10.0.0.0/8"])) is None
    # One that is known to be false makes the rule false all the same.
    assert seen(ports("8080") | source(principals=["*"])) is False
