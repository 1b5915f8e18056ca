# Every module's documentation says what its argument spec says, and its main() is thin.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import importlib
import inspect
import pathlib
import types
import typing as t

import pytest
import yaml
from ansible_collections.ambient.lab.plugins.doc_fragments import _check as check_fragment
from ansible_collections.ambient.lab.plugins.doc_fragments import _kube as kube_fragment
from ansible_collections.ambient.lab.plugins.doc_fragments import _state as state_fragment
from ansible_collections.ambient.lab.plugins.module_utils._check.curl_outcomes import CHECK_SPEC
from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import KUBE_SPEC
from ansible_collections.ambient.lab.plugins.module_utils._reach.states import RESULTS_SPEC, SCOPE_SPEC, STATE_SPEC

PLUGINS = "ansible_collections.ambient.lab.plugins"
FOLDER = pathlib.Path(inspect.getfile(kube_fragment)).parents[1]
# What each says, as Ansible names them, and the options in the code.
FRAGMENTS = {
    "ambient.lab._kube": (kube_fragment.ModuleDocFragment.DOCUMENTATION, KUBE_SPEC),
    "ambient.lab._check": (check_fragment.ModuleDocFragment.DOCUMENTATION, CHECK_SPEC),
    "ambient.lab._state": (state_fragment.ModuleDocFragment.DOCUMENTATION, STATE_SPEC),
    "ambient.lab._state.scope": (state_fragment.ModuleDocFragment.SCOPE, SCOPE_SPEC),
    "ambient.lab._state.results": (state_fragment.ModuleDocFragment.RESULTS, RESULTS_SPEC),
}
NAMES = sorted(path.stem for path in (FOLDER / "modules").glob("*.py"))
# These are an action plugin alone, which takes the options; the module is their documentation.
ACTIONS = {path.stem for path in (FOLDER / "modules").glob("*.py") if "def main" not in path.read_text("utf-8")}


def _module(name: str) -> types.ModuleType:
    return importlib.import_module(f"{PLUGINS}.modules.{name}")


def _documented(module: types.ModuleType) -> dict[str, dict[str, t.Any]]:
    documentation = yaml.safe_load(module.DOCUMENTATION)
    options = dict(documentation.get("options") or {})
    for name, (text, _spec) in FRAGMENTS.items():
        if name in documentation.get("extends_documentation_fragment", []):
            options |= yaml.safe_load(text)["options"]
    return options


def _same(documented: dict[str, dict[str, t.Any]], spec: t.Mapping[str, t.Mapping[str, t.Any]]) -> None:
    assert set(documented) == set(spec)
    for name, option in spec.items():
        for key in ("type", "required", "default", "choices", "elements"):
            assert documented[name].get(key) == option.get(key), (name, key)
        if "options" in option:
            _same(documented[name]["suboptions"], option["options"])


# The options of embedded_cluster are not here, but in the contract of the program that it runs.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "embedded_cluster"])
def test_documentation_and_specification_agree(name: str) -> None:
    doer = importlib.import_module(f"{PLUGINS}.action.{name}") if name in ACTIONS else _module(name)
    _same(_documented(_module(name)), doer.SPEC)


def test_shared_options_are_the_fragments() -> None:
    for text, spec in FRAGMENTS.values():
        _same(yaml.safe_load(text)["options"], spec)


def test_the_group_of_modules_is_what_they_say() -> None:
    """A module that is missing in the group of `module_defaults` asks another cluster than its neighbours."""
    runtime = yaml.safe_load((FOLDER.parent / "meta/runtime.yml").read_text("utf-8"))
    documented = {name: yaml.safe_load(_module(name).DOCUMENTATION) for name in NAMES}
    fragments = {name: text.get("extends_documentation_fragment", []) for name, text in documented.items()}
    said = {name for name, listed in fragments.items() if "ambient.lab._attributes.probes" in listed}
    assert said == {*runtime["action_groups"]["probes"]}
    assert said == {name for name, listed in fragments.items() if "ambient.lab._kube" in listed}


@pytest.mark.parametrize("name", sorted(set(NAMES) - ACTIONS))
def test_main_is_thin(name: str) -> None:
    assert len(inspect.getsource(_module(name).main).splitlines()) <= 25


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_valid(name: str) -> None:
    module = _module(name)
    mine = [task[f"ambient.lab.{name}"] for task in yaml.safe_load(module.EXAMPLES) if f"ambient.lab.{name}" in task]
    assert mine
    for arguments in mine:
        assert set(arguments) <= set(_documented(module))
