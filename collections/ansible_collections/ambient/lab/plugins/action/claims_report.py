# Writes the report of what was proven, and prints its table.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.plugin_utils._report.claims_report import SPEC, write_report


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core's base class is untyped
    """Action plugin of ambient.lab.claims_report: a module could neither print nor bring the page's template along."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Write the report, print its table and return both."""
        super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(argument_spec=SPEC)
        try:
            result = write_report(arguments, self._task.check_mode, self._task.diff)
        except LabError as error:
            self._show(error.result)
            return {"changed": False, **error.shown(Display().verbosity), "failed": True, "msg": error.message}
        self._show(result)
        return result

    def _show(self, result: t.Mapping[str, t.Any]) -> None:
        if result.get("table"):
            Display().display("\n" + "\n".join(result["table"]) + "\n")
