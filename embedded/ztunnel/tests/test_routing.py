"""Routing as tables (embedded provider alone)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from ambient_ztunnel.model import (
    CidrAddress,
    Gateway,
    HostAddress,
    LbMode,
    LbScope,
    Locality,
    NetworkAddress,
    Service,
    Tunnel,
    Workload,
)
from ambient_ztunnel.routing import RoutingError, route
from ambient_ztunnel.state import State, WorkloadInfo

DOMAIN = "cluster.local"


def host(name: str, namespace: str = "ns") -> HostAddress:
    return HostAddress(namespace, f"{name}.{namespace}.svc.{DOMAIN}")


def pod(name: str, ip: str, *services: str, ports: dict[int, int] | None = None, **fields: object) -> Workload:
    base = Workload(
        uid=f"cluster//Pod/ns/{name}",
        name=name,
        namespace="ns",
        addresses=(ip_address(ip),),
        protocol=Tunnel.HBONE,
        service_account=name,
        services={host(service): ports or {80: 8080} for service in services},
    )
    return replace(base, **fields)  # type: ignore[arg-type]


def svc(name: str, vip: str | None, ports: dict[int, int] | None = None, **fields: object) -> Service:
    vips = (NetworkAddress("", ip_address(vip)),) if vip else ()
    base = Service(name, "ns", host(name).hostname, vips=vips, ports={80: 8080} if ports is None else ports)
    return replace(base, **fields)  # type: ignore[arg-type]


CLIENT = pod("client", "10.0.0.1")
APP = pod("app", "10.0.0.2", "app")
WAYPOINT = pod("waypoint", "10.0.0.3", "waypoint", ports={15008: 15008})
WAYPOINT_SVC = svc("waypoint", "10.1.0.3", {15008: 15008})
TO_WAYPOINT = Gateway(host("waypoint"))


def world(*things: Workload | Service) -> State:
    state = State()
    for thing in (CLIENT, *things):
        if isinstance(thing, Service):
            state.put_service(thing)
        else:
            state.put_workload(thing)
    return state


def go(state: State, ip: str, port: int, source: Workload = CLIENT) -> tuple[str, str, str]:
    """Protocol, next hop and authority."""
    decided = route(state, source, (ip_address(ip), port))
    authority = f"{decided.target}:{decided.target_port}" if decided.target is not None else ""
    return decided.protocol.value, f"{decided.ip}:{decided.port}", authority


UNWEIGHTED = svc("app", "10.1.0.2", waypoints=((TO_WAYPOINT, 1),))
BY_ADDRESS = Gateway(NetworkAddress("", ip_address("10.1.0.3")))
POD_GATEWAY = Gateway(NetworkAddress("", ip_address("10.0.0.3")))


@pytest.mark.parametrize(
    ("things", "ip", "port", "want"),
    [
        # nobody the mesh knows
        ([], "8.8.8.8", 443, ("TCP", "8.8.8.8:443", "")),
        # a pod, tunnelled and not
        ([APP], "10.0.0.2", 9999, ("HBONE", "10.0.0.2:15008", "10.0.0.2:9999")),
        ([replace(APP, protocol=Tunnel.TCP)], "10.0.0.2", 8080, ("TCP", "10.0.0.2:8080", "")),
        # a service, with target port mapping
        ([APP, svc("app", "10.1.0.2")], "10.1.0.2", 80, ("HBONE", "10.0.0.2:15008", "10.0.0.2:8080")),
        (
            [replace(APP, protocol=Tunnel.TCP), svc("app", "10.1.0.2")],
            "10.1.0.2",
            80,
            ("TCP", "10.0.0.2:8080", ""),
        ),
        # a named port: only the pod knows it
        (
            [pod("app", "10.0.0.2", "app", ports={80: 9090}), svc("app", "10.1.0.2", {80: 0})],
            "10.1.0.2",
            80,
            ("HBONE", "10.0.0.2:15008", "10.0.0.2:9090"),
        ),
        # the service has a waypoint: the authority is the virtual IP
        (
            [APP, UNWEIGHTED, WAYPOINT, WAYPOINT_SVC],
            "10.1.0.2",
            80,
            ("HBONE", "10.0.0.3:15008", "10.1.0.2:80"),
        ),
        (
            [APP, svc("app", "10.1.0.2", waypoints=((BY_ADDRESS, 1),)), WAYPOINT, WAYPOINT_SVC],
            "10.1.0.2",
            80,
            ("HBONE", "10.0.0.3:15008", "10.1.0.2:80"),
        ),
        (
            [APP, svc("app", "10.1.0.2", waypoints=((POD_GATEWAY, 1),)), WAYPOINT],
            "10.1.0.2",
            80,
            ("HBONE", "10.0.0.3:15008", "10.1.0.2:80"),
        ),
        # the pod's own address goes around the service's waypoint
        (
            [APP, UNWEIGHTED, WAYPOINT, WAYPOINT_SVC],
            "10.0.0.2",
            8080,
            ("HBONE", "10.0.0.2:15008", "10.0.0.2:8080"),
        ),
        # ... unless the pod has one itself
        (
            [replace(APP, waypoint=TO_WAYPOINT), WAYPOINT, WAYPOINT_SVC],
            "10.0.0.2",
            8080,
            ("HBONE", "10.0.0.3:15008", "10.0.0.2:8080"),
        ),
        # the service's traffic ignores the pod's waypoint
        (
            [replace(APP, waypoint=TO_WAYPOINT), svc("app", "10.1.0.2"), WAYPOINT, WAYPOINT_SVC],
            "10.1.0.2",
            80,
            ("HBONE", "10.0.0.2:15008", "10.0.0.2:8080"),
        ),
        # a service that asks for no load balancing
        (
            [APP, svc("app", "10.1.0.2", lb_mode=LbMode.PASSTHROUGH)],
            "10.1.0.2",
            80,
            ("TCP", "10.1.0.2:80", ""),
        ),
        # an address range
        (
            [APP, replace(svc("app", None), cidr_vips=(CidrAddress("", ip_network("10.2.0.0/16")),))],
            "10.2.3.4",
            80,
            ("HBONE", "10.0.0.2:15008", "10.0.0.2:8080"),
        ),
        # an endpoint without readiness beside a ready one
        (
            [APP, pod("sick", "10.0.0.9", "app", healthy=False), svc("app", "10.1.0.2")],
            "10.1.0.2",
            80,
            ("HBONE", "10.0.0.2:15008", "10.0.0.2:8080"),
        ),
        # all endpoints sick, and the service wants them anyway
        (
            [replace(APP, healthy=False), svc("app", "10.1.0.2", lb_allow_unhealthy=True)],
            "10.1.0.2",
            80,
            ("HBONE", "10.0.0.2:15008", "10.0.0.2:8080"),
        ),
        # IPv6
        (
            [replace(APP, addresses=(ip_address("fd00::2"),))],
            "fd00::2",
            80,
            ("HBONE", "fd00::2:15008", "fd00::2:80"),
        ),
    ],
)
def test_route(things: list[Workload | Service], ip: str, port: int, want: tuple[str, str, str]) -> None:
    assert go(world(*things), ip, port) == want


@pytest.mark.parametrize(
    ("things", "message"),
    [
        ([svc("app", "10.1.0.2")], "no healthy upstream: 10.1.0.2:80"),
        ([replace(APP, healthy=False), svc("app", "10.1.0.2")], "no healthy upstream: 10.1.0.2:80"),
        ([APP, svc("app", "10.1.0.2", {81: 8080})], "no healthy upstream: 10.1.0.2:80"),
        # a waypoint that is named but absent must never be skipped
        ([APP, UNWEIGHTED], f"unknown waypoint: waypoint {host('waypoint').hostname} not found"),
        (
            [APP, UNWEIGHTED, WAYPOINT_SVC],
            'unknown waypoint: waypoint GatewayAddress { destination: Hostname(NamespacedHostname { namespace: "ns", '
            f'hostname: "{host("waypoint").hostname}" }}), hbone_mtls_port: 15008 }} not found',
        ),
        (
            [APP, svc("app", "10.1.0.2", waypoints=((BY_ADDRESS, 1),))],
            'unknown waypoint: waypoint GatewayAddress { destination: Address(NetworkAddress { network: "", '
            "address: 10.1.0.3 }), hbone_mtls_port: 15008 } not found",
        ),
        ([replace(APP, capacity=0), svc("app", "10.1.0.2")], "no healthy upstream: 10.1.0.2:80"),
        (
            [replace(APP, network="far"), svc("app", "10.1.0.2")],
            "no valid routing destination for workload: Workload{app with uid cluster//Pod/ns/app (HBONE)}",
        ),
        (
            [
                APP,
                svc("app", "10.1.0.2", lb_mode=LbMode.STRICT, lb_scopes=(LbScope.NODE,)),
                replace(APP, node="n2"),
            ],
            "no healthy upstream: 10.1.0.2:80",
        ),
    ],
)
def test_no_route(things: list[Workload | Service], message: str) -> None:
    with pytest.raises(RoutingError) as failed:
        go(world(*things), "10.1.0.2", 80)
    assert str(failed.value) == message


def test_a_waypoint_does_not_go_through_itself_to_a_workload() -> None:
    """To a service it does, as upstream's."""
    state = world(APP, UNWEIGHTED, replace(APP, waypoint=TO_WAYPOINT), WAYPOINT, WAYPOINT_SVC)
    assert go(state, "10.1.0.2", 80, WAYPOINT) == ("HBONE", "10.0.0.3:15008", "10.1.0.2:80")
    assert go(state, "10.0.0.2", 8080, WAYPOINT) == ("HBONE", "10.0.0.2:15008", "10.0.0.2:8080")


