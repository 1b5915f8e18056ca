# One claim in a check: where its pod is, the way of its request, what was predicted, seen, said, and judged.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import itertools
import typing as t

from .._claims.document import misfit
from .._claims.parse import DENIALS, Claim, Expectation
from .._claims.sources import Target, Unusable, target_in
from .._common.rounds import Reason
from .._curl.control import BLOCKED, Probe
from .._curl.outcomes import Seen, probe_error
from .._mesh.mesh import Mesh, is_ready, name_of
from .._mesh.paths import Path
from .._mesh.policies import decides
from .._mesh.predictions import Prediction, predict
from .._witness.attribution import Attribution
from .stable import History, Verdict

_NOT_ASKED = "not asked yet"


@dataclasses.dataclass
class ClaimRun:
    """Everything about one claim in a check; a round replaces what it found.

    Attributes:
        phase: before or after.
        found: the pod that calls, or why it can't.
        path: the way of the request, from the cluster's objects.
        prediction: what it meets there, from the objects alone.
        seen: by the client in the last round.
        control: how that round showed the path alive; None where it did not.
        attribution: of the proxies; None where nobody was asked.
        cause: what probably explains that it does not hold; "" where it does, or nothing is known.
    """

    claim: Claim
    phase: str
    found: Target | Unusable
    path: Path
    prediction: Prediction
    seen: Seen = dataclasses.field(default_factory=lambda: probe_error(_NOT_ASKED))
    control: str | None = None
    attribution: Attribution | None = None
    verdict: Verdict = dataclasses.field(default_factory=lambda: Verdict("error", _NOT_ASKED))
    history: History = dataclasses.field(default_factory=History)
    cause: str = ""

    @classmethod
    def of(cls, claim: Claim, phase: str, mesh: Mesh) -> ClaimRun:
        """A claim that nobody has asked about yet."""
        return cls(claim, phase, *_placed(claim, mesh))

    def look(self, mesh: Mesh) -> None:
        """Find pod, way and prediction as they are now."""
        self.found, self.path, self.prediction = _placed(self.claim, mesh)

    def remember(self, at: float) -> None:
        """Keep this round's answer; at: seconds since the start."""
        self.history.add(at, self.verdict, outcome=self.seen.outcome, http_code=self.seen.http_code)

    @property
    def expect(self) -> Expectation:
        """What must be seen in this phase."""
        return self.claim.expected(self.phase)

    @property
    def probe(self) -> Probe:
        """The claim's own request."""
        return Probe(self.claim.source, self.claim.request)

    @property
    def target(self) -> Target | None:
        """The pod that calls; None where there is none that can."""
        return self.found if isinstance(self.found, Target) else None

    @property
    def by(self) -> str:
        """The policy that must have decided in this phase; "" where the claim names none."""
        return str(self.claim.by) if self.claim.by and self.phase == "after" else ""

    @property
    def span(self) -> str | None:
        """How far the request goes: "same node", "cross node", "same or cross node"; None where nodes are not known."""
        waypoint = self.path.at_waypoint.waypoint.pods if self.path.at_waypoint else ()
        ends = [end.pod for end in self.path.endpoints if end.pod]
        hops = [pods for pods in ([self.path.source], [pod for pod in waypoint if is_ready(pod)], ends) if pods]
        nodes = [{(pod or {}).get("spec", {}).get("nodeName") for pod in pods} for pods in hops]
        if not ends or any(None in found for found in nodes):
            return None
        if len(set().union(*nodes)) == 1:
            return "same node"
        crosses = any(here.isdisjoint(there) for here, there in itertools.pairwise(nodes))
        return "cross node" if crosses else "same or cross node"

    @property
    def holds(self) -> bool:
        """Whether the last round's verdict is a pass."""
        return self.verdict.passed

    @property
    def surprise(self) -> str:
        """How the answer differs from a sure prediction; "" where it does not."""
        predicted = self.prediction.outcome
        if not self.prediction.sure or self.seen.outcome in (predicted, "probe_error"):
            return ""
        if predicted == "broken" and self.seen.outcome != "allowed":
            return ""
        return f"predicted {predicted} ({self.prediction.why}), measured {self.seen}"


def _placed(claim: Claim, mesh: Mesh) -> tuple[Target | Unusable, Path, Prediction]:
    found = target_in(mesh, claim.source)
    pod = found.item if isinstance(found, Target) else None
    return (found, *predict(mesh, pod, claim.request, claim.source.namespace))


