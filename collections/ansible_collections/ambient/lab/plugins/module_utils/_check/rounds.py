# Checks claims round by round: one exec per source with its whole row, until the answers are stable.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import concurrent.futures
import dataclasses
import typing as t

from .._claims.parse import Claim
from .._claims.sources import Unusable
from .._common.rounds import Retry, Time, repeat
from .._common.threads import threads
from .._curl.control import BLOCKED, Controls, Probe, plan
from .._curl.outcomes import Seen, on_the_way, probe_error
from .._curl.probing import Runner, probe_all
from .._mesh.load import Asked
from .._mesh.mesh import Mesh
from .._mesh.paths import may_hide
from .._results.model import Phase, ProxySeen
from .._witness.configured import state_of
from .._witness.witnesses import NONE, REQUIRED, Witnesses, World
from .causes import likely_cause
from .run import ClaimRun, judge
from .stable import Checked, Stable, Verdict


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to check; times are in seconds.

    flaws: whether a policy on the way that is not enforced as written makes a claim an error.
    """

    phase: Phase = "after"
    stable: int = 3
    timeout: float = 30.0
    interval: float = 0.2
    probe_timeout: float = 5.0
    concurrency: int = 8
    witnesses: str = NONE
    surprises: str = "report"
    flaws: bool = True


class Edge(World, Runner, Time, t.Protocol):
    """All that the check needs of the world. Reads raise LabError when the API does not answer."""

    def mesh(self, asked: t.Iterable[Asked], namespaces: t.Iterable[str]) -> Mesh:
        """The objects on the ways of some requests, as they are now.

        namespaces: of the sources, and of the policies that claims name.
        """


@dataclasses.dataclass(kw_only=True)
class CheckResult(Checked):
    """All claims after the last round.

    proxies: those that were asked, with the version that was recognised.
    """

    claims: list[ClaimRun]
    proxies: t.Sequence[ProxySeen] = ()

    @property
    def judged(self) -> list[ClaimRun]:
        """All claims after the last round."""
        return self.claims


class ClaimRounds:
    """Claims from round to round: the objects on their ways, their requests and controls, and the verdicts.

    pool: for what is asked side by side.

    Raises:
        LabError: when the API of the cluster does not answer.
    """

    def __init__(
        self, claims: t.Sequence[Claim], settings: Settings, edge: Edge, pool: concurrent.futures.Executor
    ) -> None:
        self._claims, self._settings, self._edge, self._pool = claims, settings, edge, pool
        self._witnesses = None if settings.witnesses == NONE else Witnesses(edge, pool)
        self._fresh = True
        self._answers: list[tuple[Probe, Seen]] = []
        self.mesh = read(claims, edge)
        self.runs = [ClaimRun.of(claim, settings.phase, self.mesh) for claim in claims]
        self._controls = plan(claims, settings.phase, self.mesh)

    def refresh(self) -> None:
        """Read the objects for the coming round, unless that was done."""
        if not self._fresh:
            self.mesh = read(self._claims, self._edge)
            for run in self.runs:
                run.look(self.mesh)
        self._fresh = True

    def look(self) -> list[ClaimRun]:
        """One round: read the objects, send the requests, ask the proxies, judge."""
        self.refresh()
        self._fresh = False
        if self._witnesses:
            self._witnesses.begin_round(self.runs, self.mesh)
        self._send()
        if self._witnesses:
            self._witnesses.collect(self.runs)
        self._judge()
        return self.runs

    def close(self) -> list[ProxySeen]:
        """Judge the last round once more, with what the proxies have said after it; the proxies that were asked."""
        if not self._witnesses:
            return []
        self._witnesses.collect_late(self.runs, self.mesh)
        self._judge()
        return self._witnesses.described()

    def _send(self) -> None:
        probes = [*(run.probe for run in self.runs), *self._controls]
        targets = {run.claim.source: run.found for run in self.runs}
        seen = probe_all(probes, targets, self._settings.probe_timeout, self._edge, self._pool)
        answers = list(zip(probes, seen, strict=True))
        for run, answer in zip(self.runs, seen, strict=False):
            envoys = run.path.envoys
            run.seen = on_the_way(answer, envoys, envoys and may_hide(self.mesh, run.path))
        self._answers = answers[len(self.runs) :]

    def _judge(self) -> None:
        controls = Controls([*((run.probe, run.seen) for run in self.runs), *self._answers], self.mesh)
        for run in self.runs:
            outcome = run.expect.outcome
            stopped = outcome == run.seen.outcome and outcome != "allowed"
            run.control = controls.evidence(run.probe, outcome, run.path.ready) if stopped else None
            state = state_of(self.mesh, run.path, run.by) if self._settings.flaws else None
            verdict = judge(run, state, required=self._settings.witnesses == REQUIRED)
            if self._settings.surprises == "fail" and verdict.passed and run.surprise:
                verdict = Verdict("fail", run.surprise)
            run.verdict = verdict
            cause = likely_cause(run, self.mesh)
            run.cause = cause.text
            if cause.retry is Retry.POINTLESS:
                run.verdict = dataclasses.replace(verdict, retry=cause.retry)


def check(claims: t.Sequence[Claim], settings: Settings, edge: Edge) -> CheckResult:
    """Check all claims together in each round until they hold, `timeout` ends, or waiting longer is of no use.

    Raises:
        LabError: when the API of the cluster does not answer.
    """
    with threads(settings.concurrency) as pool:
        rounds = ClaimRounds(claims, settings, edge, pool)
        if unusable(rounds.runs):
            return _not_probed(rounds.runs)
        rule = Stable(settings.stable, settings.timeout)
        ended = repeat(rounds.look, rule, edge, settings.interval)
        proxies = rounds.close()
    converged = rule.converged_after if all(run.holds for run in rounds.runs) else None
    return CheckResult(
        claims=rounds.runs, rounds=ended.rounds, elapsed=ended.elapsed, converged_after=converged, proxies=proxies
    )


def read(claims: t.Iterable[Claim], edge: Edge) -> Mesh:
    """The mesh as far as claims need it."""
    claims = list(claims)
    asked = [Asked(claim.request.host, claim.request.port, claim.source.namespace) for claim in claims]
    spaces = {claim.source.namespace for claim in claims} | {claim.by.namespace for claim in claims if claim.by}
    return edge.mesh(asked, spaces)


def unusable(runs: t.Iterable[ClaimRun]) -> list[Unusable]:
    """Sources that nobody need wait for."""
    found = [run.found for run in runs if isinstance(run.found, Unusable)]
    return [item for item in found if item.retry is Retry.POINTLESS]


def judge_predictions(claims: t.Sequence[Claim], settings: Settings, mesh: Mesh) -> CheckResult:
    """Judge claims by what objects say, without any request. What can't be known is an error.

    mesh: of a cluster, or of a folder.
    """
    runs = [ClaimRun.of(claim, settings.phase, mesh) for claim in claims]
    if unusable(runs):
        return _not_probed(runs)
    for run in runs:
        run.verdict = predicted_verdict(run)
    held = 0.0 if all(run.holds for run in runs) else None
    return CheckResult(claims=runs, rounds=0, elapsed=0.0, converged_after=held)


def predicted_verdict(run: ClaimRun) -> Verdict:
    """Whether a sure prediction is what a claim expects."""
    prediction, wanted, by = run.prediction, run.expect.outcome, run.by
    doubt = ""
    if not prediction.sure:
        doubt = prediction.why
    elif prediction.outcome == "broken" and wanted in (*BLOCKED, "dns"):
        doubt = f"something is missing on the way ({prediction.why}), and clients see that in many ways"
    elif prediction.outcome != wanted:
        return Verdict("fail", f"predicted {prediction.outcome}: {prediction.why}", Retry.POINTLESS)
    elif by and by not in prediction.among:
        return Verdict("fail", f"predicted {wanted} by {' or '.join(prediction.among)}, not by {by}", Retry.POINTLESS)
    elif by in prediction.doubtful:
        others = " or ".join(name for name in prediction.among if name != by)
        doubt = f"nobody can know whether {by} or {others} refuses it"
    return Verdict("error", f"can't be predicted: {doubt}", Retry.POINTLESS) if doubt else Verdict("pass")


def _not_probed(runs: list[ClaimRun]) -> CheckResult:
    for run in runs:
        if isinstance(run.found, Unusable):
            run.verdict = Verdict("error", run.found.reason, retry=Retry.POINTLESS)
        else:
            run.verdict = Verdict("error", "not probed, because the source of another claim is missing")
            run.found = Unusable(run.verdict.reason)
        run.seen = probe_error(run.verdict.reason)
    return CheckResult(claims=runs, rounds=0, elapsed=0.0, converged_after=None)
