# For the embedded provider alone: the real Envoy as a waypoint behind launcher, relay and exporter, on 127.0.0.1.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Listeners are like istiod's: connect_terminate ends HBONE, main_internal checks method and principal."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import waypoint_resources as wr
from ambient_waypoint.paths import AGENT_SOCKET, METRICS_SOCKET, RELAY_SOCKET
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from google.protobuf.json_format import ParseDict
from ports import free_port
from prometheus_client.parser import text_string_to_metric_families
from waypoint_lab import Agent, Application, Authority, Tunnel

LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ALLOWED = "spiffe://cluster.local/ns/layer7/sa/curl"
OTHER = "spiffe://cluster.local/ns/layer7/sa/other"
WAYPOINT = "spiffe://cluster.local/ns/layer7/sa/waypoint"
SERVICE = "10.96.0.10:8080"
# As istiod describes service and endpoint to Envoy.
ISTIO_SERVICE = {"host": "app.layer7.svc.cluster.local", "name": "app", "namespace": "layer7"}
ISTIO_WORKLOAD = "app-v1;layer7;app;v1;Kubernetes"
LAUNCH = "import sys; from ambient_waypoint.launcher import main; sys.exit(main(sys.argv[2:], sys.argv[1]))"
TIMEOUT = 20.0

found = importlib.util.find_spec("envoy._bin")
ENVOY = Path(next(iter(found.submodule_search_locations or ()))) / "envoy" if found else None


def static_cluster(name: str, address: dict[str, Any]) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {"name": name, "load_assignment": {"cluster_name": name, "endpoints": endpoints}}


def socket_address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def bootstrap(folder: Path, admin: int, stats: int) -> dict[str, Any]:
    """Return what is left of Istio's bootstrap when only xDS, the admin interface and :15090 count."""
    http2 = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    ads = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    internal = "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
    relay = static_cluster("xds-grpc", {"pipe": {"path": str(folder / RELAY_SOCKET)}})
    relay["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2}
    manager = {
        "@type": wr.PREFIX + HttpConnectionManager.DESCRIPTOR.full_name,
        "stat_prefix": "stats",
        **route({"prefix": "/stats/prometheus"}, {"cluster": "prometheus_stats"}),
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {
        "node": {"id": "waypoint", "cluster": "waypoint"},
        "admin": {"address": socket_address(admin)},
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
            "listeners": [{"name": "stats", "address": socket_address(stats), "filter_chains": [chain]}],
            "clusters": [relay, static_cluster("prometheus_stats", {"pipe": {"path": str(folder / METRICS_SOCKET)}})],
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


def samples(text: str, name: str) -> dict[frozenset[tuple[str, str]], float]:
    """Return a metric's samples by their labels, without the markers of Waypoint.counted."""
    found = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {
        frozenset(sample.labels.items()): sample.value
        for sample in found
        if sample.name == name and not sample.labels.get("source_workload", "").startswith("marker-")
    }


class Waypoint:
    """Launcher, relay, exporter and Envoy with everything they need around them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.markers = 0
        self.port, self.admin, self.stats = free_port(), free_port(), free_port()
        self.authority = Authority(folder)
        self.clients = {name: self.authority.issue(name) for name in (ALLOWED, OTHER)}
        self.application = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Application)
        threading.Thread(target=self.application.serve_forever, args=(0.02,), daemon=True).start()
        self.agent = Agent(folder / AGENT_SOCKET)
        self.agent.resources[CLUSTER] = [("main_internal", self.internal()), ("app", self.app())]
        self.agent.resources[LISTENER] = self.listeners()
        configuration = folder / "envoy-rev.json"
        configuration.write_text(json.dumps(bootstrap(folder, self.admin, self.stats)))
        arguments = ["-c", str(configuration), "-l", "warning", "--disable-hot-restart", "--concurrency", "1"]
        arguments += ["--file-flush-interval-msec", "1000"]  # as pilot-agent
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

    def app(self, endpoint: dict[str, Any] | None = None) -> Any:
        """Return the service's cluster; `endpoint` takes the application's place, {} stands for none."""
        endpoint = {"address": socket_address(self.application.server_port)} if endpoint is None else endpoint
        metadata = {"filter_metadata": {"istio": {"workload": ISTIO_WORKLOAD}}}
        endpoints = [{"lb_endpoints": [{"endpoint": endpoint, "metadata": metadata}]}] if endpoint else []
        document = {
            "name": "app",
            "metadata": {"filter_metadata": {"istio": {"services": [ISTIO_SERVICE]}}},
            "load_assignment": {"cluster_name": "app", "endpoints": endpoints},
        }
        return wr.cluster(document)

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
            wr.state_value("io.istio.local_principal", "istio.hashable_string", "%DOWNSTREAM_LOCAL_URI_SAN%"),
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
            # More records than requests, as an EnvoyFilter may ask for.
            {
                **route({"prefix": "/"}, {"cluster": "app"}),
                "access_log_options": {"flush_access_log_on_new_request": True},
            },
        )
        outside = wr.listener("connect_terminate", {"default": [terminate]}, {"address": socket_address(self.port)})
        ParseDict(self.tls(), outside.filter_chains[0].transport_socket)
        inside = wr.listener("main_internal", {"inbound-vip": [exchange, inner]}, {"internal_listener": {}})
        inside.listener_filters.append(wr.listener_filter("original_dst", wr.any_of(original_dst_pb2.OriginalDst())))
        return [("connect_terminate", outside), ("main_internal", inside)]

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

    def tunnel(self, identity: str = ALLOWED, **headers: str) -> Tunnel:
        return Tunnel(self.port, self.authority, self.clients[identity], SERVICE, **headers)

    def request(self, method: str, identity: str = ALLOWED) -> tuple[int, dict[str, str], bytes]:
        with contextlib.closing(self.tunnel(identity)) as tunnel:
            return tunnel.request(method)

    def scrape(self) -> tuple[int, str]:
        """Return status and body of Envoy's :15090."""
        connection = http.client.HTTPConnection("127.0.0.1", self.stats, timeout=TIMEOUT)
        with contextlib.closing(connection):
            connection.request("GET", "/stats/prometheus")
            response = connection.getresponse()
            return response.status, response.read().decode()

    def counted(self, name: str = "istio_requests_total") -> dict[frozenset[tuple[str, str]], float]:
        """Return a metric's samples by their labels, once every request before this call has been counted."""
        self.markers += 1
        marker = f"marker-{self.markers}"
        with contextlib.closing(self.tunnel(baggage=f"k8s.pod.name={marker}")) as tunnel:
            tunnel.request("GET")
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            status, text = self.scrape()
            if status == http.HTTPStatus.OK and f'source_workload="{marker}"' in text:  # records stay in order
                return samples(text, name)
            time.sleep(0.02)
        pytest.fail(f"{marker} was not counted: {self.log()}")

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
