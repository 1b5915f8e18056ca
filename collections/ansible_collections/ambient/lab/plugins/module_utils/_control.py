# Positive control: a denial counts only where the same round shows the path alive.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import ipaddress
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._claims import DENIALS, Claim, Request, Source
from ansible_collections.ambient.lab.plugins.module_utils._outcomes import Seen

# Every pod can reach it, through ztunnel too; any HTTP answer (401 without a token) shows the source alive.
CONTROL_REQUEST = Request("https://kubernetes.default.svc/version", insecure=True)
MAX_OTHER_SOURCES = 3


@dataclasses.dataclass(frozen=True)
class Destination:
    """What a request goes to: a Service of the cluster, an address, or a host outside."""

    host: str
    port: int
    service: str | None = None
    namespace: str | None = None
    address: bool = False

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclasses.dataclass(frozen=True)
class Probe:
    """One request of a round: of a claim, or one of the module's own controls (claim is None)."""

    source: Source
    request: Request
    claim: int | None = None

    @property
    def destination(self) -> Destination:
        """Where the request goes, seen from the source's namespace."""
        return destination(self.request, self.source.namespace)


def destination(request: Request, namespace: str) -> Destination:
    """Resolve a URL's host by the cluster's DNS conventions, without asking anybody.

    Args:
        request: of a probe.
        namespace: of the pod that sends it; a single label is a Service there.
    """
    host, port = request.host.rstrip("."), request.port
    try:
        ipaddress.ip_address(host)
        return Destination(host, port, address=True)
    except ValueError:
        pass
    labels = host.split(".")
    if len(labels) > 2 and labels[2] != "svc":
        return Destination(host, port)
    service_namespace = labels[1] if len(labels) > 1 else namespace
    return Destination(f"{labels[0]}.{service_namespace}", port, labels[0], service_namespace)


def plan(claims: t.Sequence[Claim], phase: str) -> list[Probe]:
    """The claims' own probes in their order, and then controls for denials that no claim gives one."""
    probes = [Probe(claim.source, claim.request, index) for index, claim in enumerate(claims)]
    answering = [
        probe for probe, claim in zip(probes, claims, strict=False) if claim.expected(phase).outcome == "allowed"
    ]
    sources = list(dict.fromkeys(claim.source for claim in claims))
    controls: dict[Probe, None] = {}
    for probe, claim in zip(probes, claims, strict=False):
        if claim.expected(phase).outcome not in DENIALS:
            continue
        if any(other.destination == probe.destination or other.source == probe.source for other in answering):
            continue
        controls[Probe(claim.source, CONTROL_REQUEST)] = None
        for source in [source for source in sources if source != claim.source][:MAX_OTHER_SOURCES]:
            # A short host name means another Service in another namespace.
            if destination(claim.request, source.namespace) == probe.destination:
                controls[Probe(source, Request(claim.request.url, insecure=True))] = None
    return probes + list(controls)


def evidence(
    index: int, probes: t.Sequence[Probe], seen: t.Sequence[Seen], ready: t.Callable[[Destination], bool]
) -> str | None:
    """How the round shows the path of the claim's probe alive; None where it does not.

    Either the destination answers another request, or the source reaches something else while the API says
    that the destination has a ready endpoint: a dead destination looks like a denial, too.

    Args:
        index: of the claim, and of its probe.
        probes: of the round.
        seen: by each probe.
        ready: asks whether the destination has a ready endpoint; called only when the answer is needed.
    """
    probe = probes[index]
    others = [
        (other, answer)
        for number, (other, answer) in enumerate(zip(probes, seen, strict=True))
        if number != index and answer.outcome == "allowed"
    ]
    for other, answer in others:
        if other.destination == probe.destination:
            return f"{other.destination} answered {other.source} with HTTP {answer.http_code}"
    for other, answer in others:
        if other.source == probe.source and ready(probe.destination):
            return f"{other.source} got HTTP {answer.http_code} from {other.destination}, the endpoint is ready"
    return None
