# Who decided, and by which policy: each fault's evidence and what must be concluded from it.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._check.run import SILENT_HINT, judge
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Expectation
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen
from ansible_collections.ambient.lab.plugins.module_utils._witness.attribution import (
    NOT_MET,
    Attribution,
    Query,
    attribute,
)
from ansible_collections.ambient.lab.plugins.module_utils._witness.evidence import Evidence, Said
from ansible_collections.ambient.lab.tests.unit.fakes import meshes
from ansible_collections.ambient.lab.tests.unit.fakes.attribution import (
    ALLOWED,
    BY_DENY,
    DENIED,
    OLD,
    QUERY,
    REFUSED,
    REJECTED,
    SENDER,
    UNMATCHED,
    Z1,
    Z2,
    Z3,
    Case,
    conclude,
    counted,
    inbound,
    logged,
    others,
    outbound,
)

CARRIED_ON = "the application ended it"
NO_LINE = "no line that it refused this source"
L4: list[Case] = [
    (
        "log and counter agree",
        DENIED, QUERY, [logged(Z1, outbound(REFUSED)), counted(logged(Z2, inbound()))],
        "ztunnel", "default/layer4-authz", "",
    ),
    (
        "destination closes without answering",
        DENIED, QUERY, [logged(Z1, outbound()), Z2],
        "application", None, CARRIED_ON,
    ),
    (
        "destination closes without answering, and its refusals of others are counted",
        DENIED, QUERY, [logged(Z1, outbound()), counted(logged(Z2, *others(5)), 5, "other")],
        "application", None, NOT_MET,
    ),
    (
        "connection could not be carried: waypoint scaled to 0, destination away",
        DENIED, QUERY, [logged(Z1, outbound("no healthy upstream")), Z2],
        "network", None, "no healthy upstream",
    ),
    (
        "100 refusals of another source at the same time",
        DENIED, QUERY, [logged(Z1, outbound()), counted(logged(Z2, *others(100)), 100, "other")],
        "application", None, CARRIED_ON,
    ),
    (
        "100 refusals of another source, and our own",
        DENIED, QUERY, [counted(counted(logged(Z2, *others(100, f"{BY_DENY}-2"), inbound()), 100, "other"))],
        "ztunnel", "default/layer4-authz", "",
    ),
    (
        "our own refusal by another destination",
        DENIED, QUERY, [logged(Z1, outbound()), logged(Z2, inbound(target="10.0.1.6:8080"))],
        "application", None, CARRIED_ON,
    ),
    (
        "our own refusal at another port",
        DENIED, QUERY, [logged(Z1, outbound()), logged(Z2, inbound(target="10.0.1.5:80"))],
        "application", None, CARRIED_ON,
    ),
    (
        "the source's own ztunnel is no witness for the destination's",
        DENIED, QUERY, [logged(Z1, outbound(BY_DENY, "10.0.0.9:20002")), counted(Z2)],
        "-", None, NO_LINE,
    ),
    (
        "an address that only begins like ours",
        DENIED, QUERY, [logged(Z1, outbound()), logged(Z2, inbound(source="10.0.0.99:55555"))],
        "application", None, CARRIED_ON,
    ),
    (
        "log rotated: the counter alone is enough",
        DENIED, QUERY, [counted(logged(Z2, gap=True))],
        "ztunnel", None, "",
    ),
    (
        "log can't be read: the counter alone is enough",
        DENIED, QUERY, [counted(logged(Z2, log_problem="HTTP 403: no"))],
        "ztunnel", None, "",
    ),
    (
        "counter missing (1.28): the log alone is enough",
        DENIED, QUERY, [logged(Z2, inbound(), **OLD)],
        "ztunnel", "default/layer4-authz", "",
    ),
    (
        "1.22 and 1.23 name no policy",
        DENIED, QUERY, [logged(Z2, inbound(REJECTED), **OLD)],
        "ztunnel", None, "",
    ),
    (
        "no counter, no log, but the other end refused",
        DENIED, QUERY, [logged(Z1, outbound(REFUSED)), logged(Z2, gap=True, **OLD)],
        "ztunnel", None, "",
    ),
    (
        "log and counter disagree",
        DENIED, QUERY, [logged(Z2, inbound())],
        "-", None, "the witnesses disagree",
    ),
    (
        "counter and log disagree",
        DENIED, QUERY, [counted(Z2)],
        "-", None, "the witnesses disagree",
    ),
    (
        "the source's side and the destination's disagree",
        DENIED, QUERY, [logged(Z1, outbound()), counted(logged(Z2, inbound()))],
        "-", None, CARRIED_ON,
    ),
    (
        "denied by two policies in one round",
        DENIED, QUERY, [counted(logged(Z2, inbound(), inbound(f"{BY_DENY}-2")))],
        "ztunnel", None, "",
    ),
    (
        "several backends: only one of their ztunnels has refused",
        DENIED, dataclasses.replace(QUERY, nodes=("n2", "n3")), [counted(logged(Z2, inbound())), Z3],
        "ztunnel", "default/layer4-authz", "",
    ),
    (
        "several backends: the log of the one that counts was rotated",
        DENIED, dataclasses.replace(QUERY, nodes=("n2", "n3")), [counted(logged(Z2, gap=True)), Z3],
        "ztunnel", None, "",
    ),
    (
        "several backends: the one that logs has no counter yet",
        DENIED, dataclasses.replace(QUERY, nodes=("n2", "n3")), [logged(Z2, inbound(), **OLD), Z3],
        "ztunnel", "default/layer4-authz", "",
    ),
    (
        "several backends: nobody counts, nobody logs",
        DENIED, dataclasses.replace(QUERY, nodes=("n2", "n3")), [logged(Z1, outbound()), Z2, Z3],
        "application", None, NOT_MET,
    ),
    (
        "the ztunnel of another node counts",
        DENIED, QUERY, [logged(Z1, outbound()), Z2, counted(Z3)],
        "application", None, NOT_MET,
    ),
    (
        "nobody can be asked",
        DENIED, QUERY, [],
        "-", None, "nobody could say who refused this: there is no proxy to ask",
    ),
    (
        "everybody is silent",
        DENIED, QUERY, [logged(Z2, log_problem="HTTP 403: no", **OLD)],
        "-", None, "nobody could say who refused this: ztunnel log of istio-system/z2: could not be read: HTTP 403",
    ),
    (
        "one ALLOW policy lets nobody in",
        DENIED, dataclasses.replace(QUERY, allowing=("default/only",)), [counted(logged(Z2, inbound(UNMATCHED)))],
        "ztunnel", "default/only", "",
    ),
    (
        "one of several ALLOW policies",
        DENIED, dataclasses.replace(QUERY, allowing=("default/a", "default/b")),
        [counted(logged(Z2, inbound(UNMATCHED)))],
        "ztunnel", None, "",
    ),
    (
        "an ALLOW policy has nothing to do with a DENY policy's refusal",
        DENIED, dataclasses.replace(QUERY, allowing=("default/only",)), [counted(logged(Z2, inbound()))],
        "ztunnel", "default/layer4-authz", "",
    ),
    (
        "an ALLOW policy has nothing to do with a connection that a change cut",
        DENIED, dataclasses.replace(QUERY, allowing=("default/only",)),
        [counted(logged(Z2, inbound("connection closed due to policy change")))],
        "ztunnel", None, "",
    ),
    (
        "source without mesh: its own port is exact",
        DENIED, QUERY,
        [counted(logged(Z2, inbound(f"{BY_DENY}-2", "10.0.0.9:20002"), inbound(source=SENDER)))],
        "ztunnel", "default/layer4-authz", "",
    ),
    (
        "headless Service or pod address: any line to the pod",
        DENIED, dataclasses.replace(QUERY, addresses=("10.0.1.4:8080", "10.0.1.5:")), [counted(logged(Z2, inbound()))],
        "ztunnel", "default/layer4-authz", "",
    ),
    (
        "IPv6",
        Seen("denied_l4", exit_code=56, sender="[fd00::9]:20001"),
        dataclasses.replace(
            QUERY, source_addresses=("10.0.0.9", "fd00::9"), addresses=("[fd00:1::5]:8080",)
        ),
        [counted(logged(Z2, inbound(source="[fd00::9]:55555", target="[fd00:1::5]:8080")))],
        "ztunnel", "default/layer4-authz", "",
    ),
    (
        "curl did not say from which port",
        dataclasses.replace(DENIED, sender=""), QUERY, [counted(logged(Z2, inbound()))],
        "ztunnel", "default/layer4-authz", "",
    ),
]  # fmt: skip
REST: list[Case] = [
    ("allowed", ALLOWED, QUERY, [logged(Z1, outbound(received=200)), Z2], "application", None, ""),
    ("allowed, nobody asked", ALLOWED, QUERY, [], "application", None, ""),
    ("refused", Seen("refused", exit_code=7), QUERY, [Z1, Z2], "network", None, ""),
    ("slow destination", Seen("timeout", exit_code=28, sender=SENDER), QUERY, [logged(Z1, outbound("reset"))],
     "network", None, ""),
    ("DNS broken", Seen("dns", exit_code=6), QUERY, [Z1, Z2], "network", None, ""),
    ("probe error", Seen("probe_error", errormsg="no curl"), QUERY, [counted(logged(Z2, inbound()))], "-", None, ""),
    ("source away", DENIED, Query(None), [counted(logged(Z2, inbound()))], "-", None, ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "seen", "query", "said", "decided", "policy", "problem"), [*L4, *REST])
