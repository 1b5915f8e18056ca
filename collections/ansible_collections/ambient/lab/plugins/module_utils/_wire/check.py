# Checks that what passes between nodes is encrypted: a probe's mark must not be seen there, a control's must.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import concurrent.futures
import dataclasses
import secrets
import typing as t

from .._check.stable import Verdict
from .._claims.fields import label_of, mapping, parse_list
from .._claims.parse import Claim, parse_claim
from .._claims.sources import Target, Unusable, find_target
from .._common.rounds import Retry
from .._curl.control import Probe
from .._curl.outcomes import Seen
from .._curl.probing import Runner, probe_all
from .._mesh.mesh import addresses_of
from .packets import HBONE_PORT, Flow, Stream, tls_of

CLAIM_KEYS = ("name", "from", "to", "control")
# By this header of its own a probe is found again in what passes.
MARK = "x-ambient-lab-mark"
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


# Captures the flows from or to some addresses.
Capturing = t.Callable[[t.Container[str]], t.ContextManager[Captured]]


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
    def of(cls, claim: Claim, pods: t.Sequence[dict[str, t.Any]]) -> Marked:
        """The request of a claim; pods: of its source's namespace."""
        request = claim.request
        request = dataclasses.replace(request, headers=(*request.headers, (MARK, secrets.token_hex(16))))
        return cls(Probe(claim.source, request), find_target(claim.source, pods))

    @property
    def addresses(self) -> t.Sequence[str]:
        """Of the pod that sends it."""
        pod = self.found.item if isinstance(self.found, Target) else None
        return addresses_of(pod) if pod else ()

    def passed_in_plain(self, flows: t.Mapping[Flow, bytes]) -> str:
        """A flow in which the mark can be read; "" for none."""
        mark = dict(self.probe.request.headers)[MARK].encode()
        return next((str(flow) for flow, data in flows.items() if mark in data), "")


@dataclasses.dataclass
class WireRun:
    """Everything about one claim in a round.

    Attributes:
        claim: what must hold.
        own: its request.
        control: the same from outside of the mesh.
        hbone: flows from the claim's pod to HBONE's port, with the bytes of application data in each.
        identity: the SPIFFE ID in a certificate that could be read; "" with TLS 1.3, which encrypts it.
        verdict: of the round.
    """

    claim: WireClaim
    own: Marked
    control: Marked
    hbone: dict[Flow, int] = dataclasses.field(default_factory=dict)
    identity: str = ""
    verdict: Verdict = dataclasses.field(default_factory=lambda: Verdict("error", "not asked yet"))

    @property
    def seen(self) -> str:
        """What passed, in words."""
        if not self.hbone:
            return f"no TLS to port {HBONE_PORT}"
        return ", ".join(f"{flow}: {count} bytes in TLS" for flow, count in self.hbone.items())

    def judge(self, captured: Captured, answers: t.Mapping[Probe, Seen]) -> None:
        """Compare what passed with what must; answers: to the requests."""
        self.verdict = self._unsent(answers) or self._judged(captured)

    def _unsent(self, answers: t.Mapping[Probe, Seen]) -> Verdict | None:
        for name, marked in (("the claim's", self.own), ("the control's", self.control)):
            if isinstance(marked.found, Unusable):
                return Verdict("error", marked.found.reason, marked.found.retry)
            if answers[marked.probe].outcome != "allowed":
                return Verdict("error", f"{name} request was not answered: {answers[marked.probe]}")
        return None

    def _judged(self, captured: Captured) -> Verdict:
        source = t.cast(Target, self.own.found)
        addresses = self.own.addresses
        flows = {flow: stream.data for flow, stream in captured.streams.items()}
        for flow, data in flows.items():
            tls = tls_of(data) if flow.target_port == HBONE_PORT and flow.source in addresses else None
            if tls and tls.data:
                self.hbone[flow] = tls.data
                self.identity = self.identity or tls.identity
        if where := self.own.passed_in_plain(flows):
            return Verdict("fail", f"whoever is between the nodes can read it: it passed in plain text, {where}")
        if captured.lost:
            return Verdict("error", f"not all that passed was seen: {captured.lost}")
        if not self.control.passed_in_plain(flows):
            return Verdict("error", f"{self.control.found} {_NO_CONTROL}")
        if not self.hbone:
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


class Edge(Runner, t.Protocol):
    """What a round needs of the cluster."""

    def items(self, path: str, **query: str) -> t.Iterable[dict[str, t.Any]]:
        """The objects of a list."""


def look(claims: t.Sequence[WireClaim], edge: Edge, capturing: Capturing, probe_timeout: float) -> list[WireRun]:
    """One round: send every request and its control while what passes is captured, and judge.

    Args:
        claims: of the check.
        edge: the cluster.
        capturing: opens the capture.
        probe_timeout: seconds that one request may take.
    """
    pods = {
        namespace: list(edge.items(f"/api/v1/namespaces/{namespace}/pods"))
        for namespace in {one.source.namespace for claim in claims for one in (claim.encrypted, claim.control)}
    }
    runs = [
        WireRun(
            claim,
            Marked.of(claim.encrypted, pods[claim.encrypted.source.namespace]),
            Marked.of(claim.control, pods[claim.control.source.namespace]),
        )
        for claim in claims
    ]
    sent = [marked for run in runs for marked in (run.own, run.control)]
    targets = {marked.probe.source: marked.found for marked in sent}
    addresses = {address for marked in sent for address in marked.addresses}
    probes = [marked.probe for marked in sent]
    with concurrent.futures.ThreadPoolExecutor(len(targets)) as pool, capturing(addresses) as captured:
        answers = dict(zip(probes, probe_all(probes, targets, probe_timeout, edge, pool), strict=True))
    for run in runs:
        run.judge(captured, answers)
    return runs


def left(runs: t.Sequence[WireRun]) -> list[Retry]:
    """Of the claims that do not hold, whether looking again is of use."""
    return [run.verdict.retry for run in runs if not run.verdict.passed]
