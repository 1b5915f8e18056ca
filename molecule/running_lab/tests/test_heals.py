"""A node dies with all that runs on it: it comes back by itself, and no denied request passes meanwhile.

Every other part is killed by tests/trial_faults.py, whose table stands in docs/faults.md.
"""

from __future__ import annotations

from running_lab import Lab
from trial_faults import CONTROL, Fault, Watch, node, tried


def test_the_control_plane_dies(lab: Lab) -> None:
    outcome = tried(lab, Watch(lab), Fault("control plane", node(CONTROL)))
    assert outcome.is_good, outcome
    assert outcome.denied > 0
