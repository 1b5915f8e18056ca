# How a run's time is said.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.ambient.lab.plugins.callback.brief import duration


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (125, "2 min 5 s"), (4000, "66 min 40 s")]
)
def test_a_time_is_said_in_minutes_and_seconds(seconds: float, said: str) -> None:
    assert duration(seconds) == said
