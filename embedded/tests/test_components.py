"""The node's command lines and files: no flag or key that the programs do not know."""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
from ambient_embedded import components, pki
from ambient_embedded.topology import Lab, Node

LAB = Lab(Path("/state/unit"), 9, 3, "localhost/ambient-lab/pause:1")
ALONE = Lab(Path("/state/unit"), 9, 0, "localhost/ambient-lab/pause:1")
CONTROL_PLANE, WORKER = LAB.nodes[:2]
EACH_NODE = pytest.mark.parametrize("node", LAB.nodes, ids=lambda node: node.role)
COMPONENTS = {component["name"]: component for component in components.components(LAB, CONTROL_PLANE)}
FLAG = re.compile(r"^\s+(?:-\w, )?(--[a-z0-9-]+)", re.MULTILINE)


@cache
def known_flags(program: Path) -> frozenset[str]:
    """The flags that a program lists in its help."""
    done = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=60)
    return frozenset(FLAG.findall(done.stdout + done.stderr))


@pytest.mark.parametrize("name", [name for name, component in COMPONENTS.items() if not component.get("once")])
def test_every_flag_exists(programs: Path, name: str) -> None:
    command, *flags = COMPONENTS[name]["argv"]
    known = known_flags(programs / Path(command).name)
    assert [flag for flag in flags if flag.partition("=")[0] not in known] == []


def test_every_program_is_built(programs: Path) -> None:
    used = {component["argv"][0] for component in COMPONENTS.values()} | {f"{components.BIN}/ctr"}
    own = [Path(path).name for path in used if path.startswith(components.BIN)]
    assert [name for name in own if not (programs / name).is_file()] == []


def test_containerd_takes_over_every_setting(programs: Path, tmp_path: Path) -> None:
    """`config dump` shows what containerd understood; a key in the wrong place would be missing."""
    (tmp_path / "config.toml").write_text(components.containerd_configuration(LAB.pause_image))
    command: list[str | Path] = [programs / "containerd", "--config", tmp_path / "config.toml", "config", "dump"]
    dump = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    understood = {re.sub(r"\s", "", line).replace('"', "'") for line in dump.splitlines()}
    written = re.findall(r"^\s+(\w+ = .+)$", components.containerd_configuration(LAB.pause_image), re.MULTILINE)
    assert [line for line in written if re.sub(r"\s", "", line).replace('"', "'") not in understood] == []


@EACH_NODE
def test_conditions_name_what_is_there(node: Node) -> None:
    parts = {component["name"]: component for component in components.components(LAB, node)}
    kinds = {condition.partition(":")[0] for item in parts.values() for condition in item.get("after", [])}
    assert kinds <= {"tcp", "unix", "done", "ready"}
    jobs = {name for name, component in parts.items() if component.get("once")}
    for component in parts.values():
        waited = {text.removeprefix("done:") for text in component.get("after", []) if text.startswith("done:")}
        assert waited <= jobs


@EACH_NODE
def test_every_certificate_on_a_command_line_is_made(tmp_path: Path, node: Node) -> None:
    pki.ensure(tmp_path / "first", CONTROL_PLANE.name, CONTROL_PLANE.address, components.SERVICE_IP)
    if node != CONTROL_PLANE:
        pki.join(tmp_path / "joined", tmp_path / "first", node.name, node.address)
    folder = tmp_path / ("first" if node == CONTROL_PLANE else "joined")
    made = {f"{components.PKI}/{file.name}" for file in folder.iterdir()}
    texts = [
        *(flag for item in components.components(LAB, node) for flag in item["argv"]),
        *components.kubernetes_files(LAB, node).values(),
    ]
    used = set(re.findall(rf"{components.PKI}/[\w.-]+", "\n".join(texts)))
    assert used
    assert used <= made


@pytest.mark.parametrize("name", ["etc/ambient-lab/node.json", "etc/cni/net.d/10-pods.conflist"])
@EACH_NODE
def test_generated_files_are_json(name: str, node: Node) -> None:
    assert json.loads(components.files(LAB, node)[name])


@EACH_NODE
def test_a_node_has_its_pods_to_itself_and_a_way_to_all_others(node: Node) -> None:
    written = components.files(LAB, node)
    (network,) = json.loads(written["etc/cni/net.d/10-pods.conflist"])["plugins"][0]["ipam"]["ranges"]
    assert network == [{"subnet": node.pod_cidr}]
    routes = json.loads(written["etc/ambient-lab/node.json"])["routes"]
    ways = {route[2]: route[4] for route in routes if route[3] == "via"}
    assert ways == {other.pod_cidr: other.address for other in LAB.nodes if other != node}


def test_with_workers_the_control_plane_takes_no_pods() -> None:
    """As with kind, whose nodes have these names, roles and taints."""
    items = json.loads(components.kubernetes_files(LAB, CONTROL_PLANE)["nodes.json"])["items"]
    role = "node-role.kubernetes.io/control-plane"
    names = [f"unit-{end}" for end in ("control-plane", "worker", "worker2", "worker3")]
    assert [item["metadata"]["name"] for item in items] == names
    assert [item["metadata"]["labels"] for item in items] == [{role: ""}, {}, {}, {}]
    assert [item["spec"].get("taints") for item in items] == [[{"key": role, "effect": "NoSchedule"}], None, None, None]
    assert "taints" not in components.node_object(ALONE, ALONE.control_plane)["spec"]


def test_what_is_each_nodes_own_differs() -> None:
    for own in ("name", "address", "pod_cidr", "cgroup", "mac"):
        assert len({getattr(node, own) for node in LAB.nodes}) == len(LAB.nodes), own


def test_labs_of_two_state_folders_share_a_name_and_no_cgroup() -> None:
    """Each kubelet ends what it does not know in its own."""
    other = Lab(Path("/elsewhere/unit"), 9, 3, "localhost/ambient-lab/pause:1")
    assert other.control_plane.name == CONTROL_PLANE.name
    assert not other.control_plane.cgroup.startswith(CONTROL_PLANE.group)


def test_a_lab_that_is_left_alone_writes_little() -> None:
    """Without it kubelet reports as often as it looks: SetDefaults_KubeletConfiguration."""
    assert components.kubelet_configuration(WORKER)["nodeStatusReportFrequency"] == "5m"
