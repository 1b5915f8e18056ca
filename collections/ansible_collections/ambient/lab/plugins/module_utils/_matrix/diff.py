# Says how two states of a matrix differ: what opened, what closed, what changed, what came and what went.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .._claims.parse import DENIALS, Claim
from .._mesh.peers import CONVERTED, STATIC_STRICT
from .._results import measured as results

# A server's certificate that the client does not trust was shown to the client: nobody denied the call.
REACHED = ("allowed", "tls")
_KIND = "PeerAuthentication "
STRICT = f"{_KIND}STRICT, which refuses plain text"
# In the order in which they are shown: what opened is what a policy is there to prevent.
KINDS = ("opened", "closed", "changed", "unprobed", "added", "gone")


@dataclasses.dataclass(frozen=True)
class State:
    """What a cell is, or what a file says that it is.

    codes, exits: HTTP and exit codes that it may have, None where any will do. policy: which one decided, named as by
    `decider`, None where nobody said. unclear: why the cell can't be said to be anything, "" where it can.
    """

    outcome: str
    codes: frozenset[int] | None = None
    exits: frozenset[int] | None = None
    policy: str | None = None
    unclear: str = ""

    def __str__(self) -> str:
        if self.unclear:
            return f"{self.outcome} ({self.unclear})"
        codes = self.codes or frozenset()
        # The 2xx that a claim accepts when it names none would only be noise.
        few = f" HTTP {'|'.join(str(code) for code in sorted(codes))}" if 0 < len(codes) < 10 else ""
        return f"{self.outcome}{few}" + (f" by {self.policy}" if self.policy else "")


@dataclasses.dataclass(frozen=True)
class Change:
    """One difference. policy: the one that closes it now, or closed it before."""

    name: str
    kind: str
    was: State | None
    now: State | None
    reason: str = ""

    @property
    def policy(self) -> str | None:
        """The policy that the difference is about, where one is known."""
        order = (self.was, self.now) if self.kind == "opened" else (self.now, self.was)
        return next((state.policy for state in order if state and state.policy), None)

    def kept(self) -> results.Difference:
        """As results have it."""
        was, now = (str(state) if state else None for state in (self.was, self.now))
        return results.Difference(name=self.name, was=was, now=now, policy=self.policy, reason=self.reason)


@dataclasses.dataclass(frozen=True)
class Difference:
    """All names of both states: those that are the same, and a change for each of the others."""

    same: tuple[str, ...]
    changes: tuple[Change, ...]

    def of(self, kind: str) -> list[Change]:
        """The changes of one kind."""
        return [change for change in self.changes if change.kind == kind]

    def __str__(self) -> str:
        counts = [(kind, len(self.of(kind))) for kind in KINDS]
        return ", ".join(f"{count} {kind}" for kind, count in counts if count)


def difference(
    was: t.Mapping[str, State],
    now: t.Mapping[str, State],
    gone: t.Mapping[str, str] | None = None,
    unprobed: t.Mapping[str, str] | None = None,
) -> Difference:
    """Compare two states by the names of their cells.

    Args:
        was: what a file says.
        now: what is seen.
        gone: why there is nothing to see any more, by name.
        unprobed: why nobody could look, by name.
    """
    same, changes = [], []
    for name in [*was, *(name for name in now if name not in was)]:
        old, new = was.get(name), now.get(name)
        if old is None:
            changes.append(Change(name, "added", None, new, "the file does not have it"))
        elif new is None:
            kind, reasons = ("unprobed", unprobed) if name in (unprobed or ()) else ("gone", gone)
            changes.append(Change(name, kind, old, None, (reasons or {}).get(name, "it is not there any more")))
        elif kind := compare(old, new):
            changes.append(Change(name, kind, old, new, new.unclear))
        else:
            same.append(name)
    changes.sort(key=lambda change: KINDS.index(change.kind))
    return Difference(tuple(same), tuple(changes))


def compare(was: State, now: State) -> str:
    """opened, closed or changed; "" where both agree."""
    if was.unclear or now.unclear:
        return "" if was == now else "changed"
    if was.outcome in DENIALS and now.outcome in REACHED:
        return "opened"
    if was.outcome in REACHED and now.outcome in DENIALS:
        return "closed"
    if was.outcome != now.outcome or not (_within(was.codes, now.codes) and _within(was.exits, now.exits)):
        return "changed"
    # Where nobody named a policy, there is nothing to compare.
    return "changed" if was.policy and now.policy and was.policy != now.policy else ""


def _within(accepted: frozenset[int] | None, found: frozenset[int] | None) -> bool:
    return accepted is None or found is None or found <= accepted


def stated(claim: Claim) -> State:
    """What a claim says of its cell."""
    expect = claim.after
    return State(expect.outcome, expect.accepted_codes, expect.exit_codes, str(claim.by) if claim.by else None)


def decider(policy: str) -> str:
    """What stands behind a policy's name (namespace/name) as a proxy logs it, for people."""
    namespace, _slash, name = policy.partition("/")
    if name == STATIC_STRICT:
        return STRICT
    if name.startswith(CONVERTED):
        return f"{_KIND}{namespace}/{name.removeprefix(CONVERTED)}"
    # istiod's own names have an underscore, which no Kubernetes object can have.
    return f"istiod's own {policy}" if "_" in policy else policy


def is_policy(named: str) -> bool:
    """Whether a decider is an AuthorizationPolicy, which `by` can name."""
    return " " not in named


def command(named: str, kubectl: str) -> str:
    """Command that shows a decider; "" where there is no object.

    Args:
        named: of `decider`.
        kubectl: command with which the user reaches the cluster.
    """
    if named == STRICT:
        return f"{kubectl} get peerauthentications -A"
    kind = "authorizationpolicy" if is_policy(named) else "peerauthentication"
    namespace, slash, name = named.removeprefix(_KIND).partition("/")
    return f"{kubectl} -n {namespace} get {kind} {name} -o yaml" if slash and is_policy(namespace) else ""
