# What the module is asked to do: whatever is wrong is said before anything is sent or changed.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._convergence.options import read_plan
from ansible_collections.ambient.lab.plugins.modules import policy_convergence as module
from ansible_collections.ambient.lab.tests.unit.fakes.convergence import DEFINITION, Object
from ansible_collections.ambient.lab.tests.unit.fakes.objects import claim


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"repeats": 0}, "repeats must be from 1 to 100"),
        ({"rate": 500.0}, "rate must be from 1 to 200"),
        ({"repeats": 100, "timeout": 60.0}, "more than the 7200 s that are allowed"),
        ({"repeats": 50, "rate": 200.0}, "more than the 1000000 that are allowed"),
        ({"definition": {"kind": "Service"}}, "definition must be an AuthorizationPolicy"),
        ({"definition": {**DEFINITION, "metadata": {}}}, "metadata.name is missing"),
        ({"definition": {**DEFINITION, "metadata": {"name": "A b"}}}, "definition: 'default/A b' must be"),
        ({"claims": []}, "claims is empty"),
        ({"claims": [claim("same")]}, "nothing to converge"),
        (
            {"claims": [claim("x", limit=1)]},
            "unknown key 'limit'; allowed are name, from, to, expect, before, by, limits",
        ),
        ({"claims": [claim("x", limits={"leaks": 1})]}, "unknown key 'leaks'"),
        ({"claims": [claim("x", limits={"leaks_after_ready": -1})]}, "is not a number of requests"),
        ({"claims": [claim("x", limits={"converges_within": True})]}, "is not a number of seconds"),
        ({"claims": [claim("x", expect="probe_error")]}, "can't be expected"),
        (
            {"claims": [claim("x", expect="denied_l4", by="default/other")]},
            "claim 1 ('x'): by: default/other is not default/p, which alone comes and goes here",
        ),
        (
            {
                "claims": [
                    claim("y", expect="denied_l4"),
                    claim("x", before="denied_l4", expect="denied_l4", by="default/p"),
                ]
            },
            "claim 2 ('x'): by: the claim expects the same without the policy",
        ),
    ],
)
def test_options_are_read_strictly(changed: Object, words: str) -> None:
    defaults = {name: option.get("default") for name, option in module.SPEC.items()}
    claims = [claim("x", expect="denied_l4", by="default/p"), claim("y")]
    given = {**defaults, "definition": DEFINITION, "claims": claims, "rate": 20.0}
    assert read_plan(given).policy.name == "p"
    with pytest.raises(LabError) as caught:
        read_plan({**given, **changed})
    assert words in caught.value.message
