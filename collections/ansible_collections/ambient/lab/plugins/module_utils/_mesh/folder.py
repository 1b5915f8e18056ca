# Reads a mesh from a folder of YAML files, as it would be if a cluster had all of them.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import typing as t

from .._common.errors import LabError
from .._common.text import place_of
from .config import config_of, the_istiod
from .mesh import (
    GATEWAY_NAME,
    PATHS,
    REDIRECTION,
    Mesh,
    Object,
    annotations_of,
    labels_of,
    name_of,
    namespace_of,
    workload_name,
)
from .shapes import Misfit, shaped
from .valid import misnamed, problems, twice
from .workloads import (
    KINDS,
    admitted,
    as_ready,
    as_workload,
    gateway_pod,
    is_set_by_cluster,
    is_workload,
    pods_of_workload,
    tells_pods_apart,
)

# Without PyYAML the Kubernetes client is not there either, and the module says so.
with contextlib.suppress(ImportError):
    import yaml

    # libyaml's reader is the same one, ten times as fast; not every PyYAML has it.
    class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # chosen at run time
        """Reads YAML as Kubernetes does: a date, and `=`, are texts."""

    _Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in found if tag.rpartition(":")[2] not in ("timestamp", "value")]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

# Kinds that choose pods by their labels.
_POLICIES = ("AuthorizationPolicy", "PeerAuthentication")
SUFFIXES = (".yml", ".yaml", ".json")
# Key of an object under which its Place is; no API has it.
PLACE = "place"
# API group of each kind that is read.
_GROUPS = {
    **{kind: path.split("/")[2] if path.startswith("/apis/") else "" for kind, path in PATHS.items()},
    **KINDS,
    "Namespace": "",
}
# Versions of a group that Istio 1.31 and Gateway API 1.6 serve, where that is not v1 alone.
_VERSIONS = {
    "security.istio.io": ("v1", "v1beta1"),
    "networking.istio.io": ("v1", "v1beta1", "v1alpha3"),
    "extensions.istio.io": ("v1alpha1",),
    "gateway.networking.k8s.io": ("v1", "v1beta1", "v1alpha3", "v1alpha2"),
}
# Istio's kinds are mistaken under a group that is Istio's or Kubernetes' own; others may have kinds of these names.
_SECURITY, _MISTAKEN = "security.istio.io", ("istio.io", "k8s.io")
_MESH_CONFIG, _ISTIOD = ("ConfigMap", "istio-system/istio"), "istio-system/istiod"
_NO_CONFIG = "the mesh's configuration is not in the folder: Istio's defaults are taken"
_NO_ISTIOD = "istiod is not in the folder: the defaults of its flags are taken, and its version is not known"


# What is applied now is younger than all that is there.
_YOUNGEST = "9999-12-31T23:59:59Z"


