"""What a node has when it starts again."""

from __future__ import annotations

import json
from pathlib import Path

from ambient_embedded.enter import POD_NETWORK, provide_files

NETWORK = {"name": "pods", "plugins": [{"type": "ptp"}]}


def started(folder: Path) -> list[str]:
    """The plugins of the pods' network once a node's files are there."""
    root, node = folder / "root", folder / "node"
    for made in (
        root / "usr/lib/cni",
        root / "opt/cni/bin",
        (root / POD_NETWORK).parent,
        (node / "files" / POD_NETWORK).parent,
    ):
        made.mkdir(parents=True, exist_ok=True)
    (root / "usr/lib/cni/ptp").touch()
    (node / "files" / POD_NETWORK).write_text(json.dumps(NETWORK))
    provide_files(node, root)
    return [plugin["type"] for plugin in json.loads((root / POD_NETWORK).read_text())["plugins"]]


def test_a_node_that_starts_again_keeps_what_istio_cni_chained(tmp_path: Path) -> None:
    """Else pods that start before istio-cni are outside of the mesh, and what is denied to them passes."""
    assert started(tmp_path) == ["ptp"]
    network = tmp_path / "root" / POD_NETWORK
    network.write_text(json.dumps({**NETWORK, "plugins": [{"type": "old"}, {"type": "istio-cni"}]}))
    assert started(tmp_path) == ["ptp", "istio-cni"]
    network.write_text("{")
    assert started(tmp_path) == ["ptp"]
