"""The recipe for an engine of the scenario's own removes nothing that is not its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ambient_embedded.errors import LabError
from ambient_kind import engine


def test_a_folder_that_is_no_engine_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("years of work")
    with pytest.raises(LabError, match=re.escape(f"{tmp_path} is not an engine's folder")):
        engine.down(tmp_path)
    assert (tmp_path / "thesis").exists()
