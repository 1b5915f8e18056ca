"""What the scenario needs besides the embedded cluster's own parts, built once into the same cache.

A Debian with Docker's engine, the programs kind, kubeadm and a CoreDNS as kubeadm configures it, the control
plane's images under the names that kubeadm gives them, and from all that the build folder of kind's node image.
"""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ambient_embedded import oci
from ambient_embedded.cache import Part, Report
from ambient_embedded.gobuild import KUBERNETES_VERSION, LINKER_FLAGS, REMEDY
from ambient_embedded.parts import IMAGE_REGISTRY, Bill
from ambient_embedded.tools import DOCUMENTATION, EMBEDDED, debian_install, fingerprints, run

SCENARIO = Path(__file__).resolve().parents[1]
KIND = "sigs.k8s.io/kind@v0.33.0"
CRICTL = "sigs.k8s.io/cri-tools/cmd/crictl@v1.36.0"
INSTALL_FLAGS = "-buildvcs=false -modcacherw"  # of the go command, for both
SUITE = "bookworm"  # the last Debian whose systemd runs on cgroup v1 without being asked to
ENGINE_PACKAGES = ("docker.io", "iproute2", "iptables", "mount", "python3")
NODE_PACKAGES = (
    "bash", "ca-certificates", "conntrack", "containernetworking-plugins", "curl", "ethtool", "iproute2", "iptables",
    "jq", "kmod", "libseccomp2", "mount", "netbase", "nftables", "procps", "runc", "systemd", "util-linux",
)  # fmt: skip
NODE_PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr", "kubectl", "kubelet")
OWN_NODE_FILES = ("Dockerfile", "kernel-settings.sh", "network.py", "node-images.service", "default-cni.yaml")


def _docker_manifest(layout: Path) -> list[dict[str, Any]]:
    """What `docker save` writes beside an OCI layout (Docker Image Specification v1.2, manifest.json)."""

    def blob(descriptor: dict[str, Any]) -> str:
        return "blobs/" + str(descriptor["digest"]).replace(":", "/")

    items = []
    for image in json.loads((layout / "index.json").read_text())["manifests"]:
        manifest = json.loads((layout / blob(image)).read_text())
        tags = [image["annotations"]["io.containerd.image.name"]]
        layers = [blob(layer) for layer in manifest["layers"]]
        items.append({"Config": blob(manifest["config"]), "RepoTags": tags, "Layers": layers})
    return items


def pack(layout: Path, archive: Path) -> None:
    """An OCI image layout as one file, as `docker save` would write it and `kind load image-archive` takes it."""
    draft = archive.with_suffix(".draft")
    with tarfile.open(draft, "w") as file:
        for path in sorted(layout.iterdir()):
            file.add(path, arcname=path.name)
        content = json.dumps(_docker_manifest(layout)).encode()
        info = tarfile.TarInfo("manifest.json")
        info.size = len(content)
        file.addfile(info, io.BytesIO(content))
    draft.rename(archive)


def _digests(*files: str) -> list[str]:
    return [f"{file} {oci.file_digest(SCENARIO / file)}" for file in files]


