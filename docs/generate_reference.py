"""Writes docs/reference/roles.md, modules.md and the schema of a claims file from what the code says of itself.

Run `python docs/generate_reference.py` after a change of an argument specification or of a module's documentation.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs/reference"
PLUGINS = ROOT / "collections/ansible_collections/ambient/lab/plugins"
# The order of the story, as in site.yml, and its optional part.
ROLES = [role["role"] for role in yaml.safe_load((ROOT / "site.yml").read_text(encoding="utf-8"))[-1]["roles"]]
ROLES += ["bypass"]
FOLDERS = {"module": "modules", "callback": "callback"}
LONG = 60
# Ansible's markup: O(option) and its like are code, M() and P() name a plugin, L() and U() lead to an address.
CODE = re.compile(r"\b(?:C|E|O|RV|V)\(((?:\\.|[^)\\])*)\)")
ESCAPED = re.compile(r"\\(.)")
NAMED = re.compile(r"\b[MP]\(([^)]*)\)")
STRONG = re.compile(r"\b[BI]\(([^)]*)\)")
LINK = re.compile(r"\bL\(([^,]*), *([^)]*)\)")
URL = re.compile(r"\bU\(([^)]*)\)")
OWN = "ambient.lab."

Spec = dict[str, Any]


def markdown(text: Any) -> str:
    """A description, of one paragraph or many, as one line of Markdown."""
    line = " ".join(text if isinstance(text, list) else [str(text)])
    line = CODE.sub(lambda found: "`" + ESCAPED.sub(r"\1", found[1]) + "`", line)
    line = NAMED.sub(lambda found: _plugin(found[1].partition("#")[0]), line)
    line = LINK.sub(r"[\1](\2)", URL.sub(r"<\1>", STRONG.sub(r"**\1**", line)))
    return " ".join(line.replace("|", "\\|").split())


def _plugin(name: str) -> str:
    return f"[{name}](modules.md#{name.removeprefix(OWN)})" if name.startswith(OWN) else f"`{name}`"


def value(default: Any) -> str:
    """A default value in a table's cell."""
    text = default if isinstance(default, str) and default else json.dumps(default)
    return f"`{text}`".replace("|", "\\|")


def options(spec: Spec, prefix: str = "") -> Iterator[tuple[str, Spec]]:
    """Options and their suboptions, by dotted names."""
    for name, option in spec.items():
        yield prefix + name, option
        yield from options(option.get("suboptions") or option.get("options") or {}, f"{prefix}{name}.")


def kind(option: Spec) -> str:
    """The type of an option, and what it is a list of."""
    elements = option.get("elements")
    return f"{option.get('type', 'str')} of {elements}" if elements else str(option.get("type", "str"))


def told(option: Spec) -> str:
    """What an option does, and what it may be."""
    choices = option.get("choices")
    allowed = f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
    return markdown(option["description"]) + allowed


def role_page() -> str:
    """The page of the roles' variables."""
    parts = [
        "# Roles",
        "Generated from `roles/*/meta/argument_specs.yml` by `docs/generate_reference.py`.",
        "Set variables with `-e`, or in an inventory. Each entry point checks them: a wrong value stops the run with "
        "one line. What the roles share is in [playbooks](playbooks.md). `ansible-doc -t role NAME` shows a role.",
    ]
    for role in ROLES:
        entries = yaml.safe_load((ROOT / f"roles/{role}/meta/argument_specs.yml").read_text(encoding="utf-8"))
        entries = entries["argument_specs"]
        main = entries["main"]
        parts += [f"## {role}", f"{main['short_description']}.", markdown(main["description"])]
        parts.append(table(("tasks_from", "what it does"), _entries(entries)))
        parts.append(table(("variable", "type", "default", "what it does"), _variables(role, main)))
    return "\n\n".join(parts) + "\n"


def table(titles: tuple[str, ...], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown."""
    lines = [titles, ["---" for _title in titles], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _entries(entries: Spec) -> Iterator[tuple[str, ...]]:
    for name, entry in entries.items():
        yield f"`{name}`", markdown(entry["short_description"])


def _variables(role: str, main: Spec) -> Iterator[tuple[str, ...]]:
    for name, option in options(main["options"]):
        shown = value(option["default"]) if "default" in option else "required" if option.get("required") else ""
        if len(shown) > LONG or not (shown or "." in name):
            shown = f"see [defaults](../../roles/{role}/defaults/main.yml)"
        yield f"`{name}`", kind(option), shown, told(option)


def documented() -> dict[str, Spec]:
    """What ansible-doc says of every module and callback of the collection, by kind/name."""
    found: dict[str, Spec] = {}
    for what in FOLDERS:
        names = sorted(path.stem for path in (PLUGINS / FOLDERS[what]).glob("*.py"))
        command = ["ansible-doc", "--json", "--type", what, *(OWN + name for name in names)]
        shown = subprocess.run(command, cwd=ROOT, check=True, text=True, capture_output=True).stdout
        found |= {f"{what}/{name}": entry for name, entry in json.loads(shown).items()}
    return found


def module_page() -> str:
    """The page of the collection's modules."""
    parts = [
        "# Modules of ambient.lab",
        "Generated from the modules' own documentation by `docs/generate_reference.py`; "
        "`ansible-doc ambient.lab.NAME` shows the same.",
    ]
    for name, entry in documented().items():
        doc = entry["doc"]
        parts += [f"## {name.rpartition('.')[2]}", f"{markdown(doc['short_description'])}."]
        parts.append("\n".join(f"- {markdown(line)}" for line in doc["description"]))
        # Of a callback only what is its own: the others are those of the plugin that it extends.
        if name.startswith("module/"):
            parts += _module(doc, entry)
    return "\n\n".join(parts) + "\n"


def _module(doc: Spec, entry: Spec) -> Iterator[str]:
    if doc.get("options"):
        rows = (_option(name, option) for name, option in options(doc["options"]))
        yield table(("option", "type", "default", "what it does"), rows)
    if doc.get("notes"):
        yield "\n".join(f"- {markdown(line)}" for line in doc["notes"])
    support = [f"{name.replace('_', ' ')}: {item['support']}" for name, item in (doc.get("attributes") or {}).items()]
    if support:
        yield f"Supports {', '.join(support)}."
    if entry.get("return"):
        given = ((f"`{name}`", kind(item), markdown(item["description"])) for name, item in entry["return"].items())
        yield table(("returned", "type", "what it is"), given)
    yield f"```yaml\n{entry['examples'].strip()}\n```"


def _option(name: str, option: Spec) -> tuple[str, ...]:
    default = "required" if option.get("required") else value(option["default"]) if "default" in option else ""
    return f"`{name}`", kind(option), default, told(option)


def pages() -> dict[Path, str]:
    """The generated pages by their paths."""
    sys.path.insert(0, str(ROOT / "collections"))
    schemas = importlib.import_module("ansible_collections.ambient.lab.plugins.module_utils._claims.schema")
    schema = PLUGINS.parent / "docs/claims.schema.json"
    written = json.dumps(schemas.claims_schema(), indent=1) + "\n"
    return {REFERENCE / "roles.md": role_page(), REFERENCE / "modules.md": module_page(), schema: written}


if __name__ == "__main__":
    REFERENCE.mkdir(exist_ok=True)
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
