# Says who decided a probe's outcome, and by which policy, from what client, proxies and istiod say independently.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from .._claims.sources import Target, Unusable
from .._curl.outcomes import Seen, by_log
from .._mesh.endpoints import logged
from .._mesh.mesh import Object, addresses_of, name_of, namespace_of, workload_name
from .._mesh.paths import Path
from .._mesh.policies import action, decides
from .._results.model import Statement
from .evidence import Evidence, Refusal, Said
from .logs import BAD_CUSTOM, Connection, Request

NOT_MET = "no proxy says that it refused this"


@dataclasses.dataclass(frozen=True)
class Attribution:
    """Who decided: ztunnel, waypoint, application, network, or "-" where nobody knows.

    policy: namespace/name, None where no witness names one. among: the policies of which one decided, where only
    that is known. problem: why what was seen is no proof, "" where it is. unnamed: this version of the proxy names no
    policy. other: what refused it where that is no AuthorizationPolicy.
    """

    decided_by: str = "-"
    policy: str | None = None
    among: tuple[str, ...] = ()
    statements: tuple[Statement, ...] = ()
    problem: str = ""
    silent: bool = False
    unnamed: bool = False
    other: str = ""

    @property
    def late(self) -> bool:
        """Whether a proxy refused, and its log may still say by which policy."""
        return self.decided_by in ("ztunnel", "waypoint") and not (
            self.problem or self.among or self.unnamed or self.other
        )

    @property
    def nameless(self) -> str:
        """Why no log names the policy."""
        logs = [item for item in self.statements if item.witness == f"{self.decided_by} log"]
        return "; ".join(dict.fromkeys(map(str, logs))) or "there is no log to read"


@dataclasses.dataclass(frozen=True)
class Query:
    """By what the evidence of one probe is found.

    Attributes:
        source: the pod that called, None where it is gone.
        source_addresses: all of its addresses.
        nodes: of the pods that the request may have ended at.
        addresses: what proxies may log as the destination, `ip:port`, or "ip:" for any port.
        workloads: namespace and name of what the pods belong to, as counters have it.
        services: names of the Service (hosts of the ServiceEntry) that was called.
        waypoint: namespace and name of the waypoint's workload.
        waypoint_addresses: of its pods.
        allowing: names of the ALLOW policies in force at the destination's ztunnel.
        waypoint_allowing: of those at the waypoint.
        waypoint_custom: of the CUSTOM policies there.
    """

    source: Target | None
    source_addresses: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    workloads: frozenset[tuple[str, str]] = frozenset()
    services: tuple[str, ...] = ()
    waypoint: tuple[str, str] | None = None
    waypoint_addresses: tuple[str, ...] = ()
    allowing: tuple[str, ...] = ()
    waypoint_allowing: tuple[str, ...] = ()
    waypoint_custom: tuple[str, ...] = ()

    @classmethod
    def of(cls, path: Path, target: Target | Unusable) -> Query:
        """The query for a path whose source is a pod."""
        if isinstance(target, Unusable):
            return cls(None)
        ends = [(end, end.pod) for end in path.endpoints if end.pod]
        pods = [pod for _end, pod in ends]
        service = path.destination.service or {}
        hosts = service.get("spec", {}).get("hosts") or [service.get("metadata", {}).get("name", "")]
        point = path.at_waypoint.waypoint if path.at_waypoint else None
        return cls(
            source=target,
            source_addresses=tuple(addresses_of(path.source)) if path.source else (),
            nodes=tuple(sorted({str(pod.get("spec", {}).get("nodeName", "")) for pod in pods})),
            addresses=tuple(logged(address, end.port) for end, pod in ends for address in addresses_of(pod)),
            workloads=frozenset((namespace_of(pod), workload_name(pod)) for pod in pods),
            services=tuple(map(str, hosts)) if path.destination.kind != "pods" else (),
            waypoint=(point.namespace, point.name) if point else None,
            waypoint_addresses=tuple(address for pod in point.pods for address in addresses_of(pod)) if point else (),
            allowing=_deciding(path.ztunnel_policies, "ztunnel", "ALLOW"),
            waypoint_allowing=_deciding(path.waypoint_policies, "waypoint", "ALLOW"),
            waypoint_custom=_deciding(path.waypoint_policies, "waypoint", "CUSTOM"),
        )


def _deciding(policies: t.Iterable[Object], proxy: str, kind: str) -> tuple[str, ...]:
    return tuple(sorted({name_of(item) for item in policies if action(item) == kind and decides(item, proxy)}))


def attributed(seen: Seen, query: Query, evidence: Evidence, ids: t.Sequence[str]) -> Seen:
    """What the client saw, by what a waypoint's access log says of it; as it looks where no log says anything."""
    _said, request = _logged_request(query, evidence, ids)
    if request is None:
        return seen
    return by_log(seen, request.code, request.details, bool(request.rejected))


