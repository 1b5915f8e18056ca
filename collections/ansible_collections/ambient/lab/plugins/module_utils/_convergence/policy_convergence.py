# What the module policy_convergence does: measure, sum up, write down, and say what did not hold.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .._claims.parse import DENIALS
from .._cluster.kept import Kept, differs, folder_of, identity
from .._cluster.kube import Kube, kubectl
from .._common.errors import LabError
from .._common.rounds import Clock
from .._common.text import table
from .._results.codec import plain
from .._results.measured import Convergence, Direction, Pair, Quantiles
from .._results.store import keep, now, require_writable
from .figures import judge_runs, quantiles
from .options import Plan, read_plan
from .run import DIRECTIONS, Measured, Runner

MAX_SHOWN = 6
_SUMMED = ("stale_after_accepted", "stale_after_ready", "flaps", "requests")
_ORDER = ("pass", "fail", "error")


def policy_convergence(params: t.Mapping[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Measure how a policy comes into force and goes out of it.

    Args:
        params: of the module policy_convergence.
        check_mode: read only, and say what would be done.

    Raises:
        LabError: on wrong input, an API that does not answer or refuses, and demands that are not met.
    """
    plan = read_plan(params)
    path, section = params["results_file"], params["section"]
    require_writable(path, section)
    kube = Kube(params["kubeconfig"], params["context"])
    kept = Kept(folder_of(path), identity(kube), str(plan.policy), kubectl(params))
    runner = Runner(plan, kube, Clock(), kept)
    targets = runner.targets()
    before = runner.current()
    kept.require_none(before)
    if check_mode:
        would = (
            f"would apply and remove {plan.policy} {plan.repeats} times while {len(plan.pairs)} claims are probed from "
            f"{len(set(targets.values()))} pods, {plan.rate:g} requests per claim and second, in at most "
            f"{2 * plan.repeats * plan.run_seconds:.0f} s"
        )
        return {"changed": differs(plan.at_end(before), before), "msg": would}
    try:
        summary = _summed_up(plan, runner.measure(targets), [str(targets[pair.claim.source]) for pair in plan.pairs])
        if path:
            keep(path, section, lambda old: dataclasses.replace(old, convergence=summary))
        if summary.verdict != "pass":
            raise LabError(failure(summary, kubectl(params)), convergence=plain(summary))
    except LabError as error:
        error.result["changed"] = runner.changed
        raise
    return {"changed": runner.changed, "convergence": plain(summary)}


def _summed_up(plan: Plan, measured: t.Sequence[Measured], sources: t.Sequence[str]) -> Convergence:
    """All runs as results have them; sources: the pod of each pair."""
    directions = {
        name: _direction(name, plan, [item for item in measured if item.direction == name], sources)
        for name in DIRECTIONS
    }
    pairs = [pair for direction in directions.values() for pair in direction.pairs]
    worst = max(pairs, key=lambda pair: _ORDER.index(pair.verdict))
    stuck = next((item for item in measured if item.passed.gaps), None)
    verdict, reason = worst.verdict, worst.reason and f"{worst.name}: {worst.reason}"
    if stuck:
        verdict, reason = "error", f"{stuck.direction}: the barrier was not reached: {stuck.passed.why_not}"
    return Convergence(
        policy=str(plan.policy),
        at=now(),
        verdict=verdict,
        reason=reason,
        repeats=plan.repeats,
        rate=plan.rate,
        resolution=round(max((item.resolution for item in measured), default=0.0), 3),
        requests=sum(run.requests for item in measured for run in item.runs),
        directions=directions,
    )


def _direction(name: str, plan: Plan, measured: t.Sequence[Measured], sources: t.Sequence[str]) -> Direction:
    pairs = []
    for number, pair in enumerate(plan.pairs):
        old, new = pair.change(name)
        runs = [item.runs[number] for item in measured]
        verdict, reason = judge_runs(new, old, pair.limits, runs)
        pairs.append(
            Pair(
                name=pair.claim.name,
                from_=sources[number],
                to=str(pair.claim.request),
                old=str(old),
                new=str(new),
                first_new=quantiles(run.first_new for run in runs),
                last_old=quantiles(run.last_old for run in runs),
                **{key: sum(getattr(run, key) for run in runs) for key in _SUMMED},
                limits=pair.limits.as_dict(),
                verdict=verdict,
                reason=reason,
                leaks=new.outcome in DENIALS and old != new,
                runs=[run.kept() for run in runs],
            )
        )
    return Direction(ready=quantiles(run.ready for item in measured for run in item.runs[:1]), pairs=pairs)


def failure(summary: Convergence, command: str) -> str:
    """One screen: which pairs did not converge as demanded, and their figures.

    Args:
        command: with which the user reaches the cluster.
    """
    head = f"{summary.policy} did not converge as the claims say ({summary.repeats} repeats"
    lines = [f"{head}, {summary.requests} requests)", ""]
    rows = []
    for name, direction in summary.directions.items():
        for pair in direction.pairs:
            if pair.verdict != "pass" and pair.runs:
                stale = f"{pair.stale_after_accepted} ({pair.stale_after_ready})"
                rows.append([pair.name, name, _seconds(pair.first_new), _seconds(pair.last_old), stale])
    titles = ["CLAIM", "CHANGE", "FIRST NEW", "LAST OLD", "STALE (READY)"]
    lines += [*table(titles, rows[:MAX_SHOWN]), ""] if rows else []
    if len(rows) > MAX_SHOWN:
        lines.append(f"({len(rows) - MAX_SHOWN} more)")
    namespace, _slash, name = summary.policy.partition("/")
    lines.append(f"why:  {summary.reason}")
    lines.append(f"look: {command} -n {namespace} get authorizationpolicy {name} -o yaml")
    return "\n".join(lines)


def _seconds(quantile: Quantiles | None) -> str:
    return "never" if quantile is None else f"{quantile.max:.2f} s"
