# Makes a kind cluster be there or not: what is, what is to be, and the steps between the two.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import os
import re
import typing as t

from ansible.module_utils.common.yaml import yaml_dump, yaml_load
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._common.files import replace_file
from ansible_collections.ambient.lab.plugins.module_utils._kind import images, words
from ansible_collections.ambient.lab.plugins.module_utils._kind.config import (
    LOAD_BALANCER,
    Config,
    asked_nodes,
    differences,
    rendered,
)
from ansible_collections.ambient.lab.plugins.module_utils._kind.engine import (
    CANNOT_RUN,
    NOT_FOUND,
    Answer,
    Engine,
    Node,
    Run,
    engine_of,
    last_line,
)

SPEC: dict[str, dict[str, t.Any]] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "name": {"type": "str", "required": True},
    "kubeconfig": {"type": "path", "required": True},
    "config": {"type": "dict", "default": {}},
    "config_file": {"type": "path"},
    "image": {"type": "str"},
    "image_archives": {"type": "list", "elements": "path", "default": []},
    "wait": {"type": "int", "default": 0},
    "binary": {"type": "path", "default": "kind"},
    "minimum_version": {"type": "str"},
}
MISSING, CURRENT, OTHER, UNKNOWN = (
    "missing",
    "current",
    "of another cluster, or outdated",
    "not known before the nodes run",
)
LOADED, NOT_LOADED = "on every node", "not on every node"
WIDTH = 1000
STARTABLE = {"exited", "created", "stopped", "configured", "initialized"}


class World(t.NamedTuple):
    """What a cluster's steps need of the machine.

    Attributes:
        run: runs a program.
        environ: this process's variables.
        port_problem: why nobody can listen on an address and a port, None where one can.
    """

    run: Run
    environ: t.Mapping[str, str]
    port_problem: t.Callable[[str, int], str | None]


@dataclasses.dataclass(frozen=True)
class State:
    """What can differ of a cluster.

    Attributes:
        nodes: by name, their status; None where there is no cluster.
        image_archives: by path, whether the nodes have their images.
        network: the one that goes with the cluster, where it is to be removed.
    """

    nodes: dict[str, str] | None
    kubeconfig: str
    image_archives: dict[str, str]
    network: str | None = None

    def shown(self) -> str:
        """The state as text, for diff mode."""
        return _dumped(dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True)
