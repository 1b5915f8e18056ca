# Dataclasses as plain data and back, and the JSON schema of what is written.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing as t

from .._common.text import printable

T = t.TypeVar("T")
_SCALARS: dict[t.Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def key_of(field: dataclasses.Field[t.Any]) -> str:
    """A field's name in JSON: one that would be a keyword of Python ends in an underscore there."""
    return field.name.rstrip("_")


def plain(value: t.Any) -> t.Any:
    """Dataclasses, and what is in them, as JSON has it."""
    if dataclasses.is_dataclass(value):
        return {key_of(field): plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def load(kind: type[T], value: object, place: str = "it") -> T:
    """Read plain data back. All texts become single lines without control characters: they are a cluster's words.

    Args:
        kind: a dataclass, or a type hint of one's fields.
        value: the data.
        place: where it stands, for messages.

    Raises:
        ValueError: where it has another form.
    """
    origin, inner = t.get_origin(kind), t.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return t.cast("T", _instance(kind, value, place))
    if origin in (t.Union, types.UnionType):
        chosen = type(None) if value is None else next(one for one in inner if one is not type(None))
        return t.cast("T", load(chosen, value, place))
    if origin is list and isinstance(value, list):
        return t.cast("T", [load(inner[0], item, f"{place}[{number}]") for number, item in enumerate(value)])
    if origin is dict and isinstance(value, dict):
        found = {printable(str(key)): load(inner[1], item, f"{place}.{key}") for key, item in value.items()}
        return t.cast("T", found)
    if kind is t.Any or (origin is t.Literal and value in inner) or _is(value, kind):
        return t.cast("T", _cleaned(value))
    raise ValueError(f"{place} is no {' or '.join(map(str, inner)) or getattr(kind, '__name__', kind)}")


def _is(value: object, kind: t.Any) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return kind in _SCALARS and isinstance(value, (int, float) if kind is float else kind)


def _cleaned(value: t.Any) -> t.Any:
    if isinstance(value, dict):
        return {printable(key): _cleaned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    return printable(value) if isinstance(value, str) else value


def _instance(kind: t.Any, value: object, place: str) -> t.Any:
    if not isinstance(value, dict):
        raise ValueError(f"{place} is no {kind.__name__}")
    fields = {key_of(field): field for field in dataclasses.fields(kind)}
    needed = {key for key, field in fields.items() if _is_required(field)}
    for key in [*(needed - value.keys()), *(value.keys() - fields.keys())]:
        raise ValueError(f"{place} has {'no' if key in fields else 'an unknown'} {key}")
    hints = _hints(kind)
    return kind(**{fields[k].name: load(hints[fields[k].name], item, f"{place}.{k}") for k, item in value.items()})


def _is_required(field: dataclasses.Field[t.Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


@functools.lru_cache
def _hints(kind: t.Any) -> dict[str, t.Any]:
    return t.get_type_hints(kind)


def schema(kind: type) -> dict[str, t.Any]:
    """JSON schema (draft 2020-12) of what `plain` makes of a dataclass; the words are those of the docstrings."""
    found: dict[str, t.Any] = {}
    root = _schema(kind, found)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **root, "$defs": found}


def _schema(kind: t.Any, found: dict[str, t.Any]) -> dict[str, t.Any]:
    origin, inner = t.get_origin(kind), t.get_args(kind)
    if dataclasses.is_dataclass(kind):
        name = t.cast("type", kind).__name__
        if name not in found:
            found[name] = {}
            found[name] = _object(kind, found)
        return {"$ref": f"#/$defs/{name}"}
    if origin in (t.Union, types.UnionType):
        return {"anyOf": [_schema(one, found) for one in inner]}
    if origin is t.Literal:
        return {"enum": list(inner)}
    if origin is list:
        return {"type": "array", "items": _schema(inner[0], found)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(inner[1], found)}
    return {"type": _SCALARS[kind]} if kind in _SCALARS else {}


def _object(kind: t.Any, found: dict[str, t.Any]) -> dict[str, t.Any]:
    hints, (about, words) = _hints(kind), _told(kind)
    properties = {}
    for field in dataclasses.fields(kind):
        word = words.get(field.name)
        properties[key_of(field)] = {**_schema(hints[field.name], found), **({"description": word} if word else {})}
    return {
        "description": about,
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _told(kind: t.Any) -> tuple[str, dict[str, str]]:
    """What a docstring says of a class, and of its attributes; those of a base class count, too."""
    words: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        _about, _, listed = (one.__dict__.get("__doc__") or "").partition("Attributes:")
        words |= {name: " ".join(text.split()) for name, text in re.findall(_ATTRIBUTE, listed)}
    return " ".join(kind.__doc__.partition("Attributes:")[0].split()), words


# A name, and its lines up to the next one (Google's style of docstrings).
_ATTRIBUTE = re.compile(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", re.MULTILINE)
