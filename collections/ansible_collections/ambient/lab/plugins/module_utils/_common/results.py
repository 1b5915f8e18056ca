# Reads and writes the results file, which the modules share: one section per role, kept between runs.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import datetime
import json
import os
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._common.files import replace_file


def require_section(section: str | None) -> None:
    """Raises LabError where a results file was given without the name of its part."""
    if not section:
        raise LabError("results_file needs section, the name under which the results are kept")


def read_results(path: str) -> dict[str, t.Any]:
    """What earlier checks wrote; empty where the file does not exist yet.

    Raises:
        LabError: when it is there but no results file, or its folder is missing.
    """
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise LabError(f"results_file: the folder of {path} does not exist")
    try:
        with open(path, encoding="utf-8") as file:
            results = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise LabError(f"results_file: {path} can't be read ({error}); remove it and run again") from error
    if not isinstance(results, dict):
        raise LabError(f"results_file: {path} is no results file; remove it and run again")
    return results


def write_results(path: str, results: dict[str, t.Any]) -> None:
    """Replace the results file at once, readable by its owner only.

    Raises:
        LabError: when it can't be written.
    """
    try:
        replace_file(path, json.dumps(results, indent=2) + "\n", 0o600)
    except OSError as error:
        raise LabError(f"results_file: {path} can't be written ({error})") from error


def now() -> str:
    """When a result was written, for whoever reads the file."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
