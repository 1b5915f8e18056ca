# What proxies may have said of a probe: lines, counters and requests for tests.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._claims.sources import Target
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen
from ansible_collections.ambient.lab.plugins.module_utils._witness.attribution import Query, attribute
from ansible_collections.ambient.lab.plugins.module_utils._witness.evidence import Evidence, Said
from ansible_collections.ambient.lab.plugins.module_utils._witness.logs import Connection, Request
from ansible_collections.ambient.lab.plugins.module_utils._witness.proxies import Proxy

SOURCE = Target("default", "curl", "main", "n1", "curl-workload")
SENDER = "10.0.0.9:20001"
QUERY = Query(SOURCE, ("10.0.0.9",), ("n2",), ("10.0.1.5:8080",), frozenset({("default", "app")}), ("sample-app",))
BEHIND = dataclasses.replace(QUERY, waypoint=("default", "wp"), waypoint_addresses=("10.0.1.7",))
REJECTED = "connection closed due to policy rejection"
BY_DENY = f"{REJECTED}: explicitly denied by: default/layer4-authz"
UNMATCHED = f"{REJECTED}: allow policies exist, but none allowed"
REFUSED = "http status: 401 Unauthorized"
ID = "probe-0a-1"
L7 = Request(ID, 403, "rbac_access_denied_matched_policy[...]", "default/layer7-authz", True)
BY_NOBODY = Request(ID, 403, "rbac_access_denied_matched_policy[none]", None, True, unmatched=True)

DENIED = Seen("denied_l4", exit_code=56, sender=SENDER, request_id=ID)
DENIED_L7 = Seen("denied_l7", 403, 0, sender=SENDER, request_id=ID)
DENIED_UPSTREAM = Seen("denied_upstream", 503, 0, sender=SENDER, request_id=ID)
ALLOWED = Seen("allowed", 200, 0, sender=SENDER, request_id=ID)

Z1 = Said(Proxy("ztunnel", "istio-system", "z1", node="n1", address="10.0.0.1"))
Z2 = Said(Proxy("ztunnel", "istio-system", "z2", node="n2", address="10.0.1.1"))
Z3 = Said(Proxy("ztunnel", "istio-system", "z3", node="n3", address="10.0.2.1"))
WP = Said(Proxy("waypoint", "default", "wp-1", node="n2", address="10.0.1.7"))
WP2 = Said(Proxy("waypoint", "default", "wp-2", node="n1", address="10.0.1.8"))
# A version without the counter.
OLD = {"counter_problem": "this version does not count refusals"}
# Name, seen, path, said; decided_by, policy, part of the problem.
Case = tuple[str, Seen, Query, list[Said], str, str | None, str]


def inbound(error: str = BY_DENY, source: str = "10.0.0.9:55555", target: str = "10.0.1.5:8080") -> Connection:
    """What the destination's ztunnel logs; over HBONE the port is the source's ztunnel's."""
    return Connection("inbound", source, target, identity="spiffe://cluster.local/ns/default/sa/curl", error=error)


def outbound(error: str = "", source: str = SENDER, received: int = 0) -> Connection:
    """What the source's ztunnel logs."""
    return Connection("outbound", source, "10.0.1.5:8080", error=error, sent=90, received=received)


def logged(said: Said, *connections: Connection, **fields: t.Any) -> Said:
    """The proxy with these lines."""
    return dataclasses.replace(said, connections=connections, **fields)


def counted(said: Said, added: float = 1, workload: str = "curl-workload", **labels: str) -> Said:
    """The proxy with a counter of refusals that has risen."""
    own = {"source_workload": workload, "source_workload_namespace": "default"}
    ends = {"destination_workload": "app", "destination_workload_namespace": "default"}
    labels = {**own, **ends, **labels}
    return dataclasses.replace(said, risen=[*said.risen, (labels, added)])


def counted_l7(said: Said, code: int = 403) -> Said:
    """The waypoint with a counter of answers that has risen."""
    return counted(said, response_code=str(code), destination_service_name="sample-app")


def answered(said: Said, *requests: Request, **fields: t.Any) -> Said:
    """The waypoint with these lines."""
    return dataclasses.replace(said, requests={item.request_id: item for item in requests}, **fields)


def others(number: int, error: str = BY_DENY) -> list[Connection]:
    """Refusals of other sources at the same time."""
    return [inbound(error, f"10.0.0.{10 + index % 200}:{30_000 + index}") for index in range(number)]


def conclude(seen: Seen, query: Query, said: list[Said], decided: str, policy: str | None, problem: str) -> None:
    """Who must have decided, by which policy, and a part of why it is no proof."""
    found = attribute(seen, query, Evidence(said))
    assert (found.decided_by, found.policy) == (decided, policy), found
    assert problem in found.problem if problem else found.problem == ""
    assert found.statements[0].witness == "client"
