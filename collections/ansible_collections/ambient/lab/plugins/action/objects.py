# Applies many objects with kubernetes.core.k8s, and says truly what that changes.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import concurrent.futures
import json
import typing as t

from ansible import constants
from ansible.module_utils.basic import missing_required_lib
from ansible.plugins.action import ActionBase
from ansible_collections.ambient.lab.plugins.module_utils._cluster.finder import Finder, Wanted
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import APPLY, HAS_KUBERNETES, KUBE_SPEC, Kube
from ansible_collections.ambient.lab.plugins.module_utils._cluster.objects import (
    Object,
    documents,
    is_same,
    outcome,
    owned,
    title,
)
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.plugin_utils._here.action import plain

PARALLEL = 8
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
            wanted = documents(plain(options["definition"]))
            cluster = _Cluster(options)
            if options["state"] == "absent":
                cluster.require_namespaces(wanted)
            there = cluster.there(wanted)
            if options["owner"]:
                wanted = owned(wanted, list(there.values()), options["owner"], options["state"])
            elif options["state"] == "absent":
                wanted = [item for item in wanted if title(item) in there]
            if not wanted or (options["state"] == "present" and cluster.is_as(wanted, there)):
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
                cluster.kube.get("/version")
            return outcome(wanted, answer, options["state"], bool(self._task.check_mode))
        except LabError as error:
            return {"changed": False, "failed": True, "msg": error.message, **error.result}


class _Cluster:
    """What can be learned without kubernetes.core.k8s, which takes a second and a half to say that nothing changes."""

    def __init__(self, options: dict[str, t.Any]) -> None:
        if not HAS_KUBERNETES:
            raise LabError(missing_required_lib("kubernetes"))
        # The keys go with the playbook's run: ansible-core ends its workers without their exit handlers.
        self.kube = Kube(options["kubeconfig"], options["context"], constants.DEFAULT_LOCAL_TMP)
        self._finder = Finder(self.kube)
        self._manager = options["field_manager"]

    def require_namespaces(self, wanted: list[Object]) -> None:
        """Raise LabError for an object without its namespace: it would not be found, and taken for one that is gone."""
        for item in wanted:
            named = item["metadata"].get("namespace")
            if not named and (self._finder.resource(_asked(item)) or {}).get("namespaced"):
                raise LabError(f"{title(item)} has no metadata.namespace: add the one that it is to be removed from")

    def there(self, wanted: list[Object]) -> dict[str, Object]:
        """Those of the objects that the cluster has, by title; all are asked for at once."""
        with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
            found = list(pool.map(self._finder.find, map(_asked, wanted)))
        return {title(item): items[0] for item, items in zip(wanted, found, strict=True) if items}

    def is_as(self, wanted: list[Object], there: dict[str, Object]) -> bool:
        """Whether every object is there as it is wanted: the cluster itself says what an apply would make of it."""
        if {title(item) for item in wanted} != set(there):
            return False
        with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
            return all(pool.map(lambda item: self._is_as(item, there[title(item)]), wanted))

    def _is_as(self, item: Object, there: Object) -> bool:
        path = self._finder.path(_asked(item))
        options = {"dryRun": "All", "fieldManager": self._manager, "force": "true"}
        answer = self.kube.send("PATCH", str(path), item, APPLY, **options)
        return answer.status == 200 and is_same(there, json.loads(answer.body))


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
