# Who can call: each workload's identity, identities that policies name and no workload has, any other one, and nobody.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import ipaddress
import re
import typing as t

from .._mesh import l4, l7
from .._mesh.doubts import isolating
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
from .patterns import ANY, OTHER, PART, PARTS, SEGMENT, like_glob, said, samples, takes, unnamed

OUTSIDE = "outside of the mesh"
_FIELDS = {attribute: field for field, attribute in SOURCE.items()}
# Fields of ztunnel's rules that are about the caller, and conditions of a waypoint's.
_L4 = {"sourceIps", "namespaces", "serviceAccounts", "principals"}
CALLER = ("source.", "remote.ip")
_IDENTITY = f"{SEGMENT}/ns/{SEGMENT}/sa/{SEGMENT}"
# Of a principal with its trust domain.
_SLASHES = 4
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


def _identities(policies: t.Iterable[Object], own: t.Sequence[str], seeds: t.Sequence[str]) -> list[str]:
    """Identities for each way in which policies tell them apart.

    Args:
        policies: that may meet at a destination.
        own: trust domain of the mesh in each state.
        seeds: identities that are looked at in any case.

    Raises:
        TooManyError: when there are too many of them.
    """
    exact: dict[str, None] = {}
    accounts: dict[str, None] = {}
    wild: dict[str, None] = {}
    for policy in policies:
        for field, value in _named(policy):
            if field == "serviceAccounts":
                space, slash, account = value.rpartition("/")
                accounts[f"{own[0]}/ns/{space if slash else namespace_of(policy)}/sa/{account}"] = None
            elif field == "principals" and "*" not in (value[0], value[-1]):
                exact[value] = None
            elif field == "principals" and value != "*":
                wild[like_glob(value)] = None
            elif field == "trustDomains":
                wild[f"{like_glob(value, PART, PARTS)}/ns/{SEGMENT}/sa/{SEGMENT}"] = None
            elif field == "namespaces":
                # A waypoint takes every star for one; ztunnel one at one end, and no namespace has another.
                wild[f"{SEGMENT}/ns/{value.replace('*', PARTS)}/sa/{SEGMENT}"] = None
    shape = _IDENTITY
    # Trust domains are looked at where a pattern with a star has something to say of them.
    if any(not one.startswith((ANY, SEGMENT)) or (one[0] == ANY and one.count("/") == _SLASHES) for one in wild):
        wild |= {f"{domain}/ns/{SEGMENT}/sa/{SEGMENT}": None for domain in own}
        wild |= {f"{SEGMENT}/{text.partition('/')[2]}": None for text in accounts}
    else:
        shape = f"{own[0]}/ns/{SEGMENT}/sa/{SEGMENT}"
    exact |= accounts
    known = [*seeds, *(text for text in exact if takes(_IDENTITY, text))]
    return samples(
        wild, lambda text: (text if text in exact else "", *(takes(one, text) for one in wild)), known, shape
    )


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
        self._own = [mesh.config.trust_domains[0] for mesh in meshes]
        policies = [item for mesh in meshes for item in mesh.items("AuthorizationPolicy")]
        named = dict.fromkeys(one for policy in policies for one in _named(policy))
        blocks = sorted({value for field, value in named if field.endswith("Blocks")})
        workloads = _of_workloads([_units(mesh, blocks) for mesh in meshes])
        pods = [(mesh, pod) for mesh in meshes for pod in mesh.items("Pod") if GATEWAY_NAME in labels_of(pod)]
        # A waypoint calls for others alone.
        self._taken = {_account(pod) for mesh, pod in pods if is_waypoint(mesh, pod)}
        self._gateways = {_account(pod) for _mesh, pod in pods} - self._taken
        inside = dict.fromkeys(
            _account(pod)
            for one in workloads
            for mesh, pod in zip(meshes, one.pods, strict=True)
            if mesh.membership(pod).captured
        )
        texts = {value.strip("*") for field, value in named if field in ("namespaces", "principals") and "*" in value}
        other = unnamed(lambda text: any(one and (text.startswith(one) or text.endswith(one)) for one in texts))
        spaces = [*dict.fromkeys(space for space, _account in inside), other]
        # Callers that no policy need name: policies are found on their ways.
        others = [self._caller(None, space, other) for space in spaces]
        self.inside, self.outside = others[-1], self._outside("")
        self._seeds = [f"{self._own[0]}/ns/{space}/sa/{other}" for space in spaces]
        self._taken |= {*inside, *((space, other) for space in spaces)}
        self._everywhere = Group(meshes, [*workloads, *others, self.outside])
        self._groups: dict[t.Hashable, Group] = {}

    def _caller(self, domain: str | None, space: str, account: str) -> Source:
        """Whoever has an identity that no workload has. domain: a foreign one."""
        name = said("/".join(text for text in (domain, space, account) if text))
        name = name.replace("any other/", "any other domain/", 1) if domain and said(domain) == "any other" else name
        pods = (outsider(space, account, gateway=(space, account) in self._gateways),) * len(self.meshes)
        return Source(name, pods, real=False, identity=Identity(domain, space, account) if domain else None)

    def _outside(self, address: str) -> Source:
        pods = (outsider(OTHER, OTHER, address, captured=False),) * len(self.meshes)
        return Source(f"{OUTSIDE}, at {address}" if address else OUTSIDE, pods, real=False)

    def _named_by(self, policies: t.Sequence[Object]) -> Group:
        """Callers whom some policies tell from all others."""
        named = dict.fromkeys((namespace_of(policy), *one) for policy in policies for one in _named(policy))
        key = tuple(one if one[1] == "serviceAccounts" else one[1:] for one in named)
        if key not in self._groups:
            found = []
            for text in _identities(policies, self._own, self._seeds):
                domain, space, account = re.split("/ns/|/sa/", text)
                known = any(domain in (*mesh.config.trust_domains, "cluster.local") for mesh in self.meshes)
                # Of an alias both count: the mesh's own identity, and that of another mesh.
                foreign = [None] if {domain} == {*self._own} else [None, domain] if known else [domain]
                found += [
                    self._caller(whose, space, account)
                    for whose in foreign
                    if whose or (space, account) not in self._taken
                ]
            blocks = dict.fromkeys(value for _space, field, value in named if field.endswith("Blocks"))
            networks = [ipaddress.ip_network(block, strict=False) for block in blocks if l4.network_of(block)]
            found += map(self._outside, dict.fromkeys(_inside(network, networks) for network in networks))
            self._groups[key] = Group(self.meshes, found)
        return self._groups[key]

    def parts(self, places: t.Sequence[Place]) -> list[list[Source]]:
        """Sources at some places, those together that nothing tells apart.

        Raises:
            TooManyError: when policies tell too many of them apart.
        """
        policies = [item for place in places for item in (*place.at_waypoint, *place.at_ztunnel)]
        groups = [self._everywhere, self._named_by(policies)]
        found: dict[tuple[t.Hashable, ...], list[Source]] = {}
        for group in groups:
            columns: list[t.Sequence[t.Hashable]] = [group.kinds]
            for place in places:
                columns += group.apart(place)
            for source, key in zip(group.sources, zip(*columns, strict=True), strict=True):
                found.setdefault(key, []).append(source)
        return list(found.values())


