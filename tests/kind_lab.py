"""A machine for tests of the provider kind: the real kind, an engine that keeps book, an empty home."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_docker
import pytest
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._kind.cluster import World, settle
from ansible_collections.ambient.lab.plugins.module_utils._kind.edge import Programs, port_problem
from kind_program import VERSION
from ports import free_port
from project import defaults

IMAGE = defaults("cluster")["cluster_upstream"]["kind"]["node_image"]


class Lab:
    """A folder, an engine that keeps book, and the options of a cluster."""

    def __init__(self, folder: Path, kind: Path) -> None:
        self.folder = folder
        self.programs = folder / "bin"
        self.programs.mkdir()
        self._docker = fake_docker.install(self.programs)
        (self.programs / "kind").symlink_to(kind)
        self.host_port = free_port()
        self.shown: list[str] = []
        self.options: dict[str, Any] = {
            "state": "present",
            "name": "lab",
            "kubeconfig": str(folder / "lab" / "kubeconfig"),
            "config": {
                "nodes": [
                    {"role": "control-plane", "extraPortMappings": [self.mapping("30080")]},
                    {"role": "worker"},
                ]
            },
            "config_file": None,
            "image": IMAGE,
            "image_archives": [],
            "wait": 0,
            "binary": "kind",
            "minimum_version": VERSION,
        }

    def mapping(self, node_port: str) -> dict[str, Any]:
        return {"containerPort": node_port, "hostPort": self.host_port, "listenAddress": "127.0.0.1"}

    def settle(self, check_mode: bool = False, **options: Any) -> dict[str, Any]:
        """Run the module's code with some options changed."""
        world = World(Programs(self.shown.append), os.environ, port_problem)
        return settle({**self.options, **options}, world, check_mode)

    def refused(self, **options: Any) -> str:
        """The one line that the module fails with."""
        with pytest.raises(LabError) as raised:
            self.settle(**options)
        assert "\n" not in raised.value.message
        return raised.value.message

    @property
    def docker(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self._docker.read_text())
        return loaded

    def change(self, how: Callable[[dict[str, Any]], object]) -> None:
        """Change what the engine holds, or how it answers."""
        state = self.docker
        how(state)
        self._docker.write_text(json.dumps(state))

    def fails(self, words: str, text: str) -> None:
        self.change(lambda state: state["fails"].update({words: text}))

    def calls(self) -> list[str]:
        """What the engine was asked for, without looking."""
        looks = {"-v", "info", "ps", "inspect", "container", "network", "logs"}
        reads = ("exec --privileged", "images --output")
        lines = [" ".join(call) for call in self.docker["calls"] if call[0] not in looks]
        self.change(lambda state: state["calls"].clear())
        return [line for line in lines if not any(words in line for words in reads)]


def enter(lab: Lab, environment: pytest.MonkeyPatch) -> None:
    """A machine whose PATH has kind and the engine's program, and whose home is empty."""
    for variable in ("KIND_EXPERIMENTAL_PROVIDER", "KIND_CLUSTER_NAME", "DOCKER_HOST", "KUBECONFIG"):
        environment.delenv(variable, raising=False)
    environment.setenv("PATH", str(lab.programs))
    (lab.folder / "home").mkdir()
    environment.setenv("HOME", str(lab.folder / "home"))
