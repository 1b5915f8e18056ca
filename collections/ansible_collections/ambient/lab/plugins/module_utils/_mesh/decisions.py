# What one proxy decides of a request: allow or deny, by which policy, or why nobody can know.
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Order at both kinds of proxy: a DENY policy that matches denies; where there are ALLOW policies, one must match
# (istio/ztunnel src/state.rs, assert_rbac; istio/istio pilot/pkg/security/authz/builder).

from __future__ import annotations

import dataclasses
import typing as t

from .._common.rounds import Retry
from . import l4, l7
from .mesh import Mesh, Object, name_of
from .paths import WaypointHop, ZtunnelHop
from .peers import Strictness, strictness
from .policies import Match, action, is_dry_run, provider

Verdict = t.Literal["allow", "deny", "unknown"]
Evaluate = t.Callable[[Object], Match]
# istiod tells ztunnel nothing of a policy that is only to be tried, from 1.25.2 on (istio/istio
# pilot/pkg/serviceregistry/kube/controller/ambient/policies.go at 1.25.2, .../ambient/authorization.go at 1.29.0).
_LEAVES_OUT_SOME, _LEAVES_OUT = (1, 25), (1, 25, 2)
_SENDS_DRY_RUNS = "AMBIENT_ENABLE_DRY_RUN_AUTHORIZATION_POLICY"
# Of the policies that do not match, so many are said.
_MAX_SAID = 3


@dataclasses.dataclass(frozen=True)
class Decision:
    """What a proxy decides.

    Attributes:
        reason: in words: which rule of which policy, or what is missing to know.
        among: the policies of which the proxy names one when it refuses; of a refusal because no ALLOW policy
            matches, all of these.
        cause: namespace/name of the PeerAuthentication that refuses plain text; "" otherwise.
        doubtful: those among them of which nobody can know whether they match.
        rules: policies that surely match, each with the number of its rule.
        retry: pointless where something that is written denies it; a policy that is not there may still come.
    """

    verdict: Verdict
    reason: str
    among: tuple[str, ...] = ()
    cause: str = ""
    doubtful: tuple[str, ...] = ()
    retry: Retry = Retry.USEFUL
    rules: tuple[tuple[str, int], ...] = ()


def at_ztunnel(mesh: Mesh, hop: ZtunnelHop) -> Decision:
    """What the ztunnel of a pod decides of a connection: whatever is sent over it, it is the same."""
    return mesh.once(("decision", name_of(hop.pod), hop.connection), lambda: _at_ztunnel(mesh, hop))


def _at_ztunnel(mesh: Mesh, hop: ZtunnelHop) -> Decision:
    version = mesh.config.version
    tried = [name_of(item) for item in hop.policies if is_dry_run(item) and l4.convert(item)]
    if tried and (why := _may_enforce_dry_runs(mesh)):
        return Decision("unknown", f"AuthorizationPolicy {tried[0]} is a dry run, {why}")
    left_out = set(tried) if version and version >= _LEAVES_OUT else set()
    found = {name_of(item): l4.convert(item) for item in hop.policies if name_of(item) not in left_out}
    converted = {name: policy for name, policy in found.items() if policy}
    policies = [item for item in hop.policies if name_of(item) in converted]
    decided = decide(policies, lambda item: l4.policy_matches(converted[name_of(item)], hop.connection))
    strict = strictness(mesh, hop.pod, hop.connection.port)
    if hop.connection.identity is None and (strict.strict or strict.doubt):
        return _strictly(decided, strict, [item for item in policies if action(item) == "DENY"])
    lost = [note for name, policy in converted.items() for note in lost_in(name, policy)]
    if not lost or _by_deny(policies, decided):
        return decided
    return dataclasses.replace(decided, reason="; ".join([decided.reason, *lost]))


def _may_enforce_dry_runs(mesh: Mesh) -> str:
    """Why nobody can know whether ztunnel enforces a policy that is only to be tried; "" where that is known."""
    version = mesh.config.version
    if version in (None, _LEAVES_OUT_SOME):
        said = "is not known" if version is None else "is 1.25, of which patch is not known"
        return f"which istiod leaves out since Istio 1.25.2, and its version {said}"
    if mesh.config.flag(_SENDS_DRY_RUNS):
        return f"and istiod's {_SENDS_DRY_RUNS} is on: an older ztunnel enforces it"
    return ""


def _strictly(decided: Decision, strict: Strictness, denying: t.Sequence[Object]) -> Decision:
    """A decision on plain text, where a PeerAuthentication refuses it or may: to ztunnel it is a DENY policy more."""
    refused, own = _by_deny(denying, decided), (strict.policy,) if strict.policy else ()
    if strict.doubt and not refused:
        return Decision("unknown", strict.doubt)
    if strict.doubt:
        return dataclasses.replace(decided, among=(*decided.among, *own), doubtful=(*decided.doubtful, *own))
    if refused:
        # Which of several that match ztunnel names is not defined.
        return dataclasses.replace(decided, among=(*decided.among, *own))
    reason = f"PeerAuthentication {strict.cause} is STRICT, and the connection is plain text"
    names = {name_of(item) for item in denying}
    doubtful = tuple(name for name in decided.doubtful if name in names)
    return Decision("deny", reason, (*own, *doubtful), strict.cause, doubtful, Retry.POINTLESS)


