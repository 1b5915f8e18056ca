# Positive control: a denial counts only where the same round shows the path alive.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import itertools
import typing as t

from .._claims.parse import DENIALS, Claim, Source
from .._claims.sources import Target, target_in
from .._mesh.destinations import Request, resolve
from .._mesh.mesh import Mesh
from .outcomes import Seen

# Every pod can reach it, through ztunnel too; any HTTP answer (401 without a token) shows the source alive.
CONTROL_REQUEST = Request("https://kubernetes.default.svc/version", insecure=True)
MAX_OTHER_SOURCES = 3
# No proxy says of these who caused them: only that the destination answers somebody else shows that it is a block.
BLOCKED = ("refused", "timeout", "unroutable")
# Of these the network does not let the source through to the port at all, whatever it asks for.
_NOT_CONNECTED = ("refused", "timeout")
# Sending it once more, from elsewhere, changes nothing (RFC 9110, section 9.2.1).
SAFE = ("GET", "HEAD", "OPTIONS")


@dataclasses.dataclass(frozen=True)
class Probe:
    """One request of a round: of a claim, or one of the module's own controls."""

    source: Source
    request: Request

    def key(self, mesh: Mesh) -> str:
        """What it goes to, the same for every way to name it."""
        return resolve(mesh, self.request.host, self.request.port, self.source.namespace).key

    def pod(self, mesh: Mesh) -> str:
        """What sends it, the same for every way to name it."""
        found = target_in(mesh, self.source)
        return str(found if isinstance(found, Target) else self.source)


def plan(claims: t.Sequence[Claim], phase: str, mesh: Mesh) -> list[Probe]:
    """Controls for the denials that no claim gives one; each claim sends a probe of its own."""
    probes = {claim.name: Probe(claim.source, claim.request) for claim in claims}
    answering = [probes[claim.name] for claim in claims if claim.expected(phase).outcome == "allowed"]
    sources_heard = {probe.source for probe in answering}
    sources = list(dict.fromkeys(claim.source for claim in claims))
    controls: dict[Probe, None] = {}
    for claim in claims:
        probe = probes[claim.name]
        outcome = claim.expected(phase).outcome
        known = any(other.key(mesh) == probe.key(mesh) and _shows(other, probe, outcome, mesh) for other in answering)
        if outcome not in (*DENIALS, *BLOCKED) or known:
            continue
        if outcome in DENIALS:
            if probe.source in sources_heard:
                continue
            controls[Probe(claim.source, CONTROL_REQUEST)] = None
        request = dataclasses.replace(CONTROL_REQUEST, url=claim.request.url)
        if outcome == "timeout":
            if claim.request.method not in SAFE:
                continue
            request = dataclasses.replace(claim.request, insecure=True)
        others = (Probe(source, request) for source in sources)
        # A short host name means another Service in another namespace.
        fitting = (
            other for other in others if other.pod(mesh) != probe.pod(mesh) and other.key(mesh) == probe.key(mesh)
        )
        controls.update(dict.fromkeys(itertools.islice(fitting, MAX_OTHER_SOURCES)))
    return list(controls)


class Controls:
    """What the answers of all probes of a round show alive, by destination and by source."""

    def __init__(self, answers: t.Iterable[tuple[Probe, Seen]], mesh: Mesh) -> None:
        self._mesh = mesh
        self._by_destination: dict[str, list[tuple[Probe, Seen]]] = {}
        self._by_source: dict[Source, tuple[Probe, Seen]] = {}
        for probe, answer in answers:
            # Who wrote an unclear answer may as well be a proxy.
            if answer.outcome == "allowed" and not answer.unclear:
                self._by_destination.setdefault(probe.key(mesh), []).append((probe, answer))
                self._by_source.setdefault(probe.source, (probe, answer))

    def evidence(self, probe: Probe, outcome: str, ready: bool) -> str | None:
        """How the round shows the path of a denied probe alive; None where it does not.

        Either the destination answers another request, or the source reaches something else while a ready endpoint
        is at the end of the path: a dead destination looks like a denial, too. For an outcome of BLOCKED the
        destination must answer another source, and this one nowhere.

        ready: whether the destination has a ready endpoint.
        """
        answers = self._by_destination.get(probe.key(self._mesh), [])
        if outcome in _NOT_CONNECTED and probe.pod(self._mesh) in {other.pod(self._mesh) for other, _seen in answers}:
            return None
        for other, seen in answers:
            if _shows(other, probe, outcome, self._mesh):
                return f"{_host(other)} answered {other.source} with HTTP {seen.http_code}"
        found = self._by_source.get(probe.source)
        if found and ready and outcome not in BLOCKED:
            return f"{found[0].source} got HTTP {found[1].http_code} from {_host(found[0])}, the endpoint is ready"
        return None


def _shows(other: Probe, probe: Probe, outcome: str, mesh: Mesh) -> bool:
    """Whether an answer of the same destination to another probe shows its path alive.

    A request that is slow for everybody looks like a block, however quick the answer to another one is.
    """
    if outcome not in BLOCKED:
        return True
    # What the destination gets of both requests, however it was named.
    asked = {(one.method, one.path, one.parts.query, one.headers, one.body) for one in (other.request, probe.request)}
    return other.pod(mesh) != probe.pod(mesh) and (len(asked) == 1 or outcome != "timeout")


def _host(probe: Probe) -> str:
    return f"{probe.request.host}:{probe.request.port}"
