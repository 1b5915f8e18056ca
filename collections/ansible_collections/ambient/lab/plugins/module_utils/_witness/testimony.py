# Says who decided a probe's outcome, and by which policy, from what client, proxies and istiod say independently.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._claims.sources import Target
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen
from ansible_collections.ambient.lab.plugins.module_utils._witness.evidence import Evidence, Refusal, Said
from ansible_collections.ambient.lab.plugins.module_utils._witness.logs import Connection

NOT_MET = "no proxy says that it refused this"


@dataclasses.dataclass(frozen=True)
class Statement:
    """What one witness says of one probe. supports: it bears out what the client saw; None: it could not tell."""

    witness: str
    where: str
    said: str
    supports: bool | None

    def as_dict(self) -> dict[str, t.Any]:
        """The same as plain data."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Testimony:
    """Who decided: ztunnel, waypoint, application, network, or "-" where nobody knows.

    policy: namespace/name, None where no witness names one. among: the policies of which one decided, where only
    that is known. problem: why what was seen is no proof, "" where it is.
    """

    decided_by: str = "-"
    policy: str | None = None
    among: tuple[str, ...] = ()
    statements: tuple[Statement, ...] = ()
    problem: str = ""
    silent: bool = False

    @property
    def late(self) -> bool:
        """Whether a waypoint refused, and its log may still say by which policy."""
        logs = [item for item in self.statements if item.witness == "waypoint log"]
        return self.decided_by == "waypoint" and all(item.supports is None for item in logs)


@dataclasses.dataclass(frozen=True)
class Path:
    """What is on a probe's way.

    source: the pod that called, None where it is gone. nodes: of the pods behind the destination. addresses: what
    proxies may log as the destination, `ip:port`, or "ip:" for any port. service: name of the Service that was
    called. waypoint: namespace and name. allowing: names of the ALLOW policies in force there, of ztunnel and of the
    waypoint apart.
    """

    source: Target | None
    nodes: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    service: str = ""
    waypoint: tuple[str, str] | None = None
    waypoint_addresses: tuple[str, ...] = ()
    allowing: tuple[str, ...] = ()
    waypoint_allowing: tuple[str, ...] = ()


def take_testimony(seen: Seen, path: Path, evidence: Evidence, ids: t.Sequence[str] = ()) -> Testimony:
    """What all witnesses say of one probe.

    Args:
        seen: by the client.
        path: of the probe.
        evidence: of the round.
        ids: x-request-id of the same claim's probes that got the same answer, the newest first: Envoy writes its
            log up to a second later.
    """
    client = Statement("client", str(path.source or ""), _client(seen), True)
    if seen.outcome == "probe_error" or path.source is None:
        return Testimony(statements=(dataclasses.replace(client, supports=None),))
    if seen.outcome == "denied_l4":
        return _by_ztunnel(client, seen, path, evidence)
    if seen.outcome == "denied_l7":
        return _by_waypoint(client, seen, path, evidence, ids or (seen.request_id,))
    if seen.outcome == "denied_upstream":
        return _upstream(client, path, evidence)
    decided = "application" if seen.outcome == "allowed" else "network"
    return Testimony(decided, statements=(client, *_carried(seen, evidence)))


def _client(seen: Seen) -> str:
    if seen.outcome == "denied_l4":
        return f"connected, sent the request, and was cut off without a byte of answer (curl {seen.exit_code})"
    if seen.http_code:
        writer = "the application" if seen.outcome == "allowed" else "a proxy"
        return f"HTTP {seen.http_code}, written by {writer}"
    return f"{seen.outcome} (curl {seen.exit_code}: {seen.errormsg})"


def _carried(seen: Seen, evidence: Evidence) -> list[Statement]:
    """How ztunnel carried the probe's own connection; found by the port that the client had."""
    found = []
    for said, line in evidence.lines(seen.sender) if seen.sender else []:
        if line.direction != "outbound":
            continue
        who = f" as {line.identity.removeprefix('spiffe://')}" if line.identity else ""
        text = f"carried it{who}, {line.sent} bytes there and {line.received} back"
        text = f"{text}; {line.error}" if line.error else text
        found.append(Statement("ztunnel log", str(said.proxy), text, None if line.error else True))
    return found


