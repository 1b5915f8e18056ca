# The states of a mesh that the modules look at: a cluster, a folder of manifests, a revision of it, or both.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import tarfile
import typing as t

from .._cluster.kube import KUBE_SPEC, Kube
from .._common.errors import LabError
from .._mesh.folder import (
    SUFFIXES,
    Text,
    assembled,
    laid_over,
    read_objects,
    texts_of,
)
from .._mesh.load import Loader
from .._mesh.mesh import Mesh

Spec = dict[str, dict[str, t.Any]]
STATE_SPEC: Spec = {
    "manifests": {"type": "path"},
    "revision": {"type": "str"},
    "over_cluster": {"type": "bool", "default": False},
}
# Documented in doc_fragments/_state.py, as STATE_SPEC is.
SCOPE_SPEC: Spec = {"namespaces": {"type": "list", "elements": "str", "default": []}}
RESULTS_SPEC: Spec = {"results_file": {"type": "path"}, "section": {"type": "str"}}
# What the modules take that look at one state.
REACH_SPEC: Spec = {**KUBE_SPEC, **STATE_SPEC, **SCOPE_SPEC, **RESULTS_SPEC}
_GIT_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class State:
    """One state. notes: what in a folder is no object, and what of a cluster could not be read."""

    label: str
    mesh: Mesh
    notes: tuple[str, ...] = ()


def read_state(state: t.Mapping[str, t.Any], params: t.Mapping[str, t.Any]) -> State:
    """A state.

    Args:
        state: manifests, revision and over_cluster.
        params: of the module: kubeconfig, context and namespaces.

    Raises:
        LabError: on a folder that is not there or holds nothing, on objects that the API would refuse, and when a
            cluster or git does not answer.
    """
    path, revision = state["manifests"], state["revision"]
    if not path and (revision or state["over_cluster"]):
        raise LabError("revision and over_cluster are about a folder: name it in manifests")
    mesh = _cluster(params) if state["over_cluster"] or not path else None
    if not path:
        assert mesh is not None
        return State("the cluster", mesh, _unread(mesh))
    label = f"{path} at {revision}" if revision else path
    if not os.path.isdir(path):
        raise LabError(f"manifests: {path} is no folder")
    texts = _texts_at(path, revision) if revision else texts_of(path)
    missing = f"{label}: the folder is not there, so that this state is empty"
    objects, notes = ([], [missing]) if texts is None else read_objects(texts, label)
    if mesh is None:
        return State(label, assembled(objects), tuple(notes))
    return State(f"{label} laid over the cluster", laid_over(mesh, objects), (*notes, *_unread(mesh)))


def _cluster(params: t.Mapping[str, t.Any]) -> Mesh:
    return Loader(Kube(params["kubeconfig"], params["context"]), (), ()).load_all(params["namespaces"])


def _unread(mesh: Mesh) -> tuple[str, ...]:
    lost = {why: f"{kind} objects of {space or 'all namespaces'}" for (kind, space), why in mesh.unread.items()}
    return tuple(f"{what} can't be read, and what rests on them is unknown: {why}" for why, what in lost.items())


def _texts_at(path: str, revision: str) -> list[Text] | None:
    """The files of a folder as a revision of its git repository has them; None where it does not have the folder."""
    wrong = f"git can't give {path} at {revision}"
    if revision.startswith("-"):
        raise LabError(f"{wrong}: that is an option")
    try:
        run = _git(path, "archive", "--format=tar", revision, ".")
        known, held = (
            run.returncode and not _git(path, "rev-parse", "--quiet", "--verify", f"{revision}{what}").returncode
            for what in ("^{tree}", ":./")
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"{wrong}: {error}") from error
    if known and not held:
        return None
    if run.returncode:
        raise LabError(f"{wrong}: {' '.join(run.stderr.decode(errors='replace').split())[:200]}")
    found = []
    with tarfile.open(fileobj=io.BytesIO(run.stdout)) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            if member.issym() and os.path.splitext(member.name)[1] in ("", *SUFFIXES):
                link = os.path.normpath(member.name)
                raise LabError(
                    f"{wrong}: {link} is a symbolic link, which is not followed there: put the file in its place"
                )
            file = archive.extractfile(member) if member.isfile() and member.name.endswith(SUFFIXES) else None
            if file:
                name = f"{revision}:{os.path.normpath(member.name)}"
                try:
                    found.append((name, file.read().decode("utf-8")))
                except UnicodeDecodeError as error:
                    raise LabError(f"{name} can't be read as YAML: {error}") from error
    return found


def _git(path: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = ["git", "-C", path, *arguments]
    return subprocess.run(command, capture_output=True, check=False, timeout=_GIT_SECONDS)
