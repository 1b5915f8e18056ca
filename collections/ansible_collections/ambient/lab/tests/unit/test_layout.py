# How the collection's code is laid out: short files that say what they are for, in packages that build on each other.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pathlib
import re

COLLECTION = pathlib.Path(__file__).parents[2]
PACKAGES = {path.name: path for kind in ("module", "plugin") for path in COLLECTION.glob(f"plugins/{kind}_utils/_*")}
ABSOLUTE = r"ansible_collections\.ambient\.lab\.plugins\.(?:module|plugin)_utils\."
IMPORT = re.compile(rf"^ *from (?:{ABSOLUTE}|\.\.)(_[a-z]+)\b", re.MULTILINE)
FOLDERS = [COLLECTION / "plugins" / name for name in ("modules", "action")]
README = (COLLECTION / "README.md").read_text(encoding="utf-8")
# The README's table lists the packages so that each one uses only those above it.
ORDER = re.findall(r"^\| `(_[a-z]+)` \|", README, re.MULTILINE)


def test_files_are_short_and_say_what_they_are_for() -> None:
    for path in [*COLLECTION.glob("plugins/**/*.py"), *COLLECTION.glob("tests/unit/**/*.py")]:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) < 400, path
        assert lines[0].startswith("#"), path
        assert "# SPDX-License-Identifier: GPL-3.0-or-later" in lines[:4], path


def test_the_readme_lists_every_module() -> None:
    listed = re.findall(r"^\| `([a-z_]+)` \((?:module|action)\) \|", README, re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in (COLLECTION / "plugins/modules").glob("*.py"))


def test_the_readme_lists_every_package() -> None:
    assert sorted(ORDER) == sorted(PACKAGES)


def test_the_readme_says_of_a_package_what_it_says_itself() -> None:
    for name, text in re.findall(r"^\| `(_[a-z]+)` \| (.+) \|$", README, re.MULTILINE):
        assert (PACKAGES[name] / "__init__.py").read_text(encoding="utf-8").splitlines()[0] == f"# {text}"


def test_a_package_uses_only_those_above_it() -> None:
    for name, folder in PACKAGES.items():
        for path in folder.glob("*.py"):
            for used in IMPORT.findall(path.read_text(encoding="utf-8")):
                assert ORDER.index(used) <= ORDER.index(name), f"{name}/{path.name} uses {used}"


def test_a_module_does_its_work_in_the_file_of_its_name() -> None:
    """But for one that does it in a few lines of its own."""
    for module in (COLLECTION / "plugins/modules").glob("*.py"):
        text = module.read_text(encoding="utf-8")
        is_small = "\ndef run(" in text or "def main" not in text
        assert is_small or any((folder / module.name).exists() for folder in PACKAGES.values()), module.name


def test_every_module_runs_here_where_its_host_is_this_machine() -> None:
    """One without an action plugin would start a Python of its own, and import all libraries anew."""
    names = {
        kind: {path.stem for path in (COLLECTION / f"plugins/{kind}").glob("*.py")} for kind in ("modules", "action")
    }
    assert names["modules"] == names["action"]
