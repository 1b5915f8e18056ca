"""The recipe's own programs, each in the real thing: published ports and routes in real network namespaces."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ambient_embedded import gobuild, oci
from ambient_embedded.errors import LabError
from ambient_embedded.launcher import start_time
from ambient_embedded.tools import EMBEDDED
from ambient_kind import __main__ as command
from ambient_kind import engine, node_image, runtime

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="not root: namespaces need it")
# dockerd's side of the protocol: a network of the engine's own with a container's port in it, a pipe as descriptor 3.
PUBLISH = """
import os, subprocess, sys, threading
from http.server import HTTPServer, SimpleHTTPRequestHandler
from ambient_kind import publish
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
publish.MACHINE = sys.argv.pop(1)
os.chdir("/etc")
web = HTTPServer(("127.0.0.1", 8000), SimpleHTTPRequestHandler)
threading.Thread(target=web.serve_forever, daemon=True).start()
publish.main()
"""
CONNECT = """
import json, os, subprocess, sys
from pathlib import Path
import network
network.CONFIGURATION = Path(sys.argv[1])
for command in ("link add eth0 type veth peer name eth1", "address add 192.0.2.1/24 dev eth0", "link set eth0 up",
                "link set eth1 up"):
    subprocess.run(["ip", *command.split()], check=True)
for node in json.loads(sys.argv[2]):
    network.connect(node)
