"""The node's command lines and files: no flag or key that the programs do not know."""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
from ambient_embedded import components, pki

NODE = components.Node("unit", "10.87.9.2", "10.87.9.1", 24, "/ambient-lab/unit", "localhost/ambient-lab/pause:1")
COMPONENTS = {component["name"]: component for component in components.control_plane(NODE)}
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
    (tmp_path / "config.toml").write_text(components.containerd_configuration(NODE))
    command: list[str | Path] = [programs / "containerd", "--config", tmp_path / "config.toml", "config", "dump"]
    dump = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    understood = {re.sub(r"\s", "", line).replace('"', "'") for line in dump.splitlines()}
    written = re.findall(r"^\s+(\w+ = .+)$", components.containerd_configuration(NODE), re.MULTILINE)
    assert [line for line in written if re.sub(r"\s", "", line).replace('"', "'") not in understood] == []


def test_conditions_name_what_is_there() -> None:
    kinds = {condition.partition(":")[0] for item in COMPONENTS.values() for condition in item.get("after", [])}
    assert kinds <= {"tcp", "unix", "done", "ready"}
    jobs = {name for name, component in COMPONENTS.items() if component.get("once")}
    for component in COMPONENTS.values():
        waited = {text.removeprefix("done:") for text in component.get("after", []) if text.startswith("done:")}
        assert waited <= jobs


def test_every_certificate_and_kubeconfig_on_a_command_line_is_made(tmp_path: Path) -> None:
    pki.ensure(tmp_path, NODE.name, NODE.address, components.SERVICE_IP)
    made = {f"{components.PKI}/{file.name}" for file in tmp_path.iterdir()}
    texts = [
        *(flag for item in COMPONENTS.values() for flag in item["argv"]),
        *components.kubernetes_files(NODE).values(),
    ]
    used = set(re.findall(rf"{components.PKI}/[\w.-]+", "\n".join(texts)))
    assert used
    assert used <= made


def test_two_labs_share_no_name_that_the_machine_sees() -> None:
    other = components.Node("b", "10.87.8.2", "10.87.8.1", 24, "/ambient-lab/b", "localhost/ambient-lab/pause:1")
    assert components.kubelet_configuration(NODE)["cgroupRoot"] != components.kubelet_configuration(other)["cgroupRoot"]
    assert components.files(NODE)["etc/machine-id"] != components.files(other)["etc/machine-id"]


@pytest.mark.parametrize("name", ["etc/ambient-lab/node.json", "etc/cni/net.d/10-pods.conflist"])
def test_generated_files_are_json(name: str) -> None:
    assert json.loads(components.files(NODE)[name])
