# What kind_cluster does with each state of an engine. That the real kind and a real engine take it is shown by the
# scenario `kind`.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import io
import json
import pathlib
import tarfile
import typing as t

import pytest
import yaml
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._common.programs import NOT_FOUND, Answer
from ansible_collections.ambient.lab.plugins.module_utils._kind.cluster import SPEC, explain, rendered, settle

Object = dict[str, t.Any]
CONTROL_PLANE, WORKER = "lab-control-plane", "lab-worker"
NODES: list[Object] = [
    {"role": "control-plane", "extraPortMappings": [{"containerPort": "30080", "hostPort": 18080}]},
    {"role": "worker"},
]
REAL = '{"clusters": [{"name": "kind-lab", "cluster": {"server": "https://host:1"}}], "users": [{"name": "kind-lab"}]}'
ID = "sha256:" + hashlib.sha256(b"{}").hexdigest()


class Machine:
    """docker and kind, as far as a cluster's steps ask them.

    status is that of the nodes, networks has the names and members of networks, images what a node has. fails has what
    a command writes that is to fail, by a word of it. done has the commands that change something.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder / "lab"
        self.status: dict[str, str] = {}
        self.networks: dict[str, set[str]] = {"bridge": set()}
        self.images: dict[str, list[Object]] = {CONTROL_PLANE: [], WORKER: []}
        self.fails: dict[str, str] = {}
        self.done: list[str] = []

    def settle(self, check_mode: bool = False, **options: t.Any) -> Object:
        """What the module returns."""
        defaults = {name: option.get("default") for name, option in SPEC.items()}
        given = {"name": "lab", "kubeconfig": str(self.folder / "kubeconfig"), "config": {"nodes": NODES}}
        told = settle({**defaults, **given, **options}, self, {}, check_mode)
        assert told.pop("engine") == "docker"
        return told

    def refused(self, **options: t.Any) -> str:
        """The one line that the module fails with."""
        with pytest.raises(LabError) as raised:
            self.settle(**options)
        assert "\n" not in raised.value.message
        return raised.value.message

    def __call__(self, *command: str, env: t.Mapping[str, str] | None = None, timeout: float | None = None) -> Answer:
        line = " ".join(command)
        for word, said in self.fails.items():
            if word in line:
                return Answer(1, "", said)
        if command[0] not in ("docker", "kind"):
            return Answer(NOT_FOUND, "", f"{command[0]}: No such file or directory")
        answer = getattr(self, f"_{command[1].strip('-')}")(command)
        return Answer(0, answer or "", "")

    def _version(self, _command: tuple[str, ...]) -> str:
        return "kind version 0.33.0"

    def _info(self, _command: tuple[str, ...]) -> str:
        return "{}"

    def _ps(self, command: tuple[str, ...]) -> str:
        asked = command[command.index("--filter") + 1].split("=")
        return "\n".join(self.status if asked[0] == "label" else self.networks[asked[1]])

    def _container(self, command: tuple[str, ...]) -> str:
        found = [
            {"Name": f"/{name}", "State": {"Status": self.status[name]}, "Config": {"Labels": {}}}
            for name in command[3:]
        ]
        return json.dumps(found)

    def _network(self, command: tuple[str, ...]) -> str:
        if command[2] == "rm":
            self.done.append(" ".join(command))
            del self.networks[command[3]]
        return "\n".join(self.networks)

    def _exec(self, command: tuple[str, ...]) -> str:
        return json.dumps({"images": self.images[command[2]]})

    def _start(self, command: tuple[str, ...]) -> None:
        self.done.append(" ".join(command))
        self.status |= dict.fromkeys(command[2:], "running")

    def _get(self, _command: tuple[str, ...]) -> str:
        return REAL

    def _load(self, command: tuple[str, ...]) -> None:
        self.done.append(f"load {command[-3]}")
        for name in command[-3].split(","):
            self.images[name].append({"id": ID, "repoTags": ["docker.io/library/app:1"]})

    def _create(self, command: tuple[str, ...]) -> None:
        self.done.append("create")
        kept = yaml.safe_load(pathlib.Path(command[4]).read_text())
        assert [node["role"] for node in kept["nodes"]] == ["control-plane", "worker"]
        pathlib.Path(command[6]).write_text(REAL)
        self.status = {CONTROL_PLANE: "running", WORKER: "running"}
        self.networks.setdefault("kind", set()).update(self.status)

    def _delete(self, command: tuple[str, ...]) -> None:
        self.done.append("delete")
        for members in self.networks.values():
            members.difference_update(self.status)
        self.status = {}


@pytest.fixture
def lab(tmp_path: pathlib.Path) -> Machine:
    """A machine without a cluster."""
    return Machine(tmp_path)


@pytest.fixture
def running(lab: Machine) -> Machine:
    """A machine with a cluster; nothing was done yet."""
    lab.settle()
    lab.done.clear()
    return lab


def test_a_cluster_is_made_once_and_removed_once(lab: Machine) -> None:
    """In check mode it is foreseen, and nothing is left of it or of its network."""
    assert lab.settle(check_mode=True) == {"changed": True, "diff": {"prepared": "make the cluster lab\n"}}
    assert (lab.done, lab.folder.exists()) == ([], False)
    assert lab.settle()["changed"]
    assert sorted(item.name for item in lab.folder.iterdir()) == ["kind.yaml", "kubeconfig"]
    for check_mode in (True, False):
        assert lab.settle(check_mode=check_mode) == {"changed": False, "diff": {"prepared": ""}}
    assert lab.settle(check_mode=True, state="absent")["changed"]
    assert lab.done == ["create"]
    assert lab.settle(state="absent")["changed"]
    assert not lab.settle(state="absent")["changed"]
    assert lab.done == ["create", "delete", "docker network rm kind"]
    assert list(lab.folder.iterdir()) == []


def test_what_is_somebody_elses_stays(lab: Machine) -> None:
    """A cluster of the same name, and a network that was there before."""
    lab.status = {CONTROL_PLANE: "exited"}
    assert "and it is not the lab's" in lab.refused()
    assert not lab.settle(state="absent")["changed"]
    assert lab.done == []
    lab.status = {}
    lab.networks["kind"] = set()
    lab.settle()
    lab.settle(state="absent")
    assert lab.done == ["create", "delete"]


def test_a_network_that_somebody_else_is_in_stays(running: Machine) -> None:
    running.networks["kind"].add("theirs")
    assert running.settle(state="absent")["changed"]
    assert running.done == ["delete"]


def test_stopped_nodes_are_started(running: Machine) -> None:
    running.status[WORKER] = "exited"
    assert running.settle(check_mode=True)["diff"]["prepared"] == "start lab-worker\n"
    assert running.done == []
    running.fails["start"] = "Error response from daemon: Bind for 127.0.0.1:1 failed: port is already allocated"
    assert running.refused().endswith("Bind for 127.0.0.1:1 failed: port is already allocated")
    running.fails.clear()
    assert running.settle()["changed"]
    assert running.done == ["docker start lab-worker"]
    assert not running.settle()["changed"]


def test_another_configuration_is_an_error_that_names_the_fix(running: Machine) -> None:
    """kind itself would leave the cluster as it is."""
    other = [{**NODES[0], "extraPortMappings": [{"containerPort": "30080", "hostPort": 1}]}, NODES[1]]
    for config, image, keys in (
        ({"nodes": other}, None, "nodes"),
        ({"nodes": NODES}, "kindest/node:v2", "nodes"),
        ({"nodes": NODES, "networking": {"ipFamily": "dual"}}, None, "networking"),
    ):
        message = running.refused(config=config, image=image)
        assert f"kind.yaml: {keys}). kind can't change a cluster: remove it (kind delete cluster --name lab" in message
    assert not running.settle()["changed"]


def test_half_a_cluster_is_an_error_that_names_the_fix(running: Machine) -> None:
    """A run was interrupted before kubeadm was done."""
    running.fails["get kubeconfig"] = "ERROR: failed to get cluster internal kubeconfig: exit status 1"
    assert "is not whole (ERROR: failed to get" in running.refused()
    running.fails.clear()
    running.settle(state="absent")
    assert running.settle()["changed"]


@pytest.mark.parametrize("damage", [None, "", "{ : [", REAL.replace(":1", ":2")])
def test_a_kubeconfig_that_does_not_lead_there_is_written_again(running: Machine, damage: str | None) -> None:
    path = running.folder / "kubeconfig"
    path.unlink() if damage is None else path.write_text(damage)
    assert running.settle(check_mode=True)["changed"]
    assert (path.read_text() if path.exists() else None) == damage
    assert running.settle()["diff"]["prepared"] == f"write {path}\n"
    assert (path.read_text(), path.stat().st_mode & 0o777) == (REAL, 0o600)
    # What a user has set beside it is the user's own.
    path.write_text(REAL[:-1] + ', "contexts": [{"name": "mine"}], "current-context": "mine"}')
    assert not running.settle()["changed"]


def archive(path: pathlib.Path, files: Object) -> str:
    """A file as `docker save` writes it."""
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            data = json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


@pytest.mark.parametrize(
    ("there", "loaded"),
    [
        ({"id": ID, "repoTags": ["docker.io/library/app:1"]}, [CONTROL_PLANE]),
        # Another image of the same name, and the same one under another.
        ({"id": "sha256:1", "repoTags": ["docker.io/library/app:1"]}, [CONTROL_PLANE, WORKER]),
        ({"id": ID, "repoTags": ["docker.io/library/myapp:1"]}, [CONTROL_PLANE, WORKER]),
        ({"id": ID, "repoTags": None}, [CONTROL_PLANE, WORKER]),
    ],
)
def test_archives_are_loaded_where_they_are_missing(
    running: Machine, tmp_path: pathlib.Path, there: Object, loaded: list[str]
) -> None:
    manifest = [{"Config": "config.json", "RepoTags": ["app:1"]}]
    path = archive(tmp_path / "a.tar", {"manifest.json": manifest, "config.json": {}})
    running.images[WORKER] = [there]
    assert running.settle(check_mode=True, image_archives=[path])["changed"]
    assert running.settle(image_archives=[path])["changed"]
    assert running.done == [f"load {','.join(loaded)}"]
    assert not running.settle(image_archives=[path])["changed"]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"x": 1}, "manifest.json"),
        ({"manifest.json": [{"Config": "c", "RepoTags": None}], "c": {}}, "names no image"),
        (None, "No such file"),
    ],
)
def test_what_is_no_archive_of_images_is_said(
    running: Machine, tmp_path: pathlib.Path, files: Object | None, reason: str
) -> None:
    path = archive(tmp_path / "a.tar", files) if files else str(tmp_path / "none.tar")
    message = running.refused(image_archives=[path])
    assert f"{path} is no archive of images" in message
    assert reason in message


def test_a_failed_attempt_leaves_nothing_and_is_said_in_kinds_own_words(lab: Machine) -> None:
    lab.fails["create cluster"] = 'ERROR: failed to create cluster: command "docker run" failed\nno such host'
    message = lab.refused()
    assert message.startswith("The kind cluster lab can't be made: ERROR: failed to create cluster: command ")
    assert "no such host (known causes: https://kind.sigs.k8s.io" in message
    # kind takes back what it knows of; a node may have come later.
    assert lab.done == ["delete"]
    assert list(lab.folder.iterdir()) == []


# kind 0.33, with Docker 28 under it.
RUN = (
    'Creating cluster "lab" ...\n • Preparing nodes 📦 ...\n ✗ Preparing nodes\nDeleted nodes: ["lab-worker"]\n'
    'ERROR: failed to create cluster: command "docker run --name lab --net kind" failed with error: exit status 125\n\n'
    "Command Output: 1f\n"
)


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        (
            f"{RUN}docker: Error response from daemon: Bind for 127.0.0.1:1 failed: port is already allocated\n",
            'cluster: command "docker run ..." failed with error: exit status 125 / Command '
            "Output: 1f / docker: Error response from daemon: Bind for 127.0.0.1:1 failed: port is already allocated (",
        ),
        (f"{RUN}a\nb\nlong\nlog\nof kubeadm\n", "exit status 125 / long / log / of kubeadm (known"),
        (
            "panic: index out of range\n\ngoroutine 1 [running]:\nmain.main()\n",
            "made: panic: index out of range (known",
        ),
        ("\x1b[1mERROR\x1b[0m: new\n", "made: ERROR: new (known"),
        ("", "made: it gave no reason"),
    ],
)
def test_a_failure_is_kinds_last_words_in_one_line(stderr: str, said: str) -> None:
    line = explain("It can't be made", stderr)
    assert said in line
    assert "\n" not in line


def test_a_kind_that_is_missing_too_old_or_none_is_said(lab: Machine) -> None:
    assert "No such file or directory: install kind for this machine" in lab.refused(binary="no-such-kind")
    assert "kind 0.33.0 is too old for the node image" in lab.refused(minimum_version="0.33.1", image="node:1")
    lab.fails["kind --version"] = "unknown flag"
    assert "kind is not kind: it answers --version with unknown flag" in lab.refused()


def test_an_engine_that_is_gone_is_said(lab: Machine) -> None:
    lab.fails["docker info"] = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock."
    assert "No container engine answers (docker: Cannot connect to the Docker daemon" in lab.refused()
    assert f"where it is gone for good, remove {lab.folder} by hand" in lab.refused(state="absent")


def test_a_folder_that_cannot_be_written_is_said(lab: Machine) -> None:
    lab.folder.write_text("a file")
    assert f"{lab.folder} can't be used: File exists" in lab.refused()


def test_the_configuration_is_whole() -> None:
    """Name, API version, an image for every node, and numbers where kind wants numbers."""
    whole = rendered({"nodes": NODES}, "lab", "node:1")
    assert (whole["kind"], whole["apiVersion"], whole["name"]) == ("Cluster", "kind.x-k8s.io/v1alpha4", "lab")
    assert [node["image"] for node in whole["nodes"]] == ["node:1"] * 2
    assert whole["nodes"][0]["extraPortMappings"] == [{"containerPort": 30080, "hostPort": 18080}]
    assert rendered({}, "lab", None)["nodes"] == [{"role": "control-plane"}]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"nodes": {"role": "worker"}}, "nodes must be a list"),
        ({"nodes": [{"extraPortMappings": [{"containerPort": "http", "hostPort": 1}]}]}, "must be numbers"),
        ({"nodes": [{"extraPortMappings": [{"containerPort": 1}]}]}, "must be numbers"),
    ],
)
def test_a_configuration_without_form_is_refused(config: Object, message: str) -> None:
    with pytest.raises(LabError, match=message):
        rendered(config, "lab", None)
