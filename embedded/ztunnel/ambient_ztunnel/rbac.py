"""Authorization of one connection (embedded provider alone).

Semantics: pkg/workloadapi/security/authorization.proto and Istio's AuthorizationPolicy reference ("DENY
first, then ALLOW if any exists"); a policy that a workload names and that has not arrived is skipped, as
upstream ztunnel does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    """The decision, the policy behind it (`namespace/name` or empty), and the dry runs that matched."""

    allowed: bool
    policy: str = ""
    dry_run: tuple[str, ...] = ()

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
    allow_exists = False
    allowed_by = ""
    dry_run: list[str] = []
    for policy in policies:
        if policy.dry_run:
            if policy_matches(policy, conn):
                dry_run.append(policy.key)
        elif policy.action is Action.DENY:
            if policy_matches(policy, conn):
                return Verdict(False, policy.key, tuple(dry_run))
        else:
            allow_exists = True
            if not allowed_by and policy_matches(policy, conn):
                allowed_by = policy.key
    return Verdict(bool(allowed_by) or not allow_exists, allowed_by, tuple(dry_run))
