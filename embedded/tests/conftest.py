"""What the embedded provider's tests share: the marks for root and for built parts, bounded waiting, free ports."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import ports
import pytest
from ambient_embedded.parts import Bill
from project import CACHE

PATIENCE_SECONDS = 30.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Namespaces, mounts and cgroups are root's."""
    skip = pytest.mark.skip(reason="not root: namespaces, mounts and cgroups need it")
    for item in items:
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(skip)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "root: needs root for namespaces, mounts or cgroups")


def eventually(holds: Callable[[], object], what: str) -> None:
    """Poll until something holds; fails with ``what`` when it does not in ``PATIENCE_SECONDS``."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"not in {PATIENCE_SECONDS:.0f} s: {what}")
        time.sleep(0.02)


@pytest.fixture(name="eventually")
def fixture_eventually() -> Callable[[Callable[[], object], str], None]:
    return eventually


@pytest.fixture
def free_port() -> int:
    """A TCP port of the loopback that nothing listens on."""
    return ports.free_port()


@pytest.fixture
def bill() -> Bill:
    """The parts of the user's cache; AMBIENT_LAB_CACHE names another one."""
    return Bill(CACHE)


@pytest.fixture
def programs(bill: Bill) -> Path:
    """The folder of the node's programs."""
    folder = bill.programs.folder(bill.cache)
    if not folder.is_dir():
        pytest.skip(f"{folder} is not built: run `make build` first")
    return folder
