# Who can call: each workload's identity, identities that policies name and no workload has, any other one, and nobody.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import ipaddress
import re
import typing as t

from .._mesh import l4, l7
from .._mesh.l4 import Connection, Identity, within
from .._mesh.mesh import (
    DATAPLANE_MODE,
    GATEWAY_NAME,
    REDIRECTION,
    Mesh,
    Object,
    account_of,
    addresses_of,
    has_ended,
    is_gateway,
    labels_of,
    name_of,
    namespace_of,
)
from .._mesh.policies import SOURCE, Truth, rules, written_rules
from .._mesh.waypoints import is_waypoint
from .doors import workload_of
from .patterns import OTHER, filled

OUTSIDE = "outside of the mesh"
_FIELDS = {attribute: field for field, attribute in SOURCE.items()}
# Fields of ztunnel's rules that are about the caller, and conditions of a waypoint's.
_L4 = {"sourceIps", "namespaces", "serviceAccounts", "principals"}
CALLER = ("source.", "remote.ip")
_NEUTRAL = l7.HttpRequest("GET", "any-other", "/", {})


@dataclasses.dataclass(frozen=True)
class Source:
    """Who calls.

    Attributes:
        name: namespace/ServiceAccount, with "any other" for what no workload has, or OUTSIDE.
        pods: that stand for it, one in each state.
        real: whether a workload has it in any state.
        identity: of a foreign trust domain; None: the pod's own.
    """

    name: str
    pods: tuple[Object, ...]
    real: bool = True
    identity: Identity | None = None

    def seen(self, mesh: Mesh, state: int) -> Connection:
        """What of it a proxy sees in a state."""
        pod = self.pods[state]
        found = addresses_of(pod)
        own = Identity(mesh.config.trust_domains[0], namespace_of(pod), account_of(pod))
        identity = (self.identity or own) if mesh.membership(pod).captured else None
        return Connection(identity, found[0] if len(found) == 1 else None, None, None)


def sources(meshes: t.Sequence[Mesh]) -> list[Source]:
    """All sources that the policies of some states can tell apart; those of workloads first, by name."""
    policies = [item for mesh in meshes for item in mesh.items("AuthorizationPolicy")]
    blocks = sorted({value for item in policies for field, value in _named(item) if field.endswith("Blocks")})
    listed = _of_workloads([_units(mesh, blocks) for mesh in meshes])
    captured = {
        source.name
        for source in listed
        if any(mesh.membership(pod).captured for mesh, pod in zip(meshes, source.pods, strict=True))
    }
    listed += _others(meshes, policies, captured)
    networks = [ipaddress.ip_network(block, strict=False) for block in blocks if l4.network_of(block)]
    for address in ["", *dict.fromkeys(_inside(network, networks) for network in networks)]:
        pod = outsider(OTHER, OTHER, address, captured=False)
        listed.append(Source(f"{OUTSIDE}, at {address}" if address else OUTSIDE, (pod,) * len(meshes), real=False))
    return listed


# Account, workload with its kind, and a number: pods of a workload that the mesh treats alike.
_Unit = tuple[str, str, str, int]
_Units = dict[_Unit, tuple[t.Hashable, Object]]


def _of_workloads(states: t.Sequence[_Units]) -> list[Source]:
    """A source for each ServiceAccount that runs any pod; several where a state treats its workloads differently."""
    accounts: dict[str, dict[_Unit, Object]] = {}
    own: list[dict[str, tuple[t.Hashable, Object]]] = [{} for _state in states]
    for known, units in zip(own, states, strict=True):
        for unit, item in units.items():
            known.setdefault(unit[0], item)
            accounts.setdefault(unit[0], {}).setdefault(unit, item[1])
    listed: list[Source] = []
    for name in sorted(accounts):
        seen: set[t.Hashable] = set()
        for unit, pod in accounts[name].items():
            there = next(units[unit] for units in states if unit in units)
            # Where no workload has the account, what counts is what would meet one that had it.
            found = [units.get(unit, known.get(name, there)) for units, known in zip(states, own, strict=True)]
            key = tuple(kind for kind, _pod in found)
            if key not in seen:
                label = f"{name} (pod {pod['metadata']['name']})" if seen else name
                listed.append(Source(label, tuple(item for _kind, item in found)))
                seen.add(key)
    return listed


