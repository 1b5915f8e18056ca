# What a run may be asked for, and what of it nobody knows.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.plugin_utils._run.validate_run import Known, mentioned, problems

KNOWN = Known({"l4", "l7", "kiali"}, {"cluster_name", "cluster_node_ports", "claims"}, {"cluster_node_ports": "dict"})


@pytest.mark.parametrize(
    ("tags", "variables", "line"),
    [
        (["all", "l4"], {"cluster_name": "docs"}, ""),
        (["l44"], {}, "tag l44: did you mean l4? (there are kiali, l4, l7)"),
        (["x", "y"], {}, "tag x\ntag y (there are kiali, l4, l7)"),
        ([], {"cluster_nmae": "docs"}, "variable cluster_nmae: did you mean cluster_name?"),
        ([], {"colour": "blue"}, "variable colour"),
        # What is always there, in AWX or in a test scenario.
        (
            ["tagged", "molecule-notest", "notest"],
            {"ansible_host": "a", "awx_job_id": 1, "tower_job_id": 1, "molecule_each": 2},
            "",
        ),
        # A helper of another variable.
        ([], {"claims": "{{ shared[0] }}", "shared": [[]]}, ""),
        ([], {"shared": "{{ shared }}"}, "variable shared"),
        ([], {"cluster_node_ports": '{"30080": 1}'}, """write -e '{"cluster_node_ports": {...}}'"""),
        ([], {"cluster_node_ports": "{{ claims }}"}, ""),
        ([], {"_raw_params": "docs"}, "docs among the variables: write -e NAME=VALUE"),
    ],
)
def test_what_nobody_knows_is_named(tags: list[str], variables: dict[str, t.Any], line: str) -> None:
    found = "\n".join(problems(KNOWN, tags, variables))
    assert line in found
    assert bool(found) is bool(line)


def test_a_playbook_without_tags_has_none() -> None:
    assert problems(Known(set(), set(), {}), ["l4"], {}) == ["tag l4 (this playbook has none)"]


def test_the_variables_of_templates_are_known_wherever_they_stand() -> None:
    play = {
        "vars": {"__file": "{{ claims_file | default('x', true) | expanduser }}"},
        "tasks": [
            {"block": [{"assert": {"that": ["claims is defined or a.b"]}, "when": "not skipped", "name": "text"}]}
        ],
        "loop": "{{ ",
    }
    assert mentioned(play) == {"claims_file", "claims", "a", "skipped"}