def _logged_request(query: Query, evidence: Evidence, ids: t.Sequence[str]) -> tuple[Said | None, Request | None]:
    """The newest line of a waypoint about the claim's requests that says who answered."""
    for said in evidence.waypoints(query.waypoint_addresses):
        for item in ids:
            request = said.requests.get(item)
            if request and request.rejected is not None:
                return said, request
    return None, None


def attribute(seen: Seen, query: Query, evidence: Evidence, ids: t.Sequence[str] = ()) -> Attribution:
    """What all witnesses say of one probe.

    ids: x-request-id of the same claim's probes that got the same answer, the newest first: Envoy writes its log up
    to a second later.
    """
    client = Statement("client", str(query.source or ""), _client(seen), True)
    if seen.outcome == "probe_error" or query.source is None:
        return Attribution(statements=(dataclasses.replace(client, supports=None),))
    if seen.outcome in ("denied_l4", "denied_upstream"):
        return _by_ztunnel(client, seen, query, evidence)
    if seen.outcome == "denied_l7":
        return _by_waypoint(client, seen, query, evidence, ids or (seen.request_id,))
    said, request = _logged_request(query, evidence, ids)
    if seen.outcome == "local_reply" and said and request:
        text = f"HTTP {request.code}, {request.details}"
        return Attribution("waypoint", statements=(client, Statement("waypoint log", str(said.proxy), text, True)))
    decided = "application" if seen.outcome == "allowed" else "network"
    return Attribution(decided, statements=(client, *_carried(seen, evidence)))


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
        more = f"; {line.error}" if line.error else ""
        text = f"carried it{who}, {line.sent} bytes there and {line.received} back{more}"
        found.append(Statement("ztunnel log", str(said.proxy), text, None if line.error else True))
    return found


def _by_ztunnel(client: Statement, seen: Seen, query: Query, evidence: Evidence) -> Attribution:
    """The destination's ztunnel refused the source; or the waypoint, so that its lines have that as their source."""
    source, upstream = t.cast(Target, query.source), seen.outcome == "denied_upstream"
    sender = "" if upstream else seen.sender
    callers = query.waypoint_addresses if upstream else query.source_addresses
    caller = (query.waypoint or ("", "")) if upstream else (source.namespace, source.workload)
    own = [item for item in evidence.lines(sender) if item[1].direction == "outbound"] if sender else []
    refused = any(line.refused_by_peer for _where, line in own)
    candidates = _rejections(sender, callers, query.addresses, evidence)
    statements = (
        client,
        *(_source_side(said, line) for said, line in own),
        *_destination_side(candidates, query, evidence, refused),
        *_ztunnel_counts(query, caller, evidence),
    )
    otherwise = "application" if any(not line.error for _where, line in own) else "network"
    return _conclude("ztunnel", otherwise, statements, _among(candidates, query.allowing), evidence)


def _source_side(said: Said, line: Connection) -> Statement:
    where = str(said.proxy)
    if line.refused_by_peer:
        return Statement("ztunnel log", where, f"the other end's proxy refused the connection: {line.error}", True)
    if line.denial:
        return Statement("ztunnel log", where, line.denial.reason, True)
    if line.error:
        return Statement("ztunnel log", where, f"could not carry the connection: {line.error}", False)
    text = f"carried the connection, {line.sent} bytes there and {line.received} back: the application ended it"
    return Statement("ztunnel log", where, text, False)


def _rejections(sender: str, callers: t.Sequence[str], targets: tuple[str, ...], evidence: Evidence) -> list[Refusal]:
    """Refusals of connections from the source to the destination in this round.

    The client's own port is there only without HBONE; over HBONE its address and the destination's must do, and
    lines about other sources never fit.
    """
    own = evidence.refusals(sender, targets) if sender else []
    return own or [item for address in callers for item in evidence.refusals(address, targets)]


def _destination_side(
    candidates: t.Sequence[Refusal], query: Query, evidence: Evidence, refused: bool
) -> list[Statement]:
    found: dict[tuple[str, str], Statement] = {}
    for said, line, refusal in candidates:
        who = f", source {line.identity.removeprefix('spiffe://')}" if line.identity else ", source without identity"
        text = refusal.reason + who
        found[str(said.proxy), text] = Statement("ztunnel log", str(said.proxy), text, True)
    if found:
        return list(found.values())
    silent = []
    proxies = evidence.ztunnels(query.nodes)
    # Where one could not be read, it may be the one that has refused.
    blind = any(said.log_problem or said.gap for said in proxies)
    for said in proxies:
        where = str(said.proxy)
        if said.log_problem or said.gap:
            why = said.log_problem or "lines of this round may be missing (rotated, restarted, or too many)"
            silent.append(Statement("ztunnel log", where, f"could not be read: {why}", None))
        elif not said.logs_access:
            silent.append(Statement("ztunnel log", where, "no access line of anybody: its access log may be off", None))
        elif not refused:
            supports = None if blind else False
            silent.append(Statement("ztunnel log", where, "no line that it refused this source", supports))
        else:
            silent.append(Statement("ztunnel log", where, "no line about it, though the other end was refused", None))
    return silent


