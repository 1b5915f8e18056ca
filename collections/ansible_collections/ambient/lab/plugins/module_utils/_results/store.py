# Reads and writes the results file, which the modules share: one section per role, kept between runs.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import typing as t

from .._common.errors import LabError
from .._common.files import replace_file
from .codec import load, plain
from .model import Check, GraphCheck, GraphPhases, Phase, Section

Results = dict[str, Section]
# What to do where there are none yet.
ADVICE = "check claims with ambient.lab.curl_outcomes first"


def require_section(section: str | None) -> None:
    """Raises LabError where a results file was given without the name of its part."""
    if not section:
        raise LabError("results_file needs section, the name under which the results are kept")


def require_writable(path: str | None, section: str | None) -> None:
    """Find a wrong results file before any traffic; none is given where the path is empty.

    Raises:
        LabError: where the name of its part is missing, and as read_results.
    """
    if path:
        require_section(section)
        read_results(path)


def read_results(path: str, where: str = "") -> Results:
    """What earlier checks wrote; empty where the file does not exist yet.

    Args:
        where: what to call the file.

    Raises:
        LabError: when it is there but no results file, or its folder is missing.
    """
    where = where or f"results_file: {path}"
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise LabError(f"results_file: the folder of {path} does not exist: create it first")
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise LabError(f"{where} can't be read ({error}); remove it and run again") from error
    try:
        return load(dict[str, Section], found)
    except ValueError as error:
        raise LabError(f"{where} is no results file: {error}; remove it and check the claims again") from error


def keep(path: str, name: str, change: t.Callable[[Section], Section]) -> None:
    """Replace a section of the results file at once, readable by its owner only.

    Args:
        name: of the section.
        change: gives what is to be in it, out of what is in it now: others may have written while claims were checked.

    Raises:
        LabError: when the file can't be read or written.
    """
    try:
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        try:
            # Others wait here; a file system that can't lock a folder (NFS) does without.
            with contextlib.suppress(OSError):
                fcntl.flock(folder, fcntl.LOCK_EX)
            results = read_results(path)
            results[name] = change(results.get(name, Section()))
            replace_file(path, json.dumps(plain(results), indent=1) + "\n", 0o600)
        finally:
            os.close(folder)
    except OSError as error:
        raise LabError(f"results_file: {path} can't be written ({error})") from error


def checked(section: Section, phase: Phase, check: Check) -> Section:
    """A section after another check of its claims.

    What Kiali's graph showed before that is void, and all that was seen after an older policy is by a check before the
    next one.
    """
    graph = dataclasses.replace(section.graph, after=None)
    before, after = (check, None) if phase == "before" else (section.before, check)
    return dataclasses.replace(section, graph=graph, before=before, after=after)


def drawn(section: Section, phase: Phase, check: GraphCheck) -> Section:
    """A section after another check of Kiali's graph."""
    before, after = (check, None) if phase == "before" else (section.graph.before, check)
    return dataclasses.replace(section, graph=GraphPhases(before=before, after=after))


def now() -> str:
    """When a result was written, for whoever reads the file."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
