# For the embedded provider alone: starts xDS relay, metrics exporter and the real Envoy, one process for pilot-agent.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""None lives without the others: Envoy alone would keep old policies, uncounted; the others would hide its end."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from ambient_waypoint.exporter import Admin, Exporter
from ambient_waypoint.paths import (
    AGENT_SOCKET,
    METRICS_SOCKET,
    RELAY_SOCKET,
    REQUEST_LOG,
    TERMINATION_LOG,
    UPSTREAM_ENVOY,
)
from ambient_waypoint.relay import Relay
from ambient_waypoint.telemetry import request_log

LOG = logging.getLogger("waypoint-launcher")
FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
# pilot-agent ends its child with SIGKILL (pkg/envoy/proxy.go), which no handler sees: the kernel ends Envoy.
DIE_WITH_PARENT: Final = ("setpriv", "--pdeathsig", "KILL", "--")
FAILED: Final = 1
# Envoy keeps log lines so long; pilot-agent's 1000 (pkg/envoy/proxy.go) is as long as the time between two scrapes.
FLUSH_OPTION: Final = "--file-flush-interval-msec"
FLUSH_MILLISECONDS: Final = "100"


class Unusable(Exception):
    """Envoy's configuration file does not say what the exporter needs."""


def config_file(arguments: Sequence[str]) -> Path | None:
    """Return Envoy's configuration file (`-c`), which lies in pilot-agent's ConfigPath; None without one."""
    for name, value in pairwise(arguments):
        if name in ("-c", "--config-path"):
            return Path(value).absolute()
    return None


def admin_of(config: Path) -> Admin:
    """Return where Envoy's admin interface will listen; raises Unusable."""
    try:
        address = json.loads(config.read_bytes())["admin"]["address"]["socket_address"]
        return Admin(address["address"], address["port_value"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unusable(f"no address of Envoy's admin interface in {config}: {type(error).__name__}: {error}") from error


def flushing_often(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with our flush interval in the place of pilot-agent's; Envoy takes the option once."""
    kept = list(arguments)
    if FLUSH_OPTION in kept:
        index = kept.index(FLUSH_OPTION)
        del kept[index : index + 2]
    return [*kept, FLUSH_OPTION, FLUSH_MILLISECONDS]


async def run(arguments: Sequence[str], config: Path, envoy: str) -> int:
    """Run relay, exporter and Envoy until one ends.

    Returns Envoy's exit status (negative: ended by that signal), or 1 if relay or exporter gave up.
    """
    folder = config.parent
    try:
        exporter = Exporter(folder / REQUEST_LOG, folder / METRICS_SOCKET, admin_of(config))
        await exporter.start()
    except (OSError, Unusable) as error:
        reason = f"the waypoint's metrics exporter cannot start: {error}"
        LOG.error("the waypoint stops: %s", reason)
        _explain(reason)
        return FAILED
    relay = Relay(folder / AGENT_SOCKET, folder / RELAY_SOCKET, request_log(folder / REQUEST_LOG))
    await relay.start()
    process = await asyncio.create_subprocess_exec(*DIE_WITH_PARENT, envoy, *flushing_often(arguments))
    loop = asyncio.get_running_loop()
    for number in FORWARDED:
        loop.add_signal_handler(number, _forward, process, number)
    ended = asyncio.create_task(process.wait())
    failures = (relay.failed, exporter.failed)
    await asyncio.wait((ended, *failures), return_when=asyncio.FIRST_COMPLETED)
    if not ended.done():
        process.kill()
        await ended
        _explain(next(failure.result() for failure in failures if failure.done()))
        status = FAILED
    else:
        status = ended.result()
        LOG.info("Envoy ended with status %d", status)
    await exporter.stop()
    await relay.stop()
    return status


def end_like(status: int) -> int:
    """Return the exit code, or end this process by the signal that ended Envoy; pilot-agent knows both."""
    if status < 0:
        if -status not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def main(arguments: Sequence[str], envoy: str = UPSTREAM_ENVOY) -> int:
    """Do what `envoy <arguments>` does; without a configuration file (`--version`) only Envoy runs."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s\t%(levelname)s\t%(name)s\t%(message)s")
    config = config_file(arguments)
    if config is None:
        os.execv(envoy, [envoy, *arguments])
    return end_like(asyncio.run(run(arguments, config, envoy)))


def _forward(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if process.returncode is None:
        process.send_signal(number)


def _explain(reason: str) -> None:
    """Leave the reason where `kubectl describe pod` shows it; the file is kubelet's, so only a pod has one."""
    try:
        with Path(TERMINATION_LOG).open("r+", encoding="utf-8") as log:
            log.write(f"{reason}\n")
    except OSError as error:
        LOG.info("no reason left for kubelet: %s", error)
