# Reads the fields of claims of any kind. What is wrong is said without the value: a secret may stand at a wrong place.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import re
import typing as t

from .._common.errors import LabError

TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


class Named(t.Protocol):
    """A claim of any kind."""

    @property
    def name(self) -> str:
        """Under which its result is kept."""


AnyClaim = t.TypeVar("AnyClaim", bound=Named)


def parse_list(raw: object, parse: t.Callable[[object, int], AnyClaim]) -> tuple[AnyClaim, ...]:
    """The claims of a list.

    Args:
        raw: the list as Ansible hands it over.
        parse: makes a claim of an item and its number in the list, or raises Problem.

    Raises:
        LabError: when there is nothing in it, or with one line per problem: the claim, the key and what is allowed.
    """
    if not isinstance(raw, list) or not raw:
        raise LabError("claims is empty: a list that checks nothing proves nothing; add at least one claim")
    claims: dict[str, AnyClaim] = {}
    problems: list[str] = []
    for number, item in enumerate(raw, 1):
        try:
            json.dumps(item, ensure_ascii=False, default=str, skipkeys=True).encode()
        except ValueError as error:
            # A lone surrogate, or a number of thousands of digits; neither may be shown.
            why = f"can't be written as UTF-8 text ({type(error).__name__})"
            problems.append(str(Problem(label_of(item, number), "claim", why)))
            continue
        try:
            claim = parse(item, number)
            if claim.name in claims:
                raise Problem(label_of(item, number), "name", f"{claim.name!r} is used twice; results are kept by name")
            claims[claim.name] = claim
        except Problem as problem:
            problems.append(str(problem))
    require_none(problems)
    return tuple(claims.values())


def require_none(problems: t.Sequence[str]) -> None:
    """Raises LabError where there are problems with claims."""
    if problems:
        raise LabError("Invalid claims, nothing was probed:\n" + "\n".join(f"  {line}" for line in problems))


class Problem(Exception):
    """What is wrong with one key of one claim; the one that parses the list makes it the user's message."""

    def __init__(self, label: str, key: str, text: str) -> None:
        super().__init__(f"{label}: {key}: {text}")


def label_of(item: object, number: int) -> str:
    """What a claim of a list is called in messages: its number, and its name if it has one."""
    name = item.get("name") if isinstance(item, dict) else None
    return f"claim {number} ({name!r})" if isinstance(name, str) and name else f"claim {number}"


def mapping(
    item: object, label: str, key: str, allowed: t.Sequence[str], required: t.Sequence[str] = ()
) -> dict[str, t.Any]:
    """A mapping with no other keys than the allowed ones, and the required ones among them. Raises Problem."""
    if not isinstance(item, dict):
        raise Problem(label, key, f"must be a mapping with the keys {', '.join(allowed)}, not {kind_of(item)}")
    for unknown in item:
        if unknown not in allowed:
            raise Problem(label, key, f"unknown key {name_of(unknown)}; allowed are {', '.join(allowed)}")
    for name in required:
        if name not in item:
            raise Problem(label, name, "is missing")
    return item


def kind_of(value: object) -> str:
    """What a value is, in place of the value: a header or a body may stand at a wrong place."""
    kinds = ((bool, "a boolean"), (str, "a text"), (int | float, "a number"), (list, "a list"), (dict, "a mapping"))
    return next((said for kind, said in kinds if isinstance(value, kind)), "nothing" if value is None else "it")


def name_of(key: object) -> str:
    """A key for a message: its first word, because somebody may have written a whole header there."""
    found = TOKEN.match(key) if isinstance(key, str) else None
    return repr(found[0]) + ("" if found[0] == key else "...") if found else kind_of(key)


def scalar(value: object, label: str, key: str) -> str:
    """A text, or a whole number as one. Raises Problem.

    Of booleans and of numbers with a point it is not known how they were written: YAML takes yes for true, and 1.10
    for 1.1.
    """
    if isinstance(value, bool | float):
        raise Problem(label, key, f"YAML makes {kind_of(value)} of it: write it in quotes")
    if not isinstance(value, str | int):
        raise Problem(label, key, f"must be a text, not {kind_of(value)}")
    return str(value)


def text_of(value: object, label: str, key: str) -> str:
    """A text that is not empty. Raises Problem."""
    if not isinstance(value, str) or not value.strip():
        raise Problem(label, key, f"must be a text that is not empty, not {kind_of(value)}")
    return value


def dns_name(value: object, label: str, key: str) -> str:
    """The name of a Kubernetes object. Raises Problem."""
    text = text_of(value, label, key)
    if len(text) > 253 or not DNS_NAME.fullmatch(text):
        raise Problem(label, key, f"{text!r} is not a Kubernetes name (lower case letters, digits, '-' and '.')")
    return text


def codes_of(fields: dict[str, t.Any], name: str, allowed: range, label: str, key: str) -> frozenset[int] | None:
    """A number or a list of numbers, all of them allowed; None where the key is left out. Raises Problem."""
    if name not in fields:
        return None
    raw = fields[name] if isinstance(fields[name], list) else [fields[name]]
    codes = set()
    for item in raw:
        # Ansible templating may hand a number over as text.
        number = int(item) if isinstance(item, str) and item.isdecimal() and len(item) < 10 else item
        if isinstance(number, bool) or not isinstance(number, int) or number not in allowed:
            raise Problem(label, f"{key}.{name}", f"{item!r:.40} is not a number from {allowed[0]} to {allowed[-1]}")
        codes.add(number)
    if not codes:
        raise Problem(label, f"{key}.{name}", "is an empty list")
    return frozenset(codes)