# A file's name, as messages have it, and what is in it.
Text = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an object stands. node: of the YAML document."""

    file: str
    node: t.Any

    def at(self, *keys: t.Any) -> str:
        """file:line of a field, or of what of its path is there."""
        node, line = self.node, self.node.start_mark.line
        for key in keys:
            if isinstance(node, yaml.MappingNode):
                found = next(((name, value) for name, value in node.value if name.value == str(key)), None)
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
                found = (node.value[key],) * 2
            else:
                found = None
            if found is None:
                break
            line, node = found[0].start_mark.line, found[1]
        return f"{self.file}:{line + 1}"


def place_at(item: Object, *keys: t.Any) -> str:
    """file:line of a field of an object; "" where it comes from no file."""
    place = item.get(PLACE)
    return place.at(*keys) if isinstance(place, Place) else ""


def read_folder(path: str) -> Mesh:
    """The mesh of a folder's objects.

    Workloads become one pod each, without an address, and ready unless they have no replicas; pods are in the mesh
    where their labels, or their namespace's, say so; a Gateway is programmed and has a ready pod.

    Args:
        path: of the folder; its subfolders are read, too.

    Raises:
        LabError: as texts_of and read_objects.
    """
    return assembled(read_objects(texts_of(path), path)[0])


def texts_of(path: str) -> list[Text]:
    """The files of a folder that may hold objects.

    Raises:
        LabError: when one can't be read.
    """
    files = sorted(file for file in pathlib.Path(path).rglob("*") if file.suffix in SUFFIXES and file.is_file())
    found = []
    for file in files:
        try:
            found.append((str(file), file.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise LabError(f"{file} can't be read as YAML: {' '.join(str(error).split())[:200]}") from error
    return found


def read_objects(texts: t.Iterable[Text], where: str) -> tuple[list[Object], list[str]]:
    """The objects of some files, and what in them is none.

    Args:
        texts: of the files.
        where: they are, for messages.

    Raises:
        LabError: when there is nothing in them; or with one line for each file that is no YAML, and each object that
            the API would refuse, or that stands there twice. Objects that the mesh does not read are not looked at.
    """
    found: dict[tuple[str, str, str], Object] = {}
    wrong: list[str] = []
    notes: list[str] = []
    for name, text in texts:
        try:
            for item in _objects(name, text, wrong, notes):
                key = item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]
                if key in found:
                    label = f"{key[0]} {name_of(item).removeprefix('/')}"
                    wrong.append(f"{place_at(item)}: {label} is there already, at {place_at(found[key])}")
                found[key] = item
        except yaml.YAMLError as error:
            wrong.append(f"{name} can't be read as YAML{place_of(error)}")
    if wrong:
        raise LabError("\n".join(wrong))
    if not found:
        raise LabError(f"{where} holds no Kubernetes objects in files that end with {', '.join(SUFFIXES)}")
    return list(found.values()), notes


def assembled(objects: t.Sequence[Object]) -> Mesh:
    """The mesh that a cluster would make of objects; each as `checked` gives it."""
    spaces = {item["metadata"]["name"]: item for item in objects if item["kind"] == "Namespace"}
    apart = tells_pods_apart(item for item in objects if item["kind"] in _POLICIES)
    made = [(item, pod) for item in objects if is_workload(item) for pod in pods_of_workload(item, apart)]
    pods = [{**pod, PLACE: item.get(PLACE)} for item, pod in made]
    pods += [as_ready(item) for item in objects if item["kind"] == "Pod"]
    gateways = [as_ready(item) for item in objects if item["kind"] == "Gateway"]
    rest = [item for item in objects if item["kind"] in PATHS and item["kind"] not in ("Pod", "Gateway", "Deployment")]
    members = [admitted(pod, spaces.get(namespace_of(pod))) for pod in pods]
    deployments = [item for item in objects if item["kind"] == "Deployment"]
    istiods = [item for item in deployments if labels_of(item).get("app") == "istiod" or name_of(item) == _ISTIOD]
    deployment, assumed = the_istiod(istiods) if istiods else ({}, (_NO_ISTIOD,))
    config_map = next((item for item in objects if (item["kind"], name_of(item)) == _MESH_CONFIG), {})
    config = config_of(config_map, deployment, assumed if config_map else (_NO_CONFIG, *assumed))
    return Mesh(
        [*spaces.values(), *members, *map(gateway_pod, gateways), *gateways, *rest],
        dataclasses.replace(config, whole=False),
    )


def laid_over(mesh: Mesh, objects: t.Sequence[Object]) -> Mesh:
    """A cluster's mesh as it would be once objects were applied to it; each as `read_objects` gives it.

    Pods of a workload that is applied take over what its template says. What else the cluster says of an object stays,
    and so do objects that the folder does not have.
    """
    there = {_key(item): item for item in mesh.objects()}
    applied = {_key(item): _kept(item, there.get(_key(item))) for item in objects}
    merged = {**there, **applied}
    spaces = {name: item for (kind, _space, name), item in merged.items() if kind == "Namespace"}
    pods = {key: item for key, item in there.items() if key[0] == "Pod"}
    touched = {key for key in pods if ("Namespace", "", key[1]) in applied}
    for item in assembled(objects).items("Pod"):
        twins = [key for key, pod in pods.items() if _stands_for(pod, item)]
        if twins and GATEWAY_NAME in labels_of(item):
            continue
        pods |= {key: _retold(pods[key], item) for key in twins} or {_key(item): item}
        touched |= {*twins} or {_key(item)}
    for key in touched:
        if key[1] not in spaces and key in there:
            # What the Namespace says can't be read: who is in the mesh stays there.
            continue
        annotations = {name: text for name, text in annotations_of(pods[key]).items() if name != REDIRECTION}
        bare = {**pods[key], "metadata": {**pods[key]["metadata"], "annotations": annotations}}
        pods[key] = admitted(bare, spaces.get(key[1]))
    for key in applied.keys() & {*there}:
        merged[key] = {**applied[key], "status": there[key].get("status", {})}
    new = [key for key in applied.keys() - {*there} if key[0] == "Gateway"]
    merged |= {key: as_ready(applied[key]) for key in new}
    rest = [item for key, item in merged.items() if key[0] in PATHS and key[0] not in ("Pod", "Deployment")]
    return Mesh([*spaces.values(), *pods.values(), *rest], mesh.config, mesh.unread, mesh.read)


def _kept(item: Object, there: Object | None) -> Object:
    """An object that is applied, with what the API keeps of the one that is there, or gives to a new one."""
    meta, spec = item["metadata"], item.get("spec") or {}
    if there is None:
        return {**item, "metadata": {"creationTimestamp": _YOUNGEST, **meta}}
    age = there["metadata"].get("creationTimestamp")
    meta = {**meta, "creationTimestamp": age} if age else meta
    if item["kind"] == "Namespace":
        texts = {
            key: {**(there["metadata"].get(key) or {}), **(meta.get(key) or {})} for key in ("labels", "annotations")
        }
        return {**item, "metadata": {**meta, **texts}}
    if item["kind"] == "Service" and spec.get("type") != "ExternalName" and "clusterIP" not in spec:
        own = {key: there["spec"][key] for key in ("clusterIP", "clusterIPs") if (there.get("spec") or {}).get(key)}
        return {**item, "metadata": meta, "spec": {**spec, **own}}
    return {**item, "metadata": meta}


def _key(item: Object) -> tuple[str, str, str]:
    return str(item["kind"]), namespace_of(item), str(item["metadata"]["name"])


def _stands_for(pod: Object, item: Object) -> bool:
    """Whether a cluster's pod is one of those that a folder's pod stands for."""
    owner = next((str(entry["name"]) for entry in item["metadata"].get("ownerReferences") or []), "")
    gateway = labels_of(item).get(GATEWAY_NAME)
    same = _key(pod) == _key(item) or (owner and workload_name(pod) == owner)
    return namespace_of(pod) == namespace_of(item) and bool(
        same or (gateway and labels_of(pod).get(GATEWAY_NAME) == gateway)
    )


def _retold(pod: Object, item: Object) -> Object:
    """A cluster's pod with what a new template says; what its controllers gave it stays."""
    kept = {name: text for name, text in labels_of(pod).items() if is_set_by_cluster(name)}
    meta = {**pod["metadata"], "labels": {**labels_of(item), **kept}}
    return {**pod, "metadata": meta, "spec": {**pod.get("spec", {}), **item["spec"]}}


