# Tries mutants on a cluster: applies each, compares what the claims meet with what the model says, and puts it back.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import collections
import dataclasses
import typing as t

from .._check.curl_outcomes import KubeEdge
from .._check.report import failure
from .._check.rounds import CheckResult, Edge, Settings, check
from .._check.run import ClaimRun
from .._claims.parse import ANSWERED, ANY_CODE, Claim, Expectation, PolicyRef, parse_claims
from .._claims.sources import Target, target_in
from .._cluster.kept import Kept, folder_of, identity, require_none_left
from .._cluster.kube import kubectl
from .._common.errors import LabError
from .._common.rounds import Clock, Reason, Wait, repeat, require_seconds
from .._curl.control import SAFE
from .._loaded.dump import tells_apart
from .._mesh.mesh import Mesh, Object, name_of, namespace_of
from .._ready.barrier import Barrier
from .._ready.enforcers import Reader
from .swap import Swap, Writer
from .verdicts import Verdict

PROVE_SPEC: dict[str, t.Any] = {
    "type": "dict",
    "options": {
        "killed": {"type": "int", "default": 10},
        "timeout": {"type": "float", "default": 30},
        "witnesses": {"type": "str", "choices": ["required", "available", "none"], "default": "required"},
    },
}
_INTERVAL = 0.1
_ASKED_FOR = "AuthorizationPolicy"