def test_who_decided(
    name: str, seen: Seen, query: Query, said: list[Said], decided: str, policy: str | None, problem: str
) -> None:
    conclude(seen, query, said, decided, policy, problem)


# A way on which two DENY policies are in force; a third one is for other pods.
WAY = meshes.way(
    meshes.mesh_of(
        meshes.pod("client"),
        meshes.pod("app"),
        meshes.service("app"),
        meshes.policy("layer4-authz", action="DENY", rules=[{}]),
        meshes.policy("other", action="DENY", rules=[{}]),
        meshes.policy("elsewhere", action="DENY", rules=[{}], selector={"matchLabels": {"app": "third"}}),
        meshes.policy("l7", action="DENY", rules=[{}], targetRefs=meshes.target()),
        meshes.policy("audit", action="AUDIT", rules=[{}]),
    ),
    "http://app:8080/",
)


def judged(found: Attribution, by: str = "", *, required: bool = True) -> tuple[str, str]:
    """The verdict on a denial as expected, and its reason."""
    run = meshes.run_of(WAY, Expectation("denied_l4"), DENIED, found, by)
    verdict = judge(run, None, required=required)
    return verdict.verdict, verdict.reason


def test_the_policy_in_by() -> None:
    two = attribute(DENIED, QUERY, Evidence([counted(logged(Z2, inbound(), inbound(f"{BY_DENY}-2")))]))
    assert two.among == ("default/layer4-authz", "default/layer4-authz-2")
    assert judged(two, "default/layer4-authz-2") == ("pass", "")
    assert judged(two, "default/third") == (
        "fail",
        "denied by default/layer4-authz or default/layer4-authz-2, not by default/third",
    )
    one = attribute(DENIED, QUERY, Evidence([counted(logged(Z2, inbound()))]))
    assert judged(one, "default/other") == ("fail", "denied by default/layer4-authz, not by default/other")
    unnamed = attribute(DENIED, QUERY, Evidence([logged(Z2, inbound(REJECTED), wording="plain", **OLD)]))
    assert judged(unnamed, "default/other") == ("pass", "")


