# What holds for every set of policies: order means nothing, a DENY more and an ALLOW rule less never open.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Object
from ansible_collections.ambient.lab.plugins.module_utils._mesh.predictions import Prediction
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import ask, gateway, mesh_of, pod, policy, service, target
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SETTINGS = settings(
    max_examples=200, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
SOURCES = st.dictionaries(
    st.sampled_from(["principals", "notPrincipals", "namespaces", "notNamespaces", "ipBlocks", "requestPrincipals"]),
    st.lists(
        st.sampled_from(["*", "layer7", "l*", "10.0.0.9", "cluster.local/ns/layer7/sa/client"]), min_size=1, max_size=2
    ),
    min_size=1,
    max_size=2,
)
OPERATIONS = st.dictionaries(
    st.sampled_from(["ports", "notPorts", "methods", "notMethods", "paths", "hosts"]),
    st.lists(st.sampled_from(["8080", "9090", "GET", "POST", "/", "/a*", "*"]), min_size=1, max_size=2),
    min_size=1,
    max_size=2,
)
CONDITIONS = st.fixed_dictionaries(
    {
        "key": st.sampled_from(["source.namespace", "destination.port", "request.headers[x]", "source.ip"]),
        "values": st.lists(st.sampled_from(["layer7", "8080", "y", "10.0.0.9"]), min_size=1, max_size=2),
    }
)
RULES = st.fixed_dictionaries(
    {},
    optional={
        "from": st.lists(SOURCES.map(lambda item: {"source": item}), min_size=1, max_size=2),
        "to": st.lists(OPERATIONS.map(lambda item: {"operation": item}), min_size=1, max_size=2),
        "when": st.lists(CONDITIONS, min_size=1, max_size=2),
    },
)
BINDINGS: list[Object] = [{}, {"selector": {"matchLabels": {"app": "app"}}}, {"targetRefs": target()}]


def drawn(actions: t.Sequence[str]) -> st.SearchStrategy[Object]:
    """A policy of one of these actions, bound in some way."""
    return st.builds(
        lambda action, rules, binding: policy("x", "layer7", action=action, rules=rules, **binding),
        st.sampled_from(actions),
        st.lists(RULES, max_size=2),
        st.sampled_from(BINDINGS),
    )


SETS = st.lists(drawn(["ALLOW", "DENY", "AUDIT"]), max_size=4)


def predicted(policies: t.Sequence[Object], method: str = "GET") -> Prediction:
    """What a client of the same namespace meets behind the waypoint."""
    named = [{**item, "metadata": {**item["metadata"], "name": f"p{index}"}} for index, item in enumerate(policies)]
    app, client = pod("app", "layer7", ip="10.0.0.1"), pod("client", "layer7", ip="10.0.0.9")
    enrolled = service("app", "layer7", labels={"istio.io/use-waypoint": "waypoint"})
    return ask(mesh_of(app, client, gateway(), enrolled, *named), "http://app:8080/", namespace="layer7", method=method)


@SETTINGS
@given(SETS, st.randoms(use_true_random=False))
def test_the_order_of_policies_means_nothing(policies: list[Object], order: t.Any) -> None:
    shuffled = order.sample(policies, len(policies))
    assert predicted(policies).outcome == predicted(shuffled).outcome


@SETTINGS
@given(SETS, drawn(["DENY"]))
def test_a_deny_policy_more_never_opens(policies: list[Object], more: Object) -> None:
    if predicted([*policies, more]).outcome == "allowed":
        assert predicted(policies).outcome == "allowed"


@SETTINGS
@given(SETS, drawn(["ALLOW"]))
def test_an_allow_rule_less_never_opens(policies: list[Object], allowing: Object) -> None:
    fewer = {**allowing, "spec": {**allowing["spec"], "rules": allowing["spec"]["rules"][1:]}}
    if predicted([*policies, fewer]).outcome == "allowed":
        assert predicted([*policies, allowing]).outcome == "allowed"


@SETTINGS
@given(SETS)
def test_whoever_refuses_is_in_force_and_named(policies: list[Object]) -> None:
    found = predicted(policies)
    assert bool(found.among) is found.outcome.startswith("denied")
    assert set(found.among) <= {f"layer7/p{index}" for index in range(len(policies))}
