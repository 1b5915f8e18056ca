"""A running lab, for the tests that molecule runs against it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Lab:
    """A running lab, as the role `cluster` handed it over."""

    folder: Path
    facts: dict[str, Any]

    def kubectl(self, *arguments: str) -> str:
        """What kubectl prints; raises CalledProcessError with its words."""
        command = [self.facts["kubectl"], "--kubeconfig", self.facts["kubeconfig"], *arguments]
        return subprocess.run(command, check=True, text=True, capture_output=True, timeout=60).stdout

    def get(self, *arguments: str) -> Any:
        """What `kubectl get -o json` prints, parsed."""
        return json.loads(self.kubectl("get", "-o", "json", *arguments))

    def url(self, node_port: str) -> str:
        """The address on this machine that leads to a NodePort."""
        return str(self.facts["node_ports"][node_port])

    @classmethod
    def at(cls, folder: Path) -> Lab:
        """The lab whose lab.json is in a folder."""
        return cls(folder, json.loads((folder / "lab.json").read_text(encoding="utf-8")))
