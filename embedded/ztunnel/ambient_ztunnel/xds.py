"""The delta xDS client: workloads, services and policies from istiod (embedded provider alone).

Protocol: Envoy's xds-protocol document (incremental xDS) as pilot/pkg/xds/delta.go and workload.go of
istio.io/istio speak it; wildcard subscription to the two types.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import ads_pb2 as ads
import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from workloadapi import workload_pb2 as wds
from workloadapi.security import authorization_pb2 as authz

from . import convert
from .grpc_channel import call_metadata, open_channel
from .metrics import Metrics
from .state import State

log = logging.getLogger("xds.client")

DELTA_RESOURCES = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
ADDRESS_TYPE = "type.googleapis.com/istio.workload.Address"
AUTHORIZATION_TYPE = "type.googleapis.com/istio.security.Authorization"
TYPES = (ADDRESS_TYPE, AUTHORIZATION_TYPE)
BACKOFF_FIRST = 0.01  # seconds
BACKOFF_MAX = 15.0
# Nobody listens yet (istiod starts): asking again costs nothing, and the whole node waits for the answer.
BACKOFF_UNAVAILABLE = 0.5
INVALID_ARGUMENT = 3  # google.rpc.Code


def node() -> ads.Node:
    """Who this proxy is, in the form that pilot/pkg/model parses (`ztunnel~ip~name.namespace~domain`)."""
    ip = os.environ.get("INSTANCE_IP", "1.1.1.1")
    name = os.environ.get("POD_NAME", "")
    namespace = os.environ.get("POD_NAMESPACE", "")
    message = ads.Node(id=f"ztunnel~{ip}~{name}.{namespace}~{namespace}.svc.cluster.local")
    metadata: dict[str, Any] = {
        "NAME": name,
        "NAMESPACE": namespace,
        "INSTANCE_IPS": ip,
        "NODE_NAME": os.environ.get("NODE_NAME", ""),
    }
    for key, value in os.environ.items():
        if key.startswith("ISTIO_METAJSON_"):
            try:
                metadata[key.removeprefix("ISTIO_METAJSON_")] = json.loads(value)
            except ValueError:
                log.error("failed to parse %s=%s", key, value)
        elif key.startswith("ISTIO_META_"):
            metadata[key.removeprefix("ISTIO_META_")] = value
    message.metadata.update(metadata)
    return message


def _is_unavailable(error: Exception) -> bool:
    return isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.UNAVAILABLE


class XdsClient:
    """Keeps `state` in step with istiod, for ever."""

    def __init__(self, state: State, address: str, root: Path, token: Path, cluster_id: str, metrics: Metrics) -> None:
        self._state = state
        self._address = address
        self._root = root
        self._token = token
        self._cluster_id = cluster_id
        self._metrics = metrics
        self._known: dict[str, dict[str, str]] = {kind: {} for kind in TYPES}  # type -> name -> version
        self._accepted: set[str] = set()
        self._answered = False
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Connect, listen, reconnect with growing pauses."""
        backoff = BACKOFF_FIRST
        while True:
            reason = "Complete"
            self._answered = False
            try:
                await self._session()
                log.warning("XDS client complete")
            except (grpc.aio.AioRpcError, OSError) as error:
                text = f"{error.code().name}: {error.details()}" if isinstance(error, grpc.aio.AioRpcError) else error
                reason = "Error" if self._answered else "ConnectionError"
                # istiod ends streams now and then; only a stream that brought nothing makes the pause grow.
                limit = BACKOFF_UNAVAILABLE if _is_unavailable(error) else BACKOFF_MAX
                backoff = BACKOFF_FIRST if self._answered else min(backoff * 2, limit)
                log.warning("XDS client connection error: %s, retrying in %.2fs", text, backoff)
            self._metrics.xds_terminations.labels(reason).inc()
            await asyncio.sleep(backoff)

    async def _session(self) -> None:
        """One stream, from subscription to its end."""
        outgoing: asyncio.Queue[ads.DeltaDiscoveryRequest] = asyncio.Queue()
        for kind in TYPES:
            # Naming what is known makes istiod say what has gone meanwhile.
            outgoing.put_nowait(
                ads.DeltaDiscoveryRequest(node=node(), type_url=kind, initial_resource_versions=self._known[kind])
            )

        async def requests() -> AsyncIterator[ads.DeltaDiscoveryRequest]:
            while True:
                yield await outgoing.get()

        async with open_channel(self._address, self._root) as channel:
            open_stream = channel.stream_stream(
                DELTA_RESOURCES,
                request_serializer=ads.DeltaDiscoveryRequest.SerializeToString,
                response_deserializer=ads.DeltaDiscoveryResponse.FromString,
            )
            stream = open_stream(requests(), metadata=call_metadata(self._token, self._cluster_id))
            async for response in stream:
                if not self._answered:
                    log.info("Stream established")
                    self._answered = True
                outgoing.put_nowait(self.handle(response))

    def handle(self, response: ads.DeltaDiscoveryResponse) -> ads.DeltaDiscoveryRequest:
        """Apply one response and return its ACK, or a NACK that names what was refused."""
        kind = response.type_url
        log.info(
            "received response",
            extra={
                "fields": {
                    "type_url": kind,
                    "size": len(response.resources),
                    "removes": len(response.removed_resources),
                }
            },
        )
        self._metrics.xds_messages.labels(kind).inc()
        self._metrics.xds_bytes.labels(kind).inc(response.ByteSize())
        answer = ads.DeltaDiscoveryRequest(type_url=kind, response_nonce=response.nonce)
        if kind not in TYPES:
            log.error("unknown type %s", kind)
            return answer
        put, remove = self._handlers(kind)
        rejected = []
        for resource in response.resources:
            try:
                put(resource.resource.value)
            except (ValueError, DecodeError) as error:
                rejected.append(f"{resource.name}: {error}")
                continue
            self._known[kind][resource.name] = resource.version
        for name in response.removed_resources:
            remove(name)
            self._known[kind].pop(name, None)
        self._state.notify()
        if rejected:
            text = "; ".join(rejected)
            log.error("sending NACK", extra={"fields": {"type_url": kind, "nonce": response.nonce, "error": text}})
            answer.error_detail.code = INVALID_ARGUMENT
            answer.error_detail.message = text
        else:
            self._accepted.add(kind)
            if len(self._accepted) == len(TYPES):
                self.ready.set()
        return answer

    def _handlers(self, kind: str) -> tuple[Callable[[bytes], None], Callable[[str], None]]:
        return {
            ADDRESS_TYPE: (self._put_address, self._state.remove_address),
            AUTHORIZATION_TYPE: (self._put_policy, self._state.remove_policy),
        }[kind]

    def _put_address(self, raw: bytes) -> None:
        message = wds.Address.FromString(raw)
        match message.WhichOneof("type"):
            case "workload":
                self._state.put_workload(convert.workload(message.workload))
            case "service":
                self._state.put_service(convert.service(message.service))
            case _:
                raise ValueError("address without workload or service")

    def _put_policy(self, raw: bytes) -> None:
        self._state.put_policy(convert.policy(authz.Authorization.FromString(raw)))
