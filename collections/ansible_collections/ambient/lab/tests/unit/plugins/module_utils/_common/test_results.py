# The results file, which several modules write: whole at once, and nothing of another's is lost.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import concurrent.futures
import pathlib

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._common.results import Results, read_results, write_results


def test_results_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "results.json"
    assert read_results(str(path)) == {}
    write_results(str(path), lambda results: {**results, "a": {"claims": []}})
    assert read_results(str(path)) == {"a": {"claims": []}}
    assert path.stat().st_mode & 0o777 == 0o600
    assert [item.name for item in tmp_path.iterdir()] == ["results.json"]


def test_a_file_of_the_current_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_results("results.json", lambda results: {"a": {}})
    assert read_results("results.json") == {"a": {}}


def test_who_writes_at_the_same_time_loses_nothing(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "results.json")
    names = [f"s{number}" for number in range(40)]

    def add(name: str) -> None:
        write_results(path, lambda results: {**results, name: {"claims": []}})

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(add, names))
    assert set(read_results(path)) == set(names)


def test_results_that_can_not_be_joined(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "results.json"
    path.write_text('{"s": {"claims": [1]}}')

    def merge(results: Results) -> Results:
        return {"s": {"names": [claim["name"] for claim in results["s"]["claims"]]}}

    with pytest.raises(LabError, match=r"results\.json is no results file: TypeError: .*; remove it and check"):
        write_results(str(path), merge)
    assert path.read_text() == '{"s": {"claims": [1]}}'


@pytest.mark.parametrize("content", ["{", "[]", '{"s": []}', "\udcff"])
def test_a_results_file_that_is_none(tmp_path: pathlib.Path, content: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content, errors="surrogateescape")
    with pytest.raises(LabError, match="remove it and run again"):
        read_results(str(path))


def test_a_results_file_without_a_folder(tmp_path: pathlib.Path) -> None:
    with pytest.raises(LabError, match="does not exist: create it first"):
        read_results(str(tmp_path / "no" / "results.json"))
