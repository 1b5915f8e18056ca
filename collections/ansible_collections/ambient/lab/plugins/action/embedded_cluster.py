# Runs the embedded provider's command and shows its progress line by line while it works.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import pathlib
import sys
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.ambient.lab.plugins.module_utils._common.programs import Programs
from ansible_collections.ambient.lab.plugins.module_utils._common.signals import ended_politely

display = Display()


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core's base class is untyped
    """An action plugin, because a module cannot say anything before it ends.

    The options are the program's: its contract.json has them in the form of an argument spec.
    """

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Hand the options over to the program, and return its answer."""
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        source = str(self._task.args.get("source", ""))
        contract = _contract(source)
        spec = {"source": {"type": "path", "required": True}, **contract["options"]}
        del spec["check"]
        _validation, options = self.validate_argument_spec(argument_spec=spec, required_if=contract["required_if"])
        source = options.pop("source")
        result.update(_command(source, {**options, "check": self._task.check_mode}))
        return result


def _contract(source: str) -> dict[str, t.Any]:
    """What the program takes."""
    path = pathlib.Path(source).expanduser() / "ambient_embedded/contract.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        what = f"source must be the folder of the project ambient-embedded, {source!r} is not ({error})"
        raise AnsibleActionFail(what) from None


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
