# Keeps the user's policy in a file from before it is removed until it is given back, whatever becomes of this process.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import typing as t

from .._claims.parse import PolicyRef
from .._common.errors import LabError
from .._common.files import replace_file
from .._mesh.mesh import Object

# What the API adds to an object, and a new one must not have.
_SET_BY_API = ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink")


def folder_of(results_file: str | None) -> str:
    """Where the file belongs: beside the results, else where programs of this user keep their state."""
    if results_file:
        return os.path.dirname(os.path.abspath(results_file))
    # XDG Base Directory Specification, XDG_STATE_HOME.
    return os.path.join(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), "ambient-lab")


class Kept:
    """The file of one policy of one cluster.

    Args:
        folder: of the file; made when it is needed.
        server: URL of the cluster's API.
        policy: its name.
        command: with which the user reaches the cluster.
    """

    def __init__(self, folder: str, server: str, policy: PolicyRef, command: str) -> None:
        cluster = hashlib.sha256(server.encode()).hexdigest()[:8]
        self.path = os.path.join(folder, f"policy_{policy.namespace}_{policy.name}_{cluster}.json")
        self._policy, self._command = policy, command

    def require_none(self, current: Object | None) -> None:
        """Make sure that no earlier run has kept a policy here which is not in the cluster any more.

        Args:
            current: the policy as it is in the cluster, None where there is none.

        Raises:
            LabError: when one has, or when the file can't be read; says how to give the policy back.
        """
        try:
            with open(self.path, encoding="utf-8") as file:
                kept: Object = json.load(file)
            lost = differs(kept, current)
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            raise LabError(
                f"{self.path} should hold {self._policy} as an earlier run found it, but can't be read ({error}); "
                "look at it, remove it, and run again. Nothing was changed"
            ) from error
        if lost:
            raise LabError(
                f"An earlier run (or one that still goes on) took {self._policy} away and has not given it back. "
                f"{self.way_back}, or remove that file if the policy is not wanted any more; then run again. "
                "Nothing was changed"
            )

    def keep(self, policy: Object) -> None:
        """Write the policy down, readable by its owner only.

        Raises:
            LabError: when it can't be written.
        """
        try:
            pathlib.Path(self.path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(self.path, json.dumps(as_new(policy), indent=2) + "\n", 0o600)
        except OSError as error:
            raise LabError(
                f"{self._policy} can't be kept in {self.path} while it is removed ({error}): give results_file in a "
                "folder that can be written. Nothing was changed"
            ) from error

    def drop(self) -> None:
        """The policy is back, or not wanted any more.

        Raises:
            LabError: when the file can't be removed.
        """
        try:
            pathlib.Path(self.path).unlink(missing_ok=True)
        except OSError as error:
            raise LabError(
                f"{self._policy} is as it should be, but {self.path} can't be removed ({error}): do it by hand"
            ) from error

    @property
    def way_back(self) -> str:
        """How the user gives the policy back; the command works whether one of its name is there or not."""
        return f"It is kept in {self.path}: give it back with `{self._command} replace --force -f {self.path}`"


def wanted_at_end(final_state: str | None, definition: Object, before: Object | None) -> Object | None:
    """The policy that must be there in the end; None for none.

    Args:
        final_state: present, absent, or None for what was there before.
        definition: the policy that comes and goes.
        before: the policy that was there, None where none was.
    """
    if final_state is None:
        return before
    if final_state == "absent":
        return None
    # One that says the same already is given back as it was.
    return definition if differs(before, definition) else before


def differs(here: Object | None, there: Object | None) -> bool:
    """Whether two states of a policy differ: there or not, what it says, and what people wrote on it.

    Annotations count because of istio.io/dry-run (istio.io, resource annotations): such a policy denies nobody.
    """
    return _written(here) != _written(there)


def _written(policy: Object | None) -> tuple[t.Any, ...] | None:
    """What is in a policy without what the API keeps for itself."""
    if policy is None:
        return None
    return policy.get("spec"), *(policy["metadata"].get(key) or {} for key in ("labels", "annotations"))


def as_new(policy: Object) -> Object:
    """The object without what the API has set, so that it can be created again."""
    metadata = {key: value for key, value in policy["metadata"].items() if key not in _SET_BY_API}
    return {"metadata": metadata, **{key: value for key, value in policy.items() if key not in ("metadata", "status")}}