def _account(pod: Object) -> tuple[str, str]:
    return namespace_of(pod), account_of(pod)


class Group:
    """Some sources, and what rules make of them: each rule is asked once for each.

    Attributes:
        sources: all of them.
        kinds: what sets them apart everywhere.
    """

    def __init__(self, meshes: t.Sequence[Mesh], sources: list[Source]) -> None:
        self.sources, self._meshes = sources, meshes
        states = [*enumerate(meshes)]
        self.kinds = [tuple(_kind(mesh, one.pods[state]) for state, mesh in states) for one in sources]
        self._seen = [[source.seen(mesh, state) for source in sources] for state, mesh in states]
        self._names = [[name_of(source.pods[state]) for source in sources] for state, _mesh in states]
        self._asked: dict[t.Hashable, tuple[Truth, ...]] = {}

    def apart(self, place: Place) -> t.Iterator[t.Sequence[t.Hashable]]:
        """What sets them apart at a place, beside what does everywhere."""
        if place.local:
            yield [source.pods[place.state].get("spec", {}).get("nodeName") for source in self.sources]
        # A pod that calls itself need not pass ztunnel, unless a waypoint is on its way.
        callers = zip(self._names[place.state], self._seen[place.state], strict=True)
        yield [name in place.pods and not (place.through and one.identity) for name, one in callers]
        yield from self._answers(place.state, "waypoint", place.at_waypoint)
        for answers in self._answers(place.state, "ztunnel", place.at_ztunnel):
            # Behind a waypoint ztunnel sees no caller that is in the mesh.
            seen = self._seen[place.state] if place.through else ()
            hidden = [one.identity is not None for one in seen] or [False] * len(answers)
            yield [None if hide else answer for hide, answer in zip(hidden, answers, strict=True)]

    def _answers(self, state: int, proxy: str, policies: t.Iterable[Object]) -> t.Iterator[tuple[Truth, ...]]:
        """What each rule of some policies makes of each source."""
        ask = _at_ztunnel if proxy == "ztunnel" else _at_waypoint
        for policy in policies:
            for number in range(len(rules(policy))):
                key = state, name_of(policy), number, proxy
                if key not in self._asked:
                    about, answer = ask(policy, number, self._meshes[state])
                    # Most rules of two states say the same of the same callers.
                    shared = proxy, namespace_of(policy), repr(about), self._seen.index(self._seen[state])
                    if shared not in self._asked:
                        self._asked[shared] = tuple(map(answer, self._seen[state]))
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


def _kind(mesh: Mesh, pod: Object) -> t.Hashable:
    """What of a caller counts everywhere: whether it is in the mesh, and what nobody can know of it."""
    member, space, spec = mesh.membership(pod), namespace_of(pod), pod.get("spec", {})
    isolated = tuple(name_of(item) for item in isolating(mesh, pod, "Egress"))
    unread = tuple(mesh.why_unread(kind, space) for kind in ("ServiceEntry", "NetworkPolicy"))
    node = spec.get("hostNetwork") and spec.get("nodeName")
    return member.captured, member.sidecar, member.doubt, is_gateway(pod), node, isolated, unread
