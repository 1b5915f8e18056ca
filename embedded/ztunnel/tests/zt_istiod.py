"""A small istiod and istio-cni for tests of the control side (embedded provider alone). Needs the
generated classes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import ads_pb2 as ads
import grpc
import grpc.aio
from ambient_ztunnel.identity import Identity
from ambient_ztunnel.xds import ADDRESS_TYPE, AUTHORIZATION_TYPE
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf import any_pb2
from google.protobuf.message import Message
from security.v1alpha1 import ca_pb2
from workloadapi import workload_pb2 as wds
from workloadapi.security import authorization_pb2 as authz
from zdsapi import zds_pb2 as zds
from zt_lab import Ca

CERTIFICATES = "istio.v1.auth.IstioCertificateService"
DISCOVERY = "envoy.service.discovery.v3.AggregatedDiscoveryService"


def resource(name: str, kind: str, message: Message, version: str = "1") -> ads.Resource:
    """One xDS resource."""
    packed = any_pb2.Any(type_url=kind, value=message.SerializeToString())
    return ads.Resource(name=name, version=version, resource=packed)


class Istiod:
    """Serves what its dictionaries hold, and records what it is told."""

    def __init__(self, ca: Ca) -> None:
        self.ca = ca
        self.addresses: dict[str, wds.Address] = {}
        self.policies: dict[str, authz.Authorization] = {}
        self.requests: list[ads.DeltaDiscoveryRequest] = []
        self.impersonated: list[str] = []
        self.metadata: list[dict[str, str]] = []
        self.port = 0
        self._streams: set[asyncio.Queue[ads.DeltaDiscoveryResponse | None]] = set()
        self._server: grpc.aio.Server | None = None

    async def start(self, folder: Path, port: int = 0) -> None:
        """Listen with a certificate for `localhost`; writes root and token into `folder`."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = self.ca.root.not_valid_before_utc
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.ca.root.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(self.ca.root.not_valid_after_utc)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(self.ca._key, hashes.SHA256())
        )
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        credentials = grpc.ssl_server_credentials([(pem, leaf.public_bytes(serialization.Encoding.PEM))])
        (folder / "root-cert.pem").write_bytes(self.ca.root.public_bytes(serialization.Encoding.PEM))
        (folder / "token").write_text("secret-token\n")
        self._server = grpc.aio.server()
        discovery = grpc.stream_stream_rpc_method_handler(
            self._stream, ads.DeltaDiscoveryRequest.FromString, ads.DeltaDiscoveryResponse.SerializeToString
        )
        signing = grpc.unary_unary_rpc_method_handler(
            self._sign,
            ca_pb2.IstioCertificateRequest.FromString,
            ca_pb2.IstioCertificateResponse.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(DISCOVERY, {"DeltaAggregatedResources": discovery}),
                grpc.method_handlers_generic_handler(CERTIFICATES, {"CreateCertificate": signing}),
            )
        )
        self.port = self._server.add_secure_port(f"localhost:{port}", credentials)
        await self._server.start()

    async def stop(self) -> None:
        """Go away, with every stream."""
        assert self._server is not None
        for queue in self._streams:
            queue.put_nowait(None)
        await self._server.stop(None)

    def push(self, kind: str, resources: list[ads.Resource], removed: list[str] | None = None) -> None:
        """Send a change on every stream."""
        for queue in self._streams:
            queue.put_nowait(
                ads.DeltaDiscoveryResponse(
                    type_url=kind, nonce="push", resources=resources, removed_resources=removed or []
                )
            )

    async def _sign(
        self, request: ca_pb2.IstioCertificateRequest, context: grpc.aio.ServicerContext
    ) -> ca_pb2.IstioCertificateResponse:
        self.metadata.append(dict(context.invocation_metadata()))
        identity = request.metadata["ImpersonatedIdentity"]
        self.impersonated.append(identity)
        return ca_pb2.IstioCertificateResponse(cert_chain=await self.ca.sign(Identity.parse(identity), request.csr))

    async def _stream(
        self, requests: AsyncIterator[ads.DeltaDiscoveryRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[ads.DeltaDiscoveryResponse]:
        self.metadata.append(dict(context.invocation_metadata()))
        queue: asyncio.Queue[ads.DeltaDiscoveryResponse | None] = asyncio.Queue()
        self._streams.add(queue)

        async def read() -> None:
            async for request in requests:
                self.requests.append(request)
                if not request.response_nonce:
                    queue.put_nowait(self._snapshot(request))

        reader = asyncio.create_task(read())
        try:
            while (response := await queue.get()) is not None:
                yield response
        finally:
            reader.cancel()
            self._streams.discard(queue)

    def _snapshot(self, request: ads.DeltaDiscoveryRequest) -> ads.DeltaDiscoveryResponse:
        kind = request.type_url
        known: dict[str, Message] = {**(self.addresses if kind == ADDRESS_TYPE else self.policies)}
        return ads.DeltaDiscoveryResponse(
            type_url=kind,
            nonce="first",
            resources=[resource(name, kind, message) for name, message in known.items()],
            removed_resources=[name for name in request.initial_resource_versions if name not in known],
        )


class Cni:
    """istio-cni's side of ZDS."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.setblocking(False)
        self._listener.bind(str(path))
        self._listener.listen()
        self._conn: socket.socket | None = None

    async def accept(self) -> zds.ZdsHello:
        """Wait for a ztunnel and its hello."""
        loop = asyncio.get_running_loop()
        self._conn, _ = await loop.sock_accept(self._listener)
        return zds.ZdsHello.FromString(await loop.sock_recv(self._conn, 1024))

    async def send(self, request: zds.WorkloadRequest, fds: tuple[int, ...] = ()) -> str:
        """One message; the error in its Ack."""
        assert self._conn is not None
        socket.send_fds(self._conn, [request.SerializeToString()], list(fds))
        raw = await asyncio.get_running_loop().sock_recv(self._conn, 1024)
        assert raw, "ztunnel hung up"
        error: str = zds.WorkloadResponse.FromString(raw).ack.error
        return error

    def hang_up(self) -> None:
        """Drop the connection."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def close(self) -> None:
        """Stop listening too."""
        self.hang_up()
        self._listener.close()


__all__ = ["ADDRESS_TYPE", "AUTHORIZATION_TYPE", "Cni", "Istiod", "resource"]
