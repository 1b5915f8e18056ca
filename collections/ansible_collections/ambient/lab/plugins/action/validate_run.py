# Refuses a run that was asked for tags or variables that nobody knows, or with an inventory without a host.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import copy
import typing as t

from ansible import constants, context
from ansible.plugins.action import ActionBase
from ansible.utils.collection_loader._collection_finder import _get_collection_playbook_path
from ansible_collections.ambient.lab.plugins.plugin_utils._run.validate_run import (
    known_of,
    mentioned,
    playbook_plays,
    problems,
    specified,
)

SPEC = {"group": {"type": "str"}}


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core's base class is untyped
    """An action plugin, because only Ansible itself knows what it was asked for."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Compare the run with its playbook, the roles and the inventory."""
        super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(argument_spec=SPEC)
        variables, group = task_vars or {}, options["group"]
        if group and not variables["groups"].get(group):
            return _refused(f"The inventory has no host in the group `{group}`, so this run would do nothing")
        manager = self._task.get_variable_manager()
        # The playbooks of the command line; one of a collection has no path there.
        asked = context.CLIARGS["args"]
        paths = [found[1] if (found := _get_collection_playbook_path(name)) else name for name in asked]
        plays = playbook_plays(paths, manager, self._loader)
        known = known_of(plays, specified(constants.DEFAULT_ROLES_PATH), self._inventory_names(manager, variables))
        tags = [*context.CLIARGS["tags"], *context.CLIARGS["skip_tags"]]
        lines = problems(known, tags, manager.extra_vars)
        return (
            _refused("\n  ".join(["Neither the playbook nor its roles nor the inventory know:", *lines]))
            if lines
            else {}
        )

    def _inventory_names(self, manager: t.Any, variables: dict[str, t.Any]) -> set[str]:
        """Variables of the inventory, its group_vars and host_vars, and those that their templates use."""
        without = copy.copy(manager)
        without._extra_vars, without._loader = {}, self._loader
        inventory = variables["hostvars"]._inventory
        found = [without.get_vars(host=host, include_hostvars=False) for host in inventory.get_hosts()]
        return {name for given in found for name in given} | mentioned(found)


def _refused(message: str) -> dict[str, t.Any]:
    return {"failed": True, "msg": message}