def _units(mesh: Mesh, blocks: t.Sequence[str]) -> _Units:
    """A pod for each workload; several where the mesh treats them differently. Those in the mesh come first."""
    found: _Units = {}
    seen: set[t.Hashable] = set()
    numbers: dict[tuple[str, str, str], int] = {}
    pods = [pod for pod in mesh.items("Pod") if GATEWAY_NAME not in labels_of(pod) and not has_ended(pod)]
    isolating = {namespace_of(item) for item in mesh.items("NetworkPolicy")}
    members = {name_of(pod): mesh.membership(pod) for pod in pods}
    for pod in sorted(pods, key=lambda pod: (not members[name_of(pod)].captured, name_of(pod))):
        member, workload = members[name_of(pod)], (f"{namespace_of(pod)}/{account_of(pod)}", *workload_of(pod))
        labels = tuple(sorted(labels_of(pod).items())) if namespace_of(pod) in isolating else ()
        inside = [tuple(within(address, block) for block in blocks) for address in addresses_of(pod)] if blocks else []
        host = pod.get("spec", {}).get("hostNetwork") and pod["spec"].get("nodeName")
        kind = member.captured, member.sidecar, labels, tuple(inside), host
        if (workload, kind) not in seen:
            seen.add((workload, kind))
            number = numbers[workload] = numbers.get(workload, -1) + 1
            found[*workload, number] = kind, pod
    return found


def _others(meshes: t.Sequence[Mesh], policies: t.Iterable[Object], known: set[str]) -> t.Iterator[Source]:
    """Identities that policies name and no workload has, and any other one of each namespace, and of all."""
    own = {domain for mesh in meshes for domain in (*mesh.config.trust_domains, "cluster.local")}
    names = {(None, *name.partition(" ")[0].partition("/")[::2]) for name in known}
    gateways = [(mesh, pod) for mesh in meshes for pod in mesh.items("Pod") if GATEWAY_NAME in labels_of(pod)]
    waypoints = {(namespace_of(pod), account_of(pod)) for mesh, pod in gateways if is_waypoint(mesh, pod)}
    named = [one for policy in policies for one in _identities(policy)]
    ingresses = {(namespace_of(pod), account_of(pod)) for _mesh, pod in gateways} - waypoints
    spaces = _texts([space for _domain, space, _account in (*sorted(names, key=str), *named)])
    accounts = _texts([account for _domain, space, account in named if "*" in space + account])
    # Others of a namespace that is known, or named, for each way in which patterns fit them.
    crossed = [(space, account) for account in accounts for space in spaces]
    domains = {filled(domain): None for domain, space, account in named if domain and "*" in space + account}
    more = [filled(domain) for domain in domains if filled(domain) not in own] + ([OTHER] if domains else [])
    wanted: dict[tuple[str | None, str, str], None] = dict.fromkeys((None, *pair) for pair in crossed)
    wanted |= dict.fromkeys((domain, *pair) for domain in more for pair in crossed)
    wanted |= dict.fromkeys(one for one in named if "*" not in "".join(one[1:]))
    for domain, space, account in wanted:
        foreign = domain if domain and domain not in own else None
        if not foreign and ((None, space, account) in names or (space, account) in waypoints):
            # A waypoint calls for others alone.
            continue
        label = f"{space}/{account}".replace(OTHER, "any other")
        whose = "any other domain" if foreign == OTHER else foreign
        identity = Identity(foreign, space, account) if foreign else None
        pods = (outsider(space, account, gateway=(space, account) in ingresses),) * len(meshes)
        yield Source(f"{whose}/{label}" if foreign else label, pods, real=False, identity=identity)


def _texts(patterns: t.Iterable[str]) -> list[str]:
    """Names that show every way in which patterns fit together: those without a star, and any other one last."""
    listed = list(dict.fromkeys(patterns))
    heads = dict.fromkeys(text.partition("*")[0] for text in listed if not text.startswith("*") and "*" in text)
    tails = dict.fromkeys(text.rpartition("*")[2] for text in listed if not text.endswith("*") and "*" in text)
    exact = [text for text in listed if "*" not in text and text != OTHER]
    crossed = [f"{head}{OTHER}{tail}" for head in (*heads, "") for tail in (*tails, "")]
    return list(dict.fromkeys((*exact, *crossed)))


