# What a module gives back, whatever it does: words that drive no terminal.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._common.module import Call, Work

SAID = "CLAIM    WHY\n\x1b]0;owned\x07it\x1b[2J failed\r"
SHOWN = "CLAIM    WHY\n ]0;owned it [2J failed "


def test_a_message_has_no_control_characters() -> None:
    """Containers and servers write a part of it, and some callbacks print it as it is."""

    def fail(_call: Call) -> dict[str, t.Any]:
        raise LabError(SAID)

    assert Work({}, fail).answer(Call({})) == {"changed": False, "failed": True, "msg": SHOWN}
    assert Work({}, lambda _call: {"warnings": [SAID]}).answer(Call({})) == {"changed": False, "warnings": [SHOWN]}
