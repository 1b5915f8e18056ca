# The JSON schema of a claims file, made of what the parser accepts.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import typing as t

from .fields import DNS_NAME, TOKEN
from .parse import ANSWERED, EXPECTABLE, MAX_BODY, MAX_URL, REQUIRED_KEYS

Schema = dict[str, t.Any]


def claims_schema() -> Schema:
    """The schema (JSON Schema, draft 2020-12) of a file with the key `claims`, for editors and CI.

    What it refuses, the parser refuses too. The parser alone knows that names are unique, what a URL's host may be,
    that a JMESPath expression is one, and what is too long together.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Claims of ambient.lab.curl_outcomes",
        "type": "object",
        "required": ["claims"],
        "properties": {"claims": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/claim"}}},
        "$defs": {"claim": _claim(), "expectation": _expectation(), "name": _name(), "scalar": _SCALAR},
    }


# YAML makes a boolean of yes, and 1.1 of 1.10: such values need quotes.
_SCALAR: Schema = {"type": ["string", "integer"]}


def _name() -> Schema:
    return {"type": "string", "maxLength": 253, "pattern": f"^{DNS_NAME.pattern}$"}


def _claim() -> Schema:
    expectation = {"$ref": "#/$defs/expectation"}
    return _mapping(
        "Who calls whom, and what must happen.",
        {
            "name": _text("Unique in the list."),
            "from": _source(),
            "to": {"anyOf": [_url(), _request()]},
            "expect": {**expectation, "description": "What must happen under the policy."},
            "before": {**expectation, "description": "What must happen without the policy (phase: before)."},
            "by": {
                "description": "The AuthorizationPolicy that must have decided: namespace/name.",
                "type": ["string", "null"],
                "pattern": f"^{DNS_NAME.pattern}/{DNS_NAME.pattern}$",
            },
        },
        REQUIRED_KEYS,
    )


def _source() -> Schema:
    name = {"$ref": "#/$defs/name"}
    labels = {"type": "object", "minProperties": 1, "additionalProperties": {"$ref": "#/$defs/scalar"}}
    chosen = {"pod": name, "labels": labels, "service_account": name}
    found = _mapping("The pod that calls.", {**chosen, "namespace": name, "container": name})
    return {**found, "oneOf": [{"required": [key]} for key in chosen]}


def _url() -> Schema:
    return {"type": "string", "maxLength": MAX_URL, "pattern": r"^[Hh][Tt][Tt][Pp][Ss]?://[^/?#@\s]+([/?#][^\s]*)?$"}


def _request() -> Schema:
    line = {"$ref": "#/$defs/scalar", "pattern": r"^[^\r\n\u0000]*$"}
    token = f"^{TOKEN.pattern}$"
    found = _mapping(
        "A request.",
        {
            "url": _url(),
            "method": {"type": "string", "pattern": token},
            "headers": {"type": "object", "propertyNames": {"pattern": token}, "additionalProperties": line},
            "body": {"type": ["string", "null"], "maxLength": MAX_BODY},
        },
        ["url"],
    )
    head = {"required": ["method"], "properties": {"method": {"const": "HEAD"}}}
    return {**found, "if": head, "then": {"properties": {"body": {"type": "null"}}}}


def _expectation() -> Schema:
    answered = {"properties": {"outcome": {"enum": list(ANSWERED)}}}
    outcome = {"enum": list(EXPECTABLE)}
    fields = {
        "outcome": outcome,
        "http_code": _codes(200, 599),
        "exit_code": _codes(0, 255),
        "json": _text("A JMESPath expression that must be true of the answer."),
    }
    whole = _mapping("An outcome, and more of what is seen.", fields, ["outcome"])
    without = {"properties": {"http_code": False, "json": False}}
    return {"anyOf": [outcome, {**whole, "if": answered, "else": without}]}


def _codes(least: int, most: int) -> Schema:
    one = {"anyOf": [{"type": "integer", "minimum": least, "maximum": most}, {"type": "string", "pattern": "^[0-9]+$"}]}
    return {"anyOf": [one, {"type": "array", "minItems": 1, "items": one}]}


def _text(description: str) -> Schema:
    return {"description": description, "type": "string", "pattern": r"\S"}


def _mapping(description: str, fields: Schema, required: t.Sequence[str] = ()) -> Schema:
    found: Schema = {"description": description, "type": "object", "properties": fields, "additionalProperties": False}
    return {**found, "required": list(required)} if required else found


if __name__ == "__main__":
    print(json.dumps(claims_schema(), indent=1))