def test_identities_that_the_next_hop_may_show() -> None:
    state = world(APP, svc("app", "10.1.0.2", sans=("spiffe://td/ns/x/sa/y", "not-spiffe")))
    decided = route(state, CLIENT, (ip_address("10.1.0.2"), 80))
    assert [str(san) for san in decided.sans] == [
        "spiffe://cluster.local/ns/ns/sa/app",
        "spiffe://td/ns/x/sa/y",
    ]


def spread(state: State, rounds: int = 400) -> Counter[str]:
    """How often each next hop is chosen."""
    return Counter(go(state, "10.1.0.2", 80)[1].partition(":")[0] for _ in range(rounds))


def test_load_is_spread_over_ready_endpoints() -> None:
    state = world(APP, pod("b", "10.0.0.4", "app"), pod("c", "10.0.0.5", "app", healthy=False), svc("app", "10.1.0.2"))
    seen = spread(state)
    assert set(seen) == {"10.0.0.2", "10.0.0.4"}
    assert min(seen.values()) > 100


def test_capacity_weighs() -> None:
    state = world(replace(APP, capacity=0), pod("b", "10.0.0.4", "app"), svc("app", "10.1.0.2"))
    assert set(spread(state)) == {"10.0.0.4"}


@pytest.mark.parametrize(
    ("scopes", "mode", "want"),
    [
        ((LbScope.NODE,), LbMode.STRICT, {"10.0.0.2"}),
        ((LbScope.REGION,), LbMode.STRICT, {"10.0.0.2", "10.0.0.4"}),
        ((LbScope.REGION, LbScope.ZONE), LbMode.FAILOVER, {"10.0.0.2"}),
        ((LbScope.ZONE, LbScope.REGION), LbMode.FAILOVER, {"10.0.0.2"}),
        ((LbScope.SUBZONE,), LbMode.FAILOVER, {"10.0.0.2", "10.0.0.4", "10.0.0.5"}),
        ((), LbMode.STANDARD, {"10.0.0.2", "10.0.0.4", "10.0.0.5"}),
    ],
)
def test_locality(scopes: tuple[LbScope, ...], mode: LbMode, want: set[str]) -> None:
    state = world(
        replace(CLIENT, node="n1", locality=Locality("r1", "z1")),
        replace(APP, node="n1", locality=Locality("r1", "z1")),
        pod("b", "10.0.0.4", "app", node="n2", locality=Locality("r1", "z2")),
        pod("c", "10.0.0.5", "app", node="n3", locality=Locality("r2", "z3")),
        svc("app", "10.1.0.2", lb_scopes=scopes, lb_mode=mode),
    )
    source = state.workloads[CLIENT.uid]
    seen = {str(route(state, source, (ip_address("10.1.0.2"), 80)).ip) for _ in range(200)}
    assert seen == want


