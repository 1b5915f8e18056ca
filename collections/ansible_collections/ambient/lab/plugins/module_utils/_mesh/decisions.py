# What one proxy decides of a request: allow or deny, by which policy, or why nobody can know.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.
#
# Order at both kinds of proxy: a DENY policy that matches denies; where there are ALLOW policies, one must match
# (istio/ztunnel src/state.rs, assert_rbac; istio/istio pilot/pkg/security/authz/builder).

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._mesh import l4, l7
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh, Object, name_of
from ansible_collections.ambient.lab.plugins.module_utils._mesh.paths import WaypointHop, ZtunnelHop
from ansible_collections.ambient.lab.plugins.module_utils._mesh.peers import strictness
from ansible_collections.ambient.lab.plugins.module_utils._mesh.policies import action, is_dry_run
from ansible_collections.ambient.lab.plugins.module_utils._mesh.truth import Match

Verdict = t.Literal["allow", "deny", "unknown"]
Evaluate = t.Callable[[Object], Match]
# Since then ztunnel does not enforce a policy that is only to be tried (istio/ztunnel, src/rbac.rs, dry_run).
_DRY_RUNS = (1, 29)
# Of the policies that do not match, so many are said.
_MAX_SAID = 3


@dataclasses.dataclass(frozen=True)
class Decision:
    """What a proxy decides.

    Attributes:
        verdict: allow, deny, or unknown.
        reason: in words: which rule of which policy, or what is missing to know.
        among: the policies of which the proxy names one when it refuses; of a refusal because no ALLOW policy
            matches, all of these.
        cause: namespace/name of the PeerAuthentication that refuses plain text; "" otherwise.
        doubtful: those among them of which nobody can know whether they match.
    """

    verdict: Verdict
    reason: str
    among: tuple[str, ...] = ()
    cause: str = ""
    doubtful: tuple[str, ...] = ()


def at_ztunnel(mesh: Mesh, hop: ZtunnelHop) -> Decision:
    """What the ztunnel of a pod decides of a connection."""
    version = mesh.config.version
    tried = [name_of(item) for item in hop.policies if is_dry_run(item) and l4.convert(item)]
    if tried and version is None:
        why = "which ztunnel enforces before Istio 1.29, and istiod's version is not known"
        return Decision("unknown", f"AuthorizationPolicy {tried[0]} is a dry run, {why}")
    left_out = set(tried) if version and version >= _DRY_RUNS else set()
    found = {name_of(item): l4.convert(item) for item in hop.policies if name_of(item) not in left_out}
    converted = {name: policy for name, policy in found.items() if policy}
    policies = [item for item in hop.policies if name_of(item) in converted]
    decided = decide(policies, lambda item: l4.policy_matches(converted[name_of(item)], hop.connection))
    if decided.verdict == "deny" and action_of(policies, decided) == "DENY":
        return decided
    strict = strictness(mesh, hop.pod, hop.connection.port)
    if hop.connection.identity is None and (strict.strict or strict.doubt):
        if strict.doubt:
            return Decision("unknown", strict.doubt)
        reason = f"PeerAuthentication {strict.cause} is STRICT, and the connection is plain text"
        return Decision("deny", reason, (strict.policy,), strict.cause)
    return _noting_lost(decided, converted)


def action_of(policies: t.Sequence[Object], decision: Decision) -> str:
    """Action of the policies that decided."""
    return next((action(item) for item in policies if name_of(item) in decision.among), "")


def _noting_lost(decision: Decision, converted: t.Mapping[str, l4.L4Policy]) -> Decision:
    """The decision, with what ztunnel has left out of the policies, where there is anything."""
    notes = [note for name, policy in converted.items() for note in lost_in(name, policy)]
    return dataclasses.replace(decision, reason="; ".join([decision.reason, *notes])) if notes else decision


def lost_in(name: str, policy: l4.L4Policy) -> list[str]:
    """What ztunnel makes of the rules of a policy that have HTTP attributes (istio#61126)."""
    notes = []
    for number, lost in policy.lost.items():
        what = "its ALLOW rule matches nothing, so all else is denied"
        if policy.action == "DENY":
            never = any(not any(clause) for clause in policy.rules[number])
            what = "its DENY rule denies nothing" if never else "only the rest of its DENY rule is enforced"
        head = f"AuthorizationPolicy {name} has {', '.join(lost)}, which ztunnel can't match"
        notes.append(f"{head}: {what}; bind it to a waypoint with targetRefs")
    return notes


def at_waypoint(mesh: Mesh, hop: WaypointHop, request: l7.HttpRequest | None) -> Decision:
    """What a waypoint decides of a request.

    Args:
        mesh: with the mesh's trust domains.
        hop: of the way.
        request: None where the waypoint sees bytes alone.
    """
    context = l7.Context(hop.connection, request, mesh.config.trust_domains)
    enforced = [item for item in hop.policies if not is_dry_run(item)]
    for item in enforced:
        if action(item) == "CUSTOM" and l7.policy_matches(item, context).truth is not False:
            return Decision("unknown", f"the authorizer of AuthorizationPolicy {name_of(item)} (CUSTOM) decides")
    if request and request.may_have_token:
        names = ", ".join(name_of(item) for item in hop.authentications)
        return Decision("unknown", f"RequestAuthentication {names} decides by the request's token")
    return decide(enforced, lambda item: l7.policy_matches(item, context))


def decide(policies: t.Sequence[Object], evaluate: Evaluate) -> Decision:
    """Allow or deny, by DENY and ALLOW policies; others decide nothing."""
    matches = {name_of(item): (item, evaluate(item)) for item in policies if action(item) in ("ALLOW", "DENY")}
    denying = {name: match for name, (item, match) in matches.items() if action(item) == "DENY"}
    allowing = {name: match for name, (item, match) in matches.items() if action(item) == "ALLOW"}
    doubtful = [name for name, match in denying.items() if match.truth is None]
    certain = [name for name, match in denying.items() if match.truth]
    if certain:
        rule = denying[certain[0]].rule
        reason = f"rule {rule} of AuthorizationPolicy {certain[0]} (DENY) matches"
        return Decision("deny", reason, (*certain, *doubtful), doubtful=tuple(doubtful))
    opened = next((name for name, match in allowing.items() if match.truth), "")
    unsure = [name for name, match in allowing.items() if match.truth is None]
    if allowing and not opened and not unsure:
        names = ", ".join(allowing)
        reason = f"no rule of the ALLOW {'policies' if len(allowing) > 1 else 'policy'} {names} matches"
        why = f"{reason}: {_said(allowing)}"
        return Decision("deny", why, (*allowing, *doubtful), doubtful=tuple(doubtful))
    doubtful += [] if opened else unsure
    if doubtful:
        return Decision(
            "unknown", f"nobody can know from here whether AuthorizationPolicy {', '.join(doubtful)} matches"
        )
    if opened:
        return Decision("allow", f"rule {allowing[opened].rule} of AuthorizationPolicy {opened} (ALLOW) matches")
    if denying:
        return Decision("allow", f"no rule of the DENY policies in force matches: {_said(denying)}")
    return Decision("allow", "no AuthorizationPolicy is in force here")


def _said(matches: t.Mapping[str, Match]) -> str:
    """Why policies do not match, one after the other."""
    texts = [f"{name}: {match.why_not}" for name, match in list(matches.items())[:_MAX_SAID]]
    more = len(matches) - _MAX_SAID
    return ", ".join([*texts, *([f"and {more} more"] if more > 0 else [])])
