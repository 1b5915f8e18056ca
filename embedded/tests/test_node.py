"""A real node from the built parts: it comes up, survives the loss of its launcher, and leaves no trace."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import multiprocessing
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ambient_embedded import node
from ambient_embedded.cache import Progress
from ambient_embedded.launcher import cgroup_hierarchies, start_time
from ambient_embedded.parts import IMAGE_REGISTRY, Bill

Eventually = Callable[[Callable[[], object], str], None]
NAME, NODE_PORT = "unit-node", 30080
MANIFEST = """
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: web
      image: IMAGE
      command: [python3, -m, http.server, "8080", --directory, /usr]
      securityContext: {runAsUser: 65532}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: kept}
data: {word: from before}
"""
pytestmark = pytest.mark.root


def quiet(_: str) -> None:
    """Progress that nobody reads."""


def newest(bill: Bill, name: str) -> Path:
    """The current version of a part, else the newest that is built: a node runs on any."""
    found = sorted(bill.cache.glob(f"{name}-" + "[0-9a-f]" * 12), key=lambda path: path.stat().st_mtime)
    current = getattr(bill, name.replace("-", "_")).folder(bill.cache)
    if not found:
        pytest.skip(f"{bill.cache} has no part {name}: run `make build` first")
    return Path(current if current in found else found[-1])


@pytest.fixture
def settings(bill: Bill, tmp_path: Path, free_port: int) -> Iterator[node.Settings]:
    """A lab of this test's own; it is gone afterwards, whatever happens."""
    images = newest(bill, "images") / "layout"
    manifests = json.loads((images / "index.json").read_text())["manifests"]
    names = [manifest["annotations"]["io.containerd.image.name"] for manifest in manifests]
    settings = node.Settings(
        name=NAME, state_dir=tmp_path / "state", tree=newest(bill, "node-image") / "tree",
        programs=newest(bill, "programs"), images=images, image_store=newest(bill, "image-store"),
        pause_image=next(name for name in names if name.startswith(f"{IMAGE_REGISTRY}/pause:")),
        forwards=(("127.0.0.1", free_port, NODE_PORT),),
    )  # fmt: skip
    yield settings
    node.absent(settings.state_dir, NAME)


def traces(settings: node.Settings) -> list[str]:
    """What of the node is on this machine: processes, mounts, cgroups."""
    found = []
    group = f"/ambient-lab/{NAME}"
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cgroup").read_text() + (process / "cmdline").read_text()
            mounts = (process / "mountinfo").read_text()
            name = (process / "comm").read_text().strip()
        except OSError:  # it has just ended
            continue
        if group in words or str(settings.folder) in words + mounts:
            found.append(f"process {process.name} {name}")
    return found + [str(root) + group for root in cgroup_hierarchies() if Path(str(root) + group).exists()]


