# The one exception that modules of this collection turn into fail_json.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t


class LabError(Exception):
    """A failure that the user can act on.

    message: what is wrong and what to do about it; shown as it is. result: further return values of the module.
    """

    def __init__(self, message: str, **result: t.Any) -> None:
        super().__init__(message)
        self.message = message
        self.result = result

    def shown(self, verbosity: int) -> dict[str, t.Any]:
        """Return values beside the message: lists only with -v, because Ansible prints a failed result as a whole."""
        return {key: value for key, value in self.result.items() if verbosity or not isinstance(value, list)}


class Slow(LabError):
    """An answer that did not come in time, from somebody who is there: a wait that has time left asks again."""