class Cluster:
    """One cluster of kind on one engine.

    Attributes:
        options: of the module.
        config: whole, with name and images.
    """

    options: t.Mapping[str, t.Any]
    config: Config
    engine: Engine
    world: World

    @property
    def name(self) -> str:
        return str(self.options["name"])

    def kind(self, *arguments: str, shown: bool = False) -> Answer:
        """Run kind for this cluster; no kubeconfig but the given one is in its reach."""
        env = {**self.engine.env, "KUBECONFIG": self.options["kubeconfig"]}
        return self.world.run(self.options["binary"], *arguments, "--name", self.name, env=env, shown=shown)

    def state(self, nodes: t.Sequence[Node]) -> State:
        """What is there now."""
        archives = {path: images.read_archive(path) for path in self.options["image_archives"]}
        running = bool(nodes) and all(node.status == "running" for node in nodes)
        lacking = self.lacking(archives, nodes) if running else {path: ["?"] for path in archives}
        return State(
            {node.name: node.status for node in nodes} or None,
            self.access() if running else UNKNOWN if nodes else MISSING,
            {path: NOT_LOADED if lacks else LOADED for path, lacks in lacking.items()},
        )

    def lacking(
        self, archives: t.Mapping[str, frozenset[images.Image]], nodes: t.Sequence[Node]
    ) -> dict[str, list[str]]:
        """By archive, the nodes that do not have all of its images."""
        names = [node.name for node in nodes if node.role != LOAD_BALANCER] if archives else []
        have = {
            name: images.of_node(self.engine.execute(name, "crictl", "images", "--output", "json")) for name in names
        }
        return {path: [name for name in names if wanted - have[name]] for path, wanted in archives.items()}

    def access(self) -> str:
        """Whether the kubeconfig leads to this cluster, as things are now."""
        return kubeconfig_state(_read(self.options["kubeconfig"]), self.real_kubeconfig())

    def write_access(self) -> None:
        """Make the kubeconfig lead to this cluster."""
        path, real = self.options["kubeconfig"], self.real_kubeconfig()
        if kubeconfig_state(_read(path), real) != CURRENT:
            _write(path, real, 0o600)

    def real_kubeconfig(self) -> str:
        answer = self.kind("get", "kubeconfig")
        if answer.code:
            raise LabError(
                f"The kind cluster {self.name} is not whole ({last_line(answer.err)}): an earlier run was interrupted; "
                + self.way_out()
            )
        return answer.out

    def way_out(self) -> str:
        return f"remove it (kind delete cluster --name {self.name}, or the lab's clean-up), then run this again"

    def own_network(self, nodes: t.Sequence[Node]) -> str | None:
        """The network that kind has made for this cluster, if nothing but the cluster's nodes is in it."""
        name = _read(self.options["network_file"])
        if name is None or name not in self.engine.networks():
            return None
        return None if set(self.engine.members(name)) - {node.name for node in nodes} else name

    def create(self) -> None:
        """Make the cluster, or leave nothing of it: kind takes back what it knows of, not a node that came later."""
        _write(self.options["config_file"], _dumped(self.config), 0o644)
        # kind would merge into it what is left of an earlier cluster.
        _remove(self.options["kubeconfig"])
        network = self.engine.network(self.world.environ)
        if network not in self.engine.networks():
            _write(self.options["network_file"], network, 0o644)
        wait = ("--wait", f"{self.options['wait']}s") if self.options["wait"] else ()
        arguments = ("--config", self.options["config_file"], "--kubeconfig", self.options["kubeconfig"], *wait)
        answer = self.kind("create", "cluster", *arguments, shown=True)
        if answer.code:
            if self.engine.names(self.name):
                self.kind("delete", "cluster", "--kubeconfig", self.options["kubeconfig"])
            if left := self.own_network(()):
                self.engine.remove_network(left)
            for file in ("config_file", "network_file"):
                _remove(self.options[file])
            raise LabError(words.explain(f"The kind cluster {self.name} can't be made", answer.err))

    def start(self, nodes: t.Sequence[Node]) -> None:
        """Start nodes that were stopped, or that did not come back with the engine."""
        answer = self.engine.start(nodes)
        if answer.code:
            names = ", ".join(node.name for node in nodes)
            problem = words.explain(f"The stopped nodes {names} can't be started", answer.err)
            raise LabError(f"{problem}; or {self.way_out()}")

    def load(self, nodes: t.Sequence[Node]) -> None:
        """Load what the nodes lack of the archives."""
        archives = {path: images.read_archive(path) for path in self.options["image_archives"]}
        for path, lacks in self.lacking(archives, nodes).items():
            if not lacks:
                continue
            answer = self.kind("load", "image-archive", path, "--nodes", ",".join(lacks), shown=True)
            if answer.code:
                raise LabError(words.explain(f"{path} can't be loaded into {', '.join(lacks)}", answer.err))


def settle(options: t.Mapping[str, t.Any], world: World, check_mode: bool) -> dict[str, t.Any]:
    """Make the cluster be what is asked for.

    Args:
        options: as SPEC has them.
        check_mode: only say what would change.

    Returns:
        The module's return values.

    Raises:
        LabError: with one line that names what to do.
    """
    folder = os.path.dirname(options["kubeconfig"])
    whole = {
        **options,
        "config_file": options["config_file"] or os.path.join(folder, "kind.yaml"),
        # Names the network of the cluster, where kind makes it: kind never removes one.
        "network_file": os.path.join(folder, "kind-network"),
    }
    config = rendered(options["config"], options["name"], options["image"])
    check_kind(world, options)
    engine = _engine(world, options, folder)
    cluster = Cluster(whole, config, engine, world)
    nodes = engine.nodes(options["name"])
    before = cluster.state(nodes) if options["state"] == "present" else _presence(nodes, cluster.own_network(nodes))
    if options["state"] == "present":
        check_nodes(cluster, nodes)
        after = _goal(cluster, nodes)
    else:
        after = _presence((), None)
    if before != after and not check_mode:
        if options["state"] == "present":
            _build(cluster, nodes)
        else:
            _delete(cluster, before.network)
    diff = {"before": before.shown(), "after": after.shown(), "before_header": options["name"]}
    names = sorted(after.nodes or ())
    return {"changed": before != after, "engine": engine.name, "nodes": names, "diff": diff}


def _engine(world: World, options: t.Mapping[str, t.Any], folder: str) -> Engine:
    try:
        return engine_of(world.run, world.environ, options["name"])
    except LabError as error:
        if options["state"] == "present":
            raise
        raise LabError(f"{error.message}; where it is gone for good, remove {folder} by hand") from error


def _presence(nodes: t.Sequence[Node], network: str | None) -> State:
    return State({node.name: node.status for node in nodes} or None, MISSING if not nodes else UNKNOWN, {}, network)


def _goal(cluster: Cluster, nodes: t.Sequence[Node]) -> State:
    names = [node.name for node in nodes] or [node.name for node in asked_nodes(cluster.config)]
    return State(dict.fromkeys(names, "running"), CURRENT, dict.fromkeys(cluster.options["image_archives"], LOADED))