def _by_ztunnel(client: Statement, seen: Seen, path: Path, evidence: Evidence) -> Testimony:
    source = t.cast(Target, path.source)
    own = [item for item in evidence.lines(seen.sender) if item[1].direction == "outbound"] if seen.sender else []
    refused = any(line.refused_by_peer for _where, line in own)
    candidates = _rejections(seen.sender, source.address, path.addresses, evidence)
    statements = (
        client,
        *(_source_side(said, line) for said, line in own),
        *_destination_side(candidates, path, evidence, refused),
        *_ztunnel_counts(path, source.workload, source.namespace, evidence),
    )
    otherwise = "application" if any(not line.error for _where, line in own) else "network"
    return _conclude("ztunnel", otherwise, statements, _among(candidates, path.allowing), evidence)


def _source_side(said: Said, line: Connection) -> Statement:
    where = str(said.proxy)
    if line.refused_by_peer:
        return Statement("ztunnel log", where, f"the other end's proxy refused the connection: {line.error}", True)
    found = line.denial
    if found:
        return Statement("ztunnel log", where, found.reason, True)
    if line.error:
        return Statement("ztunnel log", where, f"could not carry the connection: {line.error}", False)
    text = f"carried the connection, {line.sent} bytes there and {line.received} back: the application ended it"
    return Statement("ztunnel log", where, text, False)


def _rejections(sender: str, address: str, targets: tuple[str, ...], evidence: Evidence) -> list[Refusal]:
    """Refusals of connections from the source to the destination in this round.

    The client's own port is there only without HBONE; over HBONE its address and the destination's must do, and
    lines about other sources never fit.
    """
    own = evidence.refusals(sender, targets) if sender else []
    return own or (evidence.refusals(address, targets) if address else [])


def _destination_side(
    candidates: t.Sequence[Refusal], path: Path, evidence: Evidence, refused: bool
) -> list[Statement]:
    found: dict[tuple[str, str], Statement] = {}
    for said, line, refusal in candidates:
        who = f", source {line.identity.removeprefix('spiffe://')}" if line.identity else ", source without identity"
        text = refusal.reason + who
        found[str(said.proxy), text] = Statement("ztunnel log", str(said.proxy), text, True)
    if found:
        return list(found.values())
    silent = []
    proxies = evidence.ztunnels(path.nodes)
    # Where one could not be read, it may be the one that has refused.
    blind = any(said.log_problem or said.gap for said in proxies)
    for said in proxies:
        where = str(said.proxy)
        if said.log_problem or said.gap:
            why = said.log_problem or "lines of this round may be missing (rotated, restarted, or too many)"
            silent.append(Statement("ztunnel log", where, f"could not be read: {why}", None))
        elif not refused:
            supports = None if blind else False
            silent.append(Statement("ztunnel log", where, "no line that it refused this source", supports))
        else:
            silent.append(Statement("ztunnel log", where, "no line about it, though the other end was refused", None))
    return silent


def _ztunnel_counts(path: Path, workload: str, namespace: str, evidence: Evidence) -> list[Statement]:
    labels = {"source_workload": workload, "source_workload_namespace": namespace}
    return _counts("ztunnel counter", evidence.ztunnels(path.nodes), labels, "DENY")


def _counts(witness: str, proxies: t.Sequence[Said], labels: t.Mapping[str, str], what: str) -> list[Statement]:
    """Whether a counter of refusals has risen; one proxy in which it has is enough."""
    risen = [(said, said.counted(**labels)) for said in proxies]
    good = [item for item in risen if item[1]]
    # Where one could not be asked, it may be the one that has refused.
    blind = any(said.counter_problem for said in proxies)
    statements = []
    for said, added in good or risen:
        text = f"+{added:g} {what} of this source"
        supports: bool | None = True if added else None if blind else False
        if said.counter_problem and not added:
            text = said.counter_problem
        statements.append(Statement(witness, str(said.proxy), text, supports))
    return statements