def test_weighted_waypoints() -> None:
    other = pod("second", "10.0.0.6", "second", ports={15008: 15008})
    both = ((TO_WAYPOINT, 1), (Gateway(host("second")), 3), (Gateway(host("absent")), 0))
    state = world(
        APP,
        svc("app", "10.1.0.2", waypoints=both),
        WAYPOINT,
        WAYPOINT_SVC,
        other,
        svc("second", None, {15008: 15008}),
    )
    seen = spread(state)
    assert set(seen) == {"10.0.0.3", "10.0.0.6"}
    assert seen["10.0.0.6"] > 2 * seen["10.0.0.3"]


# -- state -------------------------------------------------------------------------------------------------


def test_removal_leaves_no_index_behind() -> None:
    state = world(APP, svc("app", "10.1.0.2"))
    state.remove_address(APP.uid)
    state.remove_address(str(host("app")))
    assert go(state, "10.0.0.2", 80) == ("TCP", "10.0.0.2:80", "")
    assert go(state, "10.1.0.2", 80) == ("TCP", "10.1.0.2:80", "")
    assert state.workload_by_info(WorkloadInfo("app", "ns", "app")) is None
    assert state.services_by_host(host("app").hostname) == []


def declared(name: str, **fields: object) -> Workload:
    """A WorkloadEntry that names the pod's address."""
    entry = pod(name, "10.0.0.2", uid=f"cluster/networking.istio.io/WorkloadEntry/ns/{name}")
    return replace(entry, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("worse", "better"),
    [
        (declared("entry"), replace(APP, healthy=False, protocol=Tunnel.TCP)),
        (declared("entry", protocol=Tunnel.TCP), APP),
        (declared("plain", protocol=Tunnel.TCP), declared("meshed")),
    ],
)
def test_a_pod_s_address_is_not_taken_over(worse: Workload, better: Workload, first: bool) -> None:
    state = world(*((worse, better) if first else (better, worse)))
    found = state.workload_by_address(NetworkAddress("", ip_address("10.0.0.2")))
    assert found is not None
    assert found.uid == better.uid


