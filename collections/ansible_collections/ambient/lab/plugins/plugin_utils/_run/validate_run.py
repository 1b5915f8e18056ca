# Compares a run's tags and extra variables with those that its playbook, the roles and the inventory know.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import difflib
import pathlib
import typing as t

import yaml
from ansible.playbook import Playbook
from ansible.playbook.block import Block
from jinja2 import Environment, TemplateSyntaxError
from jinja2.nodes import Name

# Tags with a meaning of their own (Ansible's "Special tags").
SPECIAL_TAGS = frozenset({"all", "always", "never", "tagged", "untagged"})
# Molecule leaves these out of its runs (Molecule, "Ansible provisioner").
MOLECULE_TAGS = frozenset({"molecule-notest", "notest", "molecule-idempotence-notest"})
# Ansible's own variables, those that AWX and Automation Platform add to every job, and those of test scenarios.
FOREIGN = ("ansible_", "awx_", "tower_", "molecule_")
# Keys of tasks whose value is an expression without braces.
_EXPRESSIONS = frozenset({"when", "that", "until", "changed_when", "failed_when"})
# Under this name Ansible keeps what is no name=value.
_NO_PAIR = "_raw_params"
_JINJA = Environment(autoescape=True)


@dataclasses.dataclass(frozen=True)
class Known:
    """What a run can be asked for. types: of variables that have an argument specification, by name."""

    tags: t.AbstractSet[str]
    variables: t.AbstractSet[str]
    types: t.Mapping[str, str]


def known_of(plays: t.Iterable[t.Any], specs: t.Mapping[str, t.Any], inventory: t.Iterable[str]) -> Known:
    """What plays, roles and the inventory know.

    Args:
        plays: of ansible-core, as loaded.
        specs: options of all roles, by variable.
        inventory: names of its variables.
    """
    tags: set[str] = set()
    names = set(inventory) | set(specs)
    for play in plays:
        tags |= {*play.tags, *(tag for block in play.compile() for tag in _tags(block))}
        names |= set(play.vars) | mentioned(play.get_ds())
    return Known(tags - SPECIAL_TAGS, names, {name: option.get("type", "str") for name, option in specs.items()})


def _tags(block: Block) -> t.Iterator[str]:
    for task in (*block.block, *block.rescue, *block.always):
        if isinstance(task, Block):
            yield from _tags(task)
        else:
            yield from task.tags


def specified(folders: t.Iterable[str]) -> dict[str, t.Any]:
    """The options of all roles in some folders, of every entry point, by variable."""
    found: dict[str, t.Any] = {}
    for folder in folders:
        for path in pathlib.Path(folder).glob("*/meta/argument_specs.y*ml"):
            for entry in yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"].values():
                found |= entry.get("options") or {}
    return found


def playbook_plays(paths: t.Iterable[str], manager: t.Any, loader: t.Any) -> list[t.Any]:
    """The plays of playbooks, with those that they import."""
    books = (Playbook.load(path, variable_manager=manager, loader=loader) for path in paths)
    return [play for book in books for play in book.get_plays()]


def mentioned(value: t.Any, expression: bool = False) -> set[str]:
    """The variables that templates somewhere in a value use; expression: it has no braces."""
    if isinstance(value, dict):
        return {name for key, item in value.items() for name in mentioned(item, expression=key in _EXPRESSIONS)}
    if isinstance(value, list | tuple):
        return {name for item in value for name in mentioned(item, expression)}
    if not isinstance(value, str) or not (expression or "{" in value):
        return set()
    try:
        parsed = _JINJA.parse(f"{{{{ {value} }}}}" if expression else value)
    except TemplateSyntaxError:
        return set()
    return {found.name for found in parsed.find_all(Name)}


def problems(known: Known, tags: t.Iterable[str], variables: t.Mapping[str, t.Any]) -> list[str]:
    """What of a run nobody knows, a line each.

    Args:
        known: what there is.
        tags: to run, and to skip.
        variables: extra variables.
    """
    unknown_tags = sorted(set(tags) - known.tags - SPECIAL_TAGS - MOLECULE_TAGS)
    lines = [f"tag {tag}{_instead(tag, known.tags)}" for tag in unknown_tags]
    if unknown_tags:
        lines[-1] += f" (there are {', '.join(sorted(known.tags))})" if known.tags else " (this playbook has none)"
    for name, value in sorted(variables.items()):
        # A file of variables may have helpers, which only others of its variables use.
        helps = {used for other, item in variables.items() if other != name for used in mentioned(item)}
        if name == _NO_PAIR:
            lines.append(f"{value} among the variables: write -e NAME=VALUE, in quotes where the value has spaces")
        elif name not in known.variables | helps and not name.startswith(FOREIGN):
            lines.append(f"variable {name}{_instead(name, known.variables)}")
        elif known.types.get(name) == "dict" and isinstance(value, str) and value.startswith("{") and "{{" not in value:
            lines.append(f"""{name} as key=value, which makes a text of it: write -e '{{"{name}": {{...}}}}'""")
    return lines


def _instead(name: str, known: t.Iterable[str]) -> str:
    near = difflib.get_close_matches(name, [one for one in known if not one.startswith("_")], n=1, cutoff=0.7)
    return f": did you mean {near[0]}?" if near else ""
