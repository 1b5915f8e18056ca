# The schema of a claims file and the parser say the same.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import pathlib
import typing as t

import jsonschema
import pytest
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import EXPECTABLE, parse_claims
from ansible_collections.ambient.lab.plugins.module_utils._claims.schema import claims_schema
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.tests.unit.fakes.objects import claim
from ansible_collections.ambient.lab.tests.unit.plugins.module_utils._claims.test_parse import WRONG
from hypothesis import given
from hypothesis import strategies as st

SCHEMA = jsonschema.Draft202012Validator(claims_schema())
# What no schema can say, or what JSON can't hold.
ONLY_THE_PARSER = (
    "at most 32768 bytes together", "can't be written as UTF-8", "has no valid host", "is no JMESPath",
    "a boolean is not", "from.labels: YAML makes", "http://app:99999", "'999",
)  # fmt: skip


def is_valid(*claims: t.Any) -> bool:
    return bool(SCHEMA.is_valid({"claims": list(claims)}))


def test_the_file_is_as_the_parser_says() -> None:
    """Whoever changes what a claim may hold writes it anew, in the folder of the collection:

    PYTHONPATH=../../.. python -m ansible_collections.ambient.lab.plugins.module_utils._claims.schema \\
      >docs/claims.schema.json
    """
    written = pathlib.Path(__file__).parents[5] / "docs/claims.schema.json"
    jsonschema.Draft202012Validator.check_schema(claims_schema())
    assert json.loads(written.read_text(encoding="utf-8")) == claims_schema()


@pytest.mark.parametrize(("raw", "words"), WRONG)
def test_what_the_parser_refuses_is_refused(raw: t.Any, words: list[str]) -> None:
    text = " ".join(words) + (str(raw.get("to"))[:99] if isinstance(raw, dict) else "")
    assert any(only in text for only in ONLY_THE_PARSER) or not is_valid(raw)


def test_a_list_that_checks_nothing_is_refused() -> None:
    assert not is_valid()
    assert not SCHEMA.is_valid({"claim": [claim()]})


NAMES = st.sampled_from(["curl", "a.b-c", "Curl", "-a", "", "0"])
TEXTS = st.sampled_from(["x", "", "a b", "http://app:8080/x", "HTTP://App", "http://u@app", "app", "GET", "HEAD", "1"])
SCALARS = st.one_of(TEXTS, st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False))
CODES = st.sampled_from([0, 56, 200, 403, 599, 600, "403", "x", True, None, 200.5])
EXPECTED = st.one_of(
    st.sampled_from([*EXPECTABLE, "probe_error", "denied"]),
    st.fixed_dictionaries(
        {"outcome": st.sampled_from([*EXPECTABLE, "probe_error"])},
        optional={
            "http_code": CODES | st.lists(CODES, max_size=2),
            "exit_code": CODES,
            "json": st.just("a == `1`"),
            "x": CODES,
        },
    ),
)
CLAIMS = st.fixed_dictionaries(
    {
        "name": TEXTS,
        "from": st.dictionaries(
            st.sampled_from(["pod", "service_account", "namespace", "container", "pods"]), NAMES, max_size=3
        )
        | st.fixed_dictionaries({"labels": st.dictionaries(TEXTS, SCALARS, max_size=2)}),
        "to": TEXTS
        | st.fixed_dictionaries(
            {"url": TEXTS},
            optional={"method": TEXTS, "headers": st.dictionaries(TEXTS, SCALARS, max_size=2), "body": SCALARS},
        ),
        "expect": EXPECTED,
    },
    optional={"before": EXPECTED, "by": st.sampled_from(["a/b", "a", "A/b", "a/b/c", None, 1]), "expct": TEXTS},
)


@given(CLAIMS)
def test_what_the_schema_refuses_the_parser_refuses(made: dict[str, t.Any]) -> None:
    try:
        parse_claims([made], "default")
    except LabError:
        return
    assert is_valid(made), list(SCHEMA.iter_errors({"claims": [made]}))
