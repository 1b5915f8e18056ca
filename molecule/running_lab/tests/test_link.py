"""What passes the bridge between the nodes of a real lab: HBONE, and plain text where the mesh has no part in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._wire.link_encryption import prove_encryption
from running_lab import Lab


def prove(lab: Lab, source: str, control: str, results: Path | None = None) -> dict[str, Any]:
    claim = {"name": "a", "from": {"pod": source}, "to": "http://sample-app:8080/", "control": {"pod": control}}
    params = {
        **{"claims": [claim], "namespace": "default", "timeout": 0.0, "probe_timeout": 5.0},
        **{"kubeconfig": lab.facts["kubeconfig"], "context": lab.facts["context"], **lab.facts["link"]},
        **{"results_file": results and str(results), "section": "link"},
    }
    return prove_encryption(params, check_mode=False)


def test_the_mesh_encrypts_between_nodes(lab: Lab) -> None:
    (claim,) = prove(lab, "curl-inside", "curl-outside")["claims"]
    assert [flow["target"].endswith(":15008") for flow in claim["flows"]] == [True]


@pytest.mark.parametrize(
    ("source", "control", "words", "path"),
    [
        ("curl-outside", "curl-outside", "it passed in plain text", "cross node"),
        ("curl-inside", "curl-inside", "sent the control, which was not seen in plain text either", "cross node"),
        # On the node of the application.
        ("curl-allow", "curl-outside", "nothing of it passed: default/curl-allow", None),
    ],
)
def test_it_says_so_where_not(
    lab: Lab, source: str, control: str, words: str, path: str | None, tmp_path: Path
) -> None:
    results = tmp_path / "results.json"
    with pytest.raises(LabError) as caught:
        prove(lab, source, control, results)
    assert words in " ".join(caught.value.message.split())
    assert json.loads(results.read_text())["link"]["after"]["claims"][0]["path"] == path
