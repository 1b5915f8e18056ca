# Checks claims round by round: one exec per source with its whole row, until the answers are stable.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import concurrent.futures
import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._check.judge import Verdict, judge
from ansible_collections.ambient.lab.plugins.module_utils._check.run import ClaimRun
from ansible_collections.ambient.lab.plugins.module_utils._check.stable import Convergence
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Claim
from ansible_collections.ambient.lab.plugins.module_utils._claims.sources import Target, Unusable
from ansible_collections.ambient.lab.plugins.module_utils._curl.control import BLOCKED, Controls, Probe, plan
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen, on_the_way, probe_error
from ansible_collections.ambient.lab.plugins.module_utils._curl.probing import Runner, probe_all
from ansible_collections.ambient.lab.plugins.module_utils._mesh.load import Asked
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh
from ansible_collections.ambient.lab.plugins.module_utils._mesh.paths import may_hide
from ansible_collections.ambient.lab.plugins.module_utils._witness.enforcement import state_of
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
    surprises: str = "report"


# Looking for what can't be mended is not done in each round.
LOOK_ROUNDS = 5


class Edge(World, Runner, t.Protocol):
    """All that the check needs of the world. Reads raise LabError when the API does not answer."""

    def mesh(self, asked: t.Iterable[Asked], namespaces: t.Iterable[str]) -> Mesh:
        """The objects on the ways of some requests, as they are now.

        Args:
            asked: what is called.
            namespaces: of the sources, and of the policies that claims name.
        """

    def now(self) -> float:
        """Seconds of a clock that never goes back."""


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """All claims after the last round. Times in seconds; converged_after is None where they did not hold.

    proxies: those that were asked, with the version that was recognised.
    """

    claims: list[ClaimRun]
    rounds: int
    elapsed: float
    converged_after: float | None
    proxies: t.Sequence[dict[str, str]] = ()

    @property
    def verdict(self) -> str:
        """The worst verdict of all."""
        if self.converged_after is not None:
            return "pass"
        # Every last answer may be right where the claims never held long enough.
        return "error" if any(run.verdict.verdict == "error" for run in self.claims) else "fail"


def _never(_runs: t.Sequence[ClaimRun], _mesh: Mesh) -> bool:
    return False


def check(
    claims: t.Sequence[Claim],
    settings: Settings,
    edge: Edge,
    doomed: t.Callable[[t.Sequence[ClaimRun], Mesh], bool] = _never,
) -> CheckResult:
    """Check all claims together in each round until they hold, `timeout` ends, or waiting longer is of no use.

    Args:
        claims: to check.
        settings: how.
        edge: the cluster.
        doomed: looks at the claims now and then, and says whether what the user wrote keeps them from holding.

    Raises:
        LabError: when the API of the cluster does not answer.
    """
    start = edge.now()
    mesh = read(claims, edge)
    runs = [ClaimRun.of(claim, settings.phase, mesh) for claim in claims]
    if missing(runs):
        return _missing_sources(runs)
    convergence = Convergence(settings.stable, settings.timeout)
    controls = plan(claims, settings.phase, mesh)
    with concurrent.futures.ThreadPoolExecutor(settings.concurrency) as pool:
        witnesses = None if settings.witnesses == NONE else Witnesses(edge, pool)
        while True:
            if witnesses:
                witnesses.begin_round(runs, mesh)
            answers = probe_round(runs, mesh, controls, settings, edge, pool)
            if witnesses:
                witnesses.hear(runs)
            judge_all(runs, mesh, answers, settings)
            at = edge.now() - start
            for run in runs:
                run.remember(at)
            ended = convergence.add(at, [run.verdict for run in runs])
            unhappy = convergence.rounds % LOOK_ROUNDS == 0 and not convergence.holding
            if ended or (unhappy and doomed(runs, mesh)):
                break
            edge.sleep(settings.interval)
            mesh = read(claims, edge)
            for run in runs:
                run.look(mesh)
        if witnesses:
            witnesses.hear_late(runs, mesh)
            judge_all(runs, mesh, answers, settings)
            convergence.close([run.verdict for run in runs])
    proxies = witnesses.described() if witnesses else []
    return CheckResult(runs, convergence.rounds, edge.now() - start, convergence.converged_after, proxies)