def _ztunnel_counts(query: Query, caller: tuple[str, str], evidence: Evidence) -> list[Statement]:
    """Refusals of the source at the destination: the same source may be refused elsewhere at the same time."""
    series = _series({"source_workload": caller[1], "source_workload_namespace": caller[0]}, query)
    return _counts("ztunnel counter", evidence.ztunnels(query.nodes), series, "DENY")


def _series(labels: t.Mapping[str, str], query: Query) -> list[dict[str, str]]:
    """Labels of a source's counters for each of the destination's workloads."""
    return [
        {**labels, "destination_workload": name, "destination_workload_namespace": space}
        for space, name in sorted(query.workloads)
    ]


def _counts(
    witness: str, proxies: t.Sequence[Said], series: t.Sequence[t.Mapping[str, str]], what: str
) -> list[Statement]:
    """Whether a counter of refusals has risen; one proxy in which it has is enough."""
    risen = [(said, sum(said.counted(**labels) for labels in series)) for said in proxies]
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


def _by_waypoint(client: Statement, seen: Seen, query: Query, evidence: Evidence, ids: t.Sequence[str]) -> Attribution:
    source = t.cast(Target, query.source)
    proxies = evidence.waypoints(query.waypoint_addresses)
    if not proxies and not evidence.problem:
        nobody = Statement("waypoint log", "", "there is no waypoint on the path", False)
        return _conclude("waypoint", "network", (client, nobody), (), evidence)
    logs: list[Statement] = []
    among: tuple[str, ...] = ()
    other = ""
    for said in proxies:
        request = next((said.requests[item] for item in ids if item in said.requests), None)
        if request is None or request.rejected is None:
            continue
        named = f", by {request.policy}" if request.policy else ""
        if BAD_CUSTOM in request.details:
            fault = "whose provider istiod does not have, or can't use: all that it matches is denied"
            named += f", a CUSTOM policy {fault}"
        text = f"HTTP {request.code}, {request.details}{named}"
        logs.append(Statement("waypoint log", str(said.proxy), text, request.rejected))
        if request.rejected:
            among, other = _refusers(request, query)
    if not logs:
        nothing = "no line about it (access log off, late, or in a format of its own)"
        why = {str(said.proxy): said.log_problem or nothing for said in proxies}
        logs = [Statement("waypoint log", where, text, None) for where, text in why.items()]
    labels = {
        "response_code": str(seen.http_code),
        "source_workload": source.workload,
        "source_workload_namespace": source.namespace,
    }
    series = [{**labels, "destination_service_name": name} for name in query.services] or _series(labels, query)
    counts = _counts("waypoint counter", proxies, series, f"HTTP {seen.http_code}")
    found = _conclude("waypoint", "network", (client, *logs, *counts), among, evidence)
    return found if found.problem else dataclasses.replace(found, other=other)


def _refusers(request: Request, query: Query) -> tuple[tuple[str, ...], str]:
    """Policies of which one refused, by a waypoint's log, and what else did (Envoy, response_code_details)."""
    if request.policy:
        return (request.policy,), ""
    if request.unmatched:
        return query.waypoint_allowing, ""
    if request.details.startswith("ext_authz"):
        return query.waypoint_custom, "" if query.waypoint_custom else "an external authorizer"
    return (), "a RequestAuthentication" if request.details.startswith("jwt_authn") else ""


def _conclude(
    proxy: str, otherwise: str, statements: tuple[Statement, ...], among: tuple[str, ...], evidence: Evidence
) -> Attribution:
    """A denial is proven where a proxy bears it out and none says otherwise.

    otherwise: who has decided where all proxies say that it was none of them. statements: the client's first.
    """
    good = [item for item in statements[1:] if item.supports]
    bad = [item for item in statements[1:] if item.supports is False]
    if good and not bad:
        policy = among[0] if len(among) == 1 else None
        return Attribution(proxy, policy, among, statements, unnamed=proxy == "ztunnel" and evidence.names_nothing)
    if good:
        said = "; ".join(map(str, (*good, *bad)))
        return Attribution("-", None, (), statements, f"the witnesses disagree: {said}")
    if bad:
        said = "; ".join(dict.fromkeys(map(str, bad)))
        return Attribution(otherwise, None, (), statements, f"{NOT_MET}: {said}")
    silent = "; ".join(dict.fromkeys(map(str, statements[1:])))
    why = evidence.problem or silent or "there is no proxy to ask"
    return Attribution("-", None, (), statements, f"nobody could say who refused this: {why}", silent=True)