_NO_CONTROL = (
    "looks denied, but nothing in the same round shows the path alive: "
    "add a claim in which the destination answers somebody"
)
_NOBODY_BLOCKS = (
    "nothing shows who blocks it: a destination that is down or slow looks the same; "
    "it must answer another source (for a timeout at the same path), and this one at no other path"
)
SILENT_HINT = " (witnesses: available takes the client's word alone where no proxy can be asked)"


def judge(run: ClaimRun, policy: Reason | None, *, required: bool) -> Verdict:
    """One claim's verdict in one round.

    Args:
        run: with the round's answer, its control, and what the proxies say of it.
        policy: what is wrong with the policies on the claim's path, None where nothing is.
        required: a denial counts only where some proxy confirms it.
    """
    expect, seen = run.expect, run.seen
    # Traffic may be as expected for another reason, so a policy that can't have decided makes it an error.
    traffic = Verdict("error", seen.unclear) if seen.unclear else traffic_of(expect, seen)
    if not traffic.passed:
        return dataclasses.replace(traffic, retry=policy.retry) if policy else traffic
    if policy:
        return Verdict("error", policy.text, policy.retry)
    if expect.outcome in (*DENIALS, *BLOCKED) and run.control is None:
        return Verdict("error", _NO_CONTROL if expect.outcome in DENIALS else _NOBODY_BLOCKS)
    if expect.outcome in DENIALS:
        doubt = _not_by(run, "waypoint" if expect.outcome == "denied_l7" else "ztunnel") if run.by else None
        return _confirmed(run.attribution, run.by, doubt, required) if run.attribution else doubt or Verdict("pass")
    return traffic


def _confirmed(attribution: Attribution, by: str, doubt: Verdict | None, required: bool) -> Verdict:
    """A denial as expected: do the proxies confirm it, and name the right policy?

    doubt: why that policy can't have decided, None where it can; what a proxy says of this request counts more.
    """
    if attribution.problem and (required or not attribution.silent):
        hint = SILENT_HINT if attribution.silent else ""
        return Verdict("error", attribution.problem + hint)
    if not by:
        return Verdict("pass")
    named = attribution.among or ((attribution.other,) if attribution.other else ())
    if named:
        return Verdict("pass") if by in named else Verdict("fail", f"denied by {' or '.join(named)}, not by {by}")
    if doubt:
        return doubt
    if required and not attribution.unnamed:
        why = f"the {attribution.decided_by} refused it, but no proxy names the policy: {attribution.nameless}"
        return Verdict("error", why + SILENT_HINT)
    return Verdict("pass")


def _not_by(run: ClaimRun, where: str) -> Verdict | None:
    """Why a policy that no proxy names can't have decided at a kind of proxy; None where it can."""
    by, path, prediction = run.by, run.path, run.prediction
    policies = path.waypoint_policies if where == "waypoint" else path.ztunnel_policies
    possible = [name_of(item) for item in policies if decides(item, where)]
    if by not in possible and path.doubts:
        doubts = "; ".join(path.doubts)
        return Verdict("error", f"{by} is not known to be in force at the {where} on this way: {doubts}")
    if by not in possible:
        others = f"; in force there: {', '.join(possible)}" if possible else ""
        return Verdict("fail", f"{by} can't have denied it: it is not in force at the {where} on this way{others}")
    if prediction.outcome == run.expect.outcome and by not in prediction.among:
        others = " or ".join(prediction.among)
        return Verdict("fail", f"{by} does not match it; by the objects it is denied by {others}")
    return None


def traffic_of(expect: Expectation, seen: Seen) -> Verdict:
    """Whether an answer is the expected one, whoever gave it."""
    if seen.outcome == "probe_error":
        return Verdict("error", seen.errormsg)
    if seen.outcome != expect.outcome:
        return Verdict("fail", f"expected {expect}, saw {seen}")
    codes = expect.accepted_codes
    # gRPC has its own status: Envoy refuses with HTTP 200 then.
    grpc = expect.http_codes is None and seen.outcome == "denied_l7" and "grpc-status" in seen.headers
    if codes is not None and seen.http_code not in codes and not grpc:
        wanted = "2xx" if expect.http_codes is None and expect.outcome == "allowed" else _list(codes)
        return Verdict("fail", f"HTTP {seen.http_code}, the claim accepts {wanted}")
    if expect.exit_codes is not None and seen.exit_code not in expect.exit_codes:
        return Verdict("fail", f"curl ended with {seen.exit_code}, the claim accepts {_list(expect.exit_codes)}")
    problem = misfit(expect.json, seen.document) if expect.json else ""
    return Verdict("fail", problem) if problem else Verdict("pass")


def _list(codes: t.Iterable[int]) -> str:
    return ", ".join(map(str, sorted(codes)))
