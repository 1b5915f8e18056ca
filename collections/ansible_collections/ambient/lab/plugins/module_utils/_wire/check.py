# Checks that what passes between nodes is encrypted: a probe's mark must not be seen there, a control's must.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import concurrent.futures
import dataclasses
import secrets
import typing as t

from .._check.stable import Verdict
from .._claims.fields import label_of, mapping, parse_list
from .._claims.parse import Claim, parse_claim
from .._claims.sources import Target, Unusable, target_in
from .._common.rounds import Reason, Retry
from .._curl.control import Probe
from .._curl.outcomes import Seen
from .._curl.probing import Runner, probe_all
from .._mesh.mesh import Mesh, addresses_of
from .._mesh.paths import path_of
from .packets import HBONE_PORT, Flow, Stream, tls_of

CLAIM_KEYS = ("name", "from", "to", "control")
# By this header of its own a probe is found again in what passes.
MARK = "x-ambient-lab-mark"
_MARK_BYTES = 16
_NO_CONTROL = (
    "sent the control, which was not seen in plain text either, so nothing shows that what can be read would be seen: "
    "the control must be outside of the mesh, and on another node than the destination"
)
_NOT_SEEN = "and the destination, or its waypoint, must be on two nodes, and in the mesh"


class Captured(t.Protocol):
    """What passed."""

    @property
    def streams(self) -> t.Mapping[Flow, Stream]:
        """By flow."""

    @property
    def lost(self) -> str:
        """Why not all of it is there; "" where it is."""


# Opens a capture.
Capturing = t.Callable[[], t.ContextManager[Captured]]


@dataclasses.dataclass(frozen=True)
class WireClaim:
    """A request that nobody may be able to read between the nodes, and the same one sent from outside of the mesh."""

    name: str
    encrypted: Claim
    control: Claim


@dataclasses.dataclass(frozen=True)
class Marked:
    """A request with a mark of its own, and the pod that sends it."""

    probe: Probe
    found: Target | Unusable

    @classmethod
    def of(cls, claim: Claim, mesh: Mesh) -> Marked:
        """The request of a claim. Its mark is filled up to a length of its own, which TLS cannot hide."""
        value = secrets.token_hex(_MARK_BYTES + 1024 + secrets.randbelow(1024))
        request = dataclasses.replace(claim.request, headers=(*claim.request.headers, (MARK, value)))
        return cls(Probe(claim.source, request), target_in(mesh, claim.source))

    @property
    def value(self) -> str:
        """Of its header."""
        return dict(self.probe.request.headers)[MARK]

    @property
    def pod(self) -> dict[str, t.Any] | None:
        """That sends it."""
        return self.found.item if isinstance(self.found, Target) else None

    def passed_in_plain(self, flows: t.Mapping[Flow, bytes]) -> str:
        """A flow in which the mark can be read; "" for none."""
        mark = self.value[: 2 * _MARK_BYTES].encode()
        return next((str(flow) for flow, data in flows.items() if mark in data), "")


