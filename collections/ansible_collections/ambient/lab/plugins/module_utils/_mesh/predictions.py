# What a request is going to meet, said from the objects alone, before anything is sent.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .._common.rounds import Reason, Retry
from .decisions import Decision, at_waypoint, at_ztunnel
from .destinations import Request
from .l7 import METHODS, HttpRequest
from .mesh import Mesh, Object, name_of
from .paths import Path, WaypointHop, path_of
from .routes import HTTP, protocol_of, reads_bytes

Outcome = t.Literal["allowed", "denied_l4", "denied_l7", "denied_upstream", "broken", "unknown"]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a request is going to meet.

    Attributes:
        outcome: "broken" means that something on the way is missing, and that no policy decides; "unknown" is never
            a pass.
        reasons: from the source to the destination; what is not there may still come, what is written stays.
        among: policies of which the one that refuses is one; empty where none refuses.
        cause: PeerAuthentication behind a refusal of plain text.
        doubtful: those among them of which nobody can know whether they match.
        rules: policies that surely match on the way, each with the number of its rule.
        assumed: defaults on which it rests, because the mesh's configuration could not be read.
    """

    outcome: Outcome
    reasons: tuple[Reason, ...] = ()
    among: tuple[str, ...] = ()
    cause: str = ""
    doubtful: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    rules: tuple[tuple[str, int], ...] = ()

    @property
    def sure(self) -> bool:
        """Whether the outcome is said at all."""
        return self.outcome != "unknown"

    @property
    def why(self) -> str:
        """All reasons in one line, and what was assumed."""
        assumed = (f"assumed: {text}" for text in self.assumed)
        return "; ".join([*(reason.text for reason in self.reasons), *assumed])


def predict(mesh: Mesh, source: Object | None, request: Request, namespace: str) -> tuple[Path, Prediction]:
    """The way of a request from a pod of a namespace, if there is one, and what it meets there."""
    path = path_of(mesh, source, request, namespace)
    return path, predict_on(mesh, path, request)


def predict_on(mesh: Mesh, path: Path, request: Request) -> Prediction:
    """What a request meets on a way that is known already."""
    found = _predict(mesh, path, request)
    return found if found.outcome == "broken" else dataclasses.replace(found, assumed=mesh.config.assumed)


def policies_alone(mesh: Mesh, path: Path, request: Request) -> Prediction:
    """What policies make of a request, as if all on its way were ready, and no doubt about it."""
    ends = tuple(dataclasses.replace(end, ready=True) for end in path.endpoints)
    bare = dataclasses.replace(path, doubts=(), behind=(), endpoints=ends)
    return _predict(mesh, bare, request, alone=True)


def _predict(mesh: Mesh, path: Path, request: Request, *, alone: bool = False) -> Prediction:
    missing = _missing(mesh, path, alone)
    if missing:
        return Prediction("broken", (missing,))
    if path.destination.kind == "outside":
        outside = Reason(f"{path.destination.host} is outside of the mesh: nothing there decides")
        return Prediction("unknown", (outside,))
    reasons = _entering(path)
    if path.doubts:
        doubts = dict.fromkeys((*path.doubts, *path.behind))
        return Prediction("unknown", (*reasons, *(Reason(text) for text in doubts)))
    rules: tuple[tuple[str, int], ...] = ()
    if path.at_waypoint:
        decision = _at_waypoint(mesh, path.at_waypoint, request, alone)
        reasons.append(Reason(f"waypoint {path.at_waypoint.waypoint}: {decision.reason}", decision.retry))
        if decision.verdict == "unknown":
            return Prediction("unknown", tuple(reasons))
        if decision.verdict == "deny":
            doubtful, rules = decision.doubtful, decision.rules
            return Prediction("denied_l7", tuple(reasons), decision.among, doubtful=doubtful, rules=rules)
        rules = decision.rules
    if path.behind:
        return Prediction("unknown", (*reasons, *(Reason(text) for text in path.behind)))
    if path.ready:
        return _arriving(mesh, path, reasons, rules)
    if not path.endpoints and not mesh.config.whole:
        reasons.append(Reason(f"no workload in the folder is behind {path.destination}"))
        return Prediction("unknown", tuple(reasons))
    if any(end.ready is None for end in path.endpoints):
        reasons.append(Reason(f"nobody can know from here whether {path.destination} answers"))
        return Prediction("unknown", tuple(reasons))
    return Prediction("broken", (*reasons, Reason(f"no ready pod is behind {path.destination}")))


def _missing(mesh: Mesh, path: Path, alone: bool) -> Reason | None:
    """What keeps the request from being decided about at all. alone: whatever is not ready does not."""
    destination = path.destination
    if destination.kind == "missing" or (destination.kind == "service" and destination.why):
        return Reason(destination.why, Retry.unless(destination.kind == "service"))
    waypoint = path.at_waypoint.waypoint if path.at_waypoint else None
    if not alone and waypoint and not waypoint.ready and not mesh.why_unread("Pod", waypoint.namespace):
        # ztunnel has nobody to hand the request to, and cuts it off.
        return Reason(f"no pod of the waypoint {waypoint} is ready")
    return None


def _entering(path: Path) -> list[Reason]:
    """What is to be said before the first proxy."""
    found = []
    if path.member and not path.member.captured:
        found.append(Reason(f"the source calls in plain text: {path.member.why_not}", path.member.retry))
    if path.waypoint and not path.at_waypoint and not path.waypoint.doubt:
        why = f"the waypoint {path.waypoint} is not on the way, because ztunnel does not carry the source's traffic"
        if path.waypoint.problem:
            why = f"{path.waypoint.problem}, so the request goes around it"
        found.append(Reason(why, Retry.unless(path.waypoint.programmed)))
    return found


def _at_waypoint(mesh: Mesh, hop: WaypointHop, request: Request, alone: bool) -> Decision:
    port = hop.connection.port or 0
    if not reads_bytes(hop.target, port, request.url):
        if not alone and request.method not in METHODS:
            return Decision("unknown", f"Envoy does not know {request.method}, and answers 400 to it in HTTP/1.1")
        return at_waypoint(mesh, hop, http_request(hop, request))
    protocol = protocol_of(hop.target, port)
    if protocol in HTTP:
        return Decision("unknown", f"it reads HTTP at this port ({protocol}), and the request is TLS")
    decision = at_waypoint(mesh, hop, None)
    if decision.verdict == "deny":
        # Who closes the connection then is the waypoint, and it has no answer for it.
        return Decision("unknown", f"it reads bytes alone there ({protocol or 'TLS'}): {decision.reason}")
    return decision


def http_request(hop: WaypointHop, request: Request) -> HttpRequest:
    """A request as the waypoint on its way sees it."""
    headers: dict[str, str] = {}
    for name, value in request.headers:
        key = name.lower()
        headers[key] = f"{headers[key]},{value}" if key in headers else value
    authority = headers.pop("host", request.authority)
    # A RequestAuthentication may look for the token in any header or parameter that it names.
    token = bool(hop.authentications) and (bool(headers) or bool(request.parts.query))
    return HttpRequest(request.method, authority, request.path, headers, token)


def _arriving(mesh: Mesh, path: Path, reasons: list[Reason], rules: tuple[tuple[str, int], ...]) -> Prediction:
    """What the destination's ztunnel decides, at every endpoint that may be chosen; rules: that matched before."""
    decisions = [(hop, at_ztunnel(mesh, hop)) for hop in path.at_ztunnel]
    outside = len(path.endpoints) - len(decisions)
    for pod in path.destination.pods if outside else []:
        member = mesh.membership(pod)
        if not member.captured:
            reasons.append(Reason(f"no ztunnel is before the destination: {member.why_not}", member.retry))
    verdicts = {decision.verdict for _hop, decision in decisions} | ({"allow"} if outside else set())
    said = [Reason(f"ztunnel of pod {name_of(hop.pod)}: {made.reason}", made.retry) for hop, made in decisions]
    reasons += dict.fromkeys(said)
    if "unknown" not in verdicts and len(verdicts) > 1:
        reasons.append(Reason("it depends on which endpoint answers"))
    if "unknown" in verdicts or len(verdicts) > 1:
        return Prediction("unknown", tuple(reasons))
    here = tuple(dict.fromkeys(rule for _hop, decision in decisions for rule in decision.rules))
    if verdicts == {"allow"}:
        return Prediction("allowed", tuple(reasons), rules=(*rules, *here))
    among = tuple(dict.fromkeys(name for _hop, decision in decisions for name in decision.among))
    cause = next((decision.cause for _hop, decision in decisions if decision.cause), "")
    doubtful = tuple(dict.fromkeys(name for _hop, decision in decisions for name in decision.doubtful))
    outcome: Outcome = "denied_upstream" if path.at_waypoint else "denied_l4"
    return Prediction(outcome, tuple(reasons), among, cause, doubtful, rules=here)
