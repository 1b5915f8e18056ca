# kind's configuration, its words, archives of images, and what an engine says: tables of in and out.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import io
import json
import pathlib
import tarfile
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._kind import images, words
from ansible_collections.ambient.lab.plugins.module_utils._kind.cluster import CURRENT, MISSING, OTHER, kubeconfig_state
from ansible_collections.ambient.lab.plugins.module_utils._kind.config import (
    asked_nodes,
    differences,
    full_name,
    rendered,
)
from ansible_collections.ambient.lab.plugins.module_utils._kind.engine import Node, Port, node_of

CONFIG: dict[str, t.Any] = {
    "nodes": [
        {"role": "control-plane", "extraPortMappings": [{"containerPort": "30080", "hostPort": 18080}]},
        {"role": "worker"},
        {"role": "worker"},
    ]
}


def inspected(name: str, role: str, image: str, **ports: list[dict[str, str]]) -> dict[str, t.Any]:
    return {
        "Name": f"/{name}",
        "Config": {"Image": image, "Labels": {"io.x-k8s.kind.role": role}},
        "HostConfig": {"PortBindings": {key.strip("_").replace("_", "/"): value for key, value in ports.items()}},
        "State": {"Status": "Running"},
    }


def test_the_configuration_is_whole() -> None:
    """Name, API version, an image for every node, and numbers where kind wants numbers."""
    whole = rendered(CONFIG, "lab", "node:1")
    assert (whole["kind"], whole["apiVersion"], whole["name"]) == ("Cluster", "kind.x-k8s.io/v1alpha4", "lab")
    assert [node["image"] for node in whole["nodes"]] == ["node:1"] * 3
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
def test_a_configuration_without_form_is_refused(config: dict[str, t.Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        rendered(config, "lab", None)


def test_nodes_have_the_names_that_kind_gives_them() -> None:
    nodes = asked_nodes(rendered(CONFIG, "lab", "node:1"))
    assert [node.name for node in nodes] == ["lab-control-plane", "lab-worker", "lab-worker2"]
    assert nodes[0].ports == {Port(30080, 18080, "0.0.0.0", "tcp")}


def real(image: str = "node:1@sha256:aa", host: str = "18080") -> list[Node]:
    ports = {
        "_30080_tcp": [{"HostIp": "", "HostPort": host}],
        "_6443_tcp": [{"HostIp": "127.0.0.1", "HostPort": "40001"}],
    }
    names = [("lab-control-plane", ports), ("lab-worker", {}), ("lab-worker2", {})]
    return [node_of(inspected(name, name[4:].rstrip("2"), image, **of)) for name, of in names]


@pytest.mark.parametrize(
    ("image", "there", "expected"),
    [
        ("node:1@sha256:aa", real(), []),
        (None, real(), []),
        ("docker.io/library/node:2@sha256:aa", real(), []),
        ("node:1", real("docker.io/library/node:1"), []),
        ("node:2@sha256:bb", real(), ["lab-worker2 runs node:1@sha256:aa, asked for is node:2@sha256:bb"]),
        ("node:1@sha256:aa", real(host="18081"), ["publishes 0.0.0.0:18081->30080/tcp, asked for is 0.0.0.0:18080"]),
        ("node:1@sha256:aa", real()[:2], ["its nodes are lab-control-plane, lab-worker, asked for are"]),
    ],
)  # fmt: skip
def test_what_differs_is_named(image: str | None, there: list[Node], expected: list[str]) -> None:
    found = differences(asked_nodes(rendered(CONFIG, "lab", image)), there)
    assert bool(found) == bool(expected)
    assert all(any(text in line for line in found) for text in expected)


def test_a_load_balancer_is_no_node_of_the_configuration() -> None:
    balancer = Node("lab-external-load-balancer", "external-load-balancer", "envoy:1", frozenset())
    assert differences(asked_nodes(rendered(CONFIG, "lab", None)), [*real(), balancer]) == []


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("python:3", "docker.io/library/python:3"),
        ("curlimages/curl:8", "docker.io/curlimages/curl:8"),
        ("localhost/ambient-lab/tools:1", "localhost/ambient-lab/tools:1"),
        ("host:5000/a", "host:5000/a"),
    ],
)
def test_names_of_images_are_completed_as_the_engines_do(name: str, full: str) -> None:
    assert full_name(name) == full


