# Prints the table of proven claims at the end of a run.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import typing as t

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._common.results import ADVICE, read_results, understood
from ansible_collections.ambient.lab.plugins.plugin_utils._report.table import results_table

SPEC = {"results_file": {"type": "path", "required": True}}


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core's base class is untyped
    """Action plugin of ambient.lab.results_table."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Print the table and return its lines."""
        super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(argument_spec=SPEC)
        path = arguments["results_file"]
        # Check mode makes no folder and writes no results, so there may be nothing to show.
        check = bool(self._task.check_mode)
        try:
            results = {} if check and not os.path.isfile(path) else read_results(path)
            if not results:
                return {"changed": False, "failed": not check, "msg": f"No results in {path}: {ADVICE}"}
            with understood(path):
                lines = results_table(results)
        except LabError as error:
            return {"changed": False, "failed": True, "msg": error.message}
        Display().display("\n" + "\n".join(lines) + "\n")
        return {"changed": False, "table": lines}
