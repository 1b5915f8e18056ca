"""The parts of the ztunnel stand-in put together, from start to shutdown (embedded provider alone)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
import sys
from http import HTTPStatus

import uvloop

from . import admin
from .accesslog import setup_logging
from .certs import CertificateManager
from .config import Config
from .connections import ConnectionManager
from .context import Context
from .grpc_channel import CaClient
from .httpserver import HttpRequest, HttpResponse, serve
from .listener import listen
from .metrics import Metrics
from .pods import PodManager
from .state import State
from .xds import XdsClient
from .zds import ZdsClient

log = logging.getLogger("app")

FIRST_ANSWER_TIMEOUT = 5.0  # seconds that readiness probes wait for their first answer, at most


async def run(config: Config, readiness: socket.socket) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Raises OSError if an own port is taken."""
    metrics = Metrics()
    state = State(config.network, config.local_node, config.policy_log_level)
    ca = CaClient(config.ca_address, config.root_cert, config.token, config.cluster_id, config.secret_ttl)
    certs = CertificateManager(ca.sign)
    context = Context(config, state, certs, metrics, ConnectionManager(state))
    pods = PodManager(context)
    xds = XdsClient(state, config.xds_address, config.root_cert, config.token, config.cluster_id, metrics)
    zds = ZdsClient(config.zds_socket, pods)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)

    def ready(request: HttpRequest) -> HttpResponse:
        if request.method != "GET":
            return HttpResponse(status=HTTPStatus.METHOD_NOT_ALLOWED)
        tasks = (("state manager", xds.ready.is_set()), ("workload proxy manager", pods.ready))
        pending = [name for name, done in tasks if not done]
        if stop.is_set():
            pending.append("draining")
        if pending:
            return HttpResponse(
                f"not ready, pending: {', '.join(pending)}\n".encode(), HTTPStatus.INTERNAL_SERVER_ERROR
            )
        return HttpResponse(b"ready\n")

    def exposition(_request: HttpRequest) -> HttpResponse:
        return HttpResponse(metrics.render(), content_type=metrics.content_type)

    servers = [
        await serve(listen(None, config.stats_port), {"/metrics": exposition, "/stats/prometheus": exposition}),
        await serve(listen("127.0.0.1", config.admin_port), admin.routes(context, pods, stop.set)),
    ]
    log.info("ztunnel stand-in of the embedded provider started, node %s", config.local_node)

    async def answer_probes() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_ANSWER_TIMEOUT):
                await xds.ready.wait()
                await pods.have_snapshot.wait()
        servers.append(await serve(readiness, {"/healthz/ready": ready}))
        await loop.create_future()  # until it is cancelled: a task that ends is a failure

    async def pods_after_mesh() -> None:
        # A pod is captured as soon as its proxy listens, so the mesh must be known before.
        await xds.ready.wait()
        await zds.run()

    tasks = [
        asyncio.create_task(work, name=name)
        for name, work in (
            ("xds", xds.run()),
            ("zds", pods_after_mesh()),
            ("retry", pods.retry_pending()),
            ("readiness", answer_probes()),
        )
    ]
    stopped = asyncio.create_task(stop.wait(), name="stop")
    done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
    failed = [task for task in done if task is not stopped]
    for task in failed:
        log.critical("task %s ended", task.get_name(), exc_info=task.exception())
    log.info("shutting down, draining for up to %.0fs", config.drain_timeout)
    stop.set()
    for task in tasks:
        task.cancel()
    await pods.shutdown(0 if failed else config.drain_timeout)
    await certs.close()
    for server in servers:
        server.close()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
    log.info("shutdown complete")
    return 1 if failed else 0


def raise_descriptors() -> None:
    """As many descriptors as the hard limit allows: a connection needs two, and Python's select none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    log.info("set file descriptor limits from %d to %d", soft, hard)


def serve_until_stopped(config: Config, readiness: socket.socket) -> int:
    """Run in this thread with a loop of its own; returns the exit code. `readiness` listens already."""
    try:
        setup_logging(config.log_level, config.log_json)
    except ValueError as error:
        print(f"ztunnel: {error}", file=sys.stderr)
        return 2
    if config.ignored:
        log.warning("set, but without effect in this stand-in: %s", ", ".join(config.ignored))
    raise_descriptors()
    # The threads beside the loop do tiny jobs that connections wait for.
    sys.setswitchinterval(0.0005)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(run(config, readiness))
    except OSError as error:
        log.critical("cannot start: %s", error)
        return 1