def test_services_that_share_an_address() -> None:
    def sharing(namespace: str, target: int, **fields: object) -> Service:
        made = svc("app", "10.1.0.2", {80: target}, namespace=namespace, **fields)
        return replace(made, hostname=host("app", namespace).hostname)

    def of(namespace: str, target: int) -> Workload:
        uid = f"cluster//Pod/{namespace}/app"
        return pod("app", f"10.0.9.{target}", uid=uid, services={host("app", namespace): {80: target}})

    own, other, canonical = sharing("ns", 1), sharing("other", 2), sharing("third", 3, canonical=True)
    hidden = sharing("fourth", 4, namespace_only=True)
    ends = [of("ns", 1), of("other", 2), of("third", 3), of("fourth", 4)]

    def chosen(state: State) -> str:
        return go(state, "10.1.0.2", 80)[2]

    assert chosen(world(*ends, own, other, canonical)) == "10.0.9.1:1"
    assert chosen(world(*ends, other, canonical, own)) == "10.0.9.1:1"
    assert chosen(world(*ends, other, canonical)) == "10.0.9.3:3"
    state = world(*ends, own, other)
    state.remove_service(own.key)
    assert chosen(state) == "10.0.9.2:2"
    assert go(world(*ends, hidden), "10.1.0.2", 80)[0] == "TCP"
    seen = replace(CLIENT, namespace="fourth")
    assert go(world(*ends, hidden), "10.1.0.2", 80, seen)[2] == "10.0.9.4:4"


def test_own_namespace_comes_before_the_narrower_range() -> None:
    def ranged(namespace: str, cidr: str, target: int) -> Service:
        made = svc("app", None, {80: target}, namespace=namespace)
        hostname = host("app", namespace).hostname
        return replace(made, hostname=hostname, cidr_vips=(CidrAddress("", ip_network(cidr)),))

    ends = [
        pod("app", f"10.0.9.{target}", uid=f"cluster//Pod/{ns}/app", services={host("app", ns): {80: target}})
        for ns, target in (("ns", 1), ("other", 2), ("third", 3))
    ]
    wide, narrow, narrower = (
        ranged("ns", "10.2.0.0/16", 1),
        ranged("other", "10.2.3.0/24", 2),
        ranged("third", "10.2.3.4/32", 3),
    )
    assert go(world(*ends, narrower, wide, narrow), "10.2.3.4", 80)[2] == "10.0.9.1:1"
    assert go(world(*ends, narrower, narrow), "10.2.3.4", 80)[2] == "10.0.9.3:3"


def test_an_address_of_both_a_workload_and_a_service() -> None:
    """The workload's waypoint, the service's endpoints."""
    both = replace(svc("app", "10.0.0.2"), waypoints=((TO_WAYPOINT, 1),))
    endpoint = pod("end", "10.0.0.8", "app")
    assert go(world(APP, both, endpoint), "10.0.0.2", 80) in {
        ("HBONE", "10.0.0.2:15008", "10.0.0.2:8080"),
        ("HBONE", "10.0.0.8:15008", "10.0.0.8:8080"),
    }


def test_host_network_pods_are_not_found_by_address() -> None:
    assert go(world(replace(APP, host_network=True)), "10.0.0.2", 80) == ("TCP", "10.0.0.2:80", "")


def test_a_pod_is_known_by_name_namespace_and_account() -> None:
    state = world(APP)
    assert state.workload_by_info(WorkloadInfo("app", "ns", "app")) == APP
    assert state.workload_by_info(WorkloadInfo("app", "ns", "other")) is None
    assert state.workload_by_info(WorkloadInfo("app", "other", "app")) is None
