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


class WrongForm(ValueError):
    """Data that has another form than it should have. place: where, from the outside in."""

    def __init__(self, text: str, place: str = "") -> None:
        super().__init__(f"it{place} {text}")
        self.text, self.place = text, place


def load(kind: type[T], value: object) -> T:
    """Read plain data back. All texts become single lines without control characters: they are a cluster's words.

    Args:
        kind: a dataclass, or a type hint of one's fields.
        value: the data.

    Raises:
        WrongForm: where it has another form.
    """
    return t.cast("T", _load(kind, value))


def _load(kind: t.Any, value: t.Any) -> t.Any:
    if kind is str and isinstance(value, str):
        return printable(value)
    form = _form(kind)
    if form.fields is not None:
        return _instance(kind, form.fields, value)
    if form.origin in (t.Union, types.UnionType):
        return None if value is None else _load(form.inner[0], value)
    if form.origin is list and isinstance(value, list):
        return [_within(f"[{number}]", form.inner[0], item) for number, item in enumerate(value)]
    if form.origin is dict and isinstance(value, dict):
        return {printable(str(key)): _within(f".{key}", form.inner[1], item) for key, item in value.items()}
    if kind is t.Any or (form.origin is t.Literal and value in form.inner) or _is(value, kind):
        return _cleaned(value)
    raise WrongForm(f"is no {' or '.join(map(str, form.inner)) or getattr(kind, '__name__', kind)}")


def _within(place: str, kind: t.Any, value: t.Any) -> t.Any:
    try:
        return _load(kind, value)
    except WrongForm as wrong:
        raise WrongForm(wrong.text, place + wrong.place) from None


def _instance(kind: t.Any, fields: t.Mapping[str, Field], value: t.Any) -> t.Any:
    if not isinstance(value, dict):
        raise WrongForm(f"is no {kind.__name__}")
    for key in {key for key, field in fields.items() if field.needed} - value.keys():
        raise WrongForm(f"has no {key}")
    for key in value.keys() - fields.keys():
        raise WrongForm(f"has an unknown {key}")
    return kind(**{fields[key].name: _within(f".{key}", fields[key].hint, item) for key, item in value.items()})


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


class Field(t.NamedTuple):
    """A field of a dataclass: its name, its type, and whether it has no default."""

    name: str
    hint: t.Any
    needed: bool


class _Form(t.NamedTuple):
    """What a type hint is made of. inner: of a union, the type that is not None comes first."""

    fields: dict[str, Field] | None
    origin: t.Any
    inner: tuple[t.Any, ...]


@functools.lru_cache
def _form(kind: t.Any) -> _Form:
    fields = None
    if dataclasses.is_dataclass(kind):
        hints = t.get_type_hints(kind)
        missing = dataclasses.MISSING
        fields = {
            key_of(one): Field(one.name, hints[one.name], one.default is missing and one.default_factory is missing)
            for one in dataclasses.fields(kind)
        }
    return _Form(fields, t.get_origin(kind), t.get_args(kind))


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
    about, words = _told(kind)
    properties = {}
    for key, field in (_form(kind).fields or {}).items():
        word = words.get(field.name)
        properties[key] = {**_schema(field.hint, found), **({"description": word} if word else {})}
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
