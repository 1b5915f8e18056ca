"""Channels to istiod and its two services (embedded provider alone)."""

from __future__ import annotations

import logging
import os
from pathlib import Path

# istiod's short name needs the search path of resolv.conf, which the system's resolver knows best.
os.environ.setdefault("GRPC_DNS_RESOLVER", "native")
# grpc would write its own lines between ztunnel's.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc
import grpc.aio
from google.protobuf import struct_pb2
from security.v1alpha1 import ca_pb2

from .identity import Identity

log = logging.getLogger("identity.caclient")

CREATE_CERTIFICATE = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
CALL_TIMEOUT = 10.0  # seconds
MAX_MESSAGE = 200 * 1024 * 1024  # bytes; the first push holds the whole mesh


def open_channel(address: str, root: Path) -> grpc.aio.Channel:
    """A TLS channel that trusts the root in the file `root` as it is now; raises OSError."""
    credentials = grpc.ssl_channel_credentials(root_certificates=root.read_bytes())
    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 15_000),
        # Each channel connects anew: a root that has changed must not meet an old connection.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    return grpc.aio.secure_channel(address, credentials, options=options)


def call_metadata(token: Path, cluster_id: str) -> tuple[tuple[str, str], ...]:
    """The caller's token and cluster, as istiod's authenticators read them; raises OSError."""
    return (("authorization", f"Bearer {token.read_text().strip()}"), ("clusterid", cluster_id))


class CaClient:
    """Signs CSRs at istiod."""

    def __init__(self, address: str, root: Path, token: Path, cluster_id: str, ttl: int) -> None:
        self._address = address
        self._root = root
        self._token = token
        self._cluster_id = cluster_id
        self._ttl = ttl

    async def sign(self, identity: Identity, request: str) -> list[str]:
        """The chain for `identity`, leaf first, root last. Raises OSError or grpc.aio.AioRpcError."""
        metadata = struct_pb2.Struct()
        metadata.update({"ImpersonatedIdentity": str(identity)})
        message = ca_pb2.IstioCertificateRequest(csr=request, validity_duration=self._ttl, metadata=metadata)
        async with open_channel(self._address, self._root) as channel:
            call = channel.unary_unary(
                CREATE_CERTIFICATE,
                request_serializer=ca_pb2.IstioCertificateRequest.SerializeToString,
                response_deserializer=ca_pb2.IstioCertificateResponse.FromString,
            )
            try:
                answer = await call(
                    message, timeout=CALL_TIMEOUT, metadata=call_metadata(self._token, self._cluster_id)
                )
            except grpc.aio.AioRpcError as error:
                raise ConnectionError(f"signing: {error.code().name}: {error.details()}") from error
        return list(answer.cert_chain)
