# A cluster's configuration, as kind reads it.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import json
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError

Config = dict[str, t.Any]
API = {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4"}
PORT_FIELDS = ("containerPort", "hostPort")


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
