"""A real lab from the built parts: it comes up, survives the loss of its parts, grows, and leaves no trace."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import multiprocessing
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ambient_embedded import lab, ownership, pki, slots, tools, waiting
from ambient_embedded.cache import Progress
from ambient_embedded.errors import LabError
from ambient_embedded.launcher import alive, cgroup_hierarchies, start_time
from ambient_embedded.parts import IMAGE_REGISTRY, Bill
from ambient_embedded.topology import Lab, group_of

Eventually = Callable[[Callable[[], object], str], None]
NAME, NODE_PORT = "unit-lab", 30080
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
def settings(bill: Bill, tmp_path: Path, free_port: int) -> Iterator[lab.Settings]:
    """A lab of this test's own; it is gone afterwards, whatever happens."""
    images = newest(bill, "images") / "layout"
    manifests = json.loads((images / "index.json").read_text())["manifests"]
    names = [manifest["annotations"]["io.containerd.image.name"] for manifest in manifests]
    settings = lab.Settings(
        name=NAME, workers=1, state_dir=tmp_path / "state", tree=newest(bill, "node-image") / "tree",
        programs=newest(bill, "programs"), images=images, image_store=newest(bill, "image-store"),
        pause_image=next(name for name in names if name.startswith(f"{IMAGE_REGISTRY}/pause:")),
        forwards=(("127.0.0.1", free_port, NODE_PORT),), owner=tmp_path / "lab", timeout=180.0,
    )  # fmt: skip
    yield settings
    lab.absent(settings.state_dir, NAME)


def traces(settings: lab.Settings) -> list[str]:
    """What of the lab is on this machine: processes, mounts, cgroups."""
    found = []
    group = group_of(settings.folder)
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