def _among(candidates: t.Sequence[Refusal], allowing: tuple[str, ...]) -> tuple[str, ...]:
    """Policies that the lines name; where they say that no ALLOW policy let it pass, those in force there."""
    named = {refusal.policy: None for *_rest, refusal in candidates if refusal.policy}
    unmatched = any(refusal.unmatched for *_rest, refusal in candidates)
    return (*named, *(name for name in allowing if unmatched and name not in named))


def _by_waypoint(client: Statement, seen: Seen, path: Path, evidence: Evidence, ids: t.Sequence[str]) -> Testimony:
    source = t.cast(Target, path.source)
    proxies = evidence.waypoints(path.waypoint_addresses)
    if not proxies and not evidence.problem:
        nobody = Statement("waypoint log", "", "there is no waypoint on the path", False)
        return _conclude("waypoint", "network", (client, nobody), (), evidence)
    logs: list[Statement] = []
    among: tuple[str, ...] = ()
    for said in proxies:
        request = next((said.requests[item] for item in ids if item in said.requests), None)
        if request is None or request.rejected is None:
            continue
        named = f", by {request.policy}" if request.policy else ""
        text = f"HTTP {request.code}, {request.details}{named}"
        logs.append(Statement("waypoint log", str(said.proxy), text, request.rejected))
        if request.rejected:
            among = (request.policy,) if request.policy else path.waypoint_allowing if request.unmatched else ()
    if not logs:
        nothing = "no line about it (access log off, late, or in a format of its own)"
        why = {str(said.proxy): said.log_problem or nothing for said in proxies}
        logs = [Statement("waypoint log", where, text, None) for where, text in why.items()]
    labels = {
        "response_code": str(seen.http_code),
        "source_workload": source.workload,
        "source_workload_namespace": source.namespace,
        "destination_service_name": path.service,
    }
    counts = _counts("waypoint counter", proxies, labels, f"HTTP {seen.http_code}")
    return _conclude("waypoint", "network", (client, *logs, *counts), among, evidence)


def _upstream(client: Statement, path: Path, evidence: Evidence) -> Testimony:
    """The destination's ztunnel refused the waypoint: its lines have the waypoint as their source."""
    candidates = [
        item for address in path.waypoint_addresses for item in _rejections("", address, path.addresses, evidence)
    ]
    namespace, name = path.waypoint or ("", "")
    statements = (
        client,
        *_destination_side(candidates, path, evidence, refused=False),
        *_ztunnel_counts(path, name, namespace, evidence),
    )
    return _conclude("ztunnel", "network", statements, _among(candidates, path.allowing), evidence)


def _conclude(
    proxy: str, otherwise: str, statements: tuple[Statement, ...], among: tuple[str, ...], evidence: Evidence
) -> Testimony:
    """A denial is proven where a proxy bears it out and none says otherwise.

    Args:
        proxy: kind of proxy that has decided then.
        otherwise: who has decided where all proxies say that it was none of them.
        statements: the client's first.
        among: policies that may have decided.
        evidence: of the round.
    """
    good = [item for item in statements[1:] if item.supports]
    bad = [item for item in statements[1:] if item.supports is False]
    if good and not bad:
        return Testimony(proxy, among[0] if len(among) == 1 else None, among, statements)
    if good:
        said = "; ".join(_spoken(item) for item in (*good, *bad))
        return Testimony("-", None, (), statements, f"the witnesses disagree: {said}")
    if bad:
        said = "; ".join(dict.fromkeys(_spoken(item) for item in bad))
        return Testimony(otherwise, None, (), statements, f"{NOT_MET}: {said}")
    silent = "; ".join(dict.fromkeys(_spoken(item) for item in statements[1:]))
    why = evidence.problem or silent or "there is no proxy to ask"
    return Testimony("-", None, (), statements, f"nobody could say who refused this: {why}", silent=True)


def _spoken(item: Statement) -> str:
    return f"{item.witness}{f' of {item.where}' if item.where else ''}: {item.said}"
