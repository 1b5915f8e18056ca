# Keeps a user's object in a file from before it is changed until it is given back, whatever becomes of this process.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import pathlib
import shlex
import typing as t

from .._common.errors import LabError
from .._common.files import replace_file
from .api import Object
from .channel import Answer

# What the API adds to an object, and a new one must not have.
_SET_BY_API = ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink")
# Only labels of these are ever changed, and to replace one would end what is in it, or behind it.
_RELABELLED = ("Namespace", "Pod", "Service", "ServiceEntry")


def folder_of(results_file: str | None) -> str:
    """Where the file belongs: beside the results, else where programs of this user keep their state."""
    if results_file:
        return os.path.dirname(os.path.abspath(results_file))
    # XDG Base Directory Specification, XDG_STATE_HOME.
    return os.path.join(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), "ambient-lab")


class _Asked(t.Protocol):
    host: str

    def ask(self, path: str, **query: str) -> Answer:
        """GET one path of the API, and take any answer."""


def identity(kube: _Asked) -> str:
    """What tells a cluster from others, however it is reached; its URL where the user may not read that.

    The uid of kube-system stays as long as the cluster (OpenTelemetry, resource attribute k8s.cluster.uid).
    """
    answer = kube.ask("/api/v1/namespaces/kube-system")
    found = (answer.json() or {}) if answer.status == 200 else {}
    return str((found.get("metadata") or {}).get("uid") or kube.host)


def require_none_left(folder: str, server: str, command: str) -> None:
    """Make sure that no earlier run has kept anything of a cluster; arguments as of Kept.

    Raises:
        LabError: when one has; says how to give it back.
    """
    for path in sorted(glob.glob(_path(glob.escape(folder), server, "*"))):
        item: Object = {}
        with contextlib.suppress(OSError, ValueError):
            item = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        raise LabError(
            "An earlier run (or one that still goes on) has changed an object, or taken it away, and has not given it "
            f"back. {_way_back(path, item, command)}, remove that file, and run again. Nothing was changed"
        )


class Kept:
    """The file of one object of one cluster.

    Args:
        folder: of the file; made when it is needed.
        server: what tells the cluster from others, as identity() says.
        name: of the object, for people.
        command: with which the user reaches the cluster.
    """

    def __init__(self, folder: str, server: str, name: str, command: str) -> None:
        self.path = _path(folder, server, name.replace("/", "_").replace(" ", "_"))
        self._name, self._command = name, command
        self._item: Object = {}
        # Whether the file may be written over: it is of this run, or of no use any more.
        self._mine = False

    def require_none(self, current: Object | None) -> None:
        """Make sure that no earlier run has kept a policy here which is not in the cluster any more.

        Args:
            current: the policy as it is in the cluster, None where there is none.

        Raises:
            LabError: when one has, or when the file can't be read; says how to give the policy back.
        """
        try:
            with open(self.path, encoding="utf-8") as file:
                self._item = json.load(file)
            lost = differs(self._item, current)
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            raise LabError(
                f"{self.path} should hold {self._name} as an earlier run found it, but can't be read ({error}); "
                "look at it, remove it, and run again. Nothing was changed"
            ) from error
        if lost:
            raise LabError(
                f"An earlier run (or one that still goes on) took {self._name} away and has not given it back. "
                f"{self.way_back}, or remove that file if the policy is not wanted any more; then run again. "
                "Nothing was changed"
            )
        self._mine = True

    def keep(self, item: Object) -> None:
        """Write the object down, readable by its owner only.

        Raises:
            LabError: when it can't be written, and when another run has one there, which may be the only one.
        """
        self._item = as_new(item)
        try:
            pathlib.Path(self.path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Whole or not at all, and never in the place of another one.
            draft = self.path if self._mine else f"{self.path}.{os.getpid()}"
            replace_file(draft, json.dumps(self._item, indent=2) + "\n", 0o600)
            if not self._mine:
                try:
                    os.link(draft, self.path)
                finally:
                    os.unlink(draft)
                self._mine = True
        except OSError as error:
            raise LabError(
                f"{self._name} can't be kept in {self.path} while it is changed ({error}): name a folder that can be "
                "written in results_file, or in the variable XDG_STATE_HOME. Nothing was changed"
            ) from error

    def drop(self) -> None:
        """The object is back, or not wanted any more.

        Raises:
            LabError: when the file can't be removed.
        """
        try:
            pathlib.Path(self.path).unlink(missing_ok=True)
        except OSError as error:
            raise LabError(
                f"{self._name} is as it should be, but {self.path} can't be removed ({error}): do it by hand"
            ) from error

    @property
    def way_back(self) -> str:
        """How the user gives the object back; the command works whether one of its name is there or not."""
        return _way_back(self.path, self._item, self._command)


def _path(folder: str, server: str, name: str) -> str:
    return os.path.join(folder, f"policy_{name}_{hashlib.sha256(server.encode()).hexdigest()[:8]}.json")


def _way_back(path: str, item: Object, command: str) -> str:
    verb = "replace --force"
    if item.get("kind") in _RELABELLED:
        labels = (item["metadata"].get("labels") or {}).items()
        verb = shlex.join(["label", "--overwrite", *(f"{key}={text}" for key, text in labels)])
    return f"It is kept in {path}: give it back with `{command} {verb} -f {path}`"


def differs(here: Object | None, there: Object | None) -> bool:
    """Whether two states of an object differ: there or not, what it says, and what people wrote on it.

    Annotations count because of istio.io/dry-run (istio.io, resource annotations): such a policy denies nobody.
    """
    return _written(here) != _written(there)


def _written(item: Object | None) -> tuple[t.Any, ...] | None:
    """What is in an object without what the API keeps for itself."""
    if item is None:
        return None
    return item.get("spec"), *(item["metadata"].get(key) or {} for key in ("labels", "annotations"))


def as_new(item: Object) -> Object:
    """The object without what the API has set, so that it can be created again."""
    metadata = {key: value for key, value in item["metadata"].items() if key not in _SET_BY_API}
    return {"metadata": metadata, **{key: value for key, value in item.items() if key not in ("metadata", "status")}}