def _identities(policy: Object) -> t.Iterator[tuple[str | None, str, str]]:
    """Trust domain (None: any), namespace and account as patterns, for what a policy names."""
    for field, value in _named(policy):
        if field == "trustDomains":
            yield value, "*", "*"
        elif field == "namespaces":
            yield None, value, "*"
        elif field == "serviceAccounts":
            space, slash, account = value.rpartition("/")
            yield None, space if slash else namespace_of(policy), account
        elif field == "principals" and value != "*" and not value.startswith("spiffe:"):
            domain, _slash, rest = value.partition("/")
            where, whose = (re.search(pattern, value) for pattern in (r"(?:^|/)ns/([^/]*)", r"(?:^|/)sa/([^/]*)"))
            # What ends with a star's suffix alone may be the end of an account.
            last = whose[1] if whose else "" if rest.startswith("ns/") else value.rpartition("/")[2]
            yield None if not rest or "*" in domain else domain, (where[1] if where else "") or "*", last or "*"


def _named(policy: Object) -> t.Iterator[tuple[str, str]]:
    """What rules name of callers, by field, conditions too, and without their negation."""
    for rule in rules(policy):
        for item in (*(item for source in rule.sources for item in source), *rule.when):
            for value in (*item.wanted, *item.unwanted) if item.attribute in _FIELDS else ():
                yield _FIELDS[item.attribute], value


def outsider(
    namespace: str, account: str, address: str = "", *, captured: bool = True, gateway: bool = False
) -> Object:
    """A pod that exists nowhere; captured: in the mesh; gateway: of an ingress gateway."""
    meta = {"name": "(none)", "namespace": namespace, "labels": {"-": "-"} if captured else {DATAPLANE_MODE: "none"}}
    meta |= {"labels": {GATEWAY_NAME: account}} if gateway else {}
    status = {"phase": "Running", "podIPs": [{"ip": address}] if address else []}
    annotations = {REDIRECTION: "enabled"} if captured else {}
    spec = {"serviceAccountName": account, "containers": []}
    return {"kind": "Pod", "metadata": {**meta, "annotations": annotations}, "spec": spec, "status": status}


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _inside(network: _Network, others: t.Collection[_Network]) -> str:
    """An address of a network that is in none of those that are a part of it, where there is one."""
    near = [one for one in others if one.version == network.version and one != network]
    nested = [one for one in near if int(one[0]) in range(int(network[0]), int(network[-1]) + 1)]
    nested = [one for one in nested if one.prefixlen > network.prefixlen]
    first = network[min(1, network.num_addresses - 1)]
    edges = [first, network[-1], *(one[0] - 1 for one in nested if one[0] != network[0])]
    edges += [one[-1] + 1 for one in nested if one[-1] != network[-1]]
    found = (item for item in edges if item in network and not any(item in one for one in nested))
    return str(next(found, first))


