# What is said of a request by what passed while it was sent.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import dataclasses
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._common.rounds import Retry
from ansible_collections.ambient.lab.plugins.module_utils._curl.control import Probe
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh
from ansible_collections.ambient.lab.plugins.module_utils._wire import check as check_module
from ansible_collections.ambient.lab.plugins.module_utils._wire.check import (
    MARK,
    WireRun,
    left,
    look,
    parse_wire_claims,
)
from ansible_collections.ambient.lab.plugins.module_utils._wire.packets import Flow, Stream
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import gateway, mesh_of, pod, service
from ansible_collections.ambient.lab.tests.unit.plugins.module_utils._wire.test_packets import record

CLAIM = {"name": "nobody reads it", "from": {"pod": "a"}, "to": "http://b:8080/", "control": {"pod": "outside"}}
PODS = [pod("a", ip="10.0.0.1"), pod("outside", ip="10.0.0.2", captured=False), pod("b", ip="10.0.1.1")]
MESH = mesh_of(*PODS, service("b"))
BEHIND = mesh_of(
    *PODS, service("b", labels={"istio.io/use-waypoint": "w"}), gateway("w", "default"), pod("c", ip="10.0.2.1")
)
TLS = record(23, b"x" * 6000)
HBONE = Flow("10.0.0.1", 4000, "10.0.1.1", 15008)
PLAIN = Flow("10.0.0.1", 4001, "10.0.1.1", 8080)
CONTROL = Flow("10.0.0.2", 4002, "10.0.1.1", 8080)
TO_WAYPOINT = HBONE._replace(target="10.0.9.9")
SEEN = {HBONE: TLS, CONTROL: b"{control}"}
NOTHING = "nothing of it passed: default/a (node one)"


@dataclasses.dataclass
class Passed:
    """What passes while the requests of each claim are sent; {own} and {control} stand for their marks."""

    flows: dict[Flow, bytes]
    lost: str = ""
    own: str = "allowed"
    control: str = "allowed"
    streams: dict[Flow, Stream] = dataclasses.field(default_factory=dict)

    @contextlib.contextmanager
    def capturing(self) -> t.Iterator[Passed]:
        self.streams.clear()
        yield self

    def run(self, namespace: str, pod: str, container: str, script: str, timeout: float) -> tuple[str, str]:
        raise AssertionError

    def probe_all(self, probes: t.Sequence[Probe], *_others: object) -> list[Seen]:
        """In the place of real requests."""
        own, control = (dict(probe.request.headers)[MARK].encode() for probe in probes)
        for flow, data in self.flows.items():
            self.streams.setdefault(flow, Stream()).add(1, data.replace(b"{own}", own).replace(b"{control}", control))
        return [Seen(self.own, 200, 0), Seen(self.control, 200, 0)]


def check(passed: Passed, monkeypatch: pytest.MonkeyPatch, mesh: Mesh = MESH, *names: str) -> list[WireRun]:
    """One round of the claim, or of several."""
    monkeypatch.setattr(check_module, "probe_all", passed.probe_all)
    claims = [{**CLAIM, "name": name} for name in names or ("a",)]
    return look(parse_wire_claims(claims, "default"), mesh, passed, passed.capturing, 5)


@pytest.mark.parametrize(
    ("passed", "verdict", "words"),
    [
        (Passed(SEEN), "pass", ""),
        # In a mesh that refuses plain text the control is not answered, but it was there to be read.
        (Passed(SEEN, control="denied_l4"), "pass", ""),
        # It is in the mesh, and somebody sent the request around it.
        (Passed({**SEEN, PLAIN: b"GET / {own}"}), "fail", "it passed in plain text"),
        # HBONE's port alone encrypts nothing.
        (Passed({HBONE: b"PRI {own}", CONTROL: b"{control}"}), "fail", "in plain text, 10.0.0.1 to 10.0.1.1:15008"),
        # Between other pods, and although something was lost or refused.
        (Passed({**SEEN, Flow("10.0.9.9", 1, "10.0.7.7", 80): b"{own}"}), "fail", "10.0.9.9 to 10.0.7.7:80"),
        (Passed({**SEEN, PLAIN: b"{own}"}, lost="9 packets", own="denied_l4"), "fail", "in plain text"),
        (Passed(SEEN, lost="9 packets"), "error", "was seen: 9 packets"),
        (Passed({HBONE: TLS}), "error", "default/outside sent the control, which was not seen in plain text either"),
        (Passed({CONTROL: b"{control}"}), "error", NOTHING),
        # TLS of somebody else's, to somebody else, less than the request has, and a handshake alone.
        (Passed({**SEEN, HBONE: b"", HBONE._replace(source="10.0.0.2"): TLS}), "error", NOTHING),
        (Passed({**SEEN, HBONE: b"", TO_WAYPOINT: TLS}), "error", NOTHING),
        (Passed({**SEEN, HBONE: record(23, b"x" * 900)}), "error", NOTHING),
        (Passed({**SEEN, HBONE: record(22, b"x" * 6000)}), "error", NOTHING),
        (Passed(SEEN, own="denied_l4"), "error", "claim's request was not answered"),
    ],
)  # fmt: skip
def test_the_verdict(passed: Passed, verdict: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = check(passed, monkeypatch)
    assert (run.verdict.verdict, words in run.verdict.reason) == (verdict, True), run.verdict
    # What was read once was read: no later round makes it good.
    assert [reason.retry for reason in left([run])] == {"pass": [], "fail": [Retry.POINTLESS], "error": [Retry.USEFUL]}[
        verdict
    ]


@pytest.mark.parametrize(
    ("flows", "outcome"),
    [
        ({HBONE: TLS, PLAIN: b"{own}"}, "plain text"),
        ({HBONE: TLS}, "encrypted"),  # although nothing shows that more would have been seen
        ({CONTROL: b"{control}"}, "not seen"),
    ],
)
def test_the_outcome_is_what_was_seen(flows: dict[Flow, bytes], outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = check(Passed(flows), monkeypatch)
    assert run.outcome == outcome


def test_behind_a_waypoint_the_way_ends_there(monkeypatch: pytest.MonkeyPatch) -> None:
    (through,) = check(Passed({**SEEN, HBONE: b"", TO_WAYPOINT: TLS}), monkeypatch, BEHIND)
    (around,) = check(Passed(SEEN), monkeypatch, BEHIND)
    assert (through.verdict.verdict, around.verdict.verdict) == ("pass", "error")
    assert through.hbone == {TO_WAYPOINT: 6000}


def test_one_claims_tls_proves_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = Passed(SEEN)
    first = passed.probe_all

    def then_nothing(probes: t.Sequence[Probe], *others: object) -> list[Seen]:
        answers = first(probes, *others)
        passed.flows = {CONTROL: b"{control}"}
        return answers

    monkeypatch.setattr(passed, "probe_all", then_nothing)
    assert [run.verdict.verdict for run in check(passed, monkeypatch, MESH, "one", "two")] == ["pass", "error"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"control": None}, r"claim 1 \('nobody reads it'\), control: from: must be a mapping"),
        ({"to": "b"}, "to: 'b' is not a URL"),
        ({"expect": "allowed"}, "unknown key 'expect'; allowed are name, from, to, control"),
    ],
)
def test_a_wrong_claim_is_named(change: dict[str, object], words: str) -> None:
    with pytest.raises(LabError, match=words):
        parse_wire_claims([{**CLAIM, **change}], "default")
