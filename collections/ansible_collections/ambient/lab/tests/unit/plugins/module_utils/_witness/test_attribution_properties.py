# Whatever proxies have said: no policy is invented, and what they say of others changes nothing.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses

from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen
from ansible_collections.ambient.lab.plugins.module_utils._witness.attribution import Query, attribute
from ansible_collections.ambient.lab.plugins.module_utils._witness.evidence import Evidence, Said
from ansible_collections.ambient.lab.plugins.module_utils._witness.logs import Connection, Request
from ansible_collections.ambient.lab.tests.unit.fakes.attribution import (
    BEHIND,
    BY_DENY,
    ID,
    L7,
    QUERY,
    REFUSED,
    REJECTED,
    SENDER,
    UNMATCHED,
    WP,
    WP2,
    Z1,
    Z2,
    Z3,
)
from hypothesis import given, settings
from hypothesis import strategies as st

# Anything that proxies may have said, about us and about others.
addresses = st.sampled_from(["10.0.0.9", "10.0.0.10", "10.0.1.7", "10.0.1.5", ""])
ends = st.one_of(
    st.builds(lambda host, port: f"{host}:{port}", addresses, st.sampled_from([20001, 1, 8080, ""])), st.text()
)
errors = st.one_of(
    st.sampled_from(["", BY_DENY, f"{BY_DENY}-2", UNMATCHED, REJECTED, REFUSED, "reset"]), st.text(max_size=5)
)
connections = st.builds(
    Connection, st.sampled_from(["inbound", "outbound", ""]), ends, ends, error=errors, identity=st.text(max_size=3)
)
requests = st.builds(
    Request,
    st.sampled_from([ID, "probe-0a-2"]),
    st.sampled_from([0, 200, 403, 503]),
    st.text(max_size=5),
    st.sampled_from([None, "default/layer7-authz"]),
    st.sampled_from([None, True, False]),
    st.booleans(),
)
labels = st.fixed_dictionaries(
    {},
    optional={
        "source_workload": st.sampled_from(["curl-workload", "wp", "other"]),
        "source_workload_namespace": st.just("default"),
        "response_code": st.sampled_from(["403", "503"]),
        "destination_service_name": st.just("sample-app"),
    },
)
proxies = st.lists(
    st.builds(
        Said,
        st.sampled_from([item.proxy for item in (Z1, Z2, Z3, WP, WP2)]),
        st.lists(connections, max_size=4).map(tuple),
        st.lists(requests, max_size=2).map(lambda items: {item.request_id: item for item in items}),
        st.lists(st.tuples(labels, st.sampled_from([1.0, 100.0])), max_size=2),
        st.sampled_from(["", "no"]),
        st.sampled_from(["", "no"]),
        st.booleans(),
    ),
    max_size=4,
)
seens = st.builds(
    Seen,
    st.sampled_from(["allowed", "denied_l4", "denied_l7", "denied_upstream", "refused", "timeout", "probe_error"]),
    st.sampled_from([0, 200, 403, 503]),
    st.sampled_from([None, 0, 56]),
    sender=st.sampled_from([SENDER, ""]),
    request_id=st.sampled_from([ID, ""]),
)
paths = st.builds(
    dataclasses.replace,
    st.sampled_from([QUERY, BEHIND, Query(None), dataclasses.replace(BEHIND, nodes=("n1", "n2", "n3"))]),
    allowing=st.sampled_from([(), ("default/only",), ("default/a", "default/b")]),
    waypoint_allowing=st.sampled_from([(), ("default/l7-only",), ("default/l7-a", "default/l7-b")]),
)


@settings(max_examples=200, deadline=None)
@given(seens, paths, proxies)
def test_no_policy_is_invented(seen: Seen, query: Query, said: list[Said]) -> None:
    found = attribute(seen, query, Evidence(said))
    named = {line.denial.policy for item in said for line in item.connections if line.denial}
    named |= {request.policy for item in said for request in item.requests.values()}
    assert set(found.among) <= named | {*query.allowing, *query.waypoint_allowing}
    assert found.policy is None or found.among == (found.policy,)
    # A denial counts where a proxy bears it out, and then only.
    if seen.outcome.startswith("denied") and query.source:
        others = found.statements[1:]
        borne_out = any(item.supports for item in others) and not any(item.supports is False for item in others)
        assert (found.problem == "") is borne_out
        assert (found.decided_by in ("ztunnel", "waypoint")) is borne_out


@settings(max_examples=200, deadline=None)
@given(seens, paths, proxies, st.lists(connections, max_size=6), st.integers(0, 5))
def test_others_do_not_change_what_is_said_of_ours(
    seen: Seen, query: Query, said: list[Said], strange: list[Connection], where: int
) -> None:
    ours = ("10.0.0.9", *query.waypoint_addresses)
    theirs = tuple(item for item in strange if not item.source.startswith(ours))
    noisy = [
        dataclasses.replace(
            item,
            connections=(*theirs[:where], *item.connections, *theirs[where:]),
            requests={**item.requests, "probe-0a-3": dataclasses.replace(L7, request_id="probe-0a-3")},
            risen=[*item.risen, ({"source_workload": "third", "source_workload_namespace": "default"}, 100.0)],
        )
        for item in said
    ]
    assert attribute(seen, query, Evidence(noisy)) == attribute(seen, query, Evidence(said))
