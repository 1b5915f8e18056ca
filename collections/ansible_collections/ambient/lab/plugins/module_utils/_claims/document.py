# What a claim expects of a JSON answer: a JMESPath expression (JMESPath Specification).
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import typing as t

try:
    import jmespath
    import jmespath.exceptions
except ImportError:
    JMESPATH = False
else:
    JMESPATH = True

_SHOWN = 120


def problem_of(expression: str) -> str:
    """What is wrong with an expression; "" where nothing is."""
    if not JMESPATH:
        return "it needs the Python package jmespath, where the module runs: pip install jmespath"
    try:
        jmespath.compile(expression)
    except jmespath.exceptions.JMESPathError as error:
        return f"is no JMESPath expression: {' '.join(str(error).split())[:_SHOWN]}"
    return ""


def misfit(expression: str, document: str) -> str:
    """Why an answer's body does not fit an expression; "" where it does.

    expression: that must be true of it, in JMESPath's sense: not false, null, or empty.
    """
    try:
        parsed = json.loads(document)
    except ValueError:
        return "the answer is no JSON, or longer than what is read of it (4 KiB)"
    try:
        found: t.Any = jmespath.search(expression, parsed)
    except jmespath.exceptions.JMESPathError as error:
        return f"{expression} can't be asked of the answer: {' '.join(str(error).split())[:_SHOWN]}"
    if found or (found == 0 and found is not False):
        return ""
    return f"{expression} is {json.dumps(found)} of the answer"
