# Makes a kind cluster be there or not: what is, what is missing, and the steps between the two.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import re
import tarfile
import typing as t

from ansible.module_utils.common.yaml import yaml_dump, yaml_load

from .._common.errors import LabError
from .._common.files import replace_file
from .._common.programs import CANNOT_RUN, NOT_FOUND, Answer, Run
from .engine import Engine, engine_of, last_line

SPEC: dict[str, dict[str, t.Any]] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "name": {"type": "str", "required": True},
    "kubeconfig": {"type": "path", "required": True},
    "config": {"type": "dict", "default": {}},
    "image": {"type": "str"},
    "image_archives": {"type": "list", "elements": "path", "default": []},
    "binary": {"type": "path", "default": "kind"},
    "minimum_version": {"type": "str"},
}
LOAD_BALANCER = "external-load-balancer"
# First line of the kept configuration, where kind made the network for this cluster: kind never removes one.
NETWORK_LINE = re.compile(r"# network: (.+)")
KNOWN_ISSUES = "https://kind.sigs.k8s.io/docs/user/known-issues/"
LAST_LINES = 3
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
Config = dict[str, t.Any]
API = {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4"}
PORT_FIELDS = ("containerPort", "hostPort")
# Name of an image, and the digest of its configuration, by which the kubelet knows it.
Images = set[tuple[str, str]]


class Step(t.NamedTuple):
    """Something that is to be done, in words, and what does it."""

    title: str
    run: t.Callable[[], object]


class Cluster:
    """One cluster of kind on one engine.

    The configuration that it was made with is kept beside its kubeconfig. A cluster without it is somebody else's.

    Args:
        options: of the module.
        engine: the one that has the cluster, or is to have it.
        run: runs a program.
        environ: this process's variables.
    """

    def __init__(self, options: t.Mapping[str, t.Any], engine: Engine, run: Run, environ: t.Mapping[str, str]) -> None:
        self.name, self._kubeconfig = str(options["name"]), str(options["kubeconfig"])
        self._options, self._engine, self._run, self._environ = options, engine, run, environ
        self._kept = os.path.join(os.path.dirname(self._kubeconfig), "kind.yaml")

    def first(self) -> t.Iterator[Step]:
        """What makes the nodes be there and run.

        Raises:
            LabError: when the cluster is another one than the one asked for.
        """
        config = rendered(self._options["config"], self.name, self._options["image"])
        nodes = self._engine.nodes(self.name)
        if not nodes:
            yield Step(f"make the cluster {self.name}", lambda: self._create(config))
            return
        self._check_kept(config)
        # They were stopped, or did not come back with the engine.
        if stopped := [node.name for node in nodes if node.status != "running"]:
            yield Step(f"start {', '.join(stopped)}", lambda: self._engine.ask("start", *stopped))

    def rest(self) -> t.Iterator[Step]:
        """What a running cluster lacks of the images and of the kubeconfig.

        Raises:
            LabError: when an archive can't be read, or the cluster is not whole.
        """
        archives = {path: images_of(path) for path in self._options["image_archives"]}
        names = [node.name for node in self._engine.nodes(self.name) if archives and node.role != LOAD_BALANCER]
        there = {name: self._engine.ask("exec", name, "crictl", "images", "--output", "json") for name in names}
        for path, images in archives.items():
            if lacking := [name for name in names if not has_images(there[name], images)]:
                load = functools.partial(self._load, path, lacking)
                yield Step(f"load {path} into {', '.join(lacking)}", load)
        answer = self._kind("get", "kubeconfig")
        if answer.code:
            problem = f"The kind cluster {self.name} is not whole ({last_line(answer.err)})"
            raise LabError(f"{problem}: an earlier run was interrupted; {self._way_out()}")
        if not leads_there(_read(self._kubeconfig), answer.out):
            yield Step(f"write {self._kubeconfig}", lambda: _write(self._kubeconfig, answer.out, 0o600))

    def removal(self) -> t.Iterator[Step]:
        """What removes the cluster; nothing where there is none, or somebody else's."""
        if _read(self._kept) is not None:
            yield Step(f"remove the cluster {self.name}", self._delete)

    def _kind(self, *arguments: str) -> Answer:
        """Run kind for this cluster; no kubeconfig but the given one is in its reach."""
        env = {**self._engine.env, "KUBECONFIG": self._kubeconfig}
        return self._run(self._options["binary"], *arguments, "--name", self.name, env=env)

    def _way_out(self) -> str:
        return f"remove it (kind delete cluster --name {self.name}, or the lab's clean-up), then run this again"

    def _check_kept(self, config: Config) -> None:
        text = _read(self._kept)
        if text is None:
            raise LabError(
                f"There is a kind cluster {self.name} already, and it is not the lab's (no {self._kept}): take another "
                f"name, or remove it (kind delete cluster --name {self.name})"
            )
        kept = _parsed(text)
        if keys := sorted(key for key in {*kept, *config} if kept.get(key) != config.get(key)):
            raise LabError(
                f"The kind cluster {self.name} was made with another configuration ({self._kept}: {', '.join(keys)}). "
                f"kind can't change a cluster: {self._way_out()}, or take another name"
            )

    def _create(self, config: Config) -> None:
        """Make the cluster, or leave nothing of it."""
        network = self._engine.network(self._environ)
        brought = "" if network in self._engine.networks() else f"# network: {network}\n"
        _write(self._kept, brought + yaml_dump(config, sort_keys=False, default_flow_style=False), 0o644)
        # kind would merge into it what is left of an earlier cluster.
        pathlib.Path(self._kubeconfig).unlink(missing_ok=True)
        answer = self._kind("create", "cluster", "--config", self._kept, "--kubeconfig", self._kubeconfig)
        if answer.code:
            # kind takes back what it knows of, not a node that came later.
            with contextlib.suppress(LabError):
                self._delete()
            raise LabError(explain(f"The kind cluster {self.name} can't be made", answer.err))

    def _load(self, path: str, names: t.Sequence[str]) -> None:
        answer = self._kind("load", "image-archive", path, "--nodes", ",".join(names))
        if answer.code:
            raise LabError(explain(f"{path} can't be loaded into {', '.join(names)}", answer.err))

    def _delete(self) -> None:
        answer = self._kind("delete", "cluster", "--kubeconfig", self._kubeconfig)
        if answer.code:
            raise LabError(explain(f"The kind cluster {self.name} can't be removed", answer.err))
        brought = NETWORK_LINE.match(_read(self._kept) or "")
        if brought and brought[1] in self._engine.networks() and not self._engine.members(brought[1]):
            self._engine.ask("network", "rm", brought[1])
        for file in (self._kubeconfig, self._kept):
            pathlib.Path(file).unlink(missing_ok=True)


def settle(
    options: t.Mapping[str, t.Any], run: Run, environ: t.Mapping[str, str], check_mode: bool
) -> dict[str, t.Any]:
    """Make the cluster be what is asked for.

    Args:
        options: as SPEC has them.
        run: runs a program.
        environ: this process's variables.
        check_mode: only say what would be done.

    Returns:
        The module's return values.

    Raises:
        LabError: with one line that names what to do.
    """
    check_kind(run, options)
    engine = _engine(options, run, environ)
    cluster = Cluster(options, engine, run, environ)
    done: list[str] = []
    stages = (cluster.removal,) if options["state"] == "absent" else (cluster.first, cluster.rest)
    try:
        for stage in stages:
            for step in stage():
                done.append(step.title)
                if not check_mode:
                    step.run()
            # In check mode nothing is known of nodes that do not run yet.
            if done and check_mode:
                break
    except OSError as error:
        raise LabError(f"{error.filename} can't be used: {error.strerror}") from error
    return {"changed": bool(done), "engine": engine.name, "diff": {"prepared": "".join(f"{title}\n" for title in done)}}


def _engine(options: t.Mapping[str, t.Any], run: Run, environ: t.Mapping[str, str]) -> Engine:
    try:
        return engine_of(run, environ, options["name"])
    except LabError as error:
        if options["state"] == "present":
            raise
        folder = os.path.dirname(options["kubeconfig"])
        raise LabError(f"{error.message}; where it is gone for good, remove {folder} by hand") from error


def check_kind(run: Run, options: t.Mapping[str, t.Any]) -> None:
    """Raise LabError when there is no kind, or one that is too old for the node image."""
    binary, minimum = options["binary"], options["minimum_version"]
    answer = run(binary, "--version")
    if answer.code in (NOT_FOUND, CANNOT_RUN):
        raise LabError(f"{answer.err}: install kind for this machine, or name it in binary")
    found = re.search(r"\d+\.\d+\.\d+", answer.out)
    if answer.code or not found:
        raise LabError(f"{binary} is not kind: it answers --version with {last_line(answer.out + answer.err)}")
    if minimum and _version(found[0]) < _version(minimum):
        raise LabError(
            f"kind {found[0]} is too old for the node image {options['image']}: install kind {minimum} or newer, "
            "or name an image that was made for yours"
        )


def _version(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def explain(what: str, stderr: str) -> str:
    """One line for a failure of kind: its own words, and the last ones of the engine under it."""
    lines = [line.strip() for line in COLOUR.sub("", stderr).splitlines() if line.strip() and not progress(line)]
    begin = next((number for number, line in enumerate(lines) if line.startswith(("ERROR", "panic:"))), 0)
    # What follows says where in kind it crashed.
    end = next((number for number, line in enumerate(lines) if line.startswith("goroutine ")), None)
    first, rest = lines[begin:end][:1], lines[begin:end][1:]
    # The whole command line says nothing more.
    said = re.sub(r'command "(\S+ \S+)[^"]*"', r'command "\1 ..."', " / ".join([*first, *rest[-LAST_LINES:]]))
    return f"{what}: {said or 'it gave no reason'} (known causes: {KNOWN_ISSUES})"


def progress(line: str) -> str | None:
    """What kind begins with, or has failed with; None for a line that says nothing more."""
    found = re.match(r"([•✗]) (.+)", COLOUR.sub("", line).strip())
    if not found:
        return None
    # kind decorates its steps with pictures.
    text = found[2].encode("ascii", "ignore").decode().rstrip(" .")
    return text if found[1] == "•" else f"failed: {text}"


def rendered(config: t.Mapping[str, t.Any], name: str, image: str | None) -> Config:
    """The whole configuration: what was given, with the cluster's name, its nodes, and the image of each.

    Raises:
        LabError: when it does not have the form of a configuration.
    """
    # Plain types, whatever kinds of strings the values came as.
    whole: Config = {**API, **json.loads(json.dumps(config)), "name": name}
    nodes = whole.get("nodes") or [{"role": "control-plane"}]
    if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes):
        raise LabError("config: nodes must be a list, each a dict with a role (control-plane or worker)")
    whole["nodes"] = [_node(node, image) for node in nodes]
    return whole


def _node(node: Config, image: str | None) -> Config:
    whole = {**node, **({"image": image} if image else {})}
    if mappings := whole.get("extraPortMappings"):
        whole["extraPortMappings"] = [_mapping(mapping) for mapping in mappings]
    return whole


def _mapping(mapping: Config) -> Config:
    """A port mapping with the numbers that kind wants; the keys of a dict in a playbook are texts."""
    try:
        return {**mapping, **{field: int(mapping[field]) for field in PORT_FIELDS}}
    except (KeyError, TypeError, ValueError) as error:
        raise LabError(f"config: {mapping} is no port mapping: containerPort and hostPort must be numbers") from error


def images_of(path: str) -> Images:
    """The images of an archive as `docker save` writes it: Docker Image Specification v1.2, combined image JSON.

    Raises:
        LabError: when it can't be read or is none.
    """
    try:
        with tarfile.open(path) as archive:

            def content(name: str) -> bytes:
                return t.cast("t.IO[bytes]", archive.extractfile(name)).read()

            found = {
                (name, "sha256:" + hashlib.sha256(content(item["Config"])).hexdigest())
                for item in json.loads(content("manifest.json"))
                for name in item.get("RepoTags") or ()
            }
            if found:
                return found
            raise ValueError("it names no image")
    except (OSError, tarfile.TarError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LabError(
            f"image_archives: {path} is no archive of images ({error}): make one with `docker save -o FILE IMAGE`"
        ) from error


def has_images(listed: str, images: Images) -> bool:
    """Whether a node has images, from what `crictl images --output json` writes; it writes whole names."""
    there = [(f"/{tag}", item["id"]) for item in json.loads(listed)["images"] for tag in item.get("repoTags") or ()]
    return all(any(tag.endswith(f"/{name}") and digest == id_ for tag, id_ in there) for name, digest in images)


def leads_there(text: str | None, real: str) -> bool:
    """Whether a kubeconfig has the cluster and the user of the real one; what else a user has set in it is theirs."""
    have, wanted = _parsed(text or ""), _parsed(real)
    return all(item in (have.get(key) or ()) for key in ("clusters", "users") for item in wanted[key])


def _parsed(text: str) -> dict[str, t.Any]:
    """A YAML file's content, empty where it has none that can be read."""
    try:
        content = yaml_load(text)
    except Exception:  # the parser's own errors have no common type here
        return {}
    return content if isinstance(content, dict) else {}


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _write(path: str, text: str, mode: int) -> None:
    """Replace a file as a whole; its folder is made where it is missing."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    replace_file(path, text, mode)
