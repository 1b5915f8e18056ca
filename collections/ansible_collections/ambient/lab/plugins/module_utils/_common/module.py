# A module's work, apart from where it runs: in a process of its own, or in Ansible's.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from .errors import LabError
from .signals import ended_politely
from .text import printable_lines

Values = dict[str, t.Any]
NOT_SHOWN = "(not shown)"


@dataclasses.dataclass(frozen=True)
class Call:
    """One run of a module. diff: what changes is to be shown. verbosity: how many `-v` the user gave."""

    params: t.Mapping[str, t.Any]
    check_mode: bool = False
    diff: bool = False
    verbosity: int = 0


@dataclasses.dataclass(frozen=True)
class Work:
    """What a module does.

    Attributes:
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
            values = {"changed": False, **self.run(call)}
        except LabError as error:
            # Some callbacks print a message as it is, and words of containers and servers are in it.
            message = printable_lines(error.message)
            return {"changed": False, **error.shown(call.verbosity), "failed": True, "msg": message}
        if "warnings" in values:
            values["warnings"] = [printable_lines(text) for text in values["warnings"]]
        return values

    def main(self) -> None:
        """Do it in a process of its own, as Ansible runs modules."""
        module = _Module(argument_spec=self.spec, supports_check_mode=True)
        with ended_politely():
            values = self.answer(Call(module.params, module.check_mode, module._diff, module._verbosity))
        for text in values.pop("warnings", ()):
            module.warn(text)
        if values.pop("failed", False):
            module.fail_json(**values)
        module.exit_json(**values)


class _Module(AnsibleModule):  # type: ignore[misc]  # ansible-core's class is untyped
    """Writes no header and no body of a claim into the system's log and into `invocation` of a result.

    `no_log` of an option would not do: it replaces every word of the claims in all that the module returns.
    """

    params: Values

    def _log_invocation(self) -> None:
        params, self.params = self.params, self._shown()
        try:
            super()._log_invocation()
        finally:
            self.params = params

    def exit_json(self, **values: t.Any) -> None:
        super().exit_json(**{"invocation": {"module_args": self._shown()}, **values})

    def fail_json(self, msg: str, **values: t.Any) -> None:
        super().fail_json(msg, **{"invocation": {"module_args": self._shown()}, **values})

    def _shown(self) -> Values:
        return without_raw(self.params, self.argument_spec)


def without_raw(params: t.Mapping[str, t.Any], spec: t.Mapping[str, t.Any]) -> Values:
    """The parameters without the values of the type raw, which claims and objects are, and of unknown options."""
    return {name: _without_raw(value, spec.get(name, {"type": "raw"})) for name, value in params.items()}


def _without_raw(value: t.Any, option: t.Mapping[str, t.Any]) -> t.Any:
    if value and "raw" in (option.get("type"), option.get("elements")):
        return NOT_SHOWN
    if not value or "options" not in option:
        return value
    if isinstance(value, dict):
        return without_raw(value, option["options"])
    if isinstance(value, list):
        return [_without_raw(item, option if isinstance(item, dict) else {"type": "raw"}) for item in value]
    return NOT_SHOWN