def read(claims: t.Iterable[Claim], edge: Edge) -> Mesh:
    """The mesh as far as claims need it."""
    claims = list(claims)
    asked = [Asked.of(claim.request, claim.source.namespace) for claim in claims]
    spaces = {claim.source.namespace for claim in claims} | {claim.by.namespace for claim in claims if claim.by}
    return edge.mesh(asked, spaces)


def missing(runs: t.Iterable[ClaimRun]) -> list[Unusable]:
    """Sources that nobody need wait for."""
    return [run.found for run in runs if isinstance(run.found, Unusable) and run.found.missing]


def probe_round(
    runs: t.Sequence[ClaimRun],
    mesh: Mesh,
    controls: t.Sequence[Probe],
    settings: Settings,
    edge: Edge,
    pool: concurrent.futures.Executor,
) -> list[tuple[Probe, Seen]]:
    """Send the claims' requests and the controls, and keep what each claim's client saw.

    Returns:
        The controls with what they saw.
    """
    probes = [*(run.probe for run in runs), *controls]
    targets: dict[t.Any, Target | Unusable] = {run.claim.source: run.found for run in runs}
    answers = list(zip(probes, probe_all(probes, targets, settings, edge, pool), strict=True))
    for run, (_probe, seen) in zip(runs, answers, strict=False):
        envoys = run.path.envoys
        run.seen = on_the_way(seen, envoys, envoys and may_hide(mesh, run.path))
    return answers[len(runs) :]


def judge_all(
    runs: t.Sequence[ClaimRun], mesh: Mesh, answers: t.Sequence[tuple[Probe, Seen]], settings: Settings
) -> None:
    """Judge what the round has shown, claim by claim."""
    controls = Controls([*((run.probe, run.seen) for run in runs), *answers], mesh)
    for run in runs:
        outcome = run.expect.outcome
        stopped = outcome == run.seen.outcome and outcome != "allowed"
        run.control = controls.evidence(run.probe, outcome, run.path.ready) if stopped else None
        run.verdict = judge(
            run.expect,
            run.seen,
            run.control,
            state_of(mesh, run.path, run.by),
            run.testimony,
            run.by,
            run.path,
            run.prediction,
            required=settings.witnesses == REQUIRED,
        )
        if settings.surprises == "fail" and run.holds and run.surprise:
            run.verdict = Verdict("fail", run.surprise)


def foresee(claims: t.Sequence[Claim], settings: Settings, mesh: Mesh) -> CheckResult:
    """Judge claims by what objects say, without any request. What can't be known is an error.

    Args:
        claims: to judge.
        settings: the phase counts.
        mesh: of a cluster, or of a folder.
    """
    runs = [ClaimRun.of(claim, settings.phase, mesh) for claim in claims]
    if missing(runs):
        return _missing_sources(runs)
    for run in runs:
        run.verdict = predicted_verdict(run)
    held = 0.0 if all(run.holds for run in runs) else None
    return CheckResult(runs, rounds=0, elapsed=0.0, converged_after=held)


def predicted_verdict(run: ClaimRun) -> Verdict:
    """Whether a sure prediction is what a claim expects."""
    prediction, wanted = run.prediction, run.expect.outcome
    if not prediction.sure:
        return Verdict("error", f"can't be predicted: {prediction.why}", hopeless=True)
    if prediction.outcome == "broken" and wanted in (*BLOCKED, "dns"):
        why = (
            f"can't be predicted: something is missing on the way ({prediction.why}), and clients see that in many ways"
        )
        return Verdict("error", why, hopeless=True)
    if prediction.outcome != wanted:
        return Verdict("fail", f"predicted {prediction.outcome}: {prediction.why}", hopeless=True)
    if run.by and run.by not in prediction.among:
        return Verdict("fail", f"predicted {wanted} by {' or '.join(prediction.among)}, not by {run.by}", hopeless=True)
    if run.by in prediction.doubtful:
        others = " or ".join(name for name in prediction.among if name != run.by)
        why = f"can't be predicted: nobody can know whether {run.by} or {others} refuses it"
        return Verdict("error", why, hopeless=True)
    return Verdict("pass")


def _missing_sources(runs: list[ClaimRun]) -> CheckResult:
    for run in runs:
        if isinstance(run.found, Unusable):
            run.verdict = Verdict("error", run.found.reason, hopeless=True)
        else:
            run.verdict = Verdict("error", "not probed, because the source of another claim is missing")
            run.found = Unusable(run.verdict.reason)
        run.seen = probe_error(run.verdict.reason)
    return CheckResult(runs, rounds=0, elapsed=0.0, converged_after=None)