@dataclasses.dataclass
class WireRun:
    """Everything about one claim in a round.

    Attributes:
        claim: what must hold.
        own: its request.
        control: the same from outside of the mesh.
        ends: addresses at which HBONE of the request may end: the waypoint's, or the destination's.
        plain: the flow in which the request could be read; "" for none.
        hbone: flows from the claim's pod to HBONE's port there, with the bytes of application data in each.
        identity: the SPIFFE ID in a certificate that could be read; "" with TLS 1.3, which encrypts it.
        verdict: of the round.
    """

    claim: WireClaim
    own: Marked
    control: Marked
    ends: frozenset[str] = frozenset()
    plain: str = ""
    hbone: dict[Flow, int] = dataclasses.field(default_factory=dict)
    identity: str = ""
    verdict: Verdict = dataclasses.field(default_factory=lambda: Verdict("error", "not asked yet"))

    @classmethod
    def of(cls, claim: WireClaim, mesh: Mesh) -> WireRun:
        """A claim that nobody has asked about yet."""
        own = Marked.of(claim.encrypted, mesh)
        path = path_of(mesh, own.pod, own.probe.request, claim.encrypted.source.namespace)
        pods = path.at_waypoint.waypoint.pods if path.at_waypoint else ()
        ends = [ip for pod in pods for ip in addresses_of(pod)] if pods else [end.address for end in path.endpoints]
        return cls(claim, own, Marked.of(claim.control, mesh), frozenset(ends))

    def judge(self, captured: Captured, answers: t.Mapping[Probe, Seen]) -> None:
        """Compare what passed with what must; answers: to the requests."""
        flows = {flow: stream.data for flow, stream in captured.streams.items()}
        self.plain = self.own.passed_in_plain(flows)
        self._find_hbone(flows)
        self.verdict = self._verdict(flows, captured.lost, answers)

    @property
    def outcome(self) -> str:
        """What was seen of the request itself, whatever that proves."""
        return "plain text" if self.plain else "encrypted" if self.hbone else "not seen"

    def _find_hbone(self, flows: t.Mapping[Flow, bytes]) -> None:
        addresses = addresses_of(self.own.pod) if self.own.pod else []
        for flow, data in flows.items():
            if flow.source in addresses and flow.target in self.ends and flow.target_port == HBONE_PORT:
                tls = tls_of(data)
                if tls and tls.data >= len(self.own.value):
                    self.hbone[flow] = tls.data
                    self.identity = self.identity or tls.identity

    def _verdict(self, flows: t.Mapping[Flow, bytes], lost: str, answers: t.Mapping[Probe, Seen]) -> Verdict:
        if self.plain:
            # Another round may take another way; this one has shown enough.
            why = f"whoever is between the nodes can read it: it passed in plain text, {self.plain}"
            return Verdict("fail", why, Retry.POINTLESS)
        for marked in (self.own, self.control):
            if isinstance(marked.found, Unusable):
                return Verdict("error", marked.found.reason, marked.found.retry)
        if answers[self.own.probe].outcome != "allowed":
            return Verdict("error", f"the claim's request was not answered: {answers[self.own.probe]}")
        if lost:
            return Verdict("error", f"not all that passed was seen: {lost}")
        if not self.control.passed_in_plain(flows):
            return Verdict("error", f"{self.control.found} {_NO_CONTROL} (it saw: {answers[self.control.probe]})")
        if not self.hbone:
            source = t.cast(Target, self.own.found)
            return Verdict("error", f"nothing of it passed: {source} (node {source.node}) {_NOT_SEEN}")
        return Verdict("pass")


def parse_wire_claims(raw: object, namespace: str) -> tuple[WireClaim, ...]:
    """The user's list; namespace: of sources that name none. Raises LabError with a line per problem."""

    def parse(item: object, number: int) -> WireClaim:
        label = label_of(item, number)
        fields = mapping(item, label, "claim", CLAIM_KEYS, required=CLAIM_KEYS)
        claim = {"name": fields["name"], "to": fields["to"], "expect": "allowed"}
        return WireClaim(
            str(fields["name"]),
            parse_claim({**claim, "from": fields["from"]}, label, namespace),
            parse_claim({**claim, "from": fields["control"]}, f"{label}, control", namespace),
        )

    return parse_list(raw, parse)


def look(
    claims: t.Sequence[WireClaim], mesh: Mesh, runner: Runner, capturing: Capturing, seconds: float
) -> list[WireRun]:
    """One round: send each request and its control while what passes is captured, one claim after the other.

    Args:
        claims: of the check.
        mesh: as it is now.
        runner: runs scripts in pods.
        capturing: opens a capture.
        seconds: that one request may take.
    """
    runs = [WireRun.of(claim, mesh) for claim in claims]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for run in runs:
            sent = {marked.probe: marked.found for marked in (run.own, run.control)}
            targets = {probe.source: found for probe, found in sent.items()}
            with capturing() as captured:
                answers = probe_all(list(sent), targets, seconds, runner, pool)
            run.judge(captured, dict(zip(sent, answers, strict=True)))
    return runs


def left(runs: t.Sequence[WireRun]) -> list[Reason]:
    """Of the claims that do not hold, why, and whether looking again is of use."""
    failing = [run for run in runs if not run.verdict.passed]
    return [Reason(f"{run.claim.name}: {run.verdict.reason}", run.verdict.retry) for run in failing]