class Crowd:
    """All sources in some states, and what the rules of policies make of them: each rule is asked once for each.

    Args:
        meshes: the states.
    """

    def __init__(self, meshes: t.Sequence[Mesh]) -> None:
        self.meshes = meshes
        self.sources = sources(meshes)
        # Callers that no policy need name: policies are found on their ways.
        self.inside = next(source for source in self.sources if source.name == "any other/any other")
        self.outside = next(source for source in self.sources if source.name == OUTSIDE)
        self.seen = [[source.seen(mesh, state) for source in self.sources] for state, mesh in enumerate(meshes)]
        self._asked: dict[tuple[t.Any, ...], tuple[Truth, ...]] = {}
        self._kinds = [
            [_kind(mesh, source.pods[state]) for source in self.sources] for state, mesh in enumerate(meshes)
        ]

    def parts(self, places: t.Sequence[Place]) -> list[list[int]]:
        """Numbers of sources, those together that nothing tells apart at some places."""
        columns: list[t.Sequence[t.Hashable]] = []
        for place in places:
            state = place.state
            columns.append(self._kinds[state])
            callers = zip(self.sources, self.seen[state], strict=True)
            columns.append([place.apart(one.pods[state], seen.identity is not None) for one, seen in callers])
            columns += self._answers(state, "waypoint", place.at_waypoint)
            for answers in self._answers(state, "ztunnel", place.at_ztunnel):
                # Behind a waypoint ztunnel sees no caller that is in the mesh.
                hidden = [place.through and connection.identity is not None for connection in self.seen[state]]
                columns.append([None if hide else answer for hide, answer in zip(hidden, answers, strict=True)])
        found: dict[tuple[t.Hashable, ...], list[int]] = {}
        for number, key in enumerate(zip(*columns, strict=True)):
            found.setdefault(key, []).append(number)
        return list(found.values())

    def _answers(self, state: int, proxy: str, policies: t.Iterable[Object]) -> t.Iterator[tuple[Truth, ...]]:
        """What each rule of some policies makes of each source."""
        ask = _at_ztunnel if proxy == "ztunnel" else _at_waypoint
        for policy in policies:
            for number in range(len(rules(policy))):
                key = state, name_of(policy), number, proxy
                if key not in self._asked:
                    about, answer = ask(policy, number, self.meshes[state])
                    # Most rules of two states say the same of the same callers.
                    shared = proxy, namespace_of(policy), repr(about), self.seen.index(self.seen[state])
                    if shared not in self._asked:
                        self._asked[shared] = tuple(map(answer, self.seen[state]))
                    self._asked[key] = self._asked[shared]
                yield self._asked[key]


Answer = t.Callable[[Connection], Truth]


def _at_ztunnel(policy: Object, number: int, _mesh: Mesh) -> tuple[t.Any, Answer]:
    """What ztunnel is told of callers by a rule, and how it answers."""
    one = {**policy, "spec": {**policy["spec"], "rules": [written_rules(policy)[number]]}}
    converted = l4.convert(one)
    if converted is None or not converted.rules:
        return None, lambda _connection: False
    about = [clause for clause in converted.rules[0] if any(_L4 & {*match} for match in clause)]
    return about, lambda connection: l4.rule_matches(about, connection)


def _at_waypoint(policy: Object, number: int, mesh: Mesh) -> tuple[t.Any, Answer]:
    """The same of a waypoint."""
    rule, domains = rules(policy)[number], mesh.config.trust_domains
    when = [item for item in rule.when if item.attribute.startswith(CALLER)]
    about = dataclasses.replace(rule, operations=[], when=when)

    def answer(connection: Connection) -> Truth:
        # Which address a waypoint takes a caller for nobody can know (paths.py).
        seen = dataclasses.replace(connection, source_ip=None)
        return l7.rule_matches(policy, about, l7.Context(seen, _NEUTRAL, domains))

    return (about, domains), answer


@dataclasses.dataclass(frozen=True)
class Place:
    """A destination in a state.

    Attributes:
        state: its number.
        at_waypoint: policies that see callers from the mesh, where the waypoint is on their way.
        at_ztunnel: policies that see all others.
        through: a waypoint is on the way of callers from the mesh.
        pods: its own, which need not pass ztunnel.
        local: it leads to pods of the caller's node.
    """

    state: int
    at_waypoint: t.Sequence[Object]
    at_ztunnel: t.Sequence[Object]
    through: bool
    pods: t.Collection[str]
    local: bool

    def apart(self, pod: Object, captured: bool) -> t.Hashable:
        """What sets a caller apart here, beside its identity. captured: it is in the mesh."""
        node = pod.get("spec", {}).get("nodeName") if self.local else None
        return not (self.through and captured) and name_of(pod) in self.pods, node


def _kind(mesh: Mesh, pod: Object) -> t.Hashable:
    """What of a caller counts everywhere: whether it is in the mesh, and what nobody can know of it."""
    member, space, spec = mesh.membership(pod), namespace_of(pod), pod.get("spec", {})
    labels = tuple(sorted(labels_of(pod).items())) if mesh.items("NetworkPolicy", space) else ()
    unread = tuple(mesh.why_unread(kind, space) for kind in ("ServiceEntry", "NetworkPolicy"))
    return (
        member.captured,
        member.sidecar,
        member.doubt,
        is_gateway(pod),
        spec.get("hostNetwork") and spec.get("nodeName"),
        labels,
        unread,
    )
