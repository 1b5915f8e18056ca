# Runs a module in Ansible's own process where its host is this machine: no Python is started, no library imported anew.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import sys
import tempfile
import typing as t

from ansible import constants
from ansible.plugins.action.normal import ActionModule as Normal
from ansible_collections.ambient.lab.plugins.module_utils._common.module import Call, Work
from ansible_collections.ambient.lab.plugins.module_utils._common.progress import told
from ansible_collections.ambient.lab.plugins.module_utils._common.signals import ended_politely


class Here(Normal):  # type: ignore[misc]  # ansible-core's base class is untyped
    """Base of the action plugins. Ansible imports one before it forks a task's process, which so has all it needs.

    On another host, as another user, with another Python, and with `async` the module runs as modules do.

    Attributes:
        work: what the module does.
    """

    work: t.ClassVar[Work]

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Run the module, here where that is the same."""
        variables = task_vars or {}
        if not self._is_here(variables):
            return dict(super().run(tmp, variables))
        environment: dict[str, t.Any] = {}
        self._compute_environment_string(environment)
        # The items of a loop share this process.
        before = dict(os.environ)
        os.environ.update({str(name): str(value) for name, value in environment.items()})
        tempfile.tempdir = constants.DEFAULT_LOCAL_TMP
        try:
            self._task.args = plain(self._task.args)
            _validation, params = self.validate_argument_spec(argument_spec=self.work.spec)
            host = variables.get("inventory_hostname")
            with ended_politely(), told(lambda line: self._display.display(f"  [{host}] {line}")):
                return self.work.answer(Call(params, self._task.check_mode, self._task.diff, self._display.verbosity))
        finally:
            os.environ.clear()
            os.environ.update(before)

    def _is_here(self, variables: t.Mapping[str, t.Any]) -> bool:
        """Whether the module would run on this machine, as this user, with this Python."""
        python = self._templar.template(variables.get("ansible_python_interpreter") or sys.executable)
        return (
            self._connection.transport == "local"
            and not self._play_context.become
            and not self._task.async_val
            and not self.work.import_error
            and python == sys.executable
        )


def here(work: Work) -> type[Here]:
    """The action plugin of a module."""
    return type("ActionModule", (Here,), {"work": work})


def plain(value: t.Any) -> t.Any:
    """The same as Python's own types; Ansible's subclasses of them evaluate what they hold only when asked for it."""
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value
