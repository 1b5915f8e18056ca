"""The scenario's command: ``up`` prepares engine, node image and image archive, ``down`` removes the engine again.

``python -m ambient_kind up|down FOLDER [--cache FOLDER]``. What ``up`` prints is a JSON object for the scenario.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ambient_embedded import cache
from ambient_embedded.errors import LabError
from ambient_embedded.tools import run

from . import engine
from .node_image import KindBill, pack

DEFAULT_CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "ambient-lab"


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def up(folder: Path, bill: KindBill) -> dict[str, Any]:
    """Build what is missing, start the engine, give it the node image; returns what the scenario passes on."""
    with cache.locked(bill.cache, _progress):
        cache.build(bill.cache, [*bill.parts(), *bill.kind_parts()], _progress)
    engine.up(folder, bill.engine.folder(bill.cache) / "tree")
    environment = {"DOCKER_HOST": f"unix://{folder}/run/docker.sock", "DOCKER_BUILDKIT": "0"}
    docker = str(folder / "bin/docker")
    known = subprocess.run([docker, "image", "inspect", bill.node_image_name], env=environment, capture_output=True)
    if known.returncode != 0:
        _progress(f"docker build {bill.node_image_name}")
        context = str(bill.node_context.folder(bill.cache))
        run([docker, "build", "--quiet", "--tag", bill.node_image_name, context], env=environment)
    archive = folder / f"lab-{bill.image_tag}.tar"
    if not archive.exists():
        pack(bill.images.folder(bill.cache) / "layout", archive)
    return {
        "docker_host": environment["DOCKER_HOST"],
        "path": [str(folder / "bin"), str(bill.kind_programs.folder(bill.cache) / "bin")],
        "node_image": bill.node_image_name,
        "image_archives": [str(archive)],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("state", choices=["up", "down"])
    parser.add_argument("folder", type=Path, help="the engine's: its data, socket and log")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="the embedded cluster's")
    options = parser.parse_args()
    folder = options.folder.resolve()
    try:
        if options.state == "up":
            print(json.dumps(up(folder, KindBill(options.cache.expanduser())), indent=1))
        else:
            engine.down(folder)
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
