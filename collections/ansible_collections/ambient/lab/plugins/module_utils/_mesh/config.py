# What istiod was told of the mesh: its ConfigMap, and the flags of its Deployment, where the user may read them.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import dataclasses
import re
import typing as t

from .._cluster.api import Asker
from .._cluster.channel import Answer
from .mesh import REVISION, MeshConfig, Object, labels_of, name_of

# Without PyYAML the Kubernetes client is not there either, and the module says so.
with contextlib.suppress(ImportError):
    import yaml

ROOT_NAMESPACE = "istio-system"
_ISTIOD = f"/apis/apps/v1/namespaces/{ROOT_NAMESPACE}/deployments/istiod"
_ISTIODS = "/apis/apps/v1/deployments"
_DEFAULTS = "Istio's defaults are taken"
_NO_FLAGS = f"{_DEFAULTS} for its flags, and its version is not known"
# What of the mesh's configuration is evaluated, or tells no proxy what to let through.
_TOLD = (
    *("trustDomain", "trustDomainAliases", "rootNamespace", "extensionProviders", "defaultProviders"),
    *("accessLogFile", "accessLogFormat", "accessLogEncoding", "enableTracing", "enablePrometheusMerge"),
)
_TOLD_OF_PROXIES = ("proxyHeaders", "tracing", "discoveryAddress", "image", "concurrency")
_PROVIDERS = {"envoyExtAuthzHttp": "http", "envoyExtAuthzGrpc": "grpc"}


def read_config(reader: Asker) -> MeshConfig:
    """The mesh's configuration; Istio's defaults where it can't be read, which is said.

    Raises:
        LabError: when the API does not answer at all.
    """
    istiod, assumed = _istiod(reader)
    meta = istiod.get("metadata") or {}
    space, revision = str(meta.get("namespace") or ROOT_NAMESPACE), labels_of(istiod).get(REVISION, "default")
    name = "istio" if revision == "default" else f"istio-{revision}"
    answer = reader.ask(f"/api/v1/namespaces/{space}/configmaps/{name}")
    if answer.status != 200:
        assumed = (*assumed, f"ConfigMap {space}/{name} can't be read (HTTP {answer.status}): {_DEFAULTS}")
    return config_of(_object(answer), istiod, assumed, space)


def _istiod(reader: Asker) -> tuple[Object, tuple[str, ...]]:
    """istiod's Deployment, by the chart's label or under its name; empty, and why, where it is not known."""
    listed = reader.ask(_ISTIODS, labelSelector="app=istiod")
    found = _object(listed).get("items") or []
    if found:
        return the_istiod(found)
    answer = reader.ask(_ISTIOD)
    if answer.status == 200:
        unread = f"whether {_ISTIOD} is the only istiod can't be read: GET {_ISTIODS} answers HTTP {listed.status}"
        return _object(answer), (unread,) if listed.status == 403 else ()
    why = f"istiod's Deployment is not found: GET {_ISTIODS} answers HTTP {listed.status}"
    if answer.status != 404:
        why = f"istiod's Deployment can't be read: GET {_ISTIOD} answers HTTP {answer.status}"
    return {}, (f"{why}: {_NO_FLAGS}",)


def the_istiod(found: t.Sequence[Object]) -> tuple[Object, tuple[str, ...]]:
    """The one istiod there is; empty, and why, where there are several: which one serves which proxy is not known."""
    if len(found) == 1:
        return dict(found[0]), ()
    return {}, (f"several istiods may be in charge ({', '.join(map(name_of, found))}): {_NO_FLAGS}",)


def config_of(
    config_map: Object, deployment: Object, assumed: tuple[str, ...] = (), space: str = ROOT_NAMESPACE
) -> MeshConfig:
    """The mesh's configuration, by ConfigMap `istio` and istiod's Deployment; each empty where it is not known.

    assumed: what was not known. space: istiod's namespace.
    """
    try:
        said = yaml.safe_load((config_map.get("data") or {}).get("mesh") or "") or {}
    except yaml.YAMLError:
        said = None
    if not isinstance(said, dict):
        config_map = {}
        said, assumed = {}, (*assumed, f"the mesh's configuration in {space} is no YAML mapping: {_DEFAULTS}")
    containers = deployment.get("spec", {}).get("template", {}).get("spec", {}).get("containers") or []
    flags = {
        str(item["name"]): str(item.get("value") or "")
        for container in containers
        for item in container.get("env") or []
    }
    shared = bool(flags.get("SHARED_MESH_CONFIG"))
    if shared:
        assumed = (*assumed, f"istiod's SHARED_MESH_CONFIG is not read: {_DEFAULTS} for what only stands there")
    domains = (str(said.get("trustDomain") or "cluster.local"), *map(str, _list(said.get("trustDomainAliases"))))
    defaults = said.get("defaultConfig")
    headers = (defaults.get("proxyHeaders") if isinstance(defaults, dict) else None) or {}
    root = str(said.get("rootNamespace") or space)
    listed = [item for item in _list(said.get("extensionProviders")) if isinstance(item, dict)]
    providers = {str(item.get("name")): kind for item in listed for key, kind in _PROVIDERS.items() if key in item}
    words = [str(word) for container in containers for word in container.get("args") or []]
    domain = words[words.index("--domain") + 1] if "--domain" in words[:-1] else "cluster.local"
    version = _version(deployment, containers)
    known, hidden = providers if config_map and not shared else None, "serviceEntryVisibility" in said
    selects = bool(said.get("discoverySelectors"))
    rest = {key: value for key, value in said.items() if key not in (*_TOLD, "defaultConfig")}
    proxies = defaults if isinstance(defaults, dict) else {}
    rest |= {f"defaultConfig.{key}": value for key, value in proxies.items() if key not in _TOLD_OF_PROXIES}
    rest |= {f"extensionProviders {item.get('name')}": item for item in listed if {*_PROVIDERS} & {*item}}
    found = MeshConfig(root, domain, domains, headers, flags, version, known, hidden, selects, assumed)
    return dataclasses.replace(found, rest=rest)


def _list(value: t.Any) -> list[t.Any]:
    return value if isinstance(value, list) else []


def _version(deployment: Object, containers: t.Sequence[Object]) -> tuple[int, ...] | None:
    """istiod's version: of the chart that made it, or its image's tag; None where neither names a release.

    A chart that no release builder has made says 1.0.0 (istio/istio, manifests/charts/*/Chart.yaml).
    """
    labels = deployment.get("metadata", {}).get("labels") or {}
    tags = [str(container.get("image", "")).rpartition(":")[2] for container in containers]
    for text in [str(labels.get("app.kubernetes.io/version", "")), *tags]:
        match = re.match(r"v?(\d{1,3})\.(\d{1,3})(?:\.(\d{1,3}))?\b", text)
        if match and (match[1], match[2]) != ("1", "0"):
            return tuple(int(part) for part in match.groups() if part)
    return None


def _object(answer: Answer) -> Object:
    return (answer.json() if answer.status == 200 else None) or {}
