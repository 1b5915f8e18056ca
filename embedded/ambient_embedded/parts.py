"""The bill of materials as parts: how each program, image layer and chart is made from package registries."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from . import oci
from .cache import Part, Report
from .gobuild import ISTIO_VERSION, REMEDY, Go
from .launcher import UNSHARE
from .npm import Npm
from .tools import DOCUMENTATION, EMBEDDED, debian_install, debian_release, fingerprints, pip_install, run

GRPC_TOOLS = "grpcio-tools==1.85.1"
IMAGE_REGISTRY = "localhost/ambient-lab"
NODE_PACKAGES = (
    "bash", "ca-certificates", "containernetworking-plugins", "curl", "iproute2", "iptables", "libstdc++6", "mount",
    "netbase", "nftables", "python3", "runc",
)  # fmt: skip
# A containerd of its own, in a mount namespace that ends with it, imports and unpacks what the layout holds.
# What is only its own lies on a tmpfs of that namespace: a socket's path has 107 characters at most.
STORE_SCRIPT = """
programs=$1 layout=$2 store=$3
mount -t tmpfs none /run
trap 'tail -n 4 /run/log >&2' ERR
echo 'version = 3' > /run/config
"$programs/containerd" -c /run/config --root "$store" --state /run/state -a /run/socket > /run/log 2>&1 &
for try in $(seq 100); do
    "$programs/ctr" -a /run/socket version > /dev/null 2>&1 && break
    sleep 0.1
    kill -0 $!
