# The default screen output, but a failure is its message alone, and the last line says how long the run took.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: brief
type: stdout
short_description: The default output, with failures as their message alone, and the time it took
version_added: 0.1.0
author:
  - The ambient lab's authors (@ambient-lab)
description:
  - Like M(ansible.builtin.default), but a failed task prints its message once, without the result's other fields.
  - A task that tries again is silent meanwhile.
  - Roles check the arguments of all their entry points; that is shown where it fails.
  - After the recap stands how long the run took.
  - With C(-v) the output is the default one, with everything in it.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
requirements:
  - set as stdout_callback in ansible.cfg
"""

import time
import typing as t

from ansible import constants
from ansible.plugins.callback.default import CallbackModule as Default
from ansible_collections.ambient.lab.plugins.module_utils._common.text import printable_lines


def duration(seconds: float) -> str:
    """A time in seconds, as a person says it: 12 s, 2 min 5 s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class CallbackModule(Default):  # type: ignore[misc]  # ansible-core's base class is untyped
    """Overrides how failures are shown, and adds the time; nothing else."""

    CALLBACK_NAME = "ambient.lab.brief"

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()

    def v2_playbook_on_stats(self, stats: t.Any) -> None:
        super().v2_playbook_on_stats(stats)
        self._display.display(f"Took {duration(time.monotonic() - self._began)}\n")

    def v2_playbook_on_task_start(self, task: t.Any, is_conditional: bool) -> None:
        if not self._is_check(task):
            super().v2_playbook_on_task_start(task, is_conditional)

    def v2_runner_on_ok(self, result: t.Any) -> None:
        if not self._is_check(_parts(result)[0]):
            super().v2_runner_on_ok(result)

    def _is_check(self, task: t.Any) -> bool:
        """Whether a task is Ansible's own check of a role's arguments, and `-v` does not ask for it."""
        return not self._display.verbosity and bool(task.action == "ansible.builtin.validate_argument_spec")

    def v2_runner_on_failed(self, result: t.Any, ignore_errors: bool = False) -> None:
        task, values = _parts(result)
        message: t.Any = values.get("msg")
        is_whole_story = isinstance(message, str) and not task.loop and "module_stderr" not in values
        if self._display.verbosity > 0 or ignore_errors or not is_whole_story:
            super().v2_runner_on_failed(result, ignore_errors)
            return
        if self._is_check(task):
            self._task_start(task, prefix="TASK")
        if self._last_task_banner != task._uuid:
            self._print_task_banner(task)
        self._handle_warnings(values)
        # It may have the words of any program, and is printed as it is.
        text = f"fatal: [{self.host_label(result)}]: {printable_lines(message)}"
        self._display.display(text, color=constants.COLOR_ERROR, stderr=self.get_option("display_failed_stderr"))

    def v2_runner_retry(self, result: t.Any) -> None:
        """A wait that goes on is no failure; with -v it is shown."""
        if self._display.verbosity > 0:
            super().v2_runner_retry(result)


def _parts(result: t.Any) -> tuple[t.Any, dict[str, t.Any]]:
    """Task and values of a result; ansible-core before 2.19 has no other names for them."""
    return (result.task, result.result) if hasattr(result, "task") else (result._task, result._result)
