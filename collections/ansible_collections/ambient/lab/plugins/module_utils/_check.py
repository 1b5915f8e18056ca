# Checks claims round by round: one exec per source with its whole row, until the answers are stable.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import concurrent.futures
import dataclasses
import secrets
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._claims import Claim, Source
from ansible_collections.ambient.lab.plugins.module_utils._control import Destination, Probe, evidence, plan
from ansible_collections.ambient.lab.plugins.module_utils._converge import Convergence, Observation
from ansible_collections.ambient.lab.plugins.module_utils._curl import (
    build_script,
    parse_output,
    row_seconds,
    split_row,
)
from ansible_collections.ambient.lab.plugins.module_utils._enforcement import Policies, policy_states
from ansible_collections.ambient.lab.plugins.module_utils._judge import Verdict, judge
from ansible_collections.ambient.lab.plugins.module_utils._outcomes import Seen, classify, probe_error
from ansible_collections.ambient.lab.plugins.module_utils._sources import Pod, Target, Unusable, find_target


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to check; times are in seconds."""

    phase: str = "after"
    stable: int = 3
    timeout: float = 30.0
    interval: float = 0.2
    probe_timeout: float = 5.0
    concurrency: int = 8


# Looking for what can't be mended costs a few list requests, so it is not done in each round.
LOOK_ROUNDS = 5


class Edge(Policies, t.Protocol):
    """All that the check needs of the world. Reads raise LabError when the API does not answer."""

    def pods(self, namespace: str) -> list[Pod]:
        """All pods of a namespace."""

    def endpoint_ready(self, destination: Destination) -> bool:
        """Whether a ready pod stands behind a Service or an address."""

    def run(self, target: Target, script: str, timeout: float) -> tuple[str, str]:
        """Run a shell script in a container: its output, and what went wrong. Raises nothing."""

    def now(self) -> float:
        """Seconds of a clock that never goes back."""

    def sleep(self, seconds: float) -> None:
        """Wait between two rounds."""


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
    """All claims after the last round. Times in seconds; converged_after is None where they did not hold."""

    claims: list[ClaimResult]
    rounds: int
    elapsed: float
    converged_after: float | None

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
    targets = find_targets(claims, edge)
    if any(isinstance(target, Unusable) and target.missing for target in targets.values()):
        return _missing_sources(claims, targets)
    convergence = Convergence(len(claims), settings.stable, settings.timeout)
    probes = plan(claims, settings.phase)
    results: list[ClaimResult] = []
    with concurrent.futures.ThreadPoolExecutor(settings.concurrency) as pool:
        while True:
            observations = probe_round(claims, probes, targets, settings, edge, pool)
            ended = convergence.add(edge.now() - start, observations)
            results = claim_results(claims, targets, convergence)
            unhappy = convergence.rounds % LOOK_ROUNDS == 0 and not convergence.holding
            if ended or (unhappy and doomed(results)):
                break
            edge.sleep(settings.interval)
            targets = find_targets(claims, edge)
    return CheckResult(results, convergence.rounds, edge.now() - start, convergence.converged_after)


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


def find_targets(claims: t.Sequence[Claim], edge: Edge) -> dict[Source, Target | Unusable]:
    """The pod of each claim's source as it is now, or why it can't probe."""
    pods = {namespace: edge.pods(namespace) for namespace in {claim.source.namespace for claim in claims}}
    return {claim.source: find_target(claim.source, pods[claim.source.namespace]) for claim in claims}


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


def probe_round(
    claims: t.Sequence[Claim],
    probes: t.Sequence[Probe],
    targets: t.Mapping[Source, Target | Unusable],
    settings: Settings,
    edge: Edge,
    pool: concurrent.futures.Executor,
) -> list[Observation]:
    """Probe everything once and judge it; the place to ask further witnesses, once per round."""
    seen = _probe(probes, targets, settings, edge, pool)
    states = policy_states(claims, settings.phase, edge, pool)
    known: dict[Destination, bool] = {}

    def ready(wanted: Destination) -> bool:
        if wanted not in known:
            known[wanted] = edge.endpoint_ready(wanted)
        return known[wanted]

    observations = []
    for index, claim in enumerate(claims):
        expect = claim.expected(settings.phase)
        denied = expect.outcome == seen[index].outcome and expect.outcome != "allowed"
        control = evidence(index, probes, seen, ready) if denied else None
        observations.append(Observation(seen[index], judge(expect, seen[index], control, states[index]), control))
    return observations


def _probe(
    probes: t.Sequence[Probe],
    targets: t.Mapping[Source, Target | Unusable],
    settings: Settings,
    edge: Edge,
    pool: concurrent.futures.Executor,
) -> list[Seen]:
    rows: dict[Target, list[int]] = {}
    seen: list[Seen] = []
    for number, probe in enumerate(probes):
        target = targets[probe.source]
        seen.append(probe_error(target.reason if isinstance(target, Unusable) else "not run"))
        if isinstance(target, Target):
            rows.setdefault(target, []).append(number)
    runs = [
        pool.submit(_row, target, part, probes, settings, edge)
        for target, row in rows.items()
        for part in split_row({number: probes[number].request for number in row})
    ]
    for run in runs:
        for number, answer in run.result().items():
            seen[number] = answer
    return seen


def _row(
    target: Target, row: t.Iterable[int], probes: t.Sequence[Probe], settings: Settings, edge: Edge
) -> dict[int, Seen]:
    """One exec: a source's row, or a part of it where the row is very long."""
    nonce = f"probe-{secrets.token_hex(8)}"
    requests = {number: probes[number].request for number in row}
    script = build_script(nonce, requests, settings.probe_timeout)
    stdout, problem = edge.run(target, script, row_seconds(len(requests), settings.probe_timeout))
    records = parse_output(nonce, stdout, requests)
    answers = {}
    for number, record in records.items():
        if isinstance(record, str) and problem:
            record = f"exec in {target} failed: {problem}"
        answers[number] = classify(record)
    return answers