def _objects(file: str, text: str, wrong: list[str], notes: list[str]) -> t.Iterator[Object]:
    """The objects of a file that the mesh reads; what is wrong with others, and what is no object."""
    loader = _Loader(text)
    while loader.check_node():
        node = loader.get_node()
        document, place = loader.construct_document(node), Place(file, node)
        known = document if isinstance(document, dict) else {}
        missing = [key for key in ("apiVersion", "kind", "metadata") if not known.get(key)]
        if not {"apiVersion", "kind"} & {*missing}:
            try:
                items = [*_items(known, place)]
            except LabError as error:
                wrong.append(error.message)
                continue
            for item, where in items:
                try:
                    if _is_read(item, where):
                        for line, key in twice(where.node):
                            label = f"{item.get('kind')} {(item.get('metadata') or {}).get('name')}"
                            raise LabError(f"{where.file}:{line}: {label}: {key} stands there twice")
                        yield {**checked(item, where), PLACE: where}
                    elif workload := as_workload(item):
                        # Whether the API takes it is another's business.
                        with contextlib.suppress(LabError):
                            yield {**checked(workload, where), PLACE: where}
                except LabError as error:
                    wrong.append(error.message)
        elif len(missing) == 1:
            wrong.append(f"{place.at()}: {missing[0]} is missing")
        elif document is not None:
            # Files of values, and of other tools, may lie beside the manifests.
            notes.append(f"{place.at()}: left out, because it is no Kubernetes object")


