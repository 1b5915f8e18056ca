"""Runs programs for the tests; what went wrong is in the program's own words."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path


def output(command: Sequence[str | Path], *, given: str | None = None, timeout: float = 120) -> str:
    """What a program prints.

    Args:
        given: its standard input.
        timeout: seconds.

    Raises:
        RuntimeError: when it fails, with all that it has said.
    """
    ran = subprocess.run(command, input=given, text=True, capture_output=True, timeout=timeout, check=False)
    if ran.returncode:
        said = f"{ran.stdout}{ran.stderr}".strip()
        raise RuntimeError(f"{' '.join(map(str, command))}\nended with {ran.returncode}: {said}")
    return ran.stdout
