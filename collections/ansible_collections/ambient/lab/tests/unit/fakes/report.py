# Results as the modules keep them, for the tests of the report: with all that there can be in them.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._results.codec import plain
from ansible_collections.ambient.lab.plugins.module_utils._results.model import PHASES, Seen
from ansible_collections.ambient.lab.tests.unit.fakes.graph import Flow, raw_graph
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object

APP = "GET http://sample-app:8080/"
AT = "2026-11-23T16:18:31+00:00"
CODES = {"allowed": (200, 0), "denied_l4": (0, 56), "denied_l7": (403, 0), "timeout": (0, 28), "probe_error": (0, None)}
DECIDED = {"denied_l4": "ztunnel", "denied_l7": "waypoint", "allowed": "application"}
# What makes trouble in a page, in XML and on a terminal.
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;]]>\x00\x07\x1b[31m\u202e\ufffe\ud800"


def entry(outcome: str, expected: str = "", verdict: str = "", **fields: t.Any) -> Object:
    """What was seen in a phase."""
    code, ended = CODES[outcome]
    expected = expected or outcome
    error = "Recv failure: Connection reset by peer" if outcome == "denied_l4" else ""
    text = outcome if ended is None else f"{outcome} {code:03d}/{ended}"
    seen = Seen(outcome=outcome, text=text, http_code=code, exit_code=ended, errormsg=fields.pop("errormsg", error))
    return {
        "expected": expected,
        "verdict": verdict or ("pass" if expected.split()[0] == outcome else "fail"),
        "history": [{"at": 0.11, "outcome": outcome, "http_code": code, "verdict": "pass"}],
        "seen": plain(seen),
        "decided_by": DECIDED.get(outcome, "-"),
        **fields,
    }


def witness(name: str, said: str, supports: bool | None = True, where: str = "istio-system/ztunnel-x7k2p") -> Object:
    """One witness's word."""
    return {"witness": name, "where": where, "said": said, "supports": supports}


def denial(source: str = "curl-deny", policy: str = "default/layer4-authz", **fields: t.Any) -> Object:
    """A denial by ztunnel that every witness supports, but those who could not say anything."""
    identity = f"spiffe://cluster.local/ns/default/sa/{source}"
    heard = [
        witness(
            "client",
            "curl ended with 56 and HTTP 000: Recv failure: Connection reset by peer",
            where=f"default/{source}",
        ),
        witness(
            "ztunnel log", f"connection closed due to policy rejection: explicitly denied by: {policy}, from {identity}"
        ),
        witness("ztunnel counter", 'istio_tcp_connections_failed_total{response_flags="DENY"} rose by 3'),
        witness("ztunnel config", f"has the policy {policy}, as it is in the API"),
        witness("istiod", "ZtunnelAccepted: attached to ztunnel", where=policy),
        witness("waypoint log", "no waypoint is on the way", None, ""),
    ]
    return entry("denied_l4", **{"policy": policy, "witnesses": heard, **fields})


def claim(name: str, before: Object | None, after: Object | None, **fields: t.Any) -> list[Object | None]:
    """A claim of results.json, in both phases; `source` stands for `from`."""
    source = fields.pop("source", "default/curl-allow")
    ends = {"name": name, "from": source, "source": source, "to": APP, "path": "cross node", **fields}
    return [one and {**ends, **one} for one in (before, after)]


def section(*claims: list[Object | None], checks: Object | None = None, **fields: t.Any) -> Object:
    """A part of results.json, in which the verdict of a phase is the worst of its claims'.

    Args:
        checks: what is else in the phase after the policy.
    """
    phases: Object = {}
    for number, phase in enumerate(PHASES):
        found = [one for each in claims if (one := each[number])]
        verdict = max((one["verdict"] for one in found), key=("pass", "fail", "error").index, default="pass")
        proxy = {"proxy": "istio-system/ztunnel-x7k2p", "kind": "ztunnel", "version": "1.29.1", "wording": "1.24"}
        check = {
            "claims": found, "verdict": verdict, "converged_after": 0.21, "rounds": 4, "elapsed": 1.42, "at": AT,
            "proxies": [proxy],
        }  # fmt: skip
        phases[phase] = check if found or phase == "after" else None
    phases["after"] |= checks or {}
    return {**phases, **fields}


def l4() -> Object:
    """Layer 4 as the lab has it: two clients, one of them cut off, and Kiali's graphs of it."""
    rows = [
        claim("curl-allow reaches sample-app", entry("allowed"), entry("allowed")),
        claim(
            "curl-deny is cut off by ztunnel", entry("allowed"), denial(), source="default/curl-deny",
            by="default/layer4-authz",
        ),
    ]  # fmt: skip
    before = raw_graph(
        Flow("curl-allow", "service:sample-app", mtls=100), Flow("curl-deny", "service:sample-app", mtls=100)
    )
    after = raw_graph(Flow("curl-allow", "service:sample-app", mtls=100))
    ends: Object = {
        "source": "default/curl-deny",
        "to": "service default/sample-app",
        "path": None,
        "decided_by": "kiali",
    }
    seen = {"edge": "tcp 118 B/s mTLS", "no_edge": "no edge"}
    shown = [
        {"expected": outcome, "verdict": "pass", "seen": {"outcome": outcome, "text": text}, "decided_by": "kiali"}
        for outcome, text in seen.items()
    ]
    graph = section(claim("curl-deny is not in the graph", *shown, **ends))
    for phase, answer in (("before", before), ("after", after)):
        graph[phase] |= {"graph": answer, "converged_after": 5.4, "proxies": [], "window": 5, "restarts": 0}
    return section(*rows, graph=graph, convergence=convergence())


def l7(broken: bool = False) -> Object:
    """Layer 7 as the lab has it; broken: the waypoint is not enforcing for POST, and the answer to PUT is no proof."""
    rows = [claim("curl may GET from sample-app", entry("allowed"), entry("allowed"), source="layer7/curl")]
    heard = [
        witness("client", "HTTP 403, RBAC: access denied, written by a proxy", where="layer7/curl"),
        witness("waypoint log", "403 rbac_access_denied_matched_policy[none]", where="layer7/waypoint-5d9c7"),
        witness("waypoint counter", "403s rose by 3", where="layer7/waypoint-5d9c7"),
        witness("istiod", "WaypointAccepted: bound to layer7/waypoint", where="layer7/layer7-authz"),
    ]
    refused = entry("denied_l7", "denied_l7 HTTP 403", policy="layer7/layer7-authz", witnesses=heard)
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        after = refused
        if broken and method == "POST":
            cause = "Service layer7/sample-app is not enrolled with a waypoint (label istio.io/use-waypoint)"
            history = [
                {"at": at, "outcome": seen, "verdict": "fail"} for at, seen in ((0.1, "denied_l7"), (0.9, "allowed"))
            ]
            after = entry(
                "allowed", "denied_l7 HTTP 403", reason="the application answered", likely_cause=cause, history=history,
                witnesses=[witness("client", "HTTP 200 from the application", False, "layer7/curl"), *heard[3:]],
            )  # fmt: skip
        if broken and method == "PUT":
            wrong = [*heard[:2], witness("waypoint counter", "403s did not rise", False, "layer7/waypoint-5d9c7")]
            after = entry("denied_l7", "denied_l7 HTTP 403", "error", reason="the witnesses disagree", witnesses=wrong)
        names = {"source": "layer7/curl", "to": f"{method} http://sample-app:8080/", "by": "layer7/layer7-authz"}
        rows.append(claim(f"{method} is refused by the waypoint", entry("allowed"), after, **names))
    return section(*rows)


def quantiles(middle: float, largest: float) -> Object:
    """Of a measurement."""
    return {"p50": middle, "p99": largest * 0.97, "max": largest}


def pair(name: str, slowest: float = 0.12, stale: tuple[int, int] = (4, 0), **fields: t.Any) -> Object:
    """One pair of a convergence, with three runs.

    Args:
        slowest: when the last old answer began, in seconds.
        stale: old answers after the API accepted the change, and after every proxy had it.
    """
    runs = [
        {"first_new": slowest * share + 0.01, "last_old": slowest * share, "stale_after_accepted": stale[0] // 3,
         "stale_after_ready": 0, "flaps": 0, "ready": 0.2 * share, "changes": [[0.1, "denied_l4"]]}
        for share in (0.6, 0.8, 1.0)
    ]  # fmt: skip
    return {
        "name": name, "from": "default/curl-deny", "to": APP, "old": "allowed", "new": "denied_l4",
        "first_new": quantiles(slowest * 0.8 + 0.01, slowest + 0.01), "last_old": quantiles(slowest * 0.8, slowest),
        "stale_after_accepted": stale[0], "stale_after_ready": stale[1], "flaps": 0, "requests": 600,
        "limits": {"leaks_after_ready": 0}, "leaks": True, "verdict": "fail" if stale[1] else "pass",
        "reason": f"{stale[1]} requests got through after every proxy had the policy" if stale[1] else "", "runs": runs,
        **fields,
    }  # fmt: skip


def convergence(*pairs: Object, **fields: t.Any) -> Object:
    """A measurement of policy_convergence, both directions."""
    apply = list(pairs) or [pair("curl-deny to sample-app"), pair("curl-deny to the pod's IP", 0.31)]
    remove = [pair(one["name"], 0.2, old=one["new"], new=one["old"], leaks=False) for one in apply]
    worst = max((one["verdict"] for one in apply), key=("pass", "fail", "error").index)
    return {
        "policy": "default/layer4-authz", "at": AT, "verdict": worst, "reason": "", "repeats": 3, "rate": 50.0,
        "resolution": 0.02, "requests": 1200,
        "directions": {
            "apply": {"ready": quantiles(0.18, 0.25), "pairs": apply},
            "remove": {"ready": None, "pairs": remove},
        },
        **fields,
    }  # fmt: skip


def matrix(sources: int = 3, destinations: int = 2) -> Object:
    """A generated matrix, in which a policy has closed one request since the last time."""
    cells = []
    for one in range(sources):
        for other in range(destinations):
            outcome = "denied_l4" if one == 1 else "allowed"
            code, ended = CODES[outcome]
            places = {"from": f"shop/client-{one}", "to": f"http://service-{other}.shop:8080/", "method": "GET"}
            name = f"client-{one} GET service-{other}"
            policy = "shop/no-client-1" if one == 1 else None
            seen = {"outcome": outcome, "http_code": code, "exit_code": ended, "policy": policy}
            cells.append({"name": name, **places, **seen, "decided_by": DECIDED[outcome]})
    change = {
        "name": "client-1 GET service-0",
        "was": "allowed",
        "now": "denied_l4 by shop/no-client-1",
        "policy": "shop/no-client-1",
    }
    return {
        "at": AT, "namespaces": ["shop"], "methods": ["GET"], "cells": cells,
        "unprobed": [{"source": "shop/distroless", "reason": "its container has no curl"}],
        "opened": [], "closed": [change], "changed": [],
        "added": [{"name": "client-2 GET service-1", "was": None, "now": "allowed", "policy": None, "reason": "new"}],
        "gone": [{"name": "client-9 GET service-1", "was": "denied_l4", "now": None, "policy": "shop/old"}],
        "unclear": [{"name": "client-2 POST service-1", "reason": "the answer changed all the time"}],
        "left_out": [{"what": "shop/redis port 6379", "reason": "it does not speak HTTP"}],
    }  # fmt: skip


def strength(word: str = "shop/get: removed", score: int | None = 50) -> Object:
    """What claims_mutation and policy_lint keep in a section."""
    at = "2026-11-27T10:00:00+00:00"
    said = {"summary": [f"score {score} %", f"survives: {word}"], "counts": {}, "missing_claims": [], "min_score": 0}
    finding = {"rule": "dry-run", "severity": "warning", "policy": "shop/get", "place": "", "effect": word, "mend": "x"}
    return {"mutation": {"at": at, "score": score, **said}, "lint": {"at": at, "policies": 1, "findings": [finding]}}


def lab(broken: bool = False) -> Object:
    """results.json of a whole lab."""
    return {"l4_authz": l4(), "l7_waypoint": l7(broken), "everything": {"matrix": matrix()}}


def many(count: int = 1000, sources: int = 10) -> Object:
    """results.json with many claims, of which every 97th does not hold."""
    rows = []
    for number in range(count):
        source, place = f"default/client-{number % sources}", number // sources
        after = denial(f"client-{number % sources}") if number % 3 == 0 else entry("allowed")
        if number % 97 == 96:
            after = entry("timeout", "allowed", likely_cause="no pod of the waypoint layer7/waypoint is ready")
        to = f"GET http://service-{place}.shop:8080/"
        rows.append(
            claim(f"client {number % sources} to service {place}", entry("allowed"), after, source=source, to=to)
        )
    return {"matrix_of_the_shop": section(*rows)}
