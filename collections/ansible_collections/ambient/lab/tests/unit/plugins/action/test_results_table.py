# The closing table as a task shows it, and what it says where there is nothing to show.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import pathlib
import types
import typing as t
import unittest.mock

import pytest
from ansible_collections.ambient.lab.plugins.action.results_table import ActionModule
from ansible_collections.ambient.lab.tests.unit.fakes import report as fakes


def run(path: str, check: bool = False) -> dict[str, t.Any]:
    """What a task returns."""
    task = types.SimpleNamespace(
        action="ambient.lab.results_table", args={"results_file": path}, check_mode=check, async_val=0, diff=False
    )
    action = ActionModule(task, unittest.mock.MagicMock(), None, None, None, None)
    returned: dict[str, t.Any] = action.run(task_vars={})
    return returned


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize("relative", [False, True])
def test_the_table(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, relative: bool, check: bool) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results.json").write_text(json.dumps(fakes.lab()))
    returned = run("results.json" if relative else f"{tmp_path}/results.json", check)
    assert returned["table"][0].startswith("CLAIM")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No results in {}: check claims with ambient.lab.curl_outcomes first"),
        ("{}", "No results in {}: check claims with ambient.lab.curl_outcomes first"),
        ('{"s": 1}', "results_file: {} is no results file; remove it"),
        ('{"s": {"claims": [{"name": "c"}]}}', "{} is no results file: KeyError: 'before'; remove it"),
        ('{"s": {"claims": 1}}', "{} is no results file: TypeError: "),
    ],
)
def test_nothing_to_show(tmp_path: pathlib.Path, content: str | None, words: str) -> None:
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    returned = run(str(path))
    assert (returned["changed"], returned["failed"]) == (False, True)
    assert returned["msg"].startswith(words.format(path))


def test_check_mode_makes_no_results(tmp_path: pathlib.Path) -> None:
    assert not run(f"{tmp_path}/no/results.json", check=True)["failed"]
    assert run(f"{tmp_path}/no/results.json")["msg"].endswith("does not exist: create it first")
