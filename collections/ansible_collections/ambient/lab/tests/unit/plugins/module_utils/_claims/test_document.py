# What a JSON answer must contain: a JMESPath expression in a claim.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._check.run import judge
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import parse_claims
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen
from ansible_collections.ambient.lab.tests.unit.fakes import meshes
from ansible_collections.ambient.lab.tests.unit.fakes.objects import claim, claims


@pytest.mark.parametrize(
    ("expression", "document", "verdict", "reason"),
    [
        ("version == 'v2'", '{"version": "v2"}', "pass", ""),
        ("version == 'v2'", '{"version": "v1"}', "fail", "version == 'v2' is false of the answer"),
        ("count", '{"count": 0}', "pass", ""),
        ("names", '{"names": []}', "fail", "names is [] of the answer"),
        ("length(name) > `3`", "{}", "fail", "can't be asked of the answer"),
        ("a", "<html>", "fail", "the answer is no JSON, or longer"),
    ],
)
def test_a_json_answer(expression: str, document: str, verdict: str, reason: str) -> None:
    (parsed,) = claims(claim(expect={"outcome": "allowed", "json": expression}))
    way = meshes.way(meshes.mesh_of(), "http://app:8080/")
    run = meshes.run_of(way, parsed.after, Seen("allowed", 200, 0, document=document))
    found = judge(run, None, required=True)
    assert (found.verdict, reason in found.reason) == (verdict, True)


@pytest.mark.parametrize(
    ("expect", "words"),
    [
        ({"outcome": "allowed", "json": "a =="}, "is no JMESPath expression"),
        ({"outcome": "denied_l4", "json": "a"}, "denied_l4 has no HTTP answer, leave json out"),
        ({"outcome": "allowed", "json": 1}, "must be a text"),
    ],
)
def test_an_expression_that_is_none(expect: object, words: str) -> None:
    with pytest.raises(LabError, match=words):
        parse_claims([claim(expect=expect)], "default")
