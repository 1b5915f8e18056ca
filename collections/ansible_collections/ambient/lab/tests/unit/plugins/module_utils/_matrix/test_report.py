# What a comparison says of a difference: who denies the call now, and the command that shows it.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen
from ansible_collections.ambient.lab.plugins.module_utils._matrix.diff import State, decider, difference
from ansible_collections.ambient.lab.plugins.module_utils._matrix.engine import Unavailable
from ansible_collections.ambient.lab.plugins.module_utils._matrix.report import Caller, Found, comments_of, failure
from ansible_collections.ambient.lab.plugins.module_utils._matrix.watch import Cell, Observed
from ansible_collections.ambient.lab.tests.unit.fakes.matrix import cluster, laid_out, service
from ansible_collections.ambient.lab.tests.unit.fakes.objects import pod


@pytest.mark.parametrize(
    ("policy", "named", "look"),
    [
        ("default/p", "default/p", "kubectl -n default get authorizationpolicy p -o yaml"),
        (
            "default/converted_peer_authentication_strict",
            "PeerAuthentication default/strict",
            "kubectl -n default get peerauthentication strict -o yaml",
        ),
        ("mesh/istio_converted_static_strict", "PeerAuthentication STRICT", "kubectl get peerauthentications -A"),
        ("default/istio_allow_waypoint_a_b", "istiod's own", ""),
    ],
)
def test_who_closed_it(policy: str, named: str, look: str) -> None:
    now = State("denied_l4", policy=decider(policy))
    # Another one has denied it before: that is a difference, too.
    for was in (State("allowed", frozenset({200})), State("denied_l4", policy="default/old")):
        text = failure("claims.yml", difference({"a -> b": was}, {"a -> b": now}), "kubectl")
        # A narrow column wraps it.
        assert all(word in text for word in named.split())
        assert [line for line in text.splitlines() if line.startswith("look")] == ([f"look: {look}"] if look else [])


def test_a_block_that_no_check_could_prove_is_said_in_the_file_and_no_claim() -> None:
    pairs = laid_out(cluster([pod("a"), pod("b")], [service("b")])).pairs
    blocked = Seen("timeout", 0, 28)
    cells = [
        Cell(pairs[0], blocked, State("timeout", unclear="nothing shows who blocks it")),
        Cell(pairs[1], blocked, State("timeout", unclear="it flaps"), flapped=("timeout", "refused")),
    ]
    found = Found(Observed(cells, 1, 1.0), [Caller("default/c", False, Unavailable("no curl", True))])
    assert comments_of(found, ()) == [
        "Not probed: default/c (no curl)",
        "Not claimed: default/a -> b.default:8080 GET is timeout (nothing shows who blocks it)",
    ]
