# For the embedded provider alone: what stands around the waypoint's Envoy in the integration test.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A CA, an application, an xDS server in the place of pilot-agent, an HBONE client in that of ztunnel."""

from __future__ import annotations

import datetime
import http.server
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource
from google.protobuf.message import Message
from waypoint_resources import any_of

HOUR = datetime.timedelta(hours=1)
DISCOVERY = "envoy.service.discovery.v3.AggregatedDiscoveryService"


class Authority:
    """Issues certificates with a SPIFFE identity, as istiod does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "test")])
        self.root = folder / "root.pem"
        certificate = self._sign(self.key, self.name, x509.BasicConstraints(ca=True, path_length=None))
        self.root.write_bytes(certificate)

    def issue(self, identity: str) -> tuple[Path, Path]:
        """Write a certificate chain and a key; returns their paths."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)])
        stem = identity.rpartition("/")[2]
        chain, secret = self.folder / f"{stem}.pem", self.folder / f"{stem}.key"
        chain.write_bytes(self._sign(key, x509.Name([]), names))
        encoding = (
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        secret.write_bytes(key.private_bytes(*encoding))
        return chain, secret

    def _sign(self, key: ec.EllipticCurvePrivateKey, name: x509.Name, extension: x509.ExtensionType) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(self.name, name, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - HOUR).not_valid_after(now + HOUR)
        certificate = builder.add_extension(extension, critical=True).sign(self.key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM)


class Application(http.server.BaseHTTPRequestHandler):
    """Answers every method with 200."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are sent apart

    def do_GET(self) -> None:
        """Answer; the other methods are the same."""
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("content-length", "3")
        self.end_headers()
        self.wfile.write(b"app")

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        """Keep the test's output clean."""


class Agent:
    """An xDS server on pilot-agent's socket; every push and every answer of Envoy can be looked at."""

    def __init__(self, path: Path) -> None:
        self.resources: dict[str, list[tuple[str, Message]]] = {}
        self.requests: queue.Queue[DeltaDiscoveryRequest] = queue.Queue()
        self.streams: list[queue.Queue[DeltaDiscoveryResponse | None]] = []
        self.server = grpc.server(ThreadPoolExecutor(8))
        handler = grpc.stream_stream_rpc_method_handler(
            self._serve, DeltaDiscoveryRequest.FromString, DeltaDiscoveryResponse.SerializeToString
        )
        methods = {"DeltaAggregatedResources": handler}
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(DISCOVERY, methods),))
        self.server.add_insecure_port(f"unix:{path}")
        self.server.start()

    def push(self, type_url: str, nonce: str) -> None:
        """Send what there is of this type to every open stream."""
        answer = DeltaDiscoveryResponse(type_url=type_url, nonce=nonce)
        for name, message in self.resources.get(type_url, []):
            answer.resources.append(Resource(name=name, version=nonce, resource=any_of(message)))
        for stream in self.streams:
            stream.put(answer)

    def answer_to(self, nonce: str, timeout: float = 10) -> DeltaDiscoveryRequest:
        """Return the answer to the push with this nonce (timeout in seconds; raises queue.Empty)."""
        while True:
            request = self.requests.get(timeout=timeout)
            if request.response_nonce == nonce:
                return request

    def end_streams(self) -> None:
        """End every stream as a restarted istiod would."""
        while self.streams:
            self.streams.pop().put(None)

    def _serve(self, requests: Iterator[DeltaDiscoveryRequest], _: Any) -> Iterator[DeltaDiscoveryResponse]:
        outgoing: queue.Queue[DeltaDiscoveryResponse | None] = queue.Queue()
        self.streams.append(outgoing)

        def read() -> None:
            try:
                for request in requests:
                    self.requests.put(request)
                    if not request.response_nonce:
                        self.push(request.type_url, f"first-{request.type_url}")
            except grpc.RpcError:
                pass
            outgoing.put(None)

        threading.Thread(target=read, daemon=True).start()
        yield from iter(outgoing.get, None)


class Tunnel:
    """HTTP/1.1 inside an HTTP/2 CONNECT over mutual TLS: Istio's HBONE, as ztunnel opens it.

    `headers` go with the CONNECT. Raises OSError when the waypoint does not answer.
    """

    def __init__(
        self, port: int, authority: Authority, identity: tuple[Path, Path], destination: str, **headers: str
    ) -> None:
        context = ssl.create_default_context(cafile=str(authority.root))
        context.check_hostname = False
        context.set_alpn_protocols(["h2"])
        context.load_cert_chain(*map(str, identity))
        self.tls = context.wrap_socket(socket.create_connection(("127.0.0.1", port), 5))
        self.connection = h2.connection.H2Connection(h2.config.H2Configuration())
        self.connection.initiate_connection()
        self.connection.send_headers(1, [(":method", "CONNECT"), (":authority", destination), *headers.items()])
        self.data = b""
        self.status = ""
        self._until(lambda: bool(self.status))
        if self.status != "200":
            message = f"CONNECT was answered with {self.status}"
            raise ConnectionError(message)

    def request(self, method: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Send one request (an underscore in a header's name is a hyphen); returns code, headers, body."""
        lines = [f"{method} / HTTP/1.1", "host: app", *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items())]
        self.connection.send_data(1, "\r\n".join([*lines, "", ""]).encode())
        self._until(lambda: b"\r\n\r\n" in self.data)
        head, _, self.data = self.data.partition(b"\r\n\r\n")
        first, *rest = head.decode().split("\r\n")
        found = dict(line.lower().split(": ", 1) for line in rest)
        length = int(found["content-length"])
        self._until(lambda: len(self.data) >= length)
        body, self.data = self.data[:length], self.data[length:]
        return int(first.split()[1]), found, body

    def close(self) -> None:
        """Close the connection; the waypoint sees its end."""
        self.tls.close()

    def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self.tls.sendall(self.connection.data_to_send())
            received = self.tls.recv(65536)
            if not received:
                message = "the waypoint closed the tunnel"
                raise ConnectionError(message)
            for event in self.connection.receive_data(received):
                if isinstance(event, h2.events.ResponseReceived):
                    self.status = dict(event.headers)[b":status"].decode()
                elif isinstance(event, h2.events.DataReceived):
                    self.data += event.data
                elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)) and not holds():
                    message = f"the answer was cut: {self.data!r}"
                    raise ConnectionError(message)
