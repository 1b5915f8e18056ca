"""Log lines, settings, metrics and message conversion as tables (embedded provider alone)."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from ambient_ztunnel import accesslog, admin
from ambient_ztunnel.accesslog import ConnectionRecord, Formatter, set_level
from ambient_ztunnel.certs import CertificateManager
from ambient_ztunnel.config import ConfigError, load
from ambient_ztunnel.connections import ConnectionManager, Drained, PolicyChange
from ambient_ztunnel.context import Context
from ambient_ztunnel.dns import nameservers
from ambient_ztunnel.httpserver import HttpRequest
from ambient_ztunnel.identity import Identity
from ambient_ztunnel.inbound import Rejected
from ambient_ztunnel.metrics import DerivedSource, Flag, Metrics
from ambient_ztunnel.model import (
    Action,
    AppTunnel,
    CidrAddress,
    Gateway,
    HostAddress,
    LbMode,
    LbScope,
    Locality,
    Match,
    MatchKind,
    NetworkAddress,
    Policy,
    Scope,
    Service,
    ServiceAccountMatch,
    StringMatch,
    Tunnel,
    Workload,
)
from ambient_ztunnel.pods import PodManager
from ambient_ztunnel.pool import OpenError
from ambient_ztunnel.relay import CopyError
from ambient_ztunnel.state import State
from zt_lab import Ca

SRC = (ip_address("10.0.0.1"), 1000)
DST = (ip_address("10.0.0.2"), 15008)
CLIENT = Workload("c", "client", "ns", service_account="client", canonical_name="client", cluster_id="c1")
SERVER = Workload("s", "server-1", "ns", service_account="server", canonical_name="server", cluster_id="c2")
SERVICE = Service("server", "ns", "server.ns.svc.cluster.local")


def record(metrics: Metrics, reporter: str) -> ConnectionRecord:
    """One HBONE connection."""
    return ConnectionRecord(
        metrics,
        reporter=reporter,
        src=SRC,
        dst=DST,
        hbone_target="10.0.0.2:80",
        mutual_tls=True,
        source=CLIENT,
        derived=DerivedSource(CLIENT.identity),
        destination=SERVER,
        service=SERVICE,
    )


@pytest.mark.parametrize(("reporter", "sent", "received"), [("source", 3, 5), ("destination", 5, 3)])
def test_access_line(reporter: str, sent: int, received: int, caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    with caplog.at_level(logging.INFO, "access"):
        made = record(metrics, reporter)
        made.add_request(3)
        made.add_response(5)
        made.finish(OpenError("went wrong", Flag.DENY))
        made.finish()  # only the first one counts
    assert len(caplog.records) == 1
    line = Formatter(as_json=False).format(caplog.records[0])
    stamp, level, scope, message, fields = line.split("\t")
    assert stamp.endswith("Z")
    assert (level, scope, message) == ("error", "access", "connection complete")
    direction = "outbound" if reporter == "source" else "inbound"
    assert fields.startswith(
        'src.addr=10.0.0.1:1000 src.workload="client" src.namespace="ns" '
        'src.identity="spiffe://cluster.local/ns/ns/sa/client" src.cluster="c1" '
        "dst.addr=10.0.0.2:15008 dst.hbone_addr=10.0.0.2:80 "
        'dst.service="server.ns.svc.cluster.local" dst.workload="server-1" dst.namespace="ns" '
        'dst.identity="spiffe://cluster.local/ns/ns/sa/server" dst.cluster="c2" '
        f'direction="{direction}" bytes_sent={sent} bytes_recv={received} duration="'
    )
    assert fields.endswith('ms" error="went wrong"')
    as_json = json.loads(Formatter(as_json=True).format(caplog.records[0]))
    assert list(as_json)[:4] == ["level", "time", "scope", "message"]
    assert (as_json["bytes_sent"], as_json["direction"], as_json["error"]) == (sent, direction, "went wrong")
    text = metrics.render().decode()
    assert f'reporter="{reporter}",request_protocol="tcp",response_flags="DENY"' in text
    # the bytes of a request are "received" and those of a response "sent", whoever reports
    for name, value in (("received", 3.0), ("sent", 5.0)):
        lines = [entry for entry in text.splitlines() if entry.startswith(f"istio_tcp_{name}_bytes_total{{")]
        assert [float(entry.rpartition(" ")[2]) for entry in lines] == [value]
    assert "_created" not in text


@pytest.mark.parametrize(
    ("error", "flag"),
    [
        (None, "-"),
        (OpenError("http status: 401 Unauthorized"), "CONNECT"),
        (OpenError("h2 failed", Flag.H2), "H2_HANDSHAKE_FAILURE"),
        (CopyError("while closing connection: send: io error: broken pipe"), "CONNECT"),
        (OSError("connection failed: Connection refused (os error 111)"), "CONNECT"),
        (Rejected("explicitly denied by: ns/p"), "DENY"),
        (PolicyChange(), "DENY"),
        (Drained(), "-"),
    ],
)
def test_flag_of_an_error(error: Exception | None, flag: str) -> None:
    metrics = Metrics()
    record(metrics, "source").finish(error)
    lines = metrics.render().decode().splitlines()
    closed, failed = (
        [line for line in lines if line.startswith(f"istio_tcp_connections_{name}_total{{")]
        for name in ("closed", "failed")
    )
    assert len(closed) == 1
    assert f'response_flags="{flag}"' in closed[0]
    assert len(failed) == (flag != "-")


@pytest.mark.parametrize(
    ("name", "text", "scope"),
    [
        ("access", "access", "access"),
        ("dns", "dns", "dns"),
        ("xds.client", "xds::client", "ztunnel::xds::client"),
        ("proxy.inbound", "proxy::inbound", "ztunnel::proxy::inbound"),
    ],
)
def test_target_of_a_line(name: str, text: str, scope: str) -> None:
    line = logging.LogRecord(name, logging.INFO, "", 0, "said", None, None)
    assert Formatter(as_json=False).format(line).split("\t")[2:] == [text, "said"]
    assert json.loads(Formatter(as_json=True).format(line))["scope"] == scope


def test_unknown_labels() -> None:
    metrics = Metrics()
    ConnectionRecord(
        metrics, reporter="destination", src=SRC, dst=DST, hbone_target=None, mutual_tls=False,
        source=None, derived=DerivedSource(None), destination=SERVER, service=None,
    ).finish()  # fmt: skip
    text = metrics.render().decode()
    for label in ("source_workload", "source_principal", "destination_service", "connection_security_policy"):
        assert f'{label}="unknown"' in text


@pytest.mark.parametrize(
    ("levels", "name", "want"),
    [
        ("info", "access", logging.INFO),
        ("info,access=warn", "access", logging.WARNING),
        ("info,ztunnel::xds=debug", "xds.client", logging.DEBUG),
        ("info,ztunnel::xds::client=debug", "xds", logging.INFO),
        ("ztunnel=debug", "dns", logging.DEBUG),
        ("warn,xds=debug", "xds.client", logging.DEBUG),
        ("off", "access", 100),
    ],
)
@pytest.mark.usefixtures("levels_of_before")
def test_levels(levels: str, name: str, want: int) -> None:
    set_level(levels, reset=True)
    assert logging.getLogger(name).getEffectiveLevel() == want


@pytest.fixture
def levels_of_before() -> Iterator[None]:
    """Nothing that was set lasts."""
    before = logging.getLogger().level
    yield
    set_level("info", reset=True)
    logging.getLogger().setLevel(before)


@pytest.mark.parametrize(
    ("query", "status", "answer"),
    [
        ({}, 200, "current log level is access=warn,info"),
        ({"level": "debug"}, 200, "current log level is access=warn,debug"),
        ({"level": "ztunnel::xds=trace"}, 200, "current log level is ztunnel::xds=trace,access=warn,info"),
        ({"reset": ""}, 200, "current log level is info"),
        ({"reset": "", "level": "dns=debug"}, 200, "current log level is dns=debug,info"),
        ({"level": "loud"}, 400, "Invalid level provided: loud"),
        ({"reset": "", "level": "loud"}, 400, "Invalid level provided: loud"),
    ],
)
@pytest.mark.usefixtures("levels_of_before")
def test_logging_lists_adds_and_resets(query: dict[str, str], status: int, answer: str) -> None:
    state, metrics = State(), Metrics()
    context = Context(load({}), state, CertificateManager(Ca().sign), metrics, ConnectionManager(state))
    handle = admin.routes(context, PodManager(context), lambda: None)["/logging"]
    set_level("info,access=warn", reset=True)
    said = handle(HttpRequest("POST", query))
    assert (said.status, said.body.decode().splitlines()[0]) == (status, answer)
    if status == 400:
        assert accesslog.current_levels() == "access=warn,info"


@pytest.mark.parametrize(
    ("env", "field", "want"),
    [
        ({}, "xds_address", "istiod.istio-system.svc:15012"),
        ({"XDS_ADDRESS": "https://istiod.x.svc:15012/"}, "xds_address", "istiod.x.svc:15012"),
        ({"ISTIO_META_CLUSTER_ID": "c1"}, "cluster_id", "c1"),
        ({}, "drain_timeout", 5),
        ({"TERMINATION_GRACE_PERIOD_SECONDS": "30"}, "drain_timeout", 25),
        ({"TERMINATION_GRACE_PERIOD_SECONDS": "10"}, "drain_timeout", 9),
        ({"TERMINATION_GRACE_PERIOD_SECONDS": "30", "CONNECTION_TERMINATION_DEADLINE": "2s"}, "drain_timeout", 2),
        ({"ISTIO_META_CLUSTER_ID": "c1", "CLUSTER_ID": "c2"}, "cluster_id", "c1"),
        ({}, "ignored", ()),
        (
            {"RUST_LOG": "info", "ZTUNNEL_CPU_LIMIT": "2", "CRL_PATH": ""},
            "ignored",
            (),
        ),
        (
            {"XDS_ON_DEMAND": "true", "POOL_UNUSED_RELEASE_TIMEOUT": "1m", "CA_HEADER_x": "y"},
            "ignored",
            ("CA_HEADER_x", "POOL_UNUSED_RELEASE_TIMEOUT", "XDS_ON_DEMAND"),
        ),
        ({"SECRET_TTL": "24h"}, "secret_ttl", 86400),
        ({"ISTIO_META_DNS_CAPTURE": "false"}, "dns_proxy", False),
        ({}, "dns_proxy", True),
        ({"LOG_FORMAT": "json"}, "log_json", True),
    ],
)
def test_settings(env: dict[str, str], field: str, want: object) -> None:
    assert getattr(load(env), field) == want


@pytest.mark.parametrize(
    "env", [{"XDS_ADDRESS": "nowhere"}, {"SECRET_TTL": "soon"}, {"ISTIO_META_DNS_CAPTURE": "perhaps"}]
)
def test_bad_settings(env: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        load(env)


def test_nameservers(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("search a b\nnameserver 10.96.0.10\n# nameserver 1.1.1.1\nnameserver fe80::1%eth0\nnameserver x\n")
    assert nameservers(conf) == [ip_address("10.96.0.10"), ip_address("fe80::1")]
    assert nameservers(tmp_path / "absent") == []


# -- messages ----------------------------------------------------------------------------------------------------


def test_workload_message() -> None:
    pytest.importorskip("workloadapi", reason="generated classes are missing: set AMBIENT_ZTUNNEL_PROTOS")
    from ambient_ztunnel import convert
    from workloadapi import workload_pb2 as wds

    message = wds.Workload(
        uid="u", name="n", namespace="ns", addresses=[b"\x0a\0\0\1"], tunnel_protocol=wds.HBONE, trust_domain="td",
        service_account="sa", node="node", workload_type=wds.DEPLOYMENT, workload_name="w", canonical_name="cn",
        canonical_revision="cr", authorization_policies=["ns/p"], status=wds.UNHEALTHY, cluster_id="c",
        locality=wds.Locality(region="r", zone="z", subzone="s"), network_mode=wds.HOST_NETWORK,
        application_tunnel=wds.ApplicationTunnel(protocol=wds.ApplicationTunnel.PROXY, port=15088),
        waypoint=wds.GatewayAddress(
            hostname=wds.NamespacedHostname(namespace="ns", hostname="wp"), hbone_mtls_port=15008
        ),
        services={"ns/app.ns": wds.PortList(ports=[wds.Port(service_port=80, target_port=8080)])},
    )  # fmt: skip
    assert convert.workload(message) == Workload(
        uid="u",
        name="n",
        namespace="ns",
        addresses=(ip_address("10.0.0.1"),),
        protocol=Tunnel.HBONE,
        trust_domain="td",
        service_account="sa",
        node="node",
        workload_type="deployment",
        workload_name="w",
        canonical_name="cn",
        canonical_revision="cr",
        policies=("ns/p",),
        healthy=False,
        cluster_id="c",
        locality=Locality("r", "z", "s"),
        host_network=True,
        app_tunnel=AppTunnel(True, 15088),
        waypoint=Gateway(HostAddress("ns", "wp"), 15008),
        services={HostAddress("ns", "app.ns"): {80: 8080}},
    )
    bare = convert.workload(wds.Workload(uid="u", namespace="ns"))
    assert bare.identity == Identity("cluster.local", "ns", "default")
    assert (bare.capacity, bare.healthy, bare.protocol) == (1, True, Tunnel.TCP)
    with pytest.raises(ValueError, match="does not appear to be"):
        convert.workload(wds.Workload(uid="u", addresses=[b"\1\2\3"]))


def test_service_message() -> None:
    pytest.importorskip("workloadapi", reason="generated classes are missing: set AMBIENT_ZTUNNEL_PROTOS")
    from ambient_ztunnel import convert
    from workloadapi import workload_pb2 as wds

    vip = wds.NetworkAddress(address=b"\x0a\1\0\1")
    cidr = wds.NetworkAddress(address=b"\x0a\2\0\0", length=16)
    way = wds.GatewayAddress(address=wds.NetworkAddress(address=b"\x0a\1\0\3"), hbone_mtls_port=15008)
    message = wds.Service(
        name="app", namespace="ns", hostname="app.ns", addresses=[vip, cidr],
        ports=[wds.Port(service_port=80, target_port=8080)], waypoint=way,
        load_balancing=wds.LoadBalancing(
            mode=wds.LoadBalancing.FAILOVER,
            routing_preference=[wds.LoadBalancing.NETWORK, wds.LoadBalancing.REGION],
            health_policy=wds.LoadBalancing.ALLOW_ALL,
        ),
        ip_families=wds.IPV4_ONLY, canonical=True, visibility=wds.Service.NAMESPACE,
    )  # fmt: skip
    gateway = Gateway(NetworkAddress("", ip_address("10.1.0.3")), 15008)
    want = Service(
        name="app",
        namespace="ns",
        hostname="app.ns",
        vips=(NetworkAddress("", ip_address("10.1.0.1")),),
        cidr_vips=(CidrAddress("", ip_network("10.2.0.0/16")),),
        ports={80: 8080},
        waypoints=((gateway, 1),),
        lb_mode=LbMode.FAILOVER,
        lb_scopes=(LbScope.NETWORK, LbScope.REGION),
        lb_allow_unhealthy=True,
        ip_families="IPv4",
        canonical=True,
        namespace_only=True,
    )
    assert convert.service(message) == want
    message.weighted_waypoints.append(wds.WeightedWaypoint(destination=way, weight=7))
    assert convert.service(message).waypoints == ((gateway, 7),)


def test_policy_message() -> None:
    pytest.importorskip("workloadapi", reason="generated classes are missing: set AMBIENT_ZTUNNEL_PROTOS")
    from ambient_ztunnel import convert
    from google.protobuf import empty_pb2
    from workloadapi.security import authorization_pb2 as authz

    match = authz.Match(
        namespaces=[authz.StringMatch(exact="a")], not_namespaces=[authz.StringMatch(prefix="b")],
        principals=[authz.StringMatch(suffix="c")], not_principals=[authz.StringMatch(presence=empty_pb2.Empty())],
        service_accounts=[authz.ServiceAccountMatch(namespace="n", serviceAccount="s")],
        not_service_accounts=[authz.ServiceAccountMatch(namespace="n", serviceAccount="t")],
        source_ips=[authz.Address(address=b"\x0a\0\0\1", length=32)],
        not_source_ips=[authz.Address(address=b"\x0a\0\0\0", length=8)],
        destination_ips=[authz.Address(address=b"\x0a\0\0\2", length=32)],
        not_destination_ips=[authz.Address(address=bytes(16), length=0)],
        destination_ports=[80], not_destination_ports=[81],
    )  # fmt: skip
    message = authz.Authorization(
        name="p", namespace="ns", scope=authz.WORKLOAD_SELECTOR, action=authz.DENY, dry_run=True,
        groups=[authz.Group(rules=[authz.Rules(matches=[match])])],
    )  # fmt: skip
    want = Match(
        namespaces=(StringMatch(MatchKind.EXACT, "a"),),
        not_namespaces=(StringMatch(MatchKind.PREFIX, "b"),),
        principals=(StringMatch(MatchKind.SUFFIX, "c"),),
        not_principals=(StringMatch(MatchKind.PRESENCE),),
        service_accounts=(ServiceAccountMatch("n", "s"),),
        not_service_accounts=(ServiceAccountMatch("n", "t"),),
        source_ips=(ip_network("10.0.0.1/32"),),
        not_source_ips=(ip_network("10.0.0.0/8"),),
        destination_ips=(ip_network("10.0.0.2/32"),),
        not_destination_ips=(ip_network("::/0"),),
        destination_ports=(80,),
        not_destination_ports=(81,),
    )
    assert convert.policy(message) == Policy("p", "ns", Scope.WORKLOAD, Action.DENY, (((want,),),), True)
    with pytest.raises(ValueError, match="unknown scope"):
        convert.policy(authz.Authorization(scope=9))