def _items(document: Object, place: Place) -> t.Iterator[tuple[Object, Place]]:
    """A document, or the items of the list that it is, each with its place."""
    kind = str(document["kind"])
    if not kind.endswith("List"):
        yield document, place
        return
    # A PodList leaves the kind of its items out.
    typed = {"apiVersion": document["apiVersion"], "kind": kind.removesuffix("List")} if kind != "List" else {}
    listed = document.get("items") or []
    if not isinstance(listed, list):
        raise LabError(f"{place.at('items')}: items of a {kind} must be a list")
    nodes: list[t.Any] = next((value.value for key, value in place.node.value if key.value == "items"), [])
    for item, node in zip(listed, nodes, strict=False):
        whole, where = {**typed, **item} if isinstance(item, dict) else typed, Place(place.file, node)
        yield from _items(whole, where) if isinstance(whole.get("kind"), str) else [(whole, where)]


def _is_read(item: Object, where: Place) -> bool:
    """Whether the mesh reads objects of a kind: of its API group alone, as others have kinds of the same name.

    Raises:
        LabError: on an object that is meant for Istio, and that no API serves.
    """
    kind, given = str(item.get("kind") or ""), str(item.get("apiVersion") or "")
    group, wanted = given.rpartition("/")[0], _GROUPS.get(kind, "")
    if _SECURITY in (group, given) and kind not in _GROUPS:
        known = ", ".join(name for name, own in _GROUPS.items() if own == _SECURITY)
        raise LabError(f"{where.at('kind')}: unknown kind {kind} of {_SECURITY}: known are {known}")
    if not given and kind in _GROUPS:
        raise LabError(f"{where.at()}: an item of a list, {kind}: apiVersion is missing")
    mistaken = wanted.endswith("istio.io") and ("." not in group or group.endswith(_MISTAKEN))
    return not kind or _GROUPS.get(kind) == group or mistaken


def checked(item: Object, where: Place) -> Object:
    """An object as a cluster would keep it: of the form of its kind, with a namespace, and taken by the API.

    Raises:
        LabError: naming the file, the line, the object and the field.
    """
    meta, kind = item.get("metadata"), item.get("kind")
    if not kind:
        raise LabError(f"{where.at()}: an item of a list is no object with a kind")
    label = f"{kind} {(meta.get('name') if isinstance(meta, dict) else None) or 'without a name'}"
    group, _slash, version = str(item.get("apiVersion")).rpartition("/")
    if (
        "apiVersion" in item
        and kind in _GROUPS
        and (group != _GROUPS[kind] or version not in _VERSIONS.get(group, ("v1",)))
    ):
        served = " or ".join(f"{_GROUPS[kind]}/{name}".strip("/") for name in _VERSIONS.get(_GROUPS[kind], ("v1",)))
        raise LabError(f"{where.at('apiVersion')}: {label}: unknown apiVersion {item['apiVersion']}: write {served}")
    if isinstance(meta, dict) and meta.get("generateName") and not meta.get("name"):
        # The API makes a name of it.
        item = {**item, "metadata": {**meta, "name": f"{meta['generateName']}0"}}
    try:
        found = shaped(item)
    except Misfit as error:
        raise LabError(f"{where.at(*error.keys)}: {label}: {error}") from error
    spaced = kind not in ("GatewayClass", "Namespace")
    meta = {key: value for key, value in found["metadata"].items() if spaced or key != "namespace"}
    found["metadata"] = {"namespace": "default", **meta} if spaced else meta
    if refused := [*misnamed(kind, meta), *problems(found)]:
        raise LabError("\n".join(f"{where.at(*keys)}: {label}: {text}" for keys, text in refused))
    return found