def archive(path: pathlib.Path, files: dict[str, t.Any]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            data = json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def test_an_archive_tells_its_images_and_a_node_whether_it_has_them(tmp_path: pathlib.Path) -> None:
    config = {"architecture": "amd64"}
    digest = "sha256:" + hashlib.sha256(json.dumps(config).encode()).hexdigest()
    manifest = [{"Config": "config.json", "RepoTags": ["app:1"], "Layers": []}]
    wanted = images.read_archive(archive(tmp_path / "a.tar", {"manifest.json": manifest, "config.json": config}))
    assert wanted == {images.Image("docker.io/library/app:1", digest)}
    listed: dict[str, t.Any] = {
        "images": [{"id": digest, "repoTags": ["docker.io/library/app:1"]}, {"id": "sha256:1", "repoTags": None}]
    }
    assert not wanted - images.of_node(json.dumps(listed))
    listed["images"][0]["id"] = "sha256:2"
    assert wanted - images.of_node(json.dumps(listed)) == wanted
    assert images.of_node("") == frozenset()


@pytest.mark.parametrize(
    ("files", "reason"),
    [({"x": 1}, "manifest.json"), ({"manifest.json": [{"Config": "c", "RepoTags": None}], "c": {}}, "names no image")],
)
def test_what_is_no_archive_of_images_is_said(tmp_path: pathlib.Path, files: dict[str, t.Any], reason: str) -> None:
    path = archive(tmp_path / "a.tar", files)
    with pytest.raises(LabError, match=f"{path} is no archive of images .*{reason}.*docker save"):
        images.read_archive(path)


REAL = '{"clusters": [{"name": "kind-lab", "cluster": {"server": "https://host:1"}}], "users": [{"name": "kind-lab"}]}'


@pytest.mark.parametrize(
    ("text", "state"),
    [
        (None, MISSING),
        ("", OTHER),
        ("{ : [", OTHER),
        (REAL, CURRENT),
        (REAL.replace(":1", ":2"), OTHER),
        # What a user has set beside them is the user's own.
        (REAL[:-1] + ', "contexts": [{"name": "mine"}], "current-context": "mine"}', CURRENT),
    ],
)
def test_a_kubeconfig_is_current_when_it_leads_to_the_cluster(text: str | None, state: str) -> None:
    assert kubeconfig_state(text, REAL) == state


RUN = 'ERROR: failed to create cluster: command "docker run" failed with error: exit status 125\n\nCommand Output: 1f\n'


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        (
            RUN + "docker: Error response from daemon: failed to set up container networking: driver failed: Bind for "
            "127.0.0.1:18080 failed: port is already allocated\n\nRun 'docker run --help' for more information",
            ["port 127.0.0.1:18080 can't be published", "already allocated)", "cluster_node_ports"],
        ),
        (
            RUN + "Error: rootlessport listen tcp 127.0.0.1:80: bind: permission denied",
            ["port 127.0.0.1:80 can't be published", "cluster_node_ports"],
        ),
        (
            RUN + "docker: Error response from daemon: failed to bind host port for 0.0.0.0:80:172.18.0.2:1/tcp: "
            "address already in use",
            ["port 0.0.0.0:80 can't be published"],
        ),
        (
            'ERROR: failed to create cluster: failed to pull image "kindest/node:v1@sha256:aa": command "docker pull" '
            'failed with error: exit status 1\n\nCommand Output: Error response from daemon: Get "r/v2/": no such host',
            ["node image kindest/node:v1@sha256:aa can't be pulled", 'Get "r/v2/": no such host', "docker load"],
        ),
        (
            'ERROR: failed to get docker info: command "docker info"\n\nCommand Output: {"ID":""}\n'
            "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock",
            ["refuses this user (permission denied while", "group"],
        ),
        ("ERROR: could not find a log line that matches \"Reached\"", ["did not start", "privileged"]),
        (
            "ERROR: failed to create cluster: running kind with rootless provider requires cgroup v2, see https://kind",
            ["a rootless engine needs cgroup v2:"],
        ),
        ("ERROR: failed to load image: unknown containerd config version: 5", ["too old for the node image"]),
        (" • Step ...\n ✗ Step\nERROR: new\nwith a reason\n", ["can't be made: ERROR: new / with a reason"]),
        ("", ["it gave no reason"]),
    ],
)  # fmt: skip
def test_a_failure_is_one_line_that_names_the_fix(stderr: str, said: list[str]) -> None:
    line = words.explain("It can't be made", stderr)
    assert "\n" not in line
    assert '{"ID"' not in line
    for text in said:
        assert text in line


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (" • Preparing nodes 📦 📦   ...\n", "Preparing nodes"),
        (" ✓ Preparing nodes 📦 📦 \n", None),
        (" ✗ Starting control-plane 🕹️\n", "failed: Starting control-plane"),
        ("Have a nice day! 👋\n", None),
    ],
)
def test_progress_is_the_steps_that_begin(line: str, shown: str | None) -> None:
    assert words.progress(line) == shown