@dataclass(frozen=True)
class KindBill(Bill):
    """The scenario's parts, on top of the embedded cluster's."""

    @functools.cached_property
    def engine(self) -> Part:
        """The tree that the Docker engine runs from."""

        def make(target: Path, report: Report) -> None:
            report("installing packages")
            debian_install(target / "tree", SUITE, ENGINE_PACKAGES)

        return Part("kind-engine", "Docker engine", make, [SUITE, *ENGINE_PACKAGES, *DOCUMENTATION])

    def _install(self, package: str, target: Path) -> None:
        """Compile a program whose module is its own."""
        command, environment = self.go.command(target, "install", package)
        run(command, env={**environment, "GOBIN": str(target), "GOFLAGS": INSTALL_FLAGS}, remedy=REMEDY)

    @functools.cached_property
    def kind(self) -> Part:
        """The program kind alone: the unit tests of the provider use it, too."""

        def make(target: Path, report: Report) -> None:
            self._install(KIND, target)

        return Part("kind", "kind", make, [KIND, INSTALL_FLAGS, *self.go.ingredients], self.go.needs, lane="go")

    @functools.cached_property
    def kind_programs(self) -> Part:
        """Programs in ``bin`` and, in ``files``, what kind's base image lays over its Debian."""

        def make(target: Path, report: Report) -> None:
            module = self.work / "kind-module"
            for folder in (module, target / "bin"):
                folder.mkdir(parents=True, exist_ok=True)
            for name in ("go.mod", "go.sum"):  # a copy: CoreDNS' plugins add sums to it
                shutil.copy(EMBEDDED / "go" / name, module)
            os.link(self.kind.folder(self.cache) / "kind", target / "bin/kind")
            report(CRICTL)
            self._install(CRICTL, target / "bin")
            command, environment = self.go.command(module, "mod", "download", "-json", KIND)
            folder = Path(json.loads(run(command, env=environment, remedy=REMEDY))["Dir"])
            shutil.copytree(folder / "images/base/files", target / "files")
            environment["GOFLAGS"] = environment["GOFLAGS"].replace("readonly", "mod")
            packages = {"kubeadm": "k8s.io/kubernetes/cmd/kubeadm", "coredns": str(SCENARIO / "coredns.go")}
            for name, package in packages.items():
                report(name)
                arguments = ("-trimpath", "-ldflags", LINKER_FLAGS, "-o", str(target / "bin" / name), package)
                run(self.go.command(module, "build", *arguments)[0], env=environment, remedy=REMEDY)

        sources = [*_digests("coredns.go"), *fingerprints("go/go.mod", "go/go.sum")]
        ingredients = [KIND, CRICTL, INSTALL_FLAGS, *self.go.ingredients, *sources]
        needs = [*self.go.needs, self.kind]
        return Part("kind-programs", "kubeadm, crictl, CoreDNS for kind", make, ingredients, needs, lane="go")

    def _control_plane(self, layers: Path, names: list[str]) -> list[oci.Image]:
        """The images that kubeadm names, each with its program in it; and our pod network's."""
        base = self.node_image.folder(self.cache) / "layer.tar"
        programs, own = self.programs.folder(self.cache), self.kind_programs.folder(self.cache) / "bin"
        path = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        images = []
        for reference in names:
            name = reference.rpartition("/")[2].partition(":")[0]
            program, place = own / name if (own / name).exists() else programs / name, f"usr/local/bin/{name}"
            oci.write_layer(layers / name, [(program, place)])
            # kube-proxy calls iptables; the others need nothing but themselves.
            content = (base, layers / name) if name == "kube-proxy" else (layers / name,)
            images.append(oci.Image(reference, content, {"Env": path, "Entrypoint": [f"/{place}"]}))
        oci.write_layer(layers / "network", [(SCENARIO / "node/network.py", "opt/network.py")])
        entrypoint = ["/usr/bin/python3", "-I", "/opt/network.py"]
        network = oci.Image(self.network_image, (base, layers / "network"), {"Env": path, "Entrypoint": entrypoint})
        return [*images, network]

    @property
    def network_image(self) -> str:
        return f"{IMAGE_REGISTRY}/node-network:{oci.file_digest(SCENARIO / 'node/network.py')[:12]}"

    @functools.cached_property
    def node_context(self) -> Part:
        """The folder that `docker build` makes the node image from."""

        def make(target: Path, report: Report) -> None:
            report("installing packages")
            debian_install(target / "debian.tar", SUITE, NODE_PACKAGES)
            kind, programs = self.kind_programs.folder(self.cache), self.programs.folder(self.cache)
            shutil.copytree(kind / "files", target / "kind")
            (target / "programs").mkdir()
            for program in (kind / "bin/kubeadm", kind / "bin/crictl", *(programs / name for name in NODE_PROGRAMS)):
                os.link(program, target / "programs" / program.name)
            report("images of the control plane")
            kubeadm = str(kind / "bin/kubeadm")
            names = run([kubeadm, "config", "images", "list", "--kubernetes-version", KUBERNETES_VERSION]).split()
            layers = target / "layers"
            layers.mkdir()
            oci.write_layout(target / "layout", self._control_plane(layers, names))
            pack(target / "layout", target / "images.tar")
            shutil.rmtree(layers)
            shutil.rmtree(target / "layout")
            for name in OWN_NODE_FILES:
                text = (SCENARIO / "node" / name).read_text()
                (target / name).write_text(text.replace("image: IMAGE", f"image: {self.network_image}"))
            (target / "version").write_text(f"{KUBERNETES_VERSION}\n")
            (target / "pause").write_text(next(name for name in names if "/pause:" in name))

        files = ("ambient_kind/node_image.py", *(f"node/{name}" for name in OWN_NODE_FILES))
        ingredients = [SUITE, *NODE_PACKAGES, *DOCUMENTATION, *NODE_PROGRAMS, *_digests(*files)]
        needs = [self.node_image, self.programs, self.kind_programs]
        return Part("kind-node", "Node image for kind", make, ingredients, needs)

    def parts(self) -> list[Part]:
        """The embedded cluster's, and the scenario's: what both are built of is compiled once."""
        return [*super().parts(), self.engine, self.kind, self.kind_programs, self.node_context]

    @property
    def node_image_name(self) -> str:
        return f"{IMAGE_REGISTRY}/kind-node:{self.node_context.key}"
