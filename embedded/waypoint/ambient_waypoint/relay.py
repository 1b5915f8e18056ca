# For the embedded provider alone: passes xDS between Envoy and pilot-agent, with Listeners rewritten.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One stream to pilot-agent for each stream of Envoy, ended together: both sides see each other's reconnects.

It fails closed. A Listener that cannot be run as it is meant (refused here, or rejected by Envoy) would leave Envoy
with the older one, and a new policy would silently not be in force. A Cluster that Envoy rejects would leave a route
without its backend. So the relay gives up: the launcher ends Envoy, the waypoint is not ready and says why, and
kubelet starts it again until the configuration fits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from waypoint_xds_pb2 import AccessLog, DeltaRequest, DeltaResponse, StateRequest, StateResponse, Status

from ambient_waypoint.extensions import Extensions
from ambient_waypoint.rewrite import LISTENER_TYPE, Place, Refused, rewrite_response

LOG = logging.getLogger("waypoint-relay")
SERVICE: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"
CLUSTER_TYPE: Final = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
# What may not be rejected, and how it is called.
VITAL: Final = {LISTENER_TYPE: "Listener", CLUSTER_TYPE: "Cluster"}
# A mesh's configuration is larger than gRPC's 4 MiB; pilot-agent has no limit either.
OPTIONS: Final = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


@dataclass(frozen=True)
class Dialect:
    """The messages of one of the two variants of xDS."""

    method: str
    request: type[DeltaRequest | StateRequest]
    response: type[DeltaResponse | StateResponse]


DIALECTS: Final = (
    Dialect(f"{SERVICE}DeltaAggregatedResources", DeltaRequest, DeltaResponse),
    Dialect(f"{SERVICE}StreamAggregatedResources", StateRequest, StateResponse),
)


HANG_UP_TIMEOUT = 1.0  # seconds for pilot-agent to take the last words; what was in force stays so long


class Relay:
    """A gRPC server on `envoy_socket`, a client of `agent_socket` (paths of unix sockets).

    `request_log` is the access log that stands in for Istio's stats filter.
    """

    def __init__(self, agent_socket: Path, envoy_socket: Path, request_log: AccessLog) -> None:
        self.request_log = request_log
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._agent = f"unix:{agent_socket.absolute()}"
        self._reported: set[Place] = set()
        handlers = {
            dialect.method.removeprefix(SERVICE): grpc.stream_stream_rpc_method_handler(self._handler(dialect))
            for dialect in DIALECTS
        }
        self._server = grpc.aio.server(options=OPTIONS)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.strip("/"), handlers),))
        self._server.add_insecure_port(f"unix:{envoy_socket.absolute()}")

    async def start(self) -> None:
        """Begin to serve; the socket exists when this returns."""
        await self._server.start()

    async def stop(self) -> None:
        """End every stream at once."""
        await self._server.stop(grace=None)

    def _handler(self, dialect: Dialect) -> Any:
        async def serve(requests: AsyncIterator[bytes], context: Any) -> None:
            # A pool of its own for each stream: no back-off of an older connection delays a new one.
            options = (*OPTIONS, ("grpc.use_local_subchannel_pool", 1))
            async with grpc.aio.insecure_channel(self._agent, options=options) as channel:
                await _Stream(self, dialect, channel.stream_stream(dialect.method)(), context).run(requests)

        return serve

    def fail(self, reason: str) -> None:
        """Give up: the first reason counts, the launcher ends Envoy."""
        LOG.error("the waypoint stops: %s", reason)
        if not self.failed.done():
            self.failed.set_result(reason)

    def report(self, places: list[Place]) -> None:
        """Log each dropped filter once in the life of this process, not at every push."""
        for place in places:
            if place not in self._reported:
                self._reported.add(place)
                LOG.info("dropped %s: only Istio's Envoy has it; it observes and decides nothing", place)


class _Stream:
    """One stream of Envoy and its counterpart at pilot-agent."""

    def __init__(self, relay: Relay, dialect: Dialect, agent: Any, envoy: Any) -> None:
        self.relay = relay
        self.dialect = dialect
        self.agent = agent
        self.envoy = envoy
        self.known: Extensions | None = None

    async def run(self, requests: AsyncIterator[bytes]) -> None:
        """Move messages both ways until either side ends; Envoy then gets pilot-agent's status."""
        pumps = [asyncio.create_task(self.to_agent(requests)), asyncio.create_task(self.to_envoy())]
        agent_ended = False
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            agent_ended = self.agent.done()
        finally:
            for pump in pumps:
                pump.cancel()
            ends = await asyncio.gather(*pumps, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception) and not isinstance(end, (grpc.RpcError, grpc.aio.BaseError)):
                self.relay.fail(f"the relay broke: {type(end).__name__}: {end}")
        if agent_ended:
            code, details = await self.agent.code(), await self.agent.details()
            LOG.info("pilot-agent ended the stream: %s %s", code.name, details)
            if code is not grpc.StatusCode.OK:
                await self.envoy.abort(code, details)
        self.agent.cancel()

    async def to_agent(self, requests: AsyncIterator[bytes]) -> None:
        """Envoy's requests go on unchanged; the first one says what Envoy can do."""
        async for raw in requests:
            request = self.dialect.request.FromString(raw)
            if self.known is None:
                self.known = Extensions.of(request.node)
                sizes = (len(self.known.http), len(self.known.network))
                LOG.info("Envoy knows %d types of HTTP filters and %d of network filters", *sizes)
            await self.agent.write(raw)
            if request.type_url in VITAL and request.HasField("error_detail"):
                words = " ".join(request.error_detail.message.split())
                await self.give_up(f"Envoy rejected a {VITAL[request.type_url]}: {words}")

    async def to_envoy(self) -> None:
        """pilot-agent's responses go on with their Listeners rewritten, or not at all."""
        async for raw in self.agent:
            response = self.dialect.response.FromString(raw)
            if response.type_url != LISTENER_TYPE:
                await self.envoy.write(raw)
                continue
            try:
                known = self.known or Extensions.none()
                changed, dropped = rewrite_response(response, known, self.relay.request_log)
            except Refused as refusal:
                await self.refuse(response, refusal)
                return
            self.relay.report(dropped)
            await self.envoy.write(response.SerializeToString() if changed else raw)

    async def refuse(self, response: DeltaResponse | StateResponse, refusal: Refused) -> None:
        """Tell istiod (it logs a rejected push, `istioctl proxy-status` shows it), then stop."""
        detail = Status(code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message=str(refusal))
        answer = self.dialect.request(type_url=response.type_url, response_nonce=response.nonce, error_detail=detail)
        await self.agent.write(answer.SerializeToString())
        await self.give_up(str(refusal))

    async def give_up(self, reason: str) -> None:
        """Stop the waypoint, after the stream has ended in order: what was written last is dropped otherwise."""
        try:
            await self.agent.done_writing()
            with contextlib.suppress(TimeoutError, grpc.RpcError):
                async with asyncio.timeout(HANG_UP_TIMEOUT):
                    await self.agent.code()
        finally:  # also when the other direction ends first and this one is cancelled
            self.relay.fail(reason)
