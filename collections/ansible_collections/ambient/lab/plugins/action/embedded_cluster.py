# Runs the embedded provider's command and shows its progress line by line while it works.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import sys
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.ambient.lab.plugins.module_utils._common.programs import Programs
from ansible_collections.ambient.lab.plugins.module_utils._common.signals import ended_politely

display = Display()

SPEC = {
    "source": {"type": "path", "required": True},
    "state": {
        "type": "str",
        "choices": ["built", "clean", "present", "absent"],
        "default": "present",
    },
    "name": {"type": "str"},
    "state_dir": {"type": "path", "required": True},
    "cache_dir": {"type": "path"},
    "lab_dir": {"type": "path"},
    "forwards": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "host": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "node_port": {"type": "int", "required": True},
        },
    },
    "workers": {"type": "int", "choices": [0, 1, 2, 3], "default": 1},
    "timeout": {"type": "int", "default": 180},
    "keep_build_files": {"type": "bool", "default": False},
}


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core's base class is untyped
    """An action plugin, because a module cannot say anything before it ends."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(
            argument_spec=SPEC,
            required_if=[
                ("state", "built", ("cache_dir",)),
                ("state", "clean", ("cache_dir",)),
                ("state", "present", ("name", "cache_dir", "lab_dir")),
                ("state", "absent", ("name",)),
            ],
        )
        request = {key: value for key, value in options.items() if key != "source"}
        request["check"] = self._task.check_mode
        result.update(_command(options["source"], request))
        return result


def _command(source: str, request: dict[str, t.Any]) -> dict[str, t.Any]:
    """Run the command to its end; its progress goes to the screen, its answer is returned."""
    run = Programs(lambda line: display.display(f"  {line.rstrip()}"))
    # A lab that runs is in a session of its own, and stays where this is ended.
    with ended_politely():
        command = (sys.executable, "-m", "ambient_embedded")
        answer = run(*command, env={"PYTHONPATH": source}, given=json.dumps(request))
    try:
        return dict(json.loads(answer.out))
    except ValueError:
        head = "The embedded provider broke off; run it again, what is built is kept:\n"
        raise AnsibleActionFail(head + "".join(answer.err.splitlines(keepends=True)[-21:])) from None