class Live(Edge, Reader, Writer, t.Protocol):
    """A cluster to try mutants on."""

    host: str

    def forget(self) -> None:
        """Read what changes seldom again, too."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """A mutant to try.

    Attributes:
        item: the mutant, and what the model says of it.
        claims: what must be seen while it is in force.
        moved: one of them is to meet another thing than before, which shows that it is in force.
        told: the configuration of the proxies shows it, too.
    """

    item: Verdict
    claims: tuple[Claim, ...]
    moved: bool
    told: bool

    @property
    def is_shown(self) -> bool:
        """Whether anything can show that it is in force."""
        return bool(self.claims) and (self.moved or self.told)


@dataclasses.dataclass(frozen=True)
class Tried:
    """What became of a trial. problem: why nothing was measured; "" where it was."""

    item: Verdict
    problem: str = ""
    result: CheckResult | None = None

    @property
    def verdict(self) -> str:
        """Whether the cluster agrees: agree, differ, or error where nobody can say."""
        return {"pass": "agree", "fail": "differ"}.get(self.result.verdict if self.result else "", "error")

    @property
    def lines(self) -> list[str]:
        """For people."""
        runs = self.result.claims if self.result and self.verdict != "agree" else []
        rows = [
            f"    {run.claim.name}: predicted {run.claim.after.outcome}, measured {run.seen}: {run.verdict.reason}"
            for run in runs
            if not run.holds
        ]
        why = f": {self.problem or 'the answers never were stable'}" if self.verdict != "agree" and not rows else ""
        return [f"  {self.verdict}: {self.item.mutant} ({self.item.kind}){why}", *rows]

    def values(self) -> dict[str, t.Any]:
        """As the module returns it."""
        rows = [
            {
                "name": run.claim.name,
                "predicted": run.claim.after.outcome,
                "by": str(run.claim.by) if run.claim.by else None,
                "measured": str(run.seen),
                "verdict": run.verdict.verdict,
                "reason": run.verdict.reason,
            }
            for run in (self.result.claims if self.result else [])
        ]
        said = {"mutant": str(self.item.mutant), "kind": self.item.kind, "verdict": self.verdict}
        return {**said, "problem": self.problem, "claims": rows}


class Prover:
    """Tries mutants one after the other.

    Args:
        live: the cluster.
        claims: that hold on it as it is.
        settings: of their checks; timeout is of each wait.
        folder: where an object is written down while it is changed.
        command: with which the user reaches the cluster.
    """

    def __init__(self, live: Live, claims: t.Sequence[Claim], settings: Settings, folder: str, command: str) -> None:
        self._live, self._claims, self._settings = live, claims, settings
        self._folder, self._command = folder, command
        self._cluster = identity(live)
        self.tried: list[Tried] = []

    def run(self, trials: t.Iterable[Trial]) -> None:
        """Try mutants, and see after each that the claims hold again.

        Raises:
            LabError: when the claims do not hold, when the API does not answer or a right is missing, and when an
                object can't be put back; says how to do that then. Nothing else is changed after it.
        """
        self._require_claims("nothing was changed")
        for trial in trials:
            require_none_left(self._folder, self._cluster, self._command)
            self.tried.append(self._try(trial))
            self._require_claims(f"{trial.item.mutant.item} was changed and is put back as it was")

    def _try(self, trial: Trial) -> Tried:
        mutant = trial.item.mutant
        kept = Kept(self._folder, self._cluster, mutant.item, self._command)
        # A mutant may be enforced by nobody, as the model says of it.
        weak = dataclasses.replace(self._settings, flaws=False)
        swap = Swap(self._live, mutant, kept)
        with swap.applied() as refused:
            problem = refused or self._not_in_force(mutant.old, mutant.new, trial.moved)
            result = None if problem else self._measured(trial.claims, weak)
            if not refused and (undone := swap.undone()):
                problem, result = undone, None
        if not refused and (late := self._not_in_force(mutant.new or mutant.old, mutant.old, shown=True)):
            raise LabError(f"{mutant.item} is put back as it was, and not in force again: {late}")
        return Tried(trial.item, problem, result)

    def _not_in_force(self, old: Object, new: Object | None, shown: bool) -> str:
        """Wait for the proxies to take a change over; why they have not.

        shown: claims show it, too, so that nothing is wrong where no proxy is found.
        """
        if old["kind"] != _ASKED_FOR:
            return ""
        ref, state = PolicyRef(namespace_of(old), old["metadata"]["name"]), "present" if new else "absent"
        clock = Clock(self._live.now, self._live.sleep)
        passed = Barrier(self._live, [ref], state, clock, {name_of(old): old}).wait(self._settings.timeout, _INTERVAL)
        if not shown and not any(item.kind != "istiod" for item in passed.arrivals):
            return "no proxy is found that had the policy or has it now, and no claim shows whether it is in force"
        return passed.why_not and f"not in force after {passed.waited:.0f} s: {passed.why_not}"

    def _measured(self, claims: t.Sequence[Claim], settings: Settings) -> CheckResult:
        """Check claims until they hold. One check gives up early where the objects say what is seen.

        After a label was changed they do until istio-cni has let a pod go, or taken it back.
        """

        def look() -> CheckResult:
            self._live.forget()
            return check(claims, settings, self._live)

        unmet = [Reason("the claims do not hold")]
        rule = Wait[CheckResult](self._settings.timeout, lambda result: [] if result.verdict == "pass" else unmet)
        return repeat(look, rule, self._live, self._settings.interval).last

    def _require_claims(self, when: str) -> None:
        result = self._measured(self._claims, self._settings)
        if result.verdict != "pass":
            raise LabError(f"{when}, and\n{failure(result, self._settings, '', self._command)}")


def prove(
    params: t.Mapping[str, t.Any], mesh: Mesh, claims: t.Sequence[Claim], found: t.Sequence[Verdict], check_mode: bool
) -> dict[str, t.Any]:
    """Try survivors and some of the killed on the cluster that was read.

    Args:
        params: of the module claims_mutation.
        mesh: of the cluster.
        claims: all of the user's.
        found: what becomes of each mutant by the model.
        check_mode: change nothing.

    Returns:
        proved, report and warnings, as the module returns them.

    Raises:
        LabError: as Prover.run.
    """
    options = params["prove"]
    chosen = choose([item for item in found if not item.mutant.is_named(params["accept"])], options["killed"])
    every = [trial_of(item, claims, mesh) for item in chosen]
    trials = [one for one in every if one.is_shown]
    blind = [
        f"not tried, as nothing would show whether it is in force: {one.item.mutant}"
        for one in every
        if not one.is_shown
    ]
    if check_mode:
        would = f"check mode: {len(trials)} mutants were to be tried on the cluster, and none was"
        return {"proved": [], "report": [], "warnings": [would, *blind]}
    if not trials:
        raise LabError("prove: there is no mutant to try: widen only, or raise prove.killed")
    live = KubeEdge(params["kubeconfig"], params["context"])
    settings = Settings(timeout=options["timeout"], witnesses=options["witnesses"])
    prover = Prover(live, claims, settings, folder_of(params["results_file"]), kubectl(params))
    try:
        prover.run(trials)
    except LabError as error:
        error.result["proved"] = [one.values() for one in prover.tried]
        raise
    counts = collections.Counter(one.verdict for one in prover.tried)
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("agree", "differ", "error"))
    report = [
        f"proved on the cluster: {len(trials)} tried: {said}",
        *(line for one in prover.tried for line in one.lines),
    ]
    return {"proved": [one.values() for one in prover.tried], "report": report, "warnings": blind}


def require_provable(params: t.Mapping[str, t.Any]) -> None:
    """Raises LabError where the options of the module name no cluster to prove anything on."""
    options = params["prove"]
    if params["manifests"]:
        raise LabError("prove changes a cluster: leave out manifests, so that the cluster is taken as it is")
    if not params["only"]:
        raise LabError("prove changes objects of a cluster: name those that it may change in only, as in the report")
    if options["killed"] < 0:
        raise LabError(f"prove.killed must be at least 0, not {options['killed']}")
    require_seconds(options, timeout=1.0)


def choose(found: t.Sequence[Verdict], killed: int) -> list[Verdict]:
    """All survivors, and so many of the killed, spread evenly."""
    dead = [item for item in found if item.kind == "killed"]
    some = min(killed, len(dead))
    survived = [item for item in found if item.kind == "survived"]
    return survived + [dead[index * len(dead) // some] for index in range(some)]


def trial_of(item: Verdict, claims: t.Sequence[Claim], mesh: Mesh) -> Trial:
    """What must be seen while a mutant is in force: of the claims, and of one that would kill a survivor."""
    mutated = item.mutant.applied(mesh)
    asked = [*claims, *_missing(item, claims, mesh)]
    now, then = expected(asked, mesh), expected(asked, mutated)
    moved = any(name in now and now[name].after != claim.after for name, claim in then.items())
    old, new = item.mutant.old, item.mutant.new
    told = old["kind"] == _ASKED_FOR and tells_apart(old, new, mesh.config.root)
    return Trial(item, tuple(then.values()), moved, told)


def _missing(item: Verdict, claims: t.Sequence[Claim], mesh: Mesh) -> list[Claim]:
    """The best missing claim that can be asked: of a pod that claims ask from anyway, and changing nothing."""
    found = [(target_in(mesh, claim.source), claim.source) for claim in claims]
    there = {str(target): source for target, source in found if isinstance(target, Target)}
    for raw in item.claims:
        (claim,) = parse_claims([raw], "default")
        target = str(target_in(mesh, claim.source))
        if target in there and claim.request.method in SAFE:
            return [dataclasses.replace(claim, source=there[target])]
    return []


def expected(claims: t.Iterable[Claim], mesh: Mesh) -> dict[str, Claim]:
    """Claims of what a mesh does by the model, by name; without those that can't be predicted.

    Who refuses counts for claims that name a policy, where the model knows one.
    """
    found = {}
    for claim in claims:
        prediction = ClaimRun.of(claim, "after", mesh).prediction
        if not prediction.sure or prediction.outcome == "broken":
            continue
        # What an application answers to whom it has never answered, nobody knows.
        after = Expectation(prediction.outcome, ANY_CODE if prediction.outcome in ANSWERED else None)
        sole = prediction.among[0] if claim.by and len(prediction.among) == 1 and not prediction.cause else ""
        found[claim.name] = dataclasses.replace(claim, after=after, by=PolicyRef(*sole.split("/")) if sole else None)
    return found
