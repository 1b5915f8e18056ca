# Has the cells of a matrix asked and proven on a cluster, and finds the sources that can't ask.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import concurrent.futures
import dataclasses
import re
import typing as t

from .._check.rounds import ClaimRounds, Edge, Settings
from .._claims.parse import Claim, Source
from .._claims.sources import Unusable, target_in
from .._curl.control import Probe
from .._curl.outcomes import Seen
from .._curl.probing import probe_all
from .._mesh.mesh import Mesh, Object, name_of
from .._witness.attribution import Attribution
from .probe_pods import NOT_NOW, ours
from .watch import Proof

# --write-out %header{}, curl's changelog of 7.83.0.
CURL_NEEDED = (7, 83)
LOOK_SECONDS = 15.0


def visible(mesh: Mesh, chosen: t.Collection[str]) -> Mesh:
    """The mesh without pods that only stand in for a source, save the chosen ones (namespace/name).

    Ephemeral containers are among a pod's containers, so that one of them can be a claim's container.
    """
    others = [item for item in mesh.objects() if item["kind"] != "Pod"]
    pods = [_whole(pod) for pod in mesh.items("Pod") if not ours(pod) or name_of(pod) in chosen]
    return Mesh([*others, *pods], mesh.config, mesh.unread)


def _whole(pod: Object) -> Object:
    # The pod's own container stays the one that is meant where none is named.
    containers = [*pod["spec"]["containers"], *(pod["spec"].get("ephemeralContainers") or [])]
    return {**pod, "spec": {**pod["spec"], "containers": containers}}


class Engine:
    """The world of watch.py on a cluster.

    Args:
        claims: of the cells.
        stand_ins: pod and container that probe in a source's place.
        settings: of the check.
        edge: of the check, on a mesh that has the stand-ins.
    """

    def __init__(
        self, claims: t.Sequence[Claim], stand_ins: t.Mapping[Source, Source], settings: Settings, edge: Edge
    ) -> None:
        self._stand_ins, self._settings, self._edge = stand_ins, settings, edge
        self._claims = self._placed(claims)

    def _placed(self, claims: t.Iterable[Claim]) -> list[Claim]:
        return [dataclasses.replace(claim, source=self._stand_ins.get(claim.source, claim.source)) for claim in claims]

    def ask(self) -> list[Seen]:
        """One round: what each cell's probe saw."""
        probes = [Probe(claim.source, claim.request) for claim in self._claims]
        sources = {probe.source for probe in probes}
        mesh = self._edge.mesh([], {source.namespace for source in sources})
        targets = {source: target_in(mesh, source) for source in sources}
        with concurrent.futures.ThreadPoolExecutor(self._settings.concurrency) as pool:
            return probe_all(probes, targets, self._settings.probe_timeout, self._edge, pool)

    def prove(self, claims: t.Sequence[Claim]) -> list[Proof]:
        """Check claims in one round, with all that the proxies say of it."""
        with concurrent.futures.ThreadPoolExecutor(self._settings.concurrency) as pool:
            rounds = ClaimRounds(self._placed(claims), self._settings, self._edge, pool)
            rounds.look()
            rounds.close()
        proofs = []
        for run in rounds.runs:
            attribution = run.attribution or Attribution()
            # Another answer than the one before is no error: it is one more round.
            problem = run.verdict.reason if run.verdict.verdict == "error" else ""
            proofs.append(Proof(attribution.decided_by, attribution.policy, problem, run.seen))
        return proofs


@dataclasses.dataclass(frozen=True)
class Unavailable:
    """Why a source can't probe. mendable: somebody can stand in for it; more: why nobody does."""

    reason: str
    mendable: bool
    more: str = ""

    def __str__(self) -> str:
        return f"{self.reason}; {self.more}" if self.more else self.reason

    @property
    def waits(self) -> bool:
        """Whether it is only for check mode that nobody stands in for it."""
        return self.more == NOT_NOW

    @property
    def lasting(self) -> str:
        """As much of the reason as the next pod of the source will have in common with this one."""
        return self.reason.partition(": ")[0] if self.mendable else "none of its pods is ready"


def unable(sources: t.Iterable[Source], mesh: Mesh, concurrency: int, edge: Edge) -> dict[Source, Unavailable]:
    """The sources whose pod can't probe, and why; one exec each."""

    def look(source: Source) -> Unavailable | None:
        target = target_in(mesh, source)
        if isinstance(target, Unusable):
            return Unavailable(target.reason, False)
        said = edge.run(target.namespace, target.pod, target.container, "curl --version", LOOK_SECONDS)
        reason = lacking(target.container, *said)
        return Unavailable(reason, True) if reason else None

    with concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
        asked = list(sources)
        return {source: found for source, found in zip(asked, pool.map(look, asked), strict=True) if found}


def lacking(container: str, stdout: str, problem: str) -> str:
    """What a container lacks to probe, from the output of `curl --version`; "" where it has all."""
    if version := re.match(r"curl (\d+)\.(\d+)", stdout):
        if (int(version[1]), int(version[2])) >= CURL_NEEDED:
            return ""
        return f"its container {container} has curl {version[1]}.{version[2]}, 7.83 or newer is needed"
    if re.search(r"curl: (not found|command not found|inaccessible)", problem):
        return f"its container {container} has no curl"
    if re.search(r'"sh".*(not found|no such file)|no such file or directory', problem):
        return f"its container {container} has no sh"
    return f"curl can't be run in its container {container}: {problem or 'it printed nothing'}"
