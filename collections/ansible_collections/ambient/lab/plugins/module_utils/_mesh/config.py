# What istiod was told of the mesh: its ConfigMap, and the flags of its Deployment, where the user may read them.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import contextlib
import json
import re
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._cluster.channel import Answer
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import MeshConfig, Object

# Without PyYAML the Kubernetes client is not there either, and the module says so.
with contextlib.suppress(ImportError):
    import yaml

ROOT_NAMESPACE = "istio-system"
_CONFIG = f"/api/v1/namespaces/{ROOT_NAMESPACE}/configmaps/istio"
_ISTIOD = f"/apis/apps/v1/namespaces/{ROOT_NAMESPACE}/deployments/istiod"


class Reader(t.Protocol):
    """GET requests to the Kubernetes API."""

    def ask(self, path: str, **query: str) -> Answer:
        """GET a path and take any answer."""


def read_config(reader: Reader) -> MeshConfig:
    """The mesh's configuration; Istio's defaults where it can't be read, which is said.

    Raises:
        LabError: when the API does not answer at all.
    """
    answers = {path: reader.ask(path) for path in (_CONFIG, _ISTIOD)}
    unread = [path.rpartition("/")[2] for path, answer in answers.items() if answer.status != 200]
    assumed = tuple(f"{name} of {ROOT_NAMESPACE} can't be read: Istio's defaults are taken" for name in unread)
    return config_of(_object(answers[_CONFIG]), _object(answers[_ISTIOD]), assumed)


def config_of(config_map: Object, deployment: Object, assumed: tuple[str, ...] = ()) -> MeshConfig:
    """The mesh's configuration.

    Args:
        config_map: ConfigMap `istio`; empty where it is not known.
        deployment: of istiod; empty where it is not known.
        assumed: what was not known.
    """
    try:
        said = yaml.safe_load((config_map.get("data") or {}).get("mesh") or "") or {}
    except yaml.YAMLError:
        said = None
    if not isinstance(said, dict):
        said, assumed = (
            {},
            (*assumed, f"ConfigMap {ROOT_NAMESPACE}/istio is no YAML mapping: Istio's defaults are taken"),
        )
    containers = deployment.get("spec", {}).get("template", {}).get("spec", {}).get("containers") or []
    flags = {
        str(item["name"]): str(item.get("value") or "")
        for container in containers
        for item in container.get("env") or []
    }
    domains = (str(said.get("trustDomain") or "cluster.local"), *map(str, said.get("trustDomainAliases") or ()))
    headers = (said.get("defaultConfig") or {}).get("proxyHeaders") or {}
    root = str(said.get("rootNamespace") or ROOT_NAMESPACE)
    words = [str(word) for container in containers for word in container.get("args") or []]
    domain = words[words.index("--domain") + 1] if "--domain" in words[:-1] else "cluster.local"
    return MeshConfig(root, domain, domains, headers, flags, _version(deployment, containers), assumed)


def _version(deployment: Object, containers: t.Sequence[Object]) -> tuple[int, int] | None:
    """istiod's version: of the chart that made it, or its image's tag."""
    labels = deployment.get("metadata", {}).get("labels") or {}
    tags = [str(container.get("image", "")).rpartition(":")[2] for container in containers]
    for text in [str(labels.get("app.kubernetes.io/version", "")), *tags]:
        if match := re.match(r"v?(\d{1,3})\.(\d{1,3})\b", text):
            return int(match[1]), int(match[2])
    return None


def _object(answer: Answer) -> Object:
    if answer.status != 200:
        return {}
    try:
        found = json.loads(answer.body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
