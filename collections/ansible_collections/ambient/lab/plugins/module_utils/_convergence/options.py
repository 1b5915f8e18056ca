# Reads what the module policy_convergence is asked to do, strictly, before anything is sent or changed.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .._claims.fields import Problem, label_of, mapping, parse_list
from .._claims.parse import CLAIM_KEYS, Claim, Expectation, PolicyRef, parse_claim
from .._cluster.kept import differs
from .._common.errors import LabError
from .._mesh.mesh import Object
from .._ready.policy_ready import policy_ref
from .figures import Limits

MAX_REPEATS = 100
MAX_RATE = 200.0
# What all runs together may take at worst: seconds, and requests.
MAX_SECONDS = 7200.0
MAX_REQUESTS = 1_000_000
# Seconds until every source has sent its requests so often that it is known what was before, and what is in the end.
START_SECONDS = 20.0
BASELINE_TICKS = 3
END_TICKS = 2
LIMIT_KEYS = ("leaks_after_ready", "leaks_after_accepted", "converges_within")


@dataclasses.dataclass(frozen=True)
class Pair:
    """A claim, and what it demands of the convergence."""

    claim: Claim
    limits: Limits

    @property
    def name(self) -> str:
        """Under which its result is kept."""
        return self.claim.name

    def change(self, direction: str) -> tuple[Expectation, Expectation]:
        """The old answer and the new one where the policy is applied, or removed."""
        before, after = self.claim.before, self.claim.after
        return (before, after) if direction == "apply" else (after, before)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to measure, and how. Times are in seconds; rate is per pair and second."""

    pairs: tuple[Pair, ...]
    definition: Object
    policy: PolicyRef
    repeats: int = 1
    rate: float = 20.0
    settle: float = 1.0
    timeout: float = 30.0
    probe_timeout: float = 5.0
    final_state: str | None = None

    @property
    def run_seconds(self) -> float:
        """The longest that one run may take."""
        return 2 * START_SECONDS + self.timeout + self.settle

    @property
    def path(self) -> str:
        """Of the policy in the Kubernetes API."""
        root = f"/apis/{self.definition['apiVersion']}/namespaces/{self.policy.namespace}"
        return f"{root}/authorizationpolicies/{self.policy.name}"

    def at_end(self, before: Object | None) -> Object | None:
        """The policy that must be there in the end, None for none; before: the one that was there."""
        if self.final_state is None:
            return before
        if self.final_state == "absent":
            return None
        # One that says the same already is given back as it was.
        return self.definition if differs(before, self.definition) else before


def read_plan(params: t.Mapping[str, t.Any]) -> Plan:
    """The module's parameters, checked.

    Raises:
        LabError: on wrong input; names the option and what is allowed.
    """
    definition, policy = _definition(params["definition"], params["namespace"])
    plan = Plan(
        pairs=_pairs(params["claims"], params["namespace"], policy),
        definition=definition,
        policy=policy,
        repeats=_within("repeats", params["repeats"], 1, MAX_REPEATS),
        rate=_within("rate", params["rate"], 1.0, MAX_RATE),
        settle=_within("settle", params["settle"], 0.0, 600.0),
        timeout=_within("timeout", params["timeout"], 1.0, 600.0),
        probe_timeout=_within("probe_timeout", params["probe_timeout"], 0.1, 60.0),
        final_state=params["final_state"],
    )
    seconds = 2 * plan.repeats * plan.run_seconds
    requests = seconds * plan.rate * len(plan.pairs)
    if seconds > MAX_SECONDS:
        raise LabError(
            f"{plan.repeats} repeats may take {seconds:.0f} s at worst, more than the {MAX_SECONDS:.0f} s that are "
            "allowed: choose a smaller repeats, timeout or settle"
        )
    if requests > MAX_REQUESTS:
        raise LabError(
            f"{plan.repeats} repeats with {len(plan.pairs)} claims may send {requests:.0f} requests at worst, more "
            f"than the {MAX_REQUESTS} that are allowed: choose a smaller repeats, rate or timeout"
        )
    return plan


def _pairs(raw: object, namespace: str, policy: PolicyRef) -> tuple[Pair, ...]:
    """Claims as curl_outcomes takes them, each with `limits` where it demands something; LabError with all problems."""

    def parse(item: object, number: int) -> Pair:
        label = label_of(item, number)
        # An unknown key is told with all that are allowed.
        fields = dict(mapping(item, label, "claim", (*CLAIM_KEYS, "limits")))
        limits = _limits(fields.pop("limits", {}), label)
        claim = _concerned(parse_claim(fields, label, namespace))
        if why := _unproven(claim, policy):
            raise Problem(label, "by", why)
        return Pair(claim, limits)

    pairs = parse_list(raw, parse)
    if all(pair.claim.before == pair.claim.after for pair in pairs):
        raise LabError(
            "claims: every claim expects the same before and after the policy, so there is nothing to converge; "
            "give at least one an `expect` that differs from its `before`"
        )
    return pairs


def _unproven(claim: Claim, policy: PolicyRef) -> str:
    """Why nothing here shows that the policy in `by` decides; "" where its coming and going does."""
    if claim.by is None:
        return ""
    if claim.by != policy:
        return (
            f"{claim.by} is not {policy}, which alone comes and goes here; leave it out, or check it by curl_outcomes"
        )
    if claim.before == claim.after:
        return "the claim expects the same without the policy, so nothing shows who decides; leave it out"
    return ""


def _concerned(claim: Claim) -> Claim:
    """The claim; where an answer can be as expected before and after, the policy does not concern it."""
    before, after = claim.before, claim.after
    old, new = before.accepted_codes or frozenset(), after.accepted_codes or frozenset()
    same = before.outcome == after.outcome and (old == new or not old.isdisjoint(new))
    return dataclasses.replace(claim, before=after) if same else claim


def _limits(value: object, label: str) -> Limits:
    fields = mapping(value, label, "limits", LIMIT_KEYS)
    for key in ("leaks_after_ready", "leaks_after_accepted"):
        number = fields.get(key, 0)
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise Problem(label, f"limits.{key}", f"{number!r} is not a number of requests, 0 or more")
    seconds = fields.get("converges_within", 1)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or seconds <= 0:
        raise Problem(label, "limits.converges_within", f"{seconds!r} is not a number of seconds above 0")
    return Limits(**fields)


def _definition(given: Object, namespace: str) -> tuple[Object, PolicyRef]:
    if given.get("kind") != "AuthorizationPolicy" or not str(given.get("apiVersion", "")).startswith(
        "security.istio.io/"
    ):
        raise LabError(
            "definition must be an AuthorizationPolicy: apiVersion security.istio.io/v1, kind, metadata, spec"
        )
    metadata = given.get("metadata")
    if not isinstance(metadata, dict) or not metadata.get("name"):
        raise LabError("definition: metadata.name is missing")
    where = str(metadata.get("namespace") or namespace)
    policy = policy_ref("definition", f"{where}/{metadata['name']}")
    return {**given, "metadata": {**metadata, "namespace": where}}, policy


Number = t.TypeVar("Number", int, float)


def _within(name: str, value: Number, least: Number, most: Number) -> Number:
    if not least <= value <= most:
        raise LabError(f"{name} must be from {least:g} to {most:g}, not {value:g}")
    return value
