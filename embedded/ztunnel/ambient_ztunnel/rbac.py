"""Authorization of one connection (embedded provider alone).

Semantics: pkg/workloadapi/security/authorization.proto and Istio's AuthorizationPolicy reference ("DENY
first, then ALLOW if any exists"); a policy that a workload names and that has not arrived is skipped, as
upstream ztunnel does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from .identity import Identity
from .model import EMPTY_MATCH, IP, Action, Match, MatchKind, Policy, ServiceAccountMatch, StringMatch

T = TypeVar("T")
_SPIFFE = "spiffe://"


@dataclass(frozen=True, slots=True)
class Connection:
    """Who connects to what; `dst` is the application's address, not the tunnel's."""

    src_ip: IP
    src_port: int
    dst_ip: IP
    dst_port: int
    identity: Identity | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision, the policy behind it (`namespace/name` or empty), and how it came about.

    `steps` are upstream's log messages, each with its policy (src/state.rs, assert_rbac).
    """

    allowed: bool
    policy: str = ""
    steps: tuple[tuple[str, str], ...] = ()

    @property
    def reason(self) -> str:
        """The reason in ztunnel's words; empty when allowed."""
        if self.allowed:
            return ""
        return f"explicitly denied by: {self.policy}" if self.policy else "allow policies exist, but none allowed"


def matches_string(pattern: StringMatch, value: str) -> bool:
    """True if `value` has the pattern's form."""
    match pattern.kind:
        case MatchKind.EXACT:
            return value == pattern.value
        case MatchKind.PREFIX:
            return value.startswith(pattern.value)
        case MatchKind.SUFFIX:
            return value.endswith(pattern.value)
        case MatchKind.PRESENCE:
            return bool(value)


def _field(positive: tuple[T, ...], negative: tuple[T, ...], holds: Callable[[T], bool]) -> bool:
    """One field of a match: some positive value if there are any, and no negative one."""
    return (not positive or any(map(holds, positive))) and not any(map(holds, negative))


def matches(match: Match, conn: Connection) -> bool:
    """True if every field holds; a match without fields (istiod drops those for L7) never holds."""
    if match == EMPTY_MATCH:
        return False
    identity = conn.identity
    namespace = identity.namespace if identity else ""
    # Policies write principals without the scheme, so a prefix match compares after "spiffe://".
    principal = str(identity).removeprefix(_SPIFFE) if identity else ""

    account = ServiceAccountMatch(namespace, identity.service_account) if identity else None

    return (
        _field(match.destination_ips, match.not_destination_ips, lambda net: conn.dst_ip in net)
        and _field(match.source_ips, match.not_source_ips, lambda net: conn.src_ip in net)
        and _field(match.destination_ports, match.not_destination_ports, lambda port: port == conn.dst_port)
        and _field(match.service_accounts, match.not_service_accounts, lambda item: item == account)
        and _field(
            match.principals,
            match.not_principals,
            lambda pattern: identity is not None and matches_string(pattern, principal),
        )
        and _field(match.namespaces, match.not_namespaces, lambda pattern: matches_string(pattern, namespace))
    )


def policy_matches(policy: Policy, conn: Connection) -> bool:
    """True if in some group every rule holds: by one of its matches, or because it has none."""
    return any(
        all(not rule or any(matches(match, conn) for match in rule) for rule in group) for group in policy.groups
    )


def authorize(policies: Iterable[Policy], conn: Connection) -> Verdict:
    """Decide on one connection given all the policies that apply to its destination."""
    given = list(policies)
    steps: list[tuple[str, str]] = []

    def matching(action: Action, *, dry_run: bool) -> Iterator[str]:
        for policy in given:
            if policy.action is action and policy.dry_run is dry_run and policy_matches(policy, conn):
                steps.append((f"{'dry-run: ' if dry_run else ''}{action.value.lower()} policy match", policy.key))
                yield policy.key

    list(matching(Action.DENY, dry_run=True))
    denied_by = next(matching(Action.DENY, dry_run=False), "")
    if denied_by:
        return Verdict(False, denied_by, tuple(steps))
    rehearsed = list(matching(Action.ALLOW, dry_run=True))
    allows = [policy.dry_run for policy in given if policy.action is Action.ALLOW]
    if allows and all(allows) and not rehearsed:
        steps.append(("dry-run: no allow policies match", ""))
    if all(allows):
        return Verdict(True, "", (*steps, ("no allow policies, allow", "")))
    allowed_by = next(matching(Action.ALLOW, dry_run=False), "")
    if not allowed_by:
        steps.append(("no allow policies matched", ""))
    return Verdict(bool(allowed_by), allowed_by, tuple(steps))
