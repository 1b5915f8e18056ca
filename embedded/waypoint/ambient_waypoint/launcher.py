# For the embedded provider alone: starts the xDS relay and the real Envoy, one process for pilot-agent.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Neither lives without the other: Envoy alone would keep old policies, a relay alone would hide its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from ambient_waypoint.paths import AGENT_SOCKET, RELAY_SOCKET, TERMINATION_LOG, UPSTREAM_ENVOY
from ambient_waypoint.relay import Relay

LOG = logging.getLogger("waypoint-launcher")
FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
# pilot-agent ends its child with SIGKILL (pkg/envoy/proxy.go), which no handler sees: the kernel ends Envoy.
DIE_WITH_PARENT: Final = ("setpriv", "--pdeathsig", "KILL", "--")
FAILED: Final = 1


def config_folder(arguments: Sequence[str]) -> Path | None:
    """Return the folder of Envoy's configuration file (`-c`), pilot-agent's ConfigPath; None without one."""
    for name, value in pairwise(arguments):
        if name in ("-c", "--config-path"):
            return Path(value).parent
    return None


async def run(arguments: Sequence[str], folder: Path, envoy: str) -> int:
    """Run relay and Envoy until one ends.

    Returns Envoy's exit status (negative: ended by that signal), or 1 if the relay gave up.
    """
    relay = Relay(folder / AGENT_SOCKET, folder / RELAY_SOCKET)
    await relay.start()
    process = await asyncio.create_subprocess_exec(*DIE_WITH_PARENT, envoy, *arguments)
    loop = asyncio.get_running_loop()
    for number in FORWARDED:
        loop.add_signal_handler(number, _forward, process, number)
    ended = asyncio.create_task(process.wait())
    await asyncio.wait((ended, relay.failed), return_when=asyncio.FIRST_COMPLETED)
    if not ended.done():
        process.kill()
        await ended
        _explain(relay.failed.result())
        status = FAILED
    else:
        status = ended.result()
        LOG.info("Envoy ended with status %d", status)
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
    folder = config_folder(arguments)
    if folder is None:
        os.execv(envoy, [envoy, *arguments])
    return end_like(asyncio.run(run(arguments, folder, envoy)))


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
