"""The scenario's command: Docker, a node image, and what else `kind` needs where there is no container registry.

``PYTHONPATH=molecule/kind:embedded python -m ambient_kind [--cache FOLDER] build|up|down|run [FOLDER [COMMAND ...]]``

``build`` builds what is missing, as ``up`` and ``run`` do first; ``up`` starts the engine in FOLDER; ``down`` removes
it with all its containers; ``run`` does both around a command, which gets ``FOLDER/bin`` in PATH, ``DOCKER_HOST``, and
in ``AMBIENT_KIND_VARS`` the file of variables for the role cluster.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from ambient_embedded.__main__ import built
from ambient_embedded.contract import named
from ambient_embedded.errors import LabError
from ambient_embedded.parts import IMAGE_REGISTRY
from ambient_embedded.tools import EMBEDDED, run

from . import engine
from .node_image import KindBill, pack

STATE = Path("/var/lib/ambient-lab")
DEFAULT_CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~root/.cache")) / "ambient-lab"


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _links(folder: Path, bill: KindBill) -> None:
    """The programs that the scenario calls by name, in one folder for its PATH."""
    programs = bill.programs.folder(bill.cache)
    places = {
        "docker": bill.engine.folder(bill.cache) / "tree/usr/bin",
        "kind": bill.kind_programs.folder(bill.cache) / "bin",
        "kubectl": programs,
        "helm": programs,
    }
    (folder / "bin").mkdir(exist_ok=True)
    for name, place in places.items():
        (folder / "bin" / name).unlink(missing_ok=True)
        (folder / "bin" / name).symlink_to(place / name)


def _variables(bill: KindBill, archive: Path) -> dict[str, Any]:
    """The variables of the role cluster that put our image, charts and archives in the place of upstream's."""
    sources, tag = bill.sources.folder(bill.cache), bill.image_tag
    return {
        "cluster_kind": {"node_image": bill.node_image_name, "image_archives": [str(archive)]},
        "cluster_istio": {
            "charts": {chart.name: str(chart) for chart in sorted((sources / "charts").iterdir())},
            "gateway_api_crds": [str(file) for file in sorted((sources / "crds").iterdir())],
            "values": {"hub": IMAGE_REGISTRY, "tag": tag, "variant": ""},
        },
        "cluster_kiali": {
            "chart": str(EMBEDDED / "kiali/chart"),
            "values": {"deployment": {"image_name": f"{IMAGE_REGISTRY}/kiali", "image_version": tag}},
        },
        "cluster_images": {
            name: f"{IMAGE_REGISTRY}/{image}:{tag}"
            for name, image in (("app", "tools"), ("curl", "tools"), ("prometheus", "prometheus"))
        },
    }


def build(bill: KindBill) -> None:
    """Build what is missing. Raises :class:`LabError` when this machine cannot run an engine."""
    if platform.system() != "Linux" or os.geteuid() != 0:
        raise LabError(
            "A Docker engine of the scenario's own needs Linux and root: start Docker, run as root, or leave the "
            "scenario out (make test KIND_ENGINE=)"
        )
    request = {"cache_dir": bill.cache, "state_dir": STATE, "check": False, "keep_build_files": None}
    built(request, _progress, bill)


def up(folder: Path, bill: KindBill) -> None:
    """Start the engine, give it the node image, and say what the scenario passes on."""
    engine.up(folder, bill.engine.folder(bill.cache) / "tree")
    _links(folder, bill)
    environment = {"DOCKER_HOST": f"unix://{folder}/run/docker.sock", "DOCKER_BUILDKIT": "0"}
    docker = str(folder / "bin/docker")
    known = subprocess.run([docker, "image", "inspect", bill.node_image_name], env=environment, capture_output=True)
    if known.returncode != 0:
        _progress(f"building {bill.node_image_name}")
        context = str(bill.node_context.folder(bill.cache))
        run([docker, "build", "--quiet", "--tag", bill.node_image_name, context], env=environment)
    archive = folder / f"images-{bill.image_tag}.tar"
    if not archive.exists():
        pack(bill.images.folder(bill.cache) / "layout", archive)
    (folder / "vars.json").write_text(json.dumps(_variables(bill, archive), indent=1))


def within(folder: Path, bill: KindBill, command: list[str]) -> int:
    """Run a command with an engine at hand and return its exit status; the engine goes whatever comes of it."""
    variables = {
        "PATH": f"{folder}/bin:{os.environ['PATH']}",
        "DOCKER_HOST": f"unix://{folder}/run/docker.sock",
        "AMBIENT_KIND_VARS": f"{folder}/vars.json",
    }
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # else nothing below is taken back
    try:
        up(folder, bill)
        return subprocess.run(command, env={**os.environ, **variables}).returncode
    finally:
        engine.down(folder)


def main() -> int:
    parser = argparse.ArgumentParser(prog="ambient_kind", description=__doc__)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="the embedded cluster's")
    parser.add_argument("state", choices=["build", "up", "down", "run"])
    parser.add_argument("folder", type=Path, nargs="?", help="the engine's, on a file system that overlayfs can use")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.state == "run" and not options.command:
        parser.error("run needs a COMMAND")
    bill = KindBill(options.cache.expanduser())
    if options.folder is None and options.state != "build":
        parser.error(f"{options.state} needs a FOLDER")
    folder = (options.folder or Path()).resolve()
    try:
        if options.state == "down":
            engine.down(folder)
            return 0
        build(bill)
        if options.state == "run":
            return within(folder, bill, options.command)
        if options.state == "up":
            up(folder, bill)
        return 0
    except (LabError, OSError, subprocess.SubprocessError) as error:
        print(named(str(error), ""), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
