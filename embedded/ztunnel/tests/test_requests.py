"""Inbound requests and DNS names as tables (embedded provider alone)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from ambient_ztunnel.dnslookup import lookup
from ambient_ztunnel.inbound_request import Refused, baggage, guess_service, parse_authority, parse_baggage, resolve
from ambient_ztunnel.model import (
    AppTunnel,
    Locality,
    NetworkAddress,
    Service,
    Workload,
)
from test_routing import APP, CLIENT, DOMAIN, TO_WAYPOINT, WAYPOINT, WAYPOINT_SVC, host, pod, svc, world


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("10.0.0.2:80", (ip_address("10.0.0.2"), 80)),
        ("[fd00::2]:80", (ip_address("fd00::2"), 80)),
        ("app.ns.svc.cluster.local:80", ("app.ns.svc.cluster.local", 80)),
        ("10.0.0.2", None),
        ("10.0.0.2:", None),
        (":80", None),
        ("10.0.0.2:0", None),
        ("10.0.0.2:65536", None),
        ("10.0.0.2:8 0", None),
        ("[fd00::2:80", None),
        ("user@host:80", None),
        ("", None),
    ],
)
def test_authority(text: str, want: tuple[object, int] | None) -> None:
    if want is None:
        with pytest.raises(ValueError, match=r"invalid CONNECT address|does not appear to be"):
            parse_authority(text)
    else:
        assert parse_authority(text) == want


APP_SVC = svc("app", "10.1.0.2")
PROXY_WAYPOINT = replace(WAYPOINT, app_tunnel=AppTunnel(proxy_protocol=True, port=15088))


@pytest.mark.parametrize(
    ("local", "authority", "want"),
    [
        (APP, "10.0.0.2:8080", 8080),
        (APP, "10.0.0.4:8080", (400, "ip mismatch: 10.0.0.2 != 10.0.0.4")),
        (APP, "10.1.0.2:80", (400, "ip mismatch: 10.0.0.2 != 10.1.0.2")),
        (APP, "10.0.0.2:15008", (503, "attempted recursive call to ourselves")),
        (APP, "10.0.0.2:15001", (503, "attempted recursive call to ourselves")),
        (APP, "10.0.0.2:15006", (503, "attempted recursive call to ourselves")),
        (APP, "nonsense", (400, "invalid CONNECT address nonsense")),
        (APP, "app.ns.svc.cluster.local:80", 8080),
        (
            APP,
            "app.ns.svc.cluster.local:81",
            (503, "requested service app.ns.svc.cluster.local:81 found, but cannot resolve port"),
        ),
        (
            APP,
            "absent.ns.svc.cluster.local:80",
            (503, "no service or workload for hostname: absent.ns.svc.cluster.local"),
        ),
        # a waypoint gets what is for those behind it
        (WAYPOINT, "10.1.0.9:80", 80),
        (WAYPOINT, "10.1.0.2:80", (400, "ip mismatch: 10.0.0.3 != 10.1.0.2")),
        (PROXY_WAYPOINT, "10.1.0.2:80", 15088),
    ],
)
def test_resolve(local: Workload, authority: str, want: int | tuple[int, str]) -> None:
    behind = svc("behind", "10.1.0.9", waypoints=((TO_WAYPOINT, 1),))
    state = world(APP, APP_SVC, behind, WAYPOINT_SVC, local)
    ask = {":authority": authority}
    if isinstance(want, int):
        assert resolve(state, local, local.addresses[0], ask).port == want
    else:
        with pytest.raises(Refused) as refused:
            resolve(state, local, local.addresses[0], ask)
        assert (refused.value.status, str(refused.value)) == want


def test_proxy_header_target() -> None:
    state = world(APP, APP_SVC, PROXY_WAYPOINT)
    asking = {":authority": "10.1.0.2:80", "forwarded": 'for="10.0.0.1:1";host=app.ns.svc.cluster.local'}
    request = resolve(state, PROXY_WAYPOINT, PROXY_WAYPOINT.addresses[0], asking)
    assert (request.proxy_target, request.asked) == ((ip_address("10.1.0.2"), 80), "app.ns.svc.cluster.local")


@pytest.mark.parametrize(
    ("port", "asked", "want"),
    [
        (8080, "", "app"),
        (9090, "", "second"),
        (1, "", None),
        (8080, "second.ns.svc.cluster.local", "second"),
        (8080, "elsewhere", "app"),
    ],
)
def test_guess_service(port: int, asked: str, want: str | None) -> None:
    local = replace(APP, services={host("app"): {80: 8080}, host("second"): {81: 9090}})
    services = [svc("app", None, {80: 8080}), svc("second", None, {81: 0})]
    found = guess_service(local, services, port, asked)
    assert (found.name if found else None) == want


def test_baggage() -> None:
    local = replace(APP, workload_type="deployment", workload_name="d", cluster_id="c", locality=Locality(zone="z"))
    assert baggage(local) == "k8s.cluster.name=c,k8s.namespace.name=ns,k8s.deployment.name=d,cloud.availability_zone=z"
    text = "k8s.cluster.name=c,k8s.namespace.name=n,k8s.deployment.name=d,service.name=s,service.version=,x"
    assert parse_baggage(text) == {
        "k8s.cluster.name": "c",
        "k8s.namespace.name": "n",
        "k8s.deployment.name": "d",
        "workload": "d",
        "service.name": "s",
    }


# -- DNS names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "want", "alias"),
    [
        ("app", ["10.1.0.2"], ""),
        ("app.ns", ["10.1.0.2"], ""),
        ("app.ns.svc", ["10.1.0.2"], ""),
        ("APP.ns.svc.cluster.local.", ["10.1.0.2"], ""),
        ("app.other", None, ""),
        ("headless.ns.svc.cluster.local", ["10.0.0.7"], ""),
        ("db-0.headless.ns.svc.cluster.local", ["10.0.0.7"], ""),
        ("db-1.headless.ns.svc.cluster.local", None, ""),
        ("www.example.com", ["192.0.2.1"], ""),
        ("www.example.com.ns.svc.cluster.local", ["192.0.2.1"], "www.example.com"),
        ("a.b.wild.io", ["192.0.2.2"], ""),
        ("wild.io", None, ""),
        ("google.com", None, ""),
        ("google.com.ns.svc.cluster.local", None, ""),
        ("private.io", None, ""),
        ("", None, ""),
    ],
)
def test_dns(name: str, want: list[str] | None, alias: str) -> None:
    state = world(APP, APP_SVC, svc("headless", None), pod("db-0", "10.0.0.7", "headless"))
    for hostname, ip, hidden in (
        ("www.example.com", "192.0.2.1", False),
        ("*.wild.io", "192.0.2.2", False),
        ("private.io", "192.0.2.3", True),
    ):
        vips = (NetworkAddress("", ip_address(ip)),)
        state.put_service(Service(hostname, "elsewhere", hostname, vips=vips, namespace_only=hidden))
    found = lookup(state, CLIENT, name, DOMAIN)
    if want is None:
        assert found is None
    else:
        assert found is not None
        assert ([str(ip) for ip in found.addresses], found.alias) == (want, alias)
