"""Programs for the tests of clusters with upstream's images, from the project's cache: the real kind, helm, kubectl."""

from __future__ import annotations

from pathlib import Path

import pytest
from ambient_embedded import cache
from ambient_embedded.parts import Bill
from ambient_kind.node_image import KindBill
from project import CACHE, defaults

VERSION = defaults("cluster")["cluster_upstream"]["kind"]["version"]


def built_programs() -> Path:
    """The folder with helm and kubectl, as the embedded cluster's build has made it; skips where it has not yet."""
    folder = Bill(CACHE).programs.folder(CACHE)
    if not folder.is_dir():
        pytest.skip(f"{folder} is not built: run `make build` first (helm and kubectl are in it)")
    return folder


def kind_program() -> Path:
    """The program as the scenario kind has it; takes half a minute where it is not built yet."""
    bill = KindBill(CACHE)
    with cache.locked(CACHE, print):
        if cache.build(CACHE, [*bill.go.needs, bill.kind], print):
            cache.drop_work(bill.work)
    return bill.kind.folder(CACHE) / "kind"
