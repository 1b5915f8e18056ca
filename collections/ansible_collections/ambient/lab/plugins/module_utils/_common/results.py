# Reads and writes the results file, which the modules share: one section per part, kept between runs.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import typing as t

from .errors import LabError
from .files import replace_file

Results = dict[str, t.Any]
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


def read_results(path: str) -> Results:
    """What earlier checks wrote, a dict per section; empty where the file does not exist yet.

    Raises:
        LabError: when it is there but no results file, or its folder is missing.
    """
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise LabError(f"results_file: the folder of {path} does not exist: create it first")
    try:
        with open(path, encoding="utf-8") as file:
            results = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise LabError(f"results_file: {path} can't be read ({error}); remove it and run again") from error
    if not isinstance(results, dict) or not all(isinstance(section, dict) for section in results.values()):
        raise LabError(f"results_file: {path} is no results file; remove it and run again")
    return results


@contextlib.contextmanager
def understood(where: str) -> t.Iterator[None]:
    """Look into what a results file (where: it, for people) holds.

    Raises:
        LabError: when it holds something else.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        raise LabError(f"{where} is no results file: {why}; remove it and check the claims again") from error


def write_results(path: str, merge: t.Callable[[Results], Results]) -> None:
    """Replace the results file at once, readable by its owner only.

    Args:
        merge: gives what is to be in it, out of what is in it now: others may have written while claims were checked.

    Raises:
        LabError: when it can't be read or written.
    """
    try:
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        try:
            # Others wait here; a file system that can't lock a folder (NFS) does without.
            with contextlib.suppress(OSError):
                fcntl.flock(folder, fcntl.LOCK_EX)
            with understood(f"results_file: {path}"):
                results = merge(read_results(path))
            replace_file(path, json.dumps(results, indent=2) + "\n", 0o600)
        finally:
            os.close(folder)
    except OSError as error:
        raise LabError(f"results_file: {path} can't be written ({error})") from error


def keep(path: str, section: str, key: str, values: t.Any) -> None:
    """Keep what a module has found beside what others have found of the same section.

    Args:
        path: of the results file.
        section: in it.
        key: of the module in the section.
        values: that replace those of an earlier run.

    Raises:
        LabError: as write_results.
    """
    write_results(path, lambda old: {**old, section: {**(old.get(section) or {}), key: values}})


def now() -> str:
    """When a result was written, for whoever reads the file."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
