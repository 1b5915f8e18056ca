"""The provider kind with the real kind, as far as it goes without a container engine."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import socket
import sys
import tarfile
from pathlib import Path
from typing import Any

import fake_docker
import pytest
import yaml
from fleet import play
from kind_lab import IMAGE, Lab, enter
from kind_program import VERSION, built_programs, kind_program

CONTROL_PLANE, WORKER = "lab-control-plane", "lab-worker"


@pytest.fixture(scope="session")
def kind() -> Path:
    """The real program."""
    return kind_program()


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder with helm and kubectl."""
    return built_programs()


@pytest.fixture
def lab(tmp_path: Path, kind: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A machine without a cluster."""
    found = Lab(tmp_path, kind)
    enter(found, monkeypatch)
    return found


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, kind: Path) -> Lab:
    """A cluster that kind has made, for tests to begin with a copy of it."""
    first = Lab(tmp_path_factory.mktemp("made"), kind)
    with pytest.MonkeyPatch.context() as environment:
        enter(first, environment)
        first.settle(wait=1)
    return first


@pytest.fixture
def running(made: Lab, lab: Lab) -> Lab:
    """A machine with a cluster; the engine has not been asked for anything yet."""
    shutil.copytree(made.folder / "lab", lab.folder / "lab")
    shutil.copy(made.programs / "docker.json", lab.programs)
    lab.host_port = made.host_port
    lab.options["config"] = made.options["config"]
    lab.calls()
    return lab


def test_a_cluster_is_made_once_and_removed_once(lab: Lab) -> None:
    """Two nodes of the pinned image, the port published, files with the right modes, nothing beside them."""
    foreseen = lab.settle(check_mode=True)
    assert foreseen["changed"]
    assert lab.calls() == []
    assert not (lab.folder / "lab").exists()

    assert lab.settle() == foreseen
    assert lab.shown[1:4] == ["Preparing nodes", "Writing configuration", "Starting control-plane"]
    containers = lab.docker["containers"]
    assert sorted(containers) == [CONTROL_PLANE, WORKER] == foreseen["nodes"]
    assert {item["Config"]["Image"] for item in containers.values()} == {IMAGE}
    to = {"HostIp": "127.0.0.1", "HostPort": str(lab.host_port)}
    assert containers[CONTROL_PLANE]["HostConfig"]["PortBindings"]["30080/tcp"] == [to]
    kubeconfig = Path(lab.options["kubeconfig"])
    assert kubeconfig.stat().st_mode & 0o777 == 0o600
    assert yaml.safe_load(kubeconfig.read_text())["current-context"] == "kind-lab"
    assert sorted(path.name for path in kubeconfig.parent.iterdir()) == ["kind-network", "kind.yaml", "kubeconfig"]
    assert list((lab.folder / "home").iterdir()) == []

    lab.calls()
    for check_mode in (True, False):
        again = lab.settle(check_mode=check_mode)
        assert not again["changed"]
        assert again["diff"]["before"] == again["diff"]["after"]
    assert lab.calls() == []

    assert lab.settle(check_mode=True, state="absent")["changed"]
    assert sorted(lab.docker["containers"]) == [CONTROL_PLANE, WORKER]
    assert lab.settle(state="absent")["changed"]
    assert lab.docker["containers"] == {}
    assert "kind" not in lab.docker["networks"]
    assert list(kubeconfig.parent.iterdir()) == []
    assert not lab.settle(state="absent")["changed"]


def test_the_network_goes_with_the_cluster_that_brought_it(running: Lab) -> None:
    """Also where the nodes have gone by another way."""
    running.change(lambda state: state["containers"].clear())
    foreseen = running.settle(check_mode=True, state="absent")
    assert foreseen["changed"]
    assert "network: kind" in foreseen["diff"]["before"]
    assert "kind" in running.docker["networks"]
    running.fails("network rm", "Error response from daemon: network kind has active endpoints")
    assert "The network kind can't be removed: " in running.refused(state="absent")
    running.change(lambda state: state["fails"].clear())
    assert running.settle(state="absent") == foreseen
    assert "kind" not in running.docker["networks"]
    assert not running.settle(state="absent")["changed"]


def test_a_network_that_somebody_else_is_in_stays(running: Lab) -> None:
    """Stopped ones, too: a container cannot be started without its network."""
    running.change(lambda state: state["containers"].update(other={**state["containers"][WORKER], "Name": "/other"}))
    running.change(lambda state: state["containers"]["other"].update(Config={"Labels": {}}, State={"Status": "exited"}))
    assert running.settle(state="absent")["changed"]
    assert "kind" in running.docker["networks"]
    assert not running.settle(state="absent")["changed"]


def test_a_network_that_was_there_before_stays(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the name that kind was given for it."""
    monkeypatch.setenv("KIND_EXPERIMENTAL_DOCKER_NETWORK", "mine")
    lab.change(lambda state: state["networks"].append("kind"))
    lab.settle()
    assert {"kind", "mine"} <= set(lab.docker["networks"])
    monkeypatch.delenv("KIND_EXPERIMENTAL_DOCKER_NETWORK")
    lab.settle(state="absent")
    assert "mine" not in lab.docker["networks"]
    lab.settle()
    lab.settle(state="absent")
    assert "kind" in lab.docker["networks"]


def test_a_kubeconfig_that_does_not_lead_there_is_written_again(running: Lab) -> None:
    path = Path(running.options["kubeconfig"])
    right = yaml.safe_load(path.read_text())
    for damage in ("clusters: []", "{"):
        path.write_text(damage)
        assert running.settle(check_mode=True)["changed"]
        assert path.read_text() == damage
        result = running.settle()
        assert "kubeconfig: of another cluster, or outdated" in result["diff"]["before"]
        assert "a2V5" not in json.dumps(result)
        assert yaml.safe_load(path.read_text()) == right
    path.unlink()
    assert "kubeconfig: missing" in running.settle()["diff"]["before"]
    assert yaml.safe_load(path.read_text()) == right
    assert path.stat().st_mode & 0o777 == 0o600
    assert running.calls() == []


def test_stopped_nodes_are_started(running: Lab) -> None:
    running.change(lambda state: state["containers"][WORKER]["State"].update(Status="exited"))
    foreseen = running.settle(check_mode=True)
    assert f"{WORKER}: exited" in foreseen["diff"]["before"]
    assert running.calls() == []
    assert running.settle()["changed"]
    assert running.calls() == [f"start {WORKER}"]
    assert not running.settle()["changed"]

    running.change(lambda state: state["containers"][WORKER]["State"].update(Status="exited"))
    running.fails("start", "Error response from daemon: Bind for 127.0.0.1:1 failed: port is already allocated")
    assert "127.0.0.1:1 can't be published" in running.refused()
    running.change(lambda state: state["containers"][WORKER]["State"].update(Status="dead"))
    assert f"{WORKER} is dead" in running.refused()


def test_a_cluster_that_differs_is_an_error_that_names_the_fix(running: Lab) -> None:
    """Ports, image, nodes, and what the engine does not show."""
    nodes = running.options["config"]["nodes"]
    config: dict[str, Any]
    for said, image, config in (
        ("publishes", IMAGE, {"nodes": [{**nodes[0], "extraPortMappings": [running.mapping("30081")]}, nodes[1]]}),
        ("runs kindest/node", "kindest/node:v1.35.0", running.options["config"]),
        ("its nodes are", IMAGE, {"nodes": [*nodes, {"role": "worker"}]}),
        ("kind.yaml: networking", IMAGE, {"nodes": nodes, "networking": {"kubeProxyMode": "nftables"}}),
    ):
        message = running.refused(config=config, image=image)
        assert said in message
        assert "kind delete cluster --name lab" in message
    assert not running.settle()["changed"]


def test_half_a_cluster_is_an_error_that_names_the_fix(running: Lab) -> None:
    """A run was interrupted before kubeadm was done."""
    running.fails("admin.conf", "cat: /etc/kubernetes/admin.conf: No such file or directory")
    assert "is not whole" in running.refused()
    running.change(lambda state: state["fails"].clear())
    running.settle(state="absent")
    assert running.settle()["changed"]


def test_archives_are_loaded_where_they_are_missing(running: Lab) -> None:
    config = b"{}"
    image = {"id": "sha256:" + hashlib.sha256(config).hexdigest(), "repoTags": ["docker.io/library/app:1"]}
    manifest = json.dumps([{"Config": "c.json", "RepoTags": ["app:1"]}]).encode()
    path = str(running.folder / "app.tar")
    with tarfile.open(path, "w") as archive:
        for name, data in (("manifest.json", manifest), ("c.json", config)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    running.change(lambda state: state.update(archive=[image]))
    running.change(lambda state: state["containers"][WORKER].update(images=[image]))
    assert "not on every node" in running.settle(check_mode=True, image_archives=[path])["diff"]["before"]
    assert running.settle(image_archives=[path])["changed"]
    assert [item["images"] for item in running.docker["containers"].values()] == [[image], [image]]
    assert not running.settle(image_archives=[path])["changed"]
    assert "no archive of images" in running.refused(image_archives=[str(running.folder / "none.tar")])


def test_kind_refuses_a_wrong_configuration_and_the_engine_is_not_asked_for_anything(lab: Lab) -> None:
    """kind's own reader and its own checks; nothing is left of the attempt."""
    nodes = lab.options["config"]["nodes"]
    for said, config in (
        ("field nodez not found", {"nodez": [], "nodes": nodes}),
        ("not a valid node role", {"nodes": [{"role": "master"}, *nodes]}),
        ("invalid port number: 70000", {"nodes": [{"extraPortMappings": [{"containerPort": 70000, "hostPort": 0}]}]}),
        ("must have at least one control-plane", {"nodes": [{"role": "worker"}]}),
    ):
        message = lab.refused(config=config)
        assert said in message
        assert "correct config" in message
    assert lab.calls() == []
    assert list((lab.folder / "lab").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "text", "said"),
    [
        ("info", fake_docker.DOWN, "No container engine answers (docker: Cannot connect to the Docker daemon"),
        ("info", "permission denied while trying to connect to the Docker daemon socket", "refuses this user"),
        (
            "run --name",
            "docker: Error response from daemon: driver failed programming external connectivity: Bind for "
            "127.0.0.1:18080 failed: port is already allocated",
            "port 127.0.0.1:18080 can't be published (driver failed programming external connectivity",
        ),
        (
            "kubeadm init",
            "[ERROR Mem]: the system RAM (512 MB) is less than the minimum 1700 MB",
            "ERROR: failed to create cluster: failed to init node with kubeadm",
        ),
        ("logs", "the container died", "The kind cluster lab can't be made"),
    ],
)
def test_the_engines_failures_come_through_kind_as_one_line(lab: Lab, words: str, text: str, said: str) -> None:
    """The words are the engine's, what is around them is the real kind's; a failed attempt leaves nothing."""
    lab.fails(words, text)
    assert said in lab.refused()
    assert lab.docker["containers"] == {}
    assert "kind" not in lab.docker["networks"]
    assert list(lab.folder.glob("lab/*")) == []


def test_a_node_image_that_cannot_be_pulled_is_named(lab: Lab) -> None:
    """kind tries five times, ten seconds in all; its last word is the registry's."""
    lab.fails("--type=image", "Error: No such image")
    lab.fails("pull", "Error response from daemon: dial tcp: lookup registry on 127.0.0.53: no such host")
    message = lab.refused()
    assert f"the node image {IMAGE} can't be pulled (dial tcp: lookup registry on 127.0.0.53: no such host)" in message


def test_a_rootless_engine_without_cgroup_v2_is_named(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    info = {**fake_docker.INFO, "CgroupVersion": "1", "SecurityOptions": ["name=rootless"]}
    program = lab.programs / "docker"
    program.write_text(program.read_text().replace("json.dumps(INFO)", repr(json.dumps(info))))
    assert "a rootless engine needs cgroup v2" in lab.refused()


def test_a_crash_of_kind_is_said_and_leaves_nothing(lab: Lab) -> None:
    """kind 0.33 does not expect that kubectl says nothing; it crashes, and can't take its containers away any more."""
    program = lab.programs / "docker"
    program.write_text(program.read_text().replace("return READY", 'return ""'))
    assert "kind itself crashed (runtime error: index out of range" in lab.refused(wait=1)
    assert sorted(lab.calls()[-1].split()) == sorted(["rm", "-f", "-v", CONTROL_PLANE, WORKER])
    assert lab.docker["containers"] == {}


def test_a_taken_port_is_found_before_kind_is_asked(lab: Lab) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", lab.host_port))
        listener.listen()
        assert f"Port 127.0.0.1:{lab.host_port} can't be published (something listens there already)" in lab.refused()
    assert lab.calls() == []


def test_a_kind_that_is_missing_too_old_or_none_is_said(lab: Lab) -> None:
    assert "install kind, or name it in binary" in lab.refused(binary="no-such-kind")
    assert f"kind {VERSION} is too old for the node image" in lab.refused(minimum_version="99.0.0")
    assert "is not kind" in lab.refused(binary="docker")


def test_an_engine_that_is_gone_is_said_when_a_cluster_is_to_be_removed(lab: Lab) -> None:
    lab.fails("info", fake_docker.DOWN)
    assert "where it is gone for good, remove" in lab.refused(state="absent")


def test_without_any_engine_the_real_docker_program_says_so(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Docker's own program is on this machine: its words, not the test's."""
    found = [Path(folder) / "docker" for folder in ("/usr/bin", "/usr/local/bin")]
    real = next((program for program in found if program.exists()), None)
    if real is None:
        pytest.skip("no docker program on this machine")
    (lab.programs / "docker").unlink()
    (lab.programs / "docker").symlink_to(real)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{lab.folder}/none.sock")
    assert "No container engine answers (docker: " in lab.refused()


def provide_programs(lab: Lab, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the provider kind needs, for a playbook: helm and kubectl beside the lab's docker and kind."""
    for name in ("helm", "kubectl"):
        (lab.programs / name).symlink_to(programs / name)
    monkeypatch.setenv("PATH", f"{lab.programs}:{Path(sys.executable).parent}:/usr/bin:/bin")


def test_the_scenario_is_skipped_only_where_kind_cannot_run_and_nobody_minds(
    lab: Lab, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that dies in the middle of it is no reason, and a module that crashes is none."""
    provide_programs(lab, programs, monkeypatch)
    monkeypatch.setenv("AMBIENT_KIND_REQUIRED", "")
    lab_dir = lab.folder / "lab"
    step = ("molecule/kind/can_run.yml", "-e", "@molecule/vars/kind.yml", "-e", f"lab_dir={lab_dir}")
    lab.change(lambda state: state["images"].append(IMAGE))
    there = play(*step)
    assert (there.returncode, "SKIPPED" in there.stdout) == (0, False), there.stdout

    lab.fails("info", fake_docker.DOWN)
    skipped = play(*step)
    assert (skipped.returncode, "SKIPPED, kind cannot run here" in skipped.stdout) == (0, True), skipped.stdout
    required = play(*step, AMBIENT_KIND_REQUIRED="1")
    assert (required.returncode, "make test KIND_ENGINE=" in required.stdout) == (2, True), required.stdout
    lab_dir.mkdir()
    died = play(*step)
    assert (died.returncode, "Cannot connect to the Docker daemon" in died.stdout) == (2, True), died.stdout
    lab_dir.rmdir()
    crashed = play(*step, "-e", "ansible_python_interpreter=/bin/false")
    assert (crashed.returncode, "SKIPPED" in crashed.stdout) == (2, False), crashed.stdout


def test_the_role_hands_over_keeps_its_provider_and_cleans_up(
    lab: Lab, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """site.yml and cleanup.yml as a user runs them, to the point where an API would have to answer."""
    provide_programs(lab, programs, monkeypatch)
    ports = json.dumps({"cluster_node_ports": {"30080": lab.host_port}})
    lab_dir = lab.folder / "lab"
    state = ["-e", f"cluster_state_dir={lab.folder}/state", "-e", "cluster_name=lab"]
    variables = [*state, "-e", f"lab_dir={lab_dir}", "-e", ports, "-e", "cluster_wait_timeout=1"]

    ran = play("site.yml", "--tags", "cluster", *variables)
    assert "Preparing nodes" in ran.stdout, ran.stdout
    assert "Wait for every node and for the cluster's DNS" in ran.stdout
    facts = json.loads((lab_dir / "lab.json").read_text())
    assert (facts["provider"], facts["disposable"], facts["context"]) == ("kind", True, "kind-lab")
    assert facts["node_ports"] == {"30080": f"http://127.0.0.1:{lab.host_port}"}
    assert facts["helm"] | {"charts": None} == {
        "binary": "helm", "charts": None,
        "repo_url": "https://istio-release.storage.googleapis.com/charts", "version": "1.31.1",
    }  # fmt: skip
    assert yaml.safe_load((lab_dir / "kind.yaml").read_text())["nodes"][0]["extraPortMappings"] == [
        {"containerPort": 30080, "hostPort": lab.host_port, "listenAddress": "127.0.0.1", "protocol": "TCP"}
    ]

    other = play("site.yml", "--tags", "cluster", *variables, "-e", "cluster_provider=embedded")
    assert "was made with cluster_provider=kind, and embedded is asked for" in other.stdout

    gone = play("playbooks/cleanup.yml", *variables)
    assert gone.returncode == 0, gone.stdout
    assert lab.docker["containers"] == {}
    assert not lab_dir.exists()
    again = play("playbooks/cleanup.yml", *variables)
    assert again.returncode == 0, again.stdout
    assert "changed=0" in again.stdout
