# Positive control: a denial counts only where the same round shows the path alive.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import itertools
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import DENIALS, Claim, Request, Source
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen

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


@functools.lru_cache(maxsize=65_536)
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
    # Resolvers do not look in the cluster's domains for a name with a dot at its end (resolv.conf(5), search).
    if labels[2:3] != ["svc"] and (len(labels) > 2 or request.host.endswith(".")):
        return Destination(host, port)
    service_namespace = labels[1] if len(labels) > 1 else namespace
    return Destination(f"{labels[0]}.{service_namespace}", port, labels[0], service_namespace)


def plan(claims: t.Sequence[Claim], phase: str) -> list[Probe]:
    """The claims' own probes in their order, and then controls for denials that no claim gives one."""
    probes = [Probe(claim.source, claim.request, index) for index, claim in enumerate(claims)]
    answering = [
        probe for probe, claim in zip(probes, claims, strict=True) if claim.expected(phase).outcome == "allowed"
    ]
    destinations = {probe.destination for probe in answering}
    sources_heard = {probe.source for probe in answering}
    sources = list(dict.fromkeys(claim.source for claim in claims))
    controls: dict[Probe, None] = {}
    for probe, claim in zip(probes, claims, strict=True):
        if claim.expected(phase).outcome not in DENIALS:
            continue
        if probe.destination in destinations or probe.source in sources_heard:
            continue
        controls[Probe(claim.source, CONTROL_REQUEST)] = None
        others = itertools.islice((source for source in sources if source != claim.source), MAX_OTHER_SOURCES)
        for source in others:
            # A short host name means another Service in another namespace.
            if destination(claim.request, source.namespace) == probe.destination:
                controls[Probe(source, Request(claim.request.url, insecure=True))] = None
    return probes + list(controls)


class Controls:
    """What a round shows alive, by destination and by source.

    Args:
        probes: of the round.
        seen: by each probe.
        ready: asks whether a destination has a ready endpoint; called only when the answer is needed.
    """

    def __init__(
        self, probes: t.Sequence[Probe], seen: t.Sequence[Seen], ready: t.Callable[[Destination], bool]
    ) -> None:
        self._probes = probes
        self._ready = ready
        self._by_destination: dict[Destination, tuple[Probe, Seen]] = {}
        self._by_source: dict[Source, tuple[Probe, Seen]] = {}
        for probe, answer in zip(probes, seen, strict=True):
            if answer.outcome == "allowed":
                self._by_destination.setdefault(probe.destination, (probe, answer))
                self._by_source.setdefault(probe.source, (probe, answer))

    def evidence(self, index: int) -> str | None:
        """How the round shows the path of a denied claim's probe alive; None where it does not.

        Either the destination answers another request, or the source reaches something else while the API says
        that the destination has a ready endpoint: a dead destination looks like a denial, too.
        """
        probe = self._probes[index]
        if found := self._by_destination.get(probe.destination):
            return f"{found[0].destination} answered {found[0].source} with HTTP {found[1].http_code}"
        found = self._by_source.get(probe.source)
        if found and self._ready(probe.destination):
            other = found[0].destination
            return f"{found[0].source} got HTTP {found[1].http_code} from {other}, the endpoint is ready"
        return None
