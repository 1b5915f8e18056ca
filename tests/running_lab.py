"""A running lab, for the tests that molecule runs against it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import programs


@dataclass(frozen=True)
class Lab:
    """A running lab, as the role `cluster` handed it over."""

    folder: Path
    facts: dict[str, Any]

    def command(self) -> list[str]:
        """kubectl for this lab; without the option it makes a cache in the user's home."""
        cache = f"--cache-dir={self.folder}/kubectl-cache"
        return [self.facts["kubectl"], "--kubeconfig", self.facts["kubeconfig"], cache]

    def kubectl(self, *arguments: str) -> str:
        """What kubectl prints; raises RuntimeError with its words."""
        return programs.output([*self.command(), *arguments], timeout=120)

    def apply(self, objects: list[dict[str, Any]]) -> None:
        """Apply objects; raises RuntimeError with kubectl's words."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        programs.output([*self.command(), "apply", "-f", "-"], given=text, timeout=120)

    def delete(self, item: dict[str, Any]) -> None:
        """Delete an object if it is there, and wait until it is gone."""
        meta = item["metadata"]
        scope = ["-n", meta["namespace"]] if "namespace" in meta else []
        self.kubectl("delete", item["kind"], meta["name"], *scope, "--ignore-not-found", "--timeout=50s")

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
