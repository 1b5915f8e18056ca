"""Checks a request against contract.json, the one place where keys, types and what each state needs are written.

Its ``options`` and ``required_if`` have the form of an Ansible argument spec: the action plugin takes them as they are.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .errors import LabError

CONTRACT: dict[str, Any] = json.loads(Path(__file__).with_name("contract.json").read_text(encoding="utf-8"))
TYPES: dict[str, type] = {"str": str, "path": str, "int": int, "bool": bool, "list": list, "dict": dict}
NAME = re.compile("[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
# What messages write between < and >, where the caller has no other name for it.
NAMES = {"absent": "state=absent", "otherwise": "use a cluster of another kind"}


def request(text: str) -> dict[str, Any]:
    """Return the request with its defaults, ``~`` in paths expanded; None where an option is not given.

    Raises:
        LabError: where it is not what contract.json says, or the name cannot be a lab's.
    """
    try:
        given = json.loads(text)
    except ValueError as error:
        raise LabError(f"The request must be a JSON object: {error}") from error
    found = _object(given, CONTRACT["options"], "The request", CONTRACT["required_if"])
    if found["name"] is not None and not NAME.fullmatch(found["name"]):
        raise LabError(
            f"The lab's name {found['name']!r} must be at most 40 lower-case letters, digits and hyphens "
            "(it becomes a host name): set <name>"
        )
    return found


def named(message: str, text: str) -> str:
    """Put what the caller calls an option in the place of ``<option>``.

    Args:
        text: The request, of which nothing but ``names`` need be right.
    """
    try:
        names = {**NAMES, **json.loads(text)["names"]}
    except (ValueError, TypeError, KeyError):
        names = NAMES
    options = [*CONTRACT["options"], *CONTRACT["options"]["forwards"]["options"]]
    known = {**dict(zip(options, options, strict=True)), **names}
    return re.sub(r"<(\w+)>", lambda found: str(known.get(found[1], found[0])), message)


def _object(given: Any, options: dict[str, Any], where: str, required_if: Iterable[Any] = ()) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise LabError(f"{where} must be a JSON object")
    if unknown := sorted(set(given) - set(options)):
        raise LabError(f"{where} has {', '.join(unknown)}: it takes {', '.join(options)}")
    known = {key: value for key, value in given.items() if value is not None}
    found = {
        key: _value(known[key], option, f"{where}: {key}") if key in known else option.get("default")
        for key, option in options.items()
    }
    needed = {key for key, option in options.items() if option.get("required")}
    needed.update(*(names for key, value, names in required_if if found[key] == value))
    if missing := sorted(key for key in needed if found[key] is None):
        raise LabError(f"{where} lacks {', '.join(missing)}")
    return found


def _value(value: Any, option: dict[str, Any], where: str) -> Any:
    if value not in option.get("choices", [value]):
        raise LabError(f"{where} must be one of {', '.join(map(str, option['choices']))}, not {value!r}")
    kind = type(value)
    if kind is not TYPES[option["type"]]:  # True is an int as well
        raise LabError(f"{where} must be of the type {option['type']}, not {value!r}")
    if "options" in option:
        return [_object(item, option["options"], where) for item in value]
    return os.path.expanduser(value) if option["type"] == "path" else value
