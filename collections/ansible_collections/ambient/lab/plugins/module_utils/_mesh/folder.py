# Reads a mesh from a folder of YAML files, as it would be if a cluster had all of them.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import pathlib
import typing as t

from .._common.errors import LabError
from .._common.text import place_of
from .config import config_of, the_istiod
from .mesh import DATAPLANE_MODE, GATEWAY_NAME, PATHS, REDIRECTION, Mesh, Object, labels_of, name_of
from .shapes import Misfit, shaped

# Without PyYAML the Kubernetes client is not there either, and the module says so.
with contextlib.suppress(ImportError):
    import yaml

    class _Loader(yaml.SafeLoader):
        """Reads YAML as Kubernetes does: a date, and `=`, are texts."""

    _Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in found if tag.rpartition(":")[2] not in ("timestamp", "value")]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

_SUFFIXES = (".yml", ".yaml", ".json")
_WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job")
# API group of each kind that is read.
_GROUPS = {
    **{kind: path.split("/")[2] if path.startswith("/apis/") else "" for kind, path in PATHS.items()},
    **dict.fromkeys(_WORKLOADS, "apps"),
    "Job": "batch",
    "Namespace": "",
}
_MESH_CONFIG, _ISTIOD = ("ConfigMap", "istio-system/istio"), "istio-system/istiod"
_NO_CONFIG = "the mesh's configuration is not in the folder: Istio's defaults are taken"
_NO_ISTIOD = "istiod is not in the folder: the defaults of its flags are taken, and its version is not known"


def read_folder(path: str) -> Mesh:
    """The mesh of a folder's objects.

    Workloads become one ready pod each, without an address (none where they have no replicas); pods are in the mesh
    where their labels, or their namespace's, say so; a Gateway is programmed and has a ready pod.

    Args:
        path: of the folder; its subfolders are read, too.

    Raises:
        LabError: when there is nothing in it, or a file is no YAML, or an object that the mesh reads has not the form
            of its kind. Other objects are not looked at.
    """
    folder = pathlib.Path(path)
    files = sorted(file for file in folder.rglob("*") if file.suffix in _SUFFIXES and file.is_file())
    objects = [item for file in files for item in _objects(file)]
    if not objects:
        raise LabError(f"{path} holds no Kubernetes objects in files that end with {', '.join(_SUFFIXES)}")
    return assembled(objects)


def assembled(objects: t.Sequence[Object]) -> Mesh:
    """The mesh that a cluster would make of objects; each as `checked` gives it."""
    spaces = {item["metadata"]["name"]: item for item in objects if item["kind"] == "Namespace"}
    pods = [_pod(item) for item in objects if item["kind"] in _WORKLOADS and item.get("spec", {}).get("replicas") != 0]
    pods += [_ready(item) for item in objects if item["kind"] == "Pod"]
    gateways = [_ready(item) for item in objects if item["kind"] == "Gateway"]
    rest = [item for item in objects if item["kind"] in PATHS and item["kind"] not in ("Pod", "Gateway", "Deployment")]
    members = [_member(pod, spaces) for pod in pods]
    deployments = [item for item in objects if item["kind"] == "Deployment"]
    istiods = [item for item in deployments if labels_of(item).get("app") == "istiod" or name_of(item) == _ISTIOD]
    deployment, assumed = the_istiod(istiods) if istiods else ({}, (_NO_ISTIOD,))
    config_map = next((item for item in objects if (item["kind"], name_of(item)) == _MESH_CONFIG), {})
    config = config_of(config_map, deployment, assumed if config_map else (_NO_CONFIG, *assumed))
    waypoints = [_waypoint_pod(item) for item in gateways]
    return Mesh([*spaces.values(), *members, *waypoints, *gateways, *rest], config)