print(subprocess.run(["ip", "-json", "route"], check=True, capture_output=True, text=True).stdout)
"""


def in_a_network(script: str, *arguments: str, pipe: int | None = None) -> subprocess.Popen[str]:
    """A script in a network namespace of its own; it ends with this process."""
    paths = f"{node_image.SCENARIO}:{node_image.SCENARIO / 'node'}:{EMBEDDED}"
    return subprocess.Popen(
        ["unshare", "--net", "--fork", "--kill-child", sys.executable, "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": paths, "NODE_NAME": "a"}, stdout=subprocess.PIPE, text=True,
        preexec_fn=None if pipe is None else functools.partial(os.dup2, pipe, 3), close_fds=pipe is None,
    )  # fmt: skip


@contextlib.contextmanager
def published(port: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A port published as dockerd would have it; with the first line of the answer on descriptor 3."""
    reading, writing = os.pipe()
    arguments = ["-proto", "tcp", "-host-ip", "127.0.0.1", "-host-port", str(port)]
    target = ["-container-ip", "127.0.0.1", "-container-port", "8000"]
    process = in_a_network(PUBLISH, f"/proc/{os.getpid()}/ns/net", *arguments, *target, pipe=writing)
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            yield process, pipe.readline()
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@as_root
def test_a_published_port_leads_from_the_machine_into_the_engine(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    with published(port) as (_, answer):
        assert answer == "0\n"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/hostname", timeout=10) as response:
            assert response.read() == Path("/etc/hostname").read_bytes()


@as_root
def test_a_port_that_is_taken_is_refused(listener: socket.socket) -> None:
    with published(listener.getsockname()[1]) as (process, answer):
        assert answer == "1\n"
        assert process.wait(timeout=10) == 1


@as_root
def test_a_node_gets_its_configuration_once_and_routes_to_the_others(tmp_path: Path) -> None:
    file = tmp_path / "10-pods.conflist"

    def node(name: str, number: int, address: str) -> dict[str, object]:
        status = {"addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address}]}
        return {"metadata": {"name": name}, "spec": {"podCIDR": f"10.244.{number}.0/24"}, "status": status}

    nodes = [
        node("a", 0, "192.0.2.1"),
        node("b", 1, "192.0.2.2"),
        {"metadata": {"name": "c"}, "spec": {}, "status": {}},
    ]
    output, _ = in_a_network(CONNECT, str(file), json.dumps(nodes)).communicate(timeout=30)
    routes = {route["dst"]: route.get("gateway") for route in json.loads(output.strip().splitlines()[-1])}
    assert routes == {"192.0.2.0/24": None, "10.244.1.0/24": "192.0.2.2"}
    assert json.loads(file.read_text())["plugins"][0]["ipam"]["ranges"] == [[{"subnet": "10.244.0.0/24"}]]
    file.write_text("istio-cni has added itself")
    in_a_network(CONNECT, str(file), json.dumps(nodes)).communicate(timeout=30)
    assert file.read_text() == "istio-cni has added itself"


def test_a_process_keeps_every_capability_but_the_missing_one() -> None:
    process = {"capabilities": {"bounding": ["CAP_CHOWN", "CAP_SYS_RESOURCE", "CAP_SYS_ADMIN"], "ambient": []}}
    runtime.limit(process)
    assert process == {"capabilities": {"bounding": ["CAP_CHOWN", "CAP_SYS_ADMIN"], "ambient": []}}


def test_the_bounding_set_is_this_process_own() -> None:
    shown = subprocess.run(["grep", "CapBnd", "/proc/self/status"], check=True, capture_output=True, text=True).stdout
    assert runtime.bounding_set() == int(shown.split()[1], 16)


def test_an_archive_is_what_docker_save_writes(tmp_path: Path) -> None:
    (tmp_path / "hello").write_text("hello")
    oci.write_layer(tmp_path / "layer.tar", [(tmp_path / "hello", "hello")])
    oci.write_layout(tmp_path / "layout", [oci.Image("localhost/hello:1", (tmp_path / "layer.tar",), {})])
    node_image.pack(tmp_path / "layout", tmp_path / "images.tar")
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xf", str(tmp_path / "images.tar"), "-C", str(tmp_path / "out")], check=True)
    assert {"oci-layout", "index.json"} <= {path.name for path in (tmp_path / "out").iterdir()}
    (image,) = json.loads((tmp_path / "out/manifest.json").read_text())
    config = json.loads((tmp_path / "out" / image["Config"]).read_text())
    assert image["RepoTags"] == ["localhost/hello:1"]
    digests = [oci.file_digest(tmp_path / "out" / layer) for layer in image["Layers"]]
    assert [f"sha256:{digest}" for digest in digests] == config["rootfs"]["diff_ids"]
    assert not (tmp_path / "images.draft").exists()


def test_a_folder_that_is_no_engine_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("years of work")
    with pytest.raises(LabError, match=re.escape(f"{tmp_path} is not an engine's folder")):
        engine.down(tmp_path)
    assert (tmp_path / "thesis").exists()


def test_an_engine_that_does_not_start_says_why_and_can_be_taken_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has failed before anybody looks; nobody else may reach its socket."""
    folder = tmp_path / "engine"
    (tmp_path / "unshare").write_text("#!/bin/sh\necho unshare: Operation not permitted\nexit 1\n")
    (tmp_path / "unshare").chmod(0o755)
    start = subprocess.Popen

    def started_and_failed(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes] = start(*arguments, **options)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        return process

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(engine, "make_cgroup", lambda path: None)
    monkeypatch.setattr(subprocess, "Popen", started_and_failed)
    for _ in range(2):
        with pytest.raises(LabError, match=r"did not start:\nunshare: Operation not permitted"):
            engine.up(folder, tmp_path)
    assert folder.stat().st_mode & 0o777 == 0o700
    engine.down(folder)
    assert not folder.exists()


@as_root
def test_an_engine_is_removed_once_its_last_process_has_ended(tmp_path: Path) -> None:
    """Until then it may write files; one with much memory takes its time."""
    script = "import time; memory = bytearray(100 << 20); print(flush=True); time.sleep(60)"
    namespace = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", script]
    with subprocess.Popen(namespace, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        (tmp_path / "pid").write_text(f"{process.pid} {start_time(process.pid)}")
        first = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        engine.down(tmp_path)
        assert not Path(f"/proc/{first}").exists()
    assert not tmp_path.exists()


@pytest.fixture
def bill(tmp_path: Path) -> node_image.KindBill:
    return node_image.KindBill(tmp_path / "cache")


@pytest.mark.parametrize(
    ("module", "name", "other", "changed"),
    [
        (gobuild, "ENVIRONMENT", {}, {"kind", "kind-programs", "kind-node"}),
        (node_image, "SUITE", "sid", {"kind-engine", "kind-node"}),
        (node_image, "DOCUMENTATION", (), {"kind-engine", "kind-node"}),
    ],
)
def test_every_ingredient_changes_the_key(
    module: Any, name: str, other: object, changed: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keys() -> dict[str, str]:
        parts = node_image.KindBill(tmp_path).parts()
        return {part.name: part.key for part in parts if part.name.startswith("kind")}

    before = keys()
    monkeypatch.setattr(module, name, other)
    after = keys()
    assert {part for part in before if before[part] != after[part]} == changed


def interrupted(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)


def failed(*_: object) -> None:
    raise LabError("docker build failed")


@pytest.mark.parametrize(("up", "raised"), [(interrupted, SystemExit), (failed, LabError)])
def test_no_engine_is_left_when_it_cannot_be_made_ready(
    bill: node_image.KindBill, monkeypatch: pytest.MonkeyPatch, up: Callable[..., None], raised: type[BaseException]
) -> None:
    ended: list[Path] = []
    monkeypatch.setattr(command, "up", up)
    monkeypatch.setattr(engine, "down", ended.append)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(raised):
            command.within(Path("folder"), bill, ["true"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended == [Path("folder")]


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (["run"], "error: run needs a COMMAND"),
        (["down"], "Operation not permitted"),
        (["up"], "A Docker engine of the scenario's own needs Linux and root"),
    ],
)
def test_a_failure_of_the_command_is_said_in_one_line(
    state: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(_: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(engine, "down", refused)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["ambient_kind", *state, "folder"])
    with pytest.raises(SystemExit):
        sys.exit(command.main())
    assert said in capsys.readouterr().err.splitlines()[-1]