def test_a_node_comes_up_survives_its_launcher_and_leaves_no_trace(
    settings: node.Settings, tmp_path: Path, eventually: Eventually
) -> None:
    assert traces(settings) == []
    first = node.present(settings, quiet)
    assert first["changed"]
    assert node.present(settings, quiet) == {**first, "changed": False}
    assert node.present(settings, quiet, check=True) == {**first, "changed": False}
    launcher = json.loads((settings.folder / "launcher.json").read_text())
    interface = Path("/sys/class/net") / launcher["interface"]
    assert interface.exists()
    host, port, _ = settings.forwards[0]
    assert (host, port) in node.forwarded_ports(settings.folder)

    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(first["kubeconfig"])

    def kubectl(*arguments: str, given: str = "") -> str:
        command: list[str | Path] = [settings.programs / "kubectl", "--kubeconfig", kubeconfig, *arguments]
        done = subprocess.run(command, input=given, capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else ""

    def page() -> bool:
        connection = http.client.HTTPConnection(host, port, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/")
            return connection.getresponse().status == 200
        return False

    # The default ServiceAccount is made a moment after the node is Ready.
    manifest = MANIFEST.replace("IMAGE", settings.pause_image.replace("/pause:", "/tools:"))
    eventually(lambda: kubectl("apply", "-f", "-", given=manifest), "the objects are accepted")
    eventually(page, "the pod answers through its Service and the forwarded port")
    before = kubectl("get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}")

    pid = int((settings.folder / "launcher.pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not [trace for trace in traces(settings) if trace.startswith("process")], "all have ended")
    eventually(lambda: not interface.exists(), "the interface is gone")
    assert not any(str(settings.folder) in line for line in Path("/proc/self/mountinfo").read_text().splitlines())
    assert node.present(settings, quiet, check=True)["changed"]

    again = node.present(settings, quiet)
    assert again == first
    assert kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.word}") == "from before"
    assert kubectl("get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}") == before != ""
    eventually(page, "the pod answers again")

    assert node.absent(settings.state_dir, NAME, check=True)
    assert node.is_running(settings.folder)
    assert node.absent(settings.state_dir, NAME)
    assert traces(settings) == []
    assert not settings.state_dir.exists()
    eventually(lambda: not interface.exists(), "the interface is gone")
    assert not node.absent(settings.state_dir, NAME)


@pytest.fixture
def wanted(tmp_path: Path) -> node.Settings:
    """A lab that nothing has been made of."""
    return node.Settings("one", tmp_path, tmp_path, tmp_path, tmp_path, tmp_path, "pause", forwards=())


@pytest.mark.parametrize("text", ["", '{"interface": "amb', "\0" * 20])
@pytest.mark.parametrize("name", ["one", "other"])
def test_a_lab_whose_file_was_cut_off_stops_no_other_and_goes(wanted: node.Settings, name: str, text: str) -> None:
    (wanted.state_dir / name).mkdir()
    (wanted.state_dir / name / "launcher.json").write_text(text)
    assert node._slot(wanted).number
    assert node.forwarded_ports(wanted.state_dir / name) == []
    assert node.absent(wanted.state_dir, name)
    assert not (wanted.state_dir / name).exists()


def test_an_interface_that_outlives_the_node_goes_without_the_labs_file(wanted: node.Settings) -> None:
    interface = f"amb{os.getpid()}"
    subprocess.run(["ip", "link", "add", interface, "type", "veth", "peer", "name", f"{interface}p"], check=True)
    try:
        subprocess.run(["ip", "link", "set", interface, "alias", str(wanted.folder)], check=True)
        wanted.folder.mkdir()
        node.stop(wanted.folder)
        assert not Path("/sys/class/net", interface).exists()
    finally:
        subprocess.run(["ip", "link", "delete", interface], check=False, capture_output=True)


def absent_with(stop: Callable[[Path], object], state: Path, progress: Progress) -> None:
    """Take the lab away, with another way to stop it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node, "stop", stop)
        assert node.absent(state, "one", progress)


def test_who_waits_while_the_last_lab_goes_holds_the_lock_that_others_see(tmp_path: Path) -> None:
    """The last lab takes the folder of all labs with it, and the lock that is in it."""
    state, fork = tmp_path / "state", multiprocessing.get_context("fork")
    begin, done = fork.Event(), fork.Event()
    words, said = fork.Pipe(duplex=False)

    def stop_later(_: Path) -> None:
        said.send("mine")
        done.wait()

    def second() -> None:
        begin.wait()
        absent_with(stop_later, state, said.send)

    def stop_slowly(_: Path) -> None:
        begin.set()
        assert "waiting" in words.recv()

    (state / "one").mkdir(parents=True)
    other = fork.Process(target=second)
    other.start()  # before the lock is taken here: a child shares the locks of its parent
    absent_with(stop_slowly, state, quiet)
    try:
        assert words.recv() == "mine"
        with (state / ".lock").open("w") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        done.set()
        other.join()
    assert not state.exists()


def test_a_launcher_that_nobody_reaps_counts_as_ended(tmp_path: Path, eventually: Eventually) -> None:
    """As on a host whose PID 1 does not look after orphans, a container for example."""
    process = subprocess.Popen(["sleep", "1000"])
    (tmp_path / "launcher.pid").write_text(f"{process.pid} {start_time(process.pid)}")
    assert node.is_running(tmp_path)
    process.kill()
    try:
        eventually(lambda: not node.is_running(tmp_path), "the launcher counts as ended")
    finally:
        process.wait()


@pytest.mark.parametrize("text", ["", "1", "1 0", "no number", "4194305 1"])
def test_a_pid_file_of_another_process_means_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "launcher.pid").write_text(text)
    assert not node.is_running(tmp_path)
