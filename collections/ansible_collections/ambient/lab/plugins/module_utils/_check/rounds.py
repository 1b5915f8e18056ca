# Checks claims round by round: one exec per source with its whole row, until the answers are stable.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._check.judge import Verdict, judge
from ansible_collections.ambient.lab.plugins.module_utils._check.stable import Convergence, Observation
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Claim, Source
from ansible_collections.ambient.lab.plugins.module_utils._claims.sources import Target, Unusable, find_target
from ansible_collections.ambient.lab.plugins.module_utils._cluster.snapshot import Snapshot
from ansible_collections.ambient.lab.plugins.module_utils._curl.control import Controls, Destination, Probe, plan
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen, probe_error
from ansible_collections.ambient.lab.plugins.module_utils._curl.probing import Runner, probe_all
from ansible_collections.ambient.lab.plugins.module_utils._witness.enforcement import policy_states
from ansible_collections.ambient.lab.plugins.module_utils._witness.paths import namespaces_of
from ansible_collections.ambient.lab.plugins.module_utils._witness.testimony import Testimony
from ansible_collections.ambient.lab.plugins.module_utils._witness.witnesses import NONE, REQUIRED, Witnesses, World


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to check; times are in seconds."""

    phase: str = "after"
    stable: int = 3
    timeout: float = 30.0
    interval: float = 0.2
    probe_timeout: float = 5.0
    concurrency: int = 8
    witnesses: str = NONE


# Looking for what can't be mended costs a few list requests, so it is not done in each round.
LOOK_ROUNDS = 5


class Edge(World, Runner, t.Protocol):
    """All that the check needs of the world. Reads raise LabError when the API does not answer."""

    def snapshot(self, namespaces: t.Iterable[str]) -> Snapshot:
        """All objects on the paths into these namespaces."""

    def endpoint_ready(self, destination: Destination) -> bool:
        """Whether a ready pod stands behind a Service or an address."""

    def now(self) -> float:
        """Seconds of a clock that never goes back."""


@dataclasses.dataclass(frozen=True)
class ClaimResult:
    """One claim after the last round."""

    claim: Claim
    observation: Observation
    target: Target | None
    history: list[dict[str, t.Any]]
    flapped: bool = False


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """All claims after the last round. Times in seconds; converged_after is None where they did not hold.

    proxies: those that were asked, with the version that was recognised.
    """

    claims: list[ClaimResult]
    rounds: int
    elapsed: float
    converged_after: float | None
    proxies: t.Sequence[dict[str, str]] = ()

    @property
    def verdict(self) -> str:
        """The worst verdict of all."""
        verdicts = {result.observation.verdict.verdict for result in self.claims}
        if self.converged_after is not None:
            return "pass"
        # Every last answer may be right where the claims never held long enough.
        return "error" if "error" in verdicts else "fail"


def _never(_results: t.Sequence[ClaimResult]) -> bool:
    return False


def check(
    claims: t.Sequence[Claim],
    settings: Settings,
    edge: Edge,
    doomed: t.Callable[[t.Sequence[ClaimResult]], bool] = _never,
) -> CheckResult:
    """Check all claims together in each round until they hold, `timeout` ends, or waiting longer is of no use.

    Args:
        doomed: looks at the results now and then, and says whether what the user wrote keeps them from holding.

    Raises:
        LabError: when the API of the cluster does not answer.
    """
    start = edge.now()
    where = namespaces_of(claims)
    cluster = edge.snapshot(where)
    targets = find_targets(claims, cluster)
    if any(isinstance(target, Unusable) and target.missing for target in targets.values()):
        return _missing_sources(claims, targets)
    convergence = Convergence(len(claims), settings.stable, settings.timeout)
    probes = plan(claims, settings.phase)
    results: list[ClaimResult] = []
    with concurrent.futures.ThreadPoolExecutor(settings.concurrency) as pool:
        witnesses = None if settings.witnesses == NONE else Witnesses(claims, edge, pool)
        while True:
            if witnesses:
                witnesses.begin_round(cluster, targets)
            seen = probe_all(probes, targets, settings, edge, pool)
            testimonies = witnesses.hear(seen[: len(claims)]) if witnesses else []
            ended = convergence.add(
                edge.now() - start, judge_round(claims, probes, seen, testimonies, cluster, settings, edge)
            )
            results = claim_results(claims, targets, convergence)
            unhappy = convergence.rounds % LOOK_ROUNDS == 0 and not convergence.holding
            if ended or (unhappy and doomed(results)):
                break
            edge.sleep(settings.interval)
            cluster = edge.snapshot(where)
            targets = find_targets(claims, cluster)
        if witnesses:
            testimonies = witnesses.hear_late(seen[: len(claims)], cluster)
            convergence.close(judge_round(claims, probes, seen, testimonies, cluster, settings, edge))
            results = claim_results(claims, targets, convergence)
    proxies = witnesses.described() if witnesses else []
    return CheckResult(results, convergence.rounds, edge.now() - start, convergence.converged_after, proxies)


def claim_results(
    claims: t.Sequence[Claim], targets: t.Mapping[Source, Target | Unusable], convergence: Convergence
) -> list[ClaimResult]:
    """The claims as the last round left them; they are the first of what the convergence watches."""
    results = []
    for index, claim in enumerate(claims):
        target = targets[claim.source]
        results.append(
            ClaimResult(
                claim,
                convergence.last[index],
                target if isinstance(target, Target) else None,
                convergence.history[index],
                convergence.flapped(index),
            )
        )
    return results


def find_targets(claims: t.Sequence[Claim], cluster: Snapshot) -> dict[Source, Target | Unusable]:
    """The pod of each claim's source as it is now, or why it can't probe."""
    return {claim.source: find_target(claim.source, cluster.pods.get(claim.source.namespace, [])) for claim in claims}


def _missing_sources(claims: t.Sequence[Claim], targets: t.Mapping[Source, Target | Unusable]) -> CheckResult:
    results = []
    for claim in claims:
        target = targets[claim.source]
        if isinstance(target, Unusable):
            verdict = Verdict("error", target.reason, hopeless=True)
        else:
            verdict = Verdict("error", "not probed, because the source of another claim is missing")
        seen = probe_error(verdict.reason)
        results.append(ClaimResult(claim, Observation(seen, verdict), None, []))
    return CheckResult(results, rounds=0, elapsed=0.0, converged_after=None)


def judge_round(
    claims: t.Sequence[Claim],
    probes: t.Sequence[Probe],
    seen: t.Sequence[Seen],
    testimonies: t.Sequence[Testimony],
    cluster: Snapshot,
    settings: Settings,
    edge: Edge,
) -> list[Observation]:
    """Judge what a round's probes saw.

    Args:
        claims: whose probes are the first of all.
        probes: of the round, the module's own controls among them.
        seen: by each probe.
        testimonies: for each claim, empty where nobody was asked.
        cluster: objects on the claims' paths, as they were before the probes.
        settings: of the check.
        edge: to ask whether a destination is ready.
    """
    states = policy_states(claims, settings.phase, cluster)
    controls = Controls(probes, seen, functools.cache(edge.endpoint_ready))
    observations = []
    for index, claim in enumerate(claims):
        expect = claim.expected(settings.phase)
        denied = expect.outcome == seen[index].outcome and expect.outcome != "allowed"
        control = controls.evidence(index) if denied else None
        testimony = testimonies[index] if testimonies else None
        required = settings.witnesses == REQUIRED
        verdict = judge(expect, seen[index], control, states[index], testimony, claim.by, required=required)
        observations.append(Observation(seen[index], verdict, control, testimony))
    return observations
