# A real capture on this machine's loopback.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import socket
import subprocess

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._wire import capture as capture_module
from ansible_collections.ambient.lab.plugins.module_utils._wire.capture import Capture

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may capture")
HOME = "127.0.0.1"


def send(data: bytes) -> int:
    """Over a connection to this machine; returns the port it goes to."""
    with socket.create_server((HOME, 0)) as server:
        port = int(server.getsockname()[1])
        with socket.create_connection((HOME, port)) as client:
            accepted, _peer = server.accept()
            with accepted:
                client.sendall(data)
                while len(data) > 0 and (got := accepted.recv(1 << 20)):
                    data = data[len(got) :]
    return port


@pytest.mark.parametrize("namespace", [None, "/proc/self/ns/net"])
def test_what_passes_is_there_in_order(namespace: str | None) -> None:
    data = os.urandom(300_000)
    with Capture("lo", namespace, 20) as captured:
        port = send(data)
    assert captured.lost == ""
    assert [stream.data for flow, stream in captured.streams.items() if flow.target_port == port] == [data]


@pytest.mark.parametrize(("most", "seconds", "words"), [(1000, 20, "0 MiB passed"), (1 << 20, 0, "too long")])
def test_it_is_bounded_and_says_so(monkeypatch: pytest.MonkeyPatch, most: int, seconds: float, words: str) -> None:
    monkeypatch.setattr(capture_module, "MAX_BYTES", most)
    with Capture("lo", None, seconds) as captured:
        send(b"a" * 5000)
    assert words in captured.lost


@pytest.mark.parametrize(
    ("interface", "namespace", "words"),
    [
        ("no-such-one", None, r"There is no interface no-such-one in this machine \(.*\): `ip link` there shows"),
        (
            "nodes",
            "/proc/1/ns/none",
            "There is no network namespace /proc/1/ns/none: a cluster that was started again has another one",
        ),
    ],
)
def test_what_is_not_there_is_one_clear_line(interface: str, namespace: str | None, words: str) -> None:
    with pytest.raises(LabError, match=words):
        Capture(interface, namespace, 1)


def test_an_interface_that_goes_down_is_said() -> None:
    name = f"wire{os.getpid()}"[:15]
    subprocess.run(["ip", "link", "add", name, "type", "veth"], check=True)
    try:
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        with Capture(name, None, 20) as captured:
            subprocess.run(["ip", "link", "set", name, "down"], check=True)
    finally:
        subprocess.run(["ip", "link", "delete", name], check=True)
    assert "ended early" in captured.lost