done
tar -C "$layout" -cf - . | "$programs/ctr" -a /run/socket -n k8s.io images import --local - > /dev/null
kill $!
wait $!
"""
CHARTS = {
    "base": "base",
    "istiod": "istio-control/istio-discovery",
    "cni": "istio-cni",
    "ztunnel": "ztunnel",
}


@dataclass(frozen=True)
class Bill:
    """Every part of the embedded cluster, made for one cache folder."""

    cache: Path
    # A lane of their own: they compile while the large module downloads, and download while it compiles.
    SMALL_MODULES: ClassVar[str] = "go-small"

    @property
    def work(self) -> Path:
        """Downloads and compiler output: only needed until the parts are built."""
        return self.cache / "work"

    @functools.cached_property
    def go(self) -> Go:
        return Go(self.cache, self.work)

    @functools.cached_property
    def npm(self) -> Npm:
        return Npm(self.cache, self.work)

    @functools.cached_property
    def kubernetes_istio(self) -> Part:
        files = ("go.mod", "go.sum", "coredns", "pause")
        title = "Kubernetes, Istio, etcd, CoreDNS, Prometheus, Helm"
        return self.go.part("go-kubernetes-istio", title, "go", files)

    @functools.cached_property
    def containerd(self) -> Part:
        return self.go.part("go-containerd", "containerd", "go/containerd", ("go.mod", "go.sum"), self.SMALL_MODULES)

    @functools.cached_property
    def kiali_server(self) -> Part:
        return self.go.part("go-kiali", "Kiali", "go/kiali", ("go.mod", "go.sum"), self.SMALL_MODULES)

    @functools.cached_property
    def sources(self) -> Part:
        """Charts, CRDs and .proto files, taken from the modules that the programs are compiled from."""

        def make(target: Path, report: Report) -> None:
            names = ("istio.io/istio", "istio.io/api", "sigs.k8s.io/gateway-api")
            command, environment = self.go.command(EMBEDDED / "go", "mod", "download", "-json", *names)
            documents = run(command, env=environment, remedy=REMEDY).replace("}\n{", "},{")
            found = {item["Path"]: Path(item["Dir"]) for item in json.loads(f"[{documents}]")}
            istio, api, gateway = (found[name] for name in names)
            for name, folder in CHARTS.items():
                shutil.copytree(istio / "manifests/charts" / folder, target / "charts" / name)
                # As Istio's release builder does: the sources name a version that is never shipped.
                chart = target / "charts" / name / "Chart.yaml"
                chart.write_text(chart.read_text().replace("appVersion: 1.0.0", f"appVersion: {ISTIO_VERSION}"))
            (target / "crds").mkdir()
            for file in sorted((gateway / "config/crd/standard").glob("gateway.networking.k8s.io_*.yaml")):
                shutil.copy(file, target / "crds")
            protocols = ((istio, "pkg/workloadapi"), (istio, "pkg/zdsapi"), (api, "security"))
            for module, name in (*protocols, (istio, "tools/packaging/common")):
                top = target / ("api" if module is api else "istio")
                shutil.copytree(module / name, top / name, ignore=shutil.ignore_patterns("*.go", "testdata"))

        ingredients = [str(CHARTS), *self.go.ingredients, *fingerprints("go/go.mod")]
        return Part("sources", "Helm charts, CRDs, protocols", make, ingredients, self.go.needs, lane="go")

    @functools.cached_property
    def programs(self) -> Part:
        """One folder with every program that runs on the node or beside it."""

        def make(target: Path, report: Report) -> None:
            for part in (self.kubernetes_istio, self.containerd, self.kiali_server):
                for program in part.folder(self.cache).iterdir():
                    os.link(program, target / program.name)

        needs = [self.kubernetes_istio, self.containerd, self.kiali_server]
        return Part("programs", "Programs of the node", make, [], needs)

    @functools.cached_property
    def node_image(self) -> Part:
        """A small Debian: the node's root file system and the base of every image."""
        release = debian_release()

        def make(target: Path, report: Report) -> None:
            layer, suite = target / "layer.tar", release.get("VERSION_CODENAME", "stable")
            report(f"installing {suite} packages")
            debian_install(layer, suite, NODE_PACKAGES)
            (target / "tree").mkdir()
            run(["tar", "-C", str(target / "tree"), "--numeric-owner", "-xpf", str(layer)])

        identity = f"{release.get('ID')} {release.get('VERSION_CODENAME')}"
        return Part("node-image", "Debian base of node and images", make, [*NODE_PACKAGES, *DOCUMENTATION, identity])

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
        run(
            [*python, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(folder)],
            env=environment,
        )

    def _libraries(self, folder: str, title: str) -> Part:
        def make(target: Path, report: Report) -> None:
            requirements = str(EMBEDDED / folder / "requirements.txt")
            pip_install(target, "-r", requirements, platforms=_platforms(), python=self._image_python()[0])
            self._precompile(target)

        ingredients = [*_platforms(), *fingerprints(f"{folder}/requirements.txt")]
        return Part(f"{folder}-libraries", f"{title}: libraries", make, ingredients, [self.node_image])

    @functools.cached_property
    def protobuf_compiler(self) -> Part:
        def make(target: Path, report: Report) -> None:
            pip_install(target, GRPC_TOOLS)

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

        ingredients = fingerprints("ztunnel/ambient_ztunnel", "ztunnel/protos", "ztunnel/generate_protos.py")
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
        ingredients = fingerprints(*(f"waypoint/{name}" for name in files))
        needs = [self.node_image, self.sources, self.protobuf_compiler]
        return Part("waypoint", "Waypoint adapter", make, ingredients, needs)

    @functools.cached_property
    def console(self) -> Part:
        return self.npm.console

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

    @functools.cached_property
    def image_store(self) -> Part:
        """The images as containerd keeps them, unpacked: a new node takes them over in no time (see node.py)."""

        def make(target: Path, report: Report) -> None:
            layout = self.images.folder(self.cache) / "layout"
            unpack_images(self.programs.folder(self.cache), layout, target)
            blobs = target / "io.containerd.content.v1.content/blobs/sha256"
            for blob in (layout / "blobs/sha256").iterdir():  # the same bytes need not be there twice
                (blobs / blob.name).unlink()
                os.link(blob, blobs / blob.name)
            shutil.copy(layout / "index.json", target / "ambient-lab-images")

        return Part("image-store", "Container images, unpacked", make, [STORE_SCRIPT], [self.images, self.programs])

    def _image_needs(self) -> list[Part]:
        own = [self.ztunnel, self.ztunnel_libraries, self.waypoint, self.waypoint_libraries, self.console]
        return [self.node_image, self.programs, *own]

    @functools.cached_property
    def image_tag(self) -> str:
        """One tag for all images of a build: it changes with whatever is in them."""
        recipe = fingerprints("ambient_embedded/parts.py", "ambient_embedded/oci.py")
        keys = [part.key for part in self._image_needs()]
        return hashlib.sha256("".join([*recipe, *keys]).encode()).hexdigest()[:12]

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
        kiali = layer(
            "kiali", (programs / "kiali", "opt/kiali/kiali"), (self.console.folder(self.cache), "opt/kiali/console")
        )
        prometheus = layer("prometheus", (programs / "prometheus", "bin/prometheus"))
        site = "opt/site-packages"
        return [
            image("pause", layer("pause", (programs / "pause", "pause")), Entrypoint=["/pause"]),
            image("coredns", layer("coredns", (programs / "coredns", "coredns")), Entrypoint=["/coredns"]),
            image("prometheus", prometheus, Entrypoint=["/bin/prometheus"], User="65532:65532"),
            image("kiali", kiali, Cmd=["/opt/kiali/kiali"], WorkingDir="/opt/kiali", User="65532:65532"),
            image("tools", base, Cmd=["/bin/bash"]),
            image("pilot", base, pilot, Entrypoint=["/usr/local/bin/pilot-discovery"], User=istio_user),
            # Its own choice changes with its first restart, and then pods that leave the mesh keep rules (istio#61019).
            image(
                "install-cni", base, cni, Cmd=["/usr/local/bin/install-cni"], WorkingDir="/opt/cni/bin",
                Env=[path, "FORCE_IPTABLES_BINARY=nft"],
            ),
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
        """All parts in the order in which they are best begun: first a small one of each registry, so that one that is
        out of reach is told in seconds.
        """
        return [
            *self.go.needs, self.sources, *self.console.needs, self.console, self.protobuf_compiler, self.node_image,
            self.ztunnel_libraries, self.ztunnel, self.waypoint_libraries, self.waypoint, self.kubernetes_istio,
            self.containerd, self.kiali_server, self.programs, self.images, self.image_store,
        ]  # fmt: skip


def unpack_images(programs: Path, layout: Path, store: Path) -> None:
    """Fill a containerd's folder with the images of an OCI layout. Raises :class:`LabError` with its last words."""
    run(
        [
            *UNSHARE,
            "mount,pid,proc",
            "bash",
            "-euo",
            "pipefail",
            "-c",
            STORE_SCRIPT,
            "bash",
            str(programs),
            str(layout),
            str(store),
        ]
    )


def _copy_package(source: Path, target: Path) -> None:
    shutil.copytree(source, target / source.name, ignore=shutil.ignore_patterns("__pycache__"))


def _platforms() -> list[str]:
    """Wheel tags that the images' Debian can run (PEP 600: the number is the glibc that it needs at least)."""
    machine = os.uname().machine
    return [f"manylinux{tag}_{machine}" for tag in ("2014", "_2_17", "_2_28", "_2_31", "_2_34")]