class Cluster:
    """The running lab, for its user."""

    def __init__(self, settings: lab.Settings, folder: Path) -> None:
        self.settings, self.kubeconfig = settings, folder / "kubeconfig"

    def kubectl(self, *arguments: str, given: str = "") -> str:
        """What kubectl prints; "" where it fails."""
        command: list[str | Path] = [self.settings.programs / "kubectl", "--kubeconfig", self.kubeconfig, *arguments]
        done = subprocess.run(command, input=given, capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else ""

    def page(self) -> bool:
        """Whether the pod answers through its Service and the forwarded port."""
        host, port, _ = self.settings.forwards[0]
        connection = http.client.HTTPConnection(host, port, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/")
            return connection.getresponse().status == 200
        return False

    def deploy(self, eventually: Eventually) -> None:
        """Apply MANIFEST and wait until it answers."""
        manifest = MANIFEST.replace("IMAGE", self.settings.pause_image.replace("/pause:", "/tools:"))
        # The default ServiceAccount is made a moment after the node is Ready.
        eventually(lambda: self.kubectl("apply", "-f", "-", given=manifest), "the objects are accepted")
        eventually(self.page, "the pod answers through its Service and the forwarded port")


@pytest.fixture
def cluster(settings: lab.Settings, tmp_path: Path) -> Cluster:
    return Cluster(settings, tmp_path)


def test_a_lab_comes_up_survives_its_launcher_and_leaves_no_trace(
    settings: lab.Settings, cluster: Cluster, eventually: Eventually
) -> None:
    assert traces(settings) == []
    first = lab.present(settings, quiet)
    assert first["changed"]
    assert lab.present(settings, quiet) == {**first, "changed": False}
    assert lab.present(settings, quiet, check=True) == {**first, "changed": False}
    launcher = json.loads((settings.folder / "launcher.json").read_text())
    interface = Path("/sys/class/net") / launcher["interface"]
    assert interface.exists()
    host, port, _ = settings.forwards[0]
    assert (host, port) in lab.forwarded_ports(settings.folder)

    cluster.kubeconfig.write_text(first["kubeconfig"])
    cluster.deploy(eventually)
    assert cluster.kubectl("get", "pod", "web", "-o", "jsonpath={.spec.nodeName}") == f"{NAME}-worker"
    before = cluster.kubectl("get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}")

    pid = int((settings.folder / "launcher.pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not [trace for trace in traces(settings) if trace.startswith("process")], "all have ended")
    eventually(lambda: not interface.exists(), "the interface is gone")
    assert not any(str(settings.folder) in line for line in Path("/proc/self/mountinfo").read_text().splitlines())
    assert lab.present(settings, quiet, check=True)["changed"]

    again = lab.present(settings, quiet)
    assert again == {**first, "link": again["link"]}
    assert Path(again["link"]["network_namespace"]).exists()
    assert cluster.kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.word}") == "from before"
    assert cluster.kubectl("get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}") == before != ""
    eventually(cluster.page, "the pod answers again")

    assert lab.absent(settings.state_dir, NAME, check=True)
    assert lab.is_running(settings.folder)
    assert lab.absent(settings.state_dir, NAME)
    assert traces(settings) == []
    assert not settings.state_dir.exists()
    eventually(lambda: not interface.exists(), "the interface is gone")
    assert not lab.absent(settings.state_dir, NAME)


def test_a_lab_grows_loses_no_object_and_mends_a_dead_worker(
    settings: lab.Settings, cluster: Cluster, eventually: Eventually
) -> None:
    alone = replace(settings, workers=0)
    cluster.kubeconfig.write_text(lab.present(alone, quiet)["kubeconfig"])
    cluster.deploy(eventually)
    grown = lab.present(settings, quiet)
    assert (grown["changed"], grown["nodes"]) == (True, [f"{NAME}-control-plane", f"{NAME}-worker"])
    nodes = json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]
    assert [node["spec"]["podCIDR"] for node in nodes] == ["10.244.0.0/24", "10.244.1.0/24"]
    # A node that has just become ready has one more for a moment.
    taints = [[taint["key"] for taint in node["spec"].get("taints", [])] for node in nodes]
    assert ["node-role.kubernetes.io/control-plane" in keys for keys in taints] == [True, False]
    assert cluster.kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.word}") == "from before"
    eventually(cluster.page, "the pod answers again")

    with pytest.raises(LabError, match=rf"has {NAME}-worker besides .* set <workers>=1, or remove the lab"):
        lab.present(alone, quiet)
    assert lab.is_running(settings.folder)

    file = settings.folder / f"nodes/{NAME}-worker/node.pid"
    before = alive(file)
    assert before
    os.kill(before, signal.SIGKILL)
    eventually(lambda: alive(file) not in (None, before), "the worker starts again")
    assert not lab.present(settings, quiet)["changed"]
    tools = settings.pause_image.replace("/pause:", "/tools:")
    assert cluster.kubectl("run", "web2", f"--image={tools}", "--command", "sleep", "9")
    assert cluster.kubectl("wait", "pod/web2", "--for=condition=Ready", "--timeout=30s")


@pytest.fixture
def wanted(tmp_path: Path) -> lab.Settings:
    """A lab that nothing has been made of."""
    folders = (tmp_path, tmp_path, tmp_path, tmp_path, tmp_path)
    return lab.Settings("one", 1, *folders, "pause", (), owner=tmp_path / "mine", timeout=1.0)


@pytest.mark.parametrize("text", ["", '{"interface": "amb', "\0" * 20])
@pytest.mark.parametrize("name", ["one", "other"])
def test_a_lab_whose_file_was_cut_off_stops_no_other_and_goes(wanted: lab.Settings, name: str, text: str) -> None:
    (wanted.state_dir / name).mkdir()
    (wanted.state_dir / name / "launcher.json").write_text(text)
    assert slots.choose(wanted.folder).number
    assert lab.forwarded_ports(wanted.state_dir / name) == []
    assert lab.absent(wanted.state_dir, name)
    assert not (wanted.state_dir / name).exists()


def test_a_lab_of_an_older_version_is_not_started_over(wanted: lab.Settings) -> None:
    (wanted.folder / "data").mkdir(parents=True)
    (wanted.folder / "launcher.json").touch()
    with pytest.raises(LabError, match="was made by an older version: remove it first"):
        lab.refuse_loss(wanted)


@pytest.mark.parametrize("owner", [True, False])
def test_a_folder_that_is_no_labs_is_left_as_it_is(wanted: lab.Settings, owner: bool) -> None:
    """cluster_state_dir=/var/lib, and a lab by the name of docker."""
    (wanted.folder / "containers").mkdir(parents=True)
    wanted.folder.chmod(0o711)
    mine = wanted.owner if owner else None
    for run in (
        lambda: lab.refuse_loss(wanted),
        lambda: lab.present(wanted, quiet),
        lambda: lab.absent(wanted.state_dir, "one", owner=mine, check=True),
        lambda: lab.absent(wanted.state_dir, "one", owner=mine),
    ):
        with pytest.raises(LabError, match=r"/one is not a lab's folder, .* set <state_dir>"):
            run()
    assert (wanted.folder / "containers").is_dir()
    assert wanted.folder.stat().st_mode & 0o777 == 0o711
    (wanted.folder / "containers").rename(wanted.state_dir / "theirs")
    (wanted.folder / "owner").write_text(str(wanted.owner))
    (wanted.folder / "link").symlink_to(wanted.state_dir / "theirs")
    assert lab.absent(wanted.state_dir, "one", owner=mine)
    assert [entry.name for entry in wanted.state_dir.iterdir()] == ["theirs"]


def test_a_removal_that_was_interrupted_goes_on(wanted: lab.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("aaa", "zzz"):
        (wanted.folder / name).mkdir(parents=True)
    (wanted.folder / "owner").write_text(str(wanted.owner))

    def interrupted(path: Path) -> None:
        tools.remove(path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ownership, "remove", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lab.absent(wanted.state_dir, "one")
    assert lab.absent(wanted.state_dir, "one", owner=wanted.owner)
    assert not wanted.folder.exists()


def slotted(folder: Path, number: int, port: int, interface: str = "") -> None:
    """State of a lab that has a slot."""
    folder.mkdir(exist_ok=True)
    forwards = [["127.0.0.1", port, f"10.87.{number}.2", 6443]]
    settings = {"interface": interface, "address": f"10.87.{number}.1/24", "forwards": forwards, "nodes": []}
    (folder / "launcher.json").write_text(json.dumps(settings))


def test_a_lab_that_is_down_finds_its_port_taken_and_takes_the_next(wanted: lab.Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        slotted(wanted.folder, 200, taken.getsockname()[1])
        slot = slots.choose(wanted.folder)
        assert (slot.number, slot.api_port in slots.API_PORTS) == (200, True)
        (wanted.folder / "launcher.pid").write_text(f"{os.getpid()} {start_time(os.getpid())}")
        assert slots.choose(wanted.folder).api_port == taken.getsockname()[1]  # it is the running lab itself


def test_a_subnet_that_another_state_folders_lab_uses_is_refused(
    wanted: lab.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    slotted(wanted.folder, 200, 1)
    monkeypatch.setattr(slots, "interface_owner", lambda name: "/other/one" if name == "ambient200" else None)
    with pytest.raises(LabError, match=r"has the subnet 10\.87\.200\.0/24, and /other/one uses it now \(ambient200\)"):
        slots.choose(wanted.folder)


@pytest.mark.parametrize(
    ("routes", "first"),
    [
        (["default", "10.87.1.0/24", "10.87.2.7"], 3),
        (["10.87.0.0/17"], 128),  # a VPN
        (["0.0.0.0/1", "128.0.0.0/1"], 1),  # a VPN's way to say everywhere
        (["10.0.0.0/8", "10.87.1.0/24"], 2),
    ],
)
def test_a_subnet_that_the_machine_has_a_route_to_is_left_alone(
    routes: list[str], first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "run", lambda _: json.dumps([{"dst": route} for route in routes]))
    assert next(slots._free_numbers()) == first


def test_a_lab_of_another_checkout_is_neither_changed_nor_removed(wanted: lab.Settings) -> None:
    wanted.folder.mkdir()
    theirs = wanted.owner.with_name("theirs")
    (wanted.folder / "owner").write_text(f"{theirs}\n")
    lab.refuse_loss(wanted)  # theirs is gone: somebody has to take care of it
    theirs.mkdir()
    for run in (lambda: lab.refuse_loss(wanted), lambda: lab.absent(wanted.state_dir, "one", owner=wanted.owner)):
        with pytest.raises(LabError, match=rf"belongs to {theirs}, .* take another name for yours \(<name>"):
            run()
    assert wanted.folder.exists()
    assert lab.absent(wanted.state_dir, "one", owner=theirs)


def test_a_running_lab_of_somebody_else_is_not_taken_over(
    wanted: lab.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkout may be on a disk that is not mounted now. Whose kubeconfig is the lab's has moved his checkout."""
    keys = wanted.folder / "nodes/one-control-plane/kubernetes/pki"
    pki.ensure(keys, "one-control-plane", "10.87.200.2", "10.96.0.1")
    (wanted.folder / "launcher.json").touch()
    (wanted.folder / "launcher.pid").write_text(f"{os.getpid()} {start_time(os.getpid())}")
    wanted.owner.mkdir()
    for owner in ("a checkout that is not written down", "/net/theirs"):
        if owner.startswith("/"):
            (wanted.folder / "owner").write_text(f"{owner}\n")
        for kubeconfig in ("", "{}", pki.kubeconfig(keys, "admin", "https://127.0.0.1:1", "one").replace("LS0", "LS1")):
            (wanted.owner / "kubeconfig").write_text(kubeconfig)
            with pytest.raises(LabError, match=rf"belongs to {owner}, .*remove that lab first \(<absent>\)"):
                lab.refuse_loss(wanted)
        pki.write_kubeconfig(wanted.owner / "kubeconfig", pki.kubeconfig(keys, "admin", "https://127.0.0.1:1", "one"))
        lab.refuse_loss(wanted)
    (wanted.owner / "kubeconfig").unlink()
    (wanted.folder / "launcher.pid").unlink()
    lab.refuse_loss(wanted)
    stat = Path.stat

    def denied(path: Path, **rest: bool) -> os.stat_result:
        if str(path) == "/net/theirs":
            raise PermissionError(13, "Permission denied")
        return stat(path, **rest)

    monkeypatch.setattr(Path, "stat", denied)
    with pytest.raises(LabError, match="belongs to /net/theirs"):
        lab.absent(wanted.state_dir, "one", owner=wanted.owner)


def test_a_lab_whose_certificates_end_is_not_as_asked(wanted: lab.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that all that would keep it from coming back is checked before it is stopped."""
    slotted(wanted.folder, 200, 16443)
    (wanted.folder / "launcher.pid").write_text(f"{os.getpid()} {start_time(os.getpid())}")
    monkeypatch.setattr(lab, "_differing", lambda _: [])
    assert lab.is_as_asked(wanted)
    monkeypatch.setattr(pki, "is_over", lambda _: True)
    assert not lab.is_as_asked(wanted)


def test_the_launcher_takes_no_variable_of_a_job_along(wanted: lab.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runners end what has their variables when the job does (RUNNER_TRACKING_ID, BUILD_ID)."""
    monkeypatch.setenv("RUNNER_TRACKING_ID", "job")
    (wanted.folder / "runtime").mkdir(parents=True)
    (wanted.folder / "runtime/launcher.py").write_text(
        "import os, sys\nfields = open('/proc/self/stat').read().rpartition(')')[2].split()\n"
        "open(sys.argv[1] + '/variables', 'w').write(repr(dict(os.environ)))\n"
        "open(sys.argv[1] + '/launcher.pid', 'w').write(f'{os.getpid()} {fields[19]}')\nsys.stdin.read()\n"
        "import time; time.sleep(1)\n"
    )
    lab._launch(wanted.folder)
    variables = (wanted.folder / "variables").read_text()
    assert "PATH" in variables
    assert "RUNNER_TRACKING_ID" not in variables


def test_a_lab_that_does_not_come_up_is_told_after_the_time_that_was_given(wanted: lab.Settings) -> None:
    wanted.folder.mkdir()
    (wanted.folder / "launcher.pid").write_text(f"{os.getpid()} {start_time(os.getpid())}")

    class Silent(waiting.Api):
        def __init__(self) -> None:
            pass

        def get(self, path: str) -> tuple[int, object]:
            return 0, None

    one = Lab(wanted.folder, 1, 0, "pause")
    with pytest.raises(LabError, match=r"API answers: not after 0.3 s \(<timeout>\)"):
        waiting.wait(wanted.folder, one, Silent(), 0.3, quiet)


def test_an_interface_that_outlives_the_node_goes_without_the_labs_file(wanted: lab.Settings) -> None:
    interface = f"amb{os.getpid()}"
    subprocess.run(["ip", "link", "add", interface, "type", "veth", "peer", "name", f"{interface}p"], check=True)
    try:
        subprocess.run(["ip", "link", "set", interface, "alias", str(wanted.folder)], check=True)
        wanted.folder.mkdir()
        lab.stop(wanted.folder)
        assert not Path("/sys/class/net", interface).exists()
    finally:
        subprocess.run(["ip", "link", "delete", interface], check=False, capture_output=True)


def absent_with(stop: Callable[[Path], object], state: Path, progress: Progress) -> None:
    """Take the lab away, with another way to stop it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lab, "stop", stop)
        assert lab.absent(state, "one", progress)


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
    assert lab.is_running(tmp_path)
    process.kill()
    try:
        eventually(lambda: not lab.is_running(tmp_path), "the launcher counts as ended")
    finally:
        process.wait()


@pytest.mark.parametrize("text", ["", "1", "1 0", "no number", "4194305 1"])
def test_a_pid_file_of_another_process_means_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "launcher.pid").write_text(text)
    assert not lab.is_running(tmp_path)