def _by_deny(policies: t.Sequence[Object], decision: Decision) -> bool:
    """Whether a DENY policy surely refuses."""
    certain = {*decision.among} - {*decision.doubtful}
    found = (action(item) for item in policies if name_of(item) in certain)
    return decision.verdict == "deny" and "DENY" in found


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
    """What a waypoint decides of a request; None where it sees bytes alone."""
    context = l7.Context(hop.connection, request, mesh.config.trust_domains)
    enforced = [item for item in hop.policies if not is_dry_run(item)]
    custom = _by_authorizers(mesh, hop, context)
    if custom.verdict != "allow":
        return custom
    if request and request.may_have_token:
        names = ", ".join(name_of(item) for item in hop.authentications)
        return Decision("unknown", f"RequestAuthentication {names} decides by the request's token")
    return decide(enforced, lambda item: l7.policy_matches(item, context))


def _by_authorizers(mesh: Mesh, hop: WaypointHop, context: l7.Context) -> Decision:
    """What the CUSTOM policies decide, which come first.

    istiod makes DENY rules of those whose provider it does not have, or that have several, unless its flag allows
    that (pilot/pkg/security/authz/builder, getBadCustomDenyRules). Whether one for a dry run is asked depends on the
    version.
    """
    known, bad, names = mesh.config.providers, [], {}
    policies = [item for item in hop.policies if action(item) == "CUSTOM"]
    wanted = {provider(item) for item in policies}
    several = len(wanted) > 1 and not mesh.config.flag("PILOT_ENABLE_MULTIPLE_CUSTOM_AUTHZ_PROVIDERS")
    for item in policies:
        name, own = name_of(item), provider(item)
        if known is not None and (several or own not in known) and not is_dry_run(item):
            bad.append({**item, "spec": {**item["spec"], "action": "DENY"}})
            names[name] = f"provider {own or 'of no name'}, which the mesh's extensionProviders lack"
        elif context.request is None and known is not None and known.get(own) == "http":
            # An authorizer of HTTP is not asked about bytes.
            continue
        elif l7.policy_matches(item, context).truth is not False:
            return Decision("unknown", f"the authorizer of AuthorizationPolicy {name} (CUSTOM) decides")
    decided = decide(bad, lambda item: l7.policy_matches(item, context))
    if decided.verdict != "deny":
        return decided
    why = f"several providers ({', '.join(sorted(wanted))})" if several else names[decided.among[0]]
    text = f"AuthorizationPolicy {' or '.join(decided.among)} (CUSTOM) has {why}: what it matches is denied"
    return dataclasses.replace(decided, reason=text)


def decide(policies: t.Sequence[Object], evaluate: Evaluate) -> Decision:
    """Allow or deny, by DENY and ALLOW policies; others decide nothing."""
    matches = {name_of(item): (item, evaluate(item)) for item in policies if action(item) in ("ALLOW", "DENY")}
    denying = {name: match for name, (item, match) in matches.items() if action(item) == "DENY"}
    allowing = {name: match for name, (item, match) in matches.items() if action(item) == "ALLOW"}
    doubtful = [name for name, match in denying.items() if match.truth is None]
    certain = [name for name, match in denying.items() if match.truth]
    if certain:
        rules = [f"rule {denying[name].rule} of AuthorizationPolicy {name} (DENY)" for name in certain]
        reason = f"{' and '.join(rules)} match{'es' if len(rules) == 1 else ''}"
        among, numbers = (*certain, *doubtful), tuple((name, denying[name].rule) for name in certain)
        return Decision("deny", reason, among, doubtful=tuple(doubtful), retry=Retry.POINTLESS, rules=numbers)
    opened = next((name for name, match in allowing.items() if match.truth), "")
    unsure = [name for name, match in allowing.items() if match.truth is None]
    if allowing and not opened and not unsure:
        names = ", ".join(allowing)
        reason = f"no rule of the ALLOW {'policies' if len(allowing) > 1 else 'policy'} {names} matches"
        why = f"{reason}: {_said(allowing)}"
        return Decision("deny", why, (*allowing, *doubtful), doubtful=tuple(doubtful))
    doubtful += [] if opened else unsure
    if doubtful:
        why = f"nobody can know from here whether AuthorizationPolicy {', '.join(doubtful)} matches"
        return Decision("unknown", why, doubtful=tuple(doubtful))
    if opened:
        number = allowing[opened].rule
        reason = f"rule {number} of AuthorizationPolicy {opened} (ALLOW) matches"
        return Decision("allow", reason, rules=((opened, number),))
    if denying:
        return Decision("allow", f"no rule of the DENY policies in force matches: {_said(denying)}")
    return Decision("allow", "no AuthorizationPolicy is in force here")


def _said(matches: t.Mapping[str, Match]) -> str:
    """Why policies do not match, one after the other."""
    texts = [f"{name}: {match.why_not}" for name, match in list(matches.items())[:_MAX_SAID]]
    more = len(matches) - _MAX_SAID
    return ", ".join([*texts, *([f"and {more} more"] if more > 0 else [])])