def _build(cluster: Cluster, nodes: t.Sequence[Node]) -> None:
    if not nodes:
        cluster.create()
        nodes = cluster.engine.nodes(cluster.name)
    if stopped := [node for node in nodes if node.status != "running"]:
        cluster.start(stopped)
    cluster.load(nodes)
    cluster.write_access()


def _delete(cluster: Cluster, network: str | None) -> None:
    answer = cluster.kind("delete", "cluster", "--kubeconfig", cluster.options["kubeconfig"], shown=True)
    if answer.code:
        raise LabError(words.explain(f"The kind cluster {cluster.name} can't be removed", answer.err))
    if network:
        answer = cluster.engine.remove_network(network)
        if answer.code:
            raise LabError(words.explain(f"The network {network} can't be removed", answer.err))
    for file in ("kubeconfig", "config_file", "network_file"):
        _remove(cluster.options[file])


def check_kind(world: World, options: t.Mapping[str, t.Any]) -> None:
    """Raise LabError when there is no kind, or one that is too old for the node image."""
    answer = world.run(options["binary"], "--version")
    if answer.code == NOT_FOUND:
        raise LabError(f"The program {options['binary']} is not installed: install kind, or name it in binary")
    if answer.code == CANNOT_RUN:
        raise LabError(f"{answer.err}, it can't be run: install kind for this machine, or name it in binary")
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", answer.out)
    if answer.code or not found:
        raise LabError(
            f"{options['binary']} is not kind: it answers --version with {last_line(answer.out + answer.err)}"
        )
    if (minimum := options["minimum_version"]) and _version(found[0]) < _version(minimum):
        raise LabError(
            f"kind {found[0]} is too old for the node image {options['image']}: install kind {minimum} or newer, "
            "or name an image that was made for yours"
        )


def _version(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def check_nodes(cluster: Cluster, nodes: t.Sequence[Node]) -> None:
    """Raise LabError when a cluster that is there is another one, or one that is not there could not be made."""
    asked = asked_nodes(cluster.config)
    if not nodes:
        _check_ports(cluster, asked)
        return
    found = differences(asked, nodes)
    kept = _parsed(_read(cluster.options["config_file"]))
    if not found and kept not in ({}, cluster.config):
        keys = sorted(key for key in {*kept, *cluster.config} if kept.get(key) != cluster.config.get(key))
        found = [f"it was made with another configuration ({cluster.options['config_file']}: {', '.join(keys)})"]
    if found:
        raise LabError(
            f"The kind cluster {cluster.name} is not the one asked for: {'; '.join(found)}. "
            f"kind can't change a cluster: {cluster.way_out()}, or take another name"
        )
    if lost := [f"{node.name} is {node.status}" for node in nodes if node.status not in {"running", *STARTABLE}]:
        raise LabError(f"The kind cluster {cluster.name} can't be used: {', '.join(lost)}: {cluster.way_out()}")


def _check_ports(cluster: Cluster, asked: t.Sequence[Node]) -> None:
    if not cluster.world.environ.get("DOCKER_HOST", "unix:").startswith("unix:"):
        return  # the ports are another machine's
    for port in sorted(port for node in asked for port in node.ports if port.host > 0):
        if problem := cluster.world.port_problem(port.address, port.host):
            raise LabError(f"Port {port.address}:{port.host} can't be published ({problem}): {words.PORTS}")


def kubeconfig_state(text: str | None, real: str) -> str:
    """Whether a kubeconfig has the cluster and the user of the real one; what else a user has set in it is theirs."""
    if text is None:
        return MISSING
    have, wanted = _parsed(text), _parsed(real)
    same = all(item in (have.get(key) or ()) for key in ("clusters", "users") for item in wanted[key])
    return CURRENT if same else OTHER


def _dumped(content: dict[str, t.Any]) -> str:
    return str(yaml_dump(content, sort_keys=False, default_flow_style=False, width=WIDTH))


def _parsed(text: str | None) -> dict[str, t.Any]:
    """A YAML file's content, empty where it has none that can be read."""
    try:
        content = yaml_load(text or "")
    except Exception:  # the parser's own errors have no common type here
        return {}
    return content if isinstance(content, dict) else {}


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LabError(f"{path} can't be read ({error.strerror})") from error


def _write(path: str, text: str, mode: int) -> None:
    """Replace a file as a whole; its folder is made where it is missing."""
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        replace_file(path, text, mode)
    except OSError as error:
        raise LabError(f"{path} can't be written ({error.strerror})") from error


def _remove(path: str) -> None:
    try:
        os.remove(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise LabError(f"{path} can't be removed ({error.strerror})") from error
