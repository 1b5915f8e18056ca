# What is said of a request by what passed while it was sent.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
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
from ansible_collections.ambient.lab.plugins.module_utils._wire import check as check_module
from ansible_collections.ambient.lab.plugins.module_utils._wire.check import MARK, left, look, parse_wire_claims
from ansible_collections.ambient.lab.plugins.module_utils._wire.packets import Flow, Stream
from ansible_collections.ambient.lab.tests.unit.fakes.objects import pod
from ansible_collections.ambient.lab.tests.unit.plugins.module_utils._wire.test_packets import record

CLAIM = {"name": "nobody reads it", "from": {"pod": "a"}, "to": "http://b/", "control": {"pod": "outside"}}
TLS = record(23, b"x" * 400)
HBONE = Flow("10.0.0.1", 4000, "10.0.1.1", 15008)
PLAIN = Flow("10.0.0.1", 4001, "10.0.1.1", 80)
CONTROL = Flow("10.0.0.2", 4002, "10.0.1.1", 80)


@dataclasses.dataclass
class Passed:
    """What passes while requests are sent; {own} and {control} stand for their marks."""

    flows: dict[Flow, bytes]
    lost: str = ""
    outcome: str = "allowed"
    streams: dict[Flow, Stream] = dataclasses.field(default_factory=dict)

    @contextlib.contextmanager
    def capturing(self, addresses: t.Container[str]) -> t.Iterator[Passed]:
        assert "10.0.0.1" in addresses
        yield self

    def run(self, namespace: str, pod: str, container: str, script: str, timeout: float) -> tuple[str, str]:
        raise AssertionError

    def items(self, path: str, **query: str) -> list[dict[str, t.Any]]:
        assert path == "/api/v1/namespaces/default/pods"
        return [pod("a", ip="10.0.0.1"), pod("outside", ip="10.0.0.2")]


def check(passed: Passed, monkeypatch: pytest.MonkeyPatch) -> check_module.WireRun:
    """One round of the claim."""

    def probe_all(probes: t.Sequence[Probe], *_others: object) -> list[Seen]:
        own, control = (dict(probe.request.headers)[MARK].encode() for probe in probes)
        for flow, data in passed.flows.items():
            data = data.replace(b"{own}", own).replace(b"{control}", control)
            passed.streams.setdefault(flow, Stream()).add(1, data)
        return [Seen(passed.outcome, 200, 0) for _probe in probes]

    monkeypatch.setattr(check_module, "probe_all", probe_all)
    (run,) = look(parse_wire_claims([CLAIM], "default"), passed, passed.capturing, 5)
    return run


@pytest.mark.parametrize(
    ("passed", "verdict", "words"),
    [
        (Passed({HBONE: TLS, CONTROL: b"GET / {control}"}), "pass", ""),
        # It is in the mesh, and somebody sent the request around it.
        (Passed({HBONE: TLS, PLAIN: b"GET / {own}", CONTROL: b"{control}"}), "fail", "it passed in plain text"),
        # HBONE's port alone encrypts nothing.
        (Passed({HBONE: b"PRI {own}", CONTROL: b"{control}"}), "fail", "in plain text, 10.0.0.1 to 10.0.1.1:15008"),
        (Passed({HBONE: TLS, PLAIN: b"{own}"}, lost="9 packets"), "fail", "in plain text"),
        (Passed({HBONE: TLS, CONTROL: b"{control}"}, lost="9 packets"), "error", "was seen: 9 packets"),
        (Passed({HBONE: TLS}), "error", "default/outside sent the control, which was not seen in plain text either"),
        (Passed({CONTROL: b"{control}"}), "error", "nothing of it passed: default/a (node "),
        # TLS of somebody else's, and a handshake without a request.
        (Passed({HBONE._replace(source="10.0.0.2"): TLS, CONTROL: b"{control}"}), "error", "nothing of it passed"),
        (Passed({HBONE: record(22, b"hello"), CONTROL: b"{control}"}), "error", "nothing of it passed"),
        (Passed({HBONE: TLS, CONTROL: b"{control}"}, outcome="denied_l4"), "error", "claim's request was not"),
    ],
)  # fmt: skip
def test_the_verdict(passed: Passed, verdict: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = check(passed, monkeypatch)
    assert (run.verdict.verdict, words in run.verdict.reason) == (verdict, True), run.verdict
    assert left([run]) == ([] if verdict == "pass" else [Retry.USEFUL])


def test_what_passed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    run = check(Passed({HBONE: TLS, CONTROL: b"{control}"}), monkeypatch)
    assert run.seen == "10.0.0.1 to 10.0.1.1:15008: 400 bytes in TLS"


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
