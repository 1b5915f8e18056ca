"""Generate the ztunnel stand-in's protobuf classes (embedded provider alone) from the downloaded Go modules.

Needs a Python with `grpcio-tools`. The output folder goes on PYTHONPATH; the classes are never committed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# Paths as the .proto files import each other: relative to the `pkg` folder of istio.io/istio, and to
# istio.io/api.
ISTIO_PROTOS = ("workloadapi/workload.proto", "workloadapi/security/authorization.proto", "zdsapi/zds.proto")
API_PROTOS = ("security/v1alpha1/ca.proto",)
OWN_PROTOS = ("ads.proto",)


def generate(istio: Path, api: Path, out: Path) -> list[Path]:
    """Write one Python module per .proto file under `out` and return their paths.

    Raises SystemExit with one line when a source is missing or protoc fails.
    """
    # Imported here so that --help works without grpcio-tools.
    from grpc_tools import protoc

    well_known = Path(protoc.__file__).parent / "_proto"
    own = Path(__file__).resolve().parent / "protos"
    written: list[Path] = []
    out.mkdir(parents=True, exist_ok=True)
    for root, names in ((istio / "pkg", ISTIO_PROTOS), (api, API_PROTOS), (own, OWN_PROTOS)):
        for name in names:
            if not (root / name).is_file():
                raise SystemExit(f"generate_protos: {root / name} is missing")
        args = ["protoc", f"-I{root}", f"-I{well_known}", f"--python_out={out}", f"--pyi_out={out}", *names]
        if protoc.main(args) != 0:
            raise SystemExit(f"generate_protos: protoc failed for {', '.join(names)}")
        written += [out / name.replace(".proto", "_pb2.py") for name in names]
    for module in written:
        for folder in module.relative_to(out).parents:
            if folder.name:
                (out / folder / "__init__.py").touch()
    return written


def main() -> int:
    """Parse the command line and generate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--istio", type=Path, required=True, help="module folder of istio.io/istio")
    parser.add_argument("--api", type=Path, required=True, help="module folder of istio.io/api")
    parser.add_argument("--out", type=Path, required=True, help="folder for the Python modules")
    options = parser.parse_args()
    for module in generate(options.istio, options.api, options.out):
        print(module)
    return 0


if __name__ == "__main__":
    sys.exit(main())
