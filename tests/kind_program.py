"""Programs for the tests of clusters with upstream's images, from the project's cache: the real kind, helm, kubectl."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from ambient_embedded import cache
from ambient_embedded.gobuild import Go
from ambient_embedded.parts import Bill
from project import CACHE, defaults

VERSION = defaults("cluster")["cluster_upstream"]["kind"]["version"]


def built_programs() -> Path:
    """The folder with helm and kubectl, as the embedded cluster's build has made it; skips where it has not yet."""
    folder = Bill(CACHE).programs.folder(CACHE)
    if not folder.is_dir():
        pytest.skip(f"{folder} is not built: run `make build` first (helm and kubectl are in it)")
    return folder


def kind_program() -> Path:
    """The program of the version that the role's node image belongs to; takes half a minute the first time."""
    work = CACHE / "work-kind"
    go = Go(CACHE, work)

    def make(target: Path, report: cache.Report) -> None:
        command, environment = go.command(target, "install", f"sigs.k8s.io/kind@v{VERSION}")
        try:
            subprocess.run(command, env={**os.environ, **environment, "GOBIN": str(target)}, check=True)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    part = cache.Part("kind", "kind", make, [VERSION], go.needs)
    with cache.locked(CACHE, print):
        cache.build(CACHE, [*go.needs, part], print)
    return part.folder(CACHE) / "kind"
