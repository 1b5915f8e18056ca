# Makes a cluster with kind and shows kind's progress line by line while it works.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import typing as t

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._common.programs import Programs
from ansible_collections.ambient.lab.plugins.module_utils._common.signals import ended_politely
from ansible_collections.ambient.lab.plugins.module_utils._kind.cluster import SPEC, progress, settle

display = Display()


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core's base class is untyped
    """An action plugin, because a module cannot say anything before it ends."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(argument_spec=SPEC)
        run = Programs(lambda line: (step := progress(line)) and display.display(f"  {step}"))
        try:
            with ended_politely():
                result.update(settle(options, run, os.environ, self._task.check_mode))
        except LabError as error:
            result.update(failed=True, msg=error.message)
        return result
