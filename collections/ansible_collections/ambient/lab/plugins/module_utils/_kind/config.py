# A cluster's configuration, as kind reads it, and in what a cluster that is there differs from it.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import collections
import json
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._kind.engine import Node, Port

Config = dict[str, t.Any]
API = {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4"}
CONTROL_PLANE, WORKER, LOAD_BALANCER = "control-plane", "worker", "external-load-balancer"
# The API server's port in a node; kind publishes it on a free port of its own choice.
API_PORT = 6443
PORT_FIELDS = ("containerPort", "hostPort")


def rendered(config: t.Mapping[str, t.Any], name: str, image: str | None) -> Config:
    """The whole configuration: what was given, with the cluster's name, its nodes, and the image of each.

    Raises:
        LabError: when it does not have the form of a configuration.
    """
    # Plain types, whatever kinds of strings the values came as.
    whole: Config = {**API, **json.loads(json.dumps(config)), "name": name}
    nodes = whole.get("nodes") or [{"role": CONTROL_PLANE}]
    if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes):
        raise LabError("config: nodes must be a list, each a dict with a role (control-plane or worker)")
    whole["nodes"] = [_node(node, image) for node in nodes]
    return whole


def _node(node: Config, image: str | None) -> Config:
    whole = {"role": CONTROL_PLANE, **node, **({"image": image} if image else {})}
    if mappings := whole.get("extraPortMappings"):
        whole["extraPortMappings"] = [_mapping(mapping) for mapping in mappings]
    return whole


def _mapping(mapping: Config) -> Config:
    try:
        return {**mapping, **{field: int(mapping[field]) for field in PORT_FIELDS}}
    except (KeyError, TypeError, ValueError) as error:
        raise LabError(f"config: {mapping} is no port mapping: containerPort and hostPort must be numbers") from error


def asked_nodes(config: Config) -> list[Node]:
    """The nodes that kind makes of a rendered configuration; names as in its internal/providers/common/namer.go."""
    counts: collections.Counter[str] = collections.Counter()
    nodes = []
    for node in config["nodes"]:
        counts[node["role"]] += 1
        number = str(counts[node["role"]]) if counts[node["role"]] > 1 else ""
        ports = frozenset(
            Port(
                mapping["containerPort"],
                mapping["hostPort"],
                mapping.get("listenAddress") or "0.0.0.0",
                str(mapping.get("protocol") or "TCP").lower(),
            )
            for mapping in node.get("extraPortMappings") or ()
        )
        nodes.append(Node(f"{config['name']}-{node['role']}{number}", node["role"], node.get("image"), ports))
    return sorted(nodes, key=lambda node: node.name)


def differences(asked: t.Sequence[Node], there: t.Sequence[Node]) -> list[str]:
    """In what a cluster's nodes differ from those asked for; what the engine does not tell is not judged."""
    by_name = {node.name: node for node in there if node.role != LOAD_BALANCER}
    names = [node.name for node in asked]
    if sorted(by_name) != names:
        return [f"its nodes are {', '.join(sorted(by_name))}, asked for are {', '.join(names)}"]
    found = []
    for node in asked:
        real = by_name[node.name]
        if node.image and real.image and not _same_image(node.image, real.image):
            found.append(f"{node.name} runs {real.image}, asked for is {node.image}")
        published = {port for port in real.ports if port.container != API_PORT}
        if published != node.ports:
            found.append(f"{node.name} publishes {_listed(published)}, asked for is {_listed(node.ports)}")
    return found


def _listed(ports: t.Iterable[Port]) -> str:
    return ", ".join(str(port) for port in sorted(ports)) or "no port"


def _same_image(one: str, other: str) -> bool:
    """Whether two names mean one image: the digest decides where both have one."""
    digests = [name.partition("@")[2] for name in (one, other)]
    return digests[0] == digests[1] if all(digests) else full_name(one) == full_name(other)


def full_name(image: str) -> str:
    """An image's name with registry and folder, as containerd writes it; distribution/reference, familiar names."""
    first, slash, _rest = image.partition("/")
    if not slash:
        return f"docker.io/library/{image}"
    return image if "." in first or ":" in first or first == "localhost" else f"docker.io/{image}"
