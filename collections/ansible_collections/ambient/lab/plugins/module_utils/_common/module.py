# A module's work, apart from where it runs: in a process of its own, or in Ansible's.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import typing as t

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._common.signals import ended_politely

Values = dict[str, t.Any]


@dataclasses.dataclass(frozen=True)
class Call:
    """One run of a module.

    Attributes:
        params: as the module's specification has them.
        check_mode: nothing may be changed.
        diff: what changes is to be shown.
        verbosity: how many `-v` the user gave.
    """

    params: t.Mapping[str, t.Any]
    check_mode: bool = False
    diff: bool = False
    verbosity: int = 0


@dataclasses.dataclass(frozen=True)
class Work:
    """What a module does.

    Attributes:
        spec: its argument specification.
        run: does it, and gives the values to return; raises LabError.
        import_error: why the library `kubernetes`, which it needs, can't be used here; None where nothing is missing.
    """

    spec: dict[str, dict[str, t.Any]]
    run: t.Callable[[Call], Values]
    import_error: str | None = None

    def answer(self, call: Call) -> Values:
        """The values that Ansible gets, also where it fails."""
        if self.import_error:
            return {"failed": True, "msg": missing_required_lib("kubernetes"), "exception": self.import_error}
        try:
            return {"changed": False, **self.run(call)}
        except LabError as error:
            return {"changed": False, **error.shown(call.verbosity), "failed": True, "msg": error.message}

    def main(self) -> None:
        """Do it in a process of its own, as Ansible runs modules."""
        module = AnsibleModule(argument_spec=self.spec, supports_check_mode=True)
        with ended_politely():
            values = self.answer(Call(module.params, module.check_mode, module._diff, module._verbosity))
        for text in values.pop("warnings", ()):
            module.warn(text)
        if values.pop("failed", False):
            module.fail_json(**values)
        module.exit_json(**values)
