# Applies many objects with kubernetes.core.k8s, and says truly what that changes.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import concurrent.futures
import typing as t

from ansible import constants
from ansible.module_utils.basic import missing_required_lib
from ansible.plugins.action import ActionBase
from ansible_collections.ambient.lab.plugins.module_utils._cluster.finder import Finder, Wanted
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import HAS_KUBERNETES, KUBE_SPEC, Kube
from ansible_collections.ambient.lab.plugins.module_utils._cluster.objects import (
    Object,
    documents,
    outcome,
    owned,
    title,
)
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError

SPEC: dict[str, dict[str, t.Any]] = {
    **KUBE_SPEC,
    "definition": {"type": "raw", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "owner": {"type": "str"},
    "field_manager": {"type": "str", "default": "ambient-lab"},
    "wait_timeout": {"type": "int", "default": 120},
}


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core's base class is untyped
    """Action plugin of ambient.lab.objects: the module it runs is kubernetes.core.k8s."""

    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Hand the objects over, and read the answer."""
        super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(argument_spec=SPEC)
        try:
            wanted = documents(options["definition"])
            if options["state"] == "absent":
                _require_namespaces(options, wanted)
            if options["owner"]:
                wanted = owned(wanted, _there(options, wanted), options["owner"], options["state"])
            if not wanted:
                return {"changed": False, "objects": [], "diff": []}
            # Without the diff nobody could say afterwards what changed.
            before, self._task.diff = self._task.diff, True
            # kubernetes.core keeps what kinds an API has in a temporary folder. This one goes with the playbook's run,
            # so that no other cluster at the same address is taken for this one.
            self._task.environment = [*(self._task.environment or []), {"TMPDIR": constants.DEFAULT_LOCAL_TMP}]
            try:
                answer = self._execute_module("kubernetes.core.k8s", _request(options, wanted), task_vars=task_vars)
            finally:
                self._task.diff = before
            if answer.get("failed") and HAS_KUBERNETES:
                # A cluster that does not answer is said in one line; kubernetes.core gives a traceback.
                _kube(options).get("/version")
            return outcome(wanted, answer, options["state"], bool(self._task.check_mode))
        except LabError as error:
            return {"changed": False, "failed": True, "msg": error.message, **error.result}


def _kube(options: dict[str, t.Any]) -> Kube:
    """A connection whose keys go with the playbook's run: ansible-core ends its workers without their exit handlers."""
    if not HAS_KUBERNETES:
        raise LabError(missing_required_lib("kubernetes"))
    return Kube(options["kubeconfig"], options["context"], constants.DEFAULT_LOCAL_TMP)


def _require_namespaces(options: dict[str, t.Any], wanted: list[Object]) -> None:
    """Raises LabError for an object without its namespace: it would not be found, and taken for one that is gone."""
    bare = [item for item in wanted if not item["metadata"].get("namespace")]
    if not bare:
        return
    finder = Finder(_kube(options))
    for item in bare:
        if (finder.resource(_asked(item)) or {}).get("namespaced"):
            raise LabError(f"{title(item)} has no metadata.namespace: add the one that it is to be removed from")


def _there(options: dict[str, t.Any], wanted: list[Object]) -> list[Object]:
    """Those of the objects that the cluster has; all are asked for at once."""
    finder = Finder(_kube(options))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return [item for items in pool.map(finder.find, map(_asked, wanted)) for item in items]


def _asked(item: Object) -> Wanted:
    return Wanted(item["kind"], item["apiVersion"], item["metadata"]["name"], item["metadata"].get("namespace"))


def _request(options: dict[str, t.Any], wanted: list[Object]) -> dict[str, t.Any]:
    """Options of kubernetes.core.k8s."""
    state = options["state"]
    request = {
        "kubeconfig": options["kubeconfig"],
        "context": options["context"],
        "resource_definition": wanted,
        "state": state,
        "apply": state == "present",
        # What somebody else has changed by hand is changed back.
        "server_side_apply": {"field_manager": options["field_manager"], "force_conflicts": True},
        # What goes is waited for; what comes is waited for in one task of its own, for all of it.
        "wait": state == "absent",
        "wait_sleep": 1,
        "wait_timeout": options["wait_timeout"],
        "continue_on_error": True,
    }
    return {key: value for key, value in request.items() if value is not None}
