#!/usr/bin/python3
# For the embedded provider alone: compiles the waypoint relay's message classes (needs grpcio-tools).
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Write waypoint_xds_pb2.py (and its .pyi for type checkers) into a folder."""

from __future__ import annotations

import argparse
import sys
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).parent / "protos"


def generate(out: Path) -> int:
    """Compile every file of `protos/` into `out` (made if it is missing); returns protoc's exit code."""
    out.mkdir(parents=True, exist_ok=True)
    well_known_types = resources.files("grpc_tools") / "_proto"
    sources = sorted(str(path) for path in PROTOS.glob("*.proto"))
    options = [f"-I{PROTOS}", f"-I{well_known_types}", f"--python_out={out}", f"--pyi_out={out}"]
    code: int = protoc.main(["protoc", *options, *sources])
    return code


def main() -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the generated modules")
    return generate(parser.parse_args().out)


if __name__ == "__main__":
    sys.exit(main())