def _objects(file: pathlib.Path) -> t.Iterator[Object]:
    try:
        documents = list(yaml.load_all(file.read_text(encoding="utf-8"), Loader=_Loader))
    except yaml.YAMLError as error:
        raise LabError(f"{file} can't be read as YAML{place_of(error)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"{file} can't be read as YAML: {' '.join(str(error).split())[:200]}") from error
    for document in documents:
        # Files of values, and of other tools, may lie beside the manifests.
        if not isinstance(document, dict) or not document.get("kind") or "apiVersion" not in document:
            continue
        kind = str(document["kind"])
        listed = document.get("items") if kind.endswith("List") else [document]
        # A PodList leaves the kind of its items out.
        typed = {"apiVersion": document["apiVersion"], "kind": kind.removesuffix("List")} if kind != "List" else {}
        for item in listed if isinstance(listed, list) else []:
            found = {**typed, **item} if isinstance(item, dict) else {}
            if not found.get("kind"):
                raise LabError(f"{file}: {kind}: one of its items is no object with a kind")
            # Other groups have kinds of the same name, which the mesh does not read.
            if _GROUPS.get(str(found["kind"])) == str(found.get("apiVersion")).rpartition("/")[0]:
                yield checked(found, file)


def checked(item: Object, file: pathlib.Path) -> Object:
    """An object as a cluster would keep it: of the form of its kind, with a namespace.

    Raises:
        LabError: naming the file, the object and the field.
    """
    meta = item.get("metadata")
    if isinstance(meta, dict) and meta.get("generateName") and not meta.get("name"):
        # The API makes a name of it.
        item = {**item, "metadata": {**meta, "name": f"{meta['generateName']}0"}}
    try:
        found = shaped(item)
    except Misfit as error:
        name = meta.get("name") if isinstance(meta, dict) else None
        raise LabError(f"{file}: {item['kind']} {name or 'without a name'}: {error}") from error
    spaced = (found["kind"] in PATHS and found["kind"] != "GatewayClass") or found["kind"] in _WORKLOADS
    meta = {key: value for key, value in found["metadata"].items() if spaced or key != "namespace"}
    return {**found, "metadata": {"namespace": "default", **meta} if spaced else meta}


def _pod(workload: Object) -> Object:
    outer = workload.get("spec", {})
    template = outer.get("template") or {}
    meta, name = workload["metadata"], workload["metadata"]["name"]
    given = template.get("metadata") or {}
    owner = {"kind": workload["kind"], "name": name, "controller": True}
    # Workloads of several kinds may have one name.
    pod = f"{name}-0" if workload["kind"] == "StatefulSet" else f"{name}-{workload['kind'].lower()}-0"
    metadata = {**given, "name": pod, "namespace": meta["namespace"], "ownerReferences": [owner]}
    spec = dict(template.get("spec") or {})
    if workload["kind"] == "StatefulSet":
        spec |= {"hostname": pod, "subdomain": outer.get("serviceName", "")}
    return _ready({"kind": "Pod", "metadata": metadata, "spec": spec})


def _ready(item: Object) -> Object:
    """A pod that is ready, or a Gateway that is programmed, unless its status says something else."""
    status: Object = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    if item["kind"] == "Gateway":
        status = {"addresses": [{"type": "Hostname", "value": item["metadata"]["name"]}]}
    return {**item, "status": {**status, **(item.get("status") or {})}}


def _member(pod: Object, spaces: t.Mapping[str, Object]) -> Object:
    """The pod, with istio-cni's annotation where it would capture it."""
    mode = labels_of(pod).get(DATAPLANE_MODE) or labels_of(spaces.get(pod["metadata"]["namespace"])).get(DATAPLANE_MODE)
    if mode != "ambient" or pod.get("spec", {}).get("hostNetwork"):
        return pod
    annotations = {**(pod["metadata"].get("annotations") or {}), REDIRECTION: "enabled"}
    return {**pod, "metadata": {**pod["metadata"], "annotations": annotations}}


def _waypoint_pod(gateway: Object) -> Object:
    meta = gateway["metadata"]
    labels = {GATEWAY_NAME: meta["name"]}
    metadata = {"name": f"{meta['name']}-gateway-0", "namespace": meta["namespace"], "labels": labels}
    return _ready({"kind": "Pod", "metadata": metadata, "spec": {"serviceAccountName": meta["name"], "containers": []}})