# Only the client's ztunnel says that the other end refused it.
NAMELESS = attribute(
    DENIED, QUERY, Evidence([logged(Z1, outbound(REFUSED)), logged(Z2, log_problem="HTTP 500", **OLD)])
)


def test_where_nobody_names_the_policy_it_is_not_proven() -> None:
    assert (NAMELESS.decided_by, NAMELESS.among) == ("ztunnel", ())
    verdict, reason = judged(NAMELESS, "default/other")
    assert (verdict, "no proxy names the policy" in reason, "HTTP 500" in reason) == ("error", True, True)
    assert judged(NAMELESS, "default/other", required=False) == ("pass", "")


@pytest.mark.parametrize("by", ["default/elsewhere", "default/l7", "default/audit"])
def test_a_policy_that_is_not_in_force_there_did_not_decide(by: str) -> None:
    verdict, reason = judged(NAMELESS, by)
    assert (verdict, "it is not in force at the ztunnel on this way; in force there: default" in reason) == (
        "fail",
        True,
    )
    assert judged(NAMELESS, by, required=False)[0] == "fail"


def test_an_allow_policy_that_is_one_of_several() -> None:
    path = dataclasses.replace(QUERY, allowing=("default/a", "default/b"))
    found = attribute(DENIED, path, Evidence([counted(logged(Z2, inbound(UNMATCHED)))]))
    assert judged(found, "default/b") == ("pass", "")
    assert judged(found, "default/c") == ("fail", "denied by default/a or default/b, not by default/c")


def test_silence_is_enough_only_where_it_may_be() -> None:
    silent = attribute(DENIED, QUERY, Evidence((), "pods can't be listed"))
    assert silent.silent
    assert judged(silent, required=False) == ("pass", "")
    verdict, reason = judged(silent)
    assert (verdict, reason) == ("error", f"nobody could say who refused this: pods can't be listed{SILENT_HINT}")
    contradicted = attribute(DENIED, QUERY, Evidence([logged(Z1, outbound()), Z2]))
    assert not contradicted.silent
    assert judged(contradicted, required=False)[0] == "error"


def test_a_disagreement_shows_all_who_disagree() -> None:
    found = attribute(DENIED, QUERY, Evidence([logged(Z1, outbound()), counted(logged(Z2, inbound()))]))
    for words in ("ztunnel log of istio-system/z1: carried", "log of istio-system/z2: explicitly denied by", "+1 DENY"):
        assert words in found.problem


def test_an_allowed_request_shows_how_it_was_carried() -> None:
    line = dataclasses.replace(outbound(received=200), identity="spiffe://cluster.local/ns/default/sa/curl")
    found = attribute(ALLOWED, QUERY, Evidence([logged(Z1, line)]))
    assert [dataclasses.asdict(item) for item in found.statements[1:]] == [
        {
            "witness": "ztunnel log",
            "where": "istio-system/z1",
            "said": "carried it as cluster.local/ns/default/sa/curl, 90 bytes there and 200 back",
            "supports": True,
        }
    ]
