"""The lab of the scenario, for its tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from running_lab import Lab


@pytest.fixture(scope="session")
def lab() -> Lab:
    return Lab.at(Path(os.environ["AMBIENT_LAB_DIR"]))
