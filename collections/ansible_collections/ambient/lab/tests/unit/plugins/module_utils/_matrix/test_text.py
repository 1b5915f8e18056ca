# The claims file of a matrix: what it looks like, that it stays the same, and that it can be read.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pathlib
import re

import pytest
import yaml
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import (
    DEFAULT_CODES,
    DENIALS,
    EXPECTABLE,
    parse_claims,
)
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._matrix.diff import (
    State,
    compare,
    decider,
    difference,
    stated,
)
from ansible_collections.ambient.lab.plugins.module_utils._matrix.plan import Pair
from ansible_collections.ambient.lab.plugins.module_utils._matrix.text import file_text, read_claims
from ansible_collections.ambient.lab.tests.unit.fakes.matrix import (
    APP,
    cluster,
    laid_out,
    service,
)
from ansible_collections.ambient.lab.tests.unit.fakes.objects import pod
from hypothesis import given, settings
from hypothesis import strategies as some

OPEN = State("allowed", frozenset({200}), frozenset({0}))
DENIED = State("denied_l4", exits=frozenset({56}), policy="default/p")

EXPECTED = """\
---
# Who may call whom, as real traffic showed it; written by ambient.lab.claims_matrix.
# Edit what should be otherwise, and commit the file. With state observe the module writes it anew.
# Prove every claim of it:
#   - ambient.lab.curl_outcomes:
#       claims: "{{ (lookup('ansible.builtin.file', 'claims.yml') | from_yaml).claims }}"
# See what has opened or closed since:
#   - ambient.lab.claims_matrix:
#       state: compare
#       file: claims.yml
#       namespaces: [default]
# Not probed: default/bare (its container main has no curl)
claims:
  # From default/app, in the mesh
  - name: default/app -> app.default:8080 GET
    from: {service_account: app, namespace: default}
    to: http://app.default:8080/
    expect: {outcome: allowed, http_code: 200}
  - name: default/app -> app.default:8080 POST
    from: {service_account: app, namespace: default}
    to: {url: 'http://app.default:8080/', method: POST}
    expect: denied_l7
    by: default/l7
  # From default/curl
  - name: default/curl -> app.default:8080 GET
    from: {service_account: curl, namespace: default}
    to: http://app.default:8080/
    expect: denied_l4
    by: default/p
  - name: default/curl -> app.default:8080 POST
    from: {service_account: curl, namespace: default}
    to: {url: 'http://app.default:8080/', method: POST}
    expect:
      outcome: allowed
      http_code: [200, 503]
"""


def written(folder: pathlib.Path, cells: list[tuple[Pair, State]]) -> str:
    """Path of a file with these cells."""
    path = folder / "claims.yml"
    path.write_text(file_text(str(path), ["default"], cells, {}, ()))
    return str(path)


def test_the_file_as_a_whole(tmp_path: pathlib.Path) -> None:
    pairs = laid_out(cluster(APP, [service("app")]), methods=("GET", "POST")).pairs
    states = [
        OPEN,
        State("denied_l7", frozenset({403}), policy="default/l7"),
        DENIED,
        State("allowed", frozenset({503, 200})),
    ]
    cells = list(zip(pairs, states, strict=True))
    notes = {"default/app": "in the mesh"}
    text = file_text(
        "/somewhere/claims.yml",
        ["default"],
        cells,
        notes,
        ["Not probed: default/bare (its container main has no curl)"],
    )
    assert text == EXPECTED
    assert list(yaml.safe_load(text)) == ["claims"]
    commands = re.findall(r"^#   (- .*|    .*)$", text, re.MULTILINE)
    assert [list(task) for task in yaml.safe_load("\n".join(commands))] == [
        ["ambient.lab.curl_outcomes"],
        ["ambient.lab.claims_matrix"],
    ]
    path = tmp_path / "claims.yml"
    path.write_text(text)
    assert [claim.name for claim in read_claims(str(path))] == [pair.claim.name for pair in pairs]


@pytest.mark.parametrize(
    "policy",
    [
        "istio-system/istio_converted_static_strict",
        "default/converted_peer_authentication_no-plain-text",
        "default/istio_allow_waypoint_default_wp",
    ],
)
def test_what_is_no_authorization_policy_is_no_by(tmp_path: pathlib.Path, policy: str) -> None:
    """Plain text under STRICT: the file can be read, nothing has changed, and people see who denies it."""
    (pair, *_rest) = laid_out(cluster(APP, [service("app")])).pairs
    strict = State("denied_l4", exits=frozenset({56}), policy=decider(policy))
    path = written(tmp_path, [(pair, strict)])
    (claim,) = read_claims(path)
    assert (claim.by, difference({"a": stated(claim)}, {"a": strict}).changes) == (None, ())
    assert f"    # denied by {decider(policy)}\n" in pathlib.Path(path).read_text()


def test_rows_to_pods_are_explained() -> None:
    pairs = laid_out(cluster([pod("app", ip="10.0.0.5")], [service("app")]), pod_ip=True).pairs
    text = file_text("claims.yml", ["default"], [(pair, OPEN) for pair in pairs], {}, ())
    assert '# Names with "pod of" go to a pod\'s own address' in text
    assert "    to: http://10.0.0.5:8080/\n" in text


@some.composite
def seen(draw: some.DrawFn) -> State:
    outcome = draw(some.sampled_from(EXPECTABLE))
    codes = draw(some.frozensets(some.integers(200, 599), min_size=1, max_size=3)) if outcome in DEFAULT_CODES else None
    policy = draw(some.none() | some.just("default/p")) if outcome in DENIALS else None
    return State(outcome, codes, None, policy)


@settings(deadline=None)
@given(some.lists(seen(), min_size=4, max_size=4), some.sampled_from(["/", "/a: b#c", "/{x}?y=[1],2", "/'\"", "/ü"]))
def test_what_is_written_can_be_read(states: list[State], path: str) -> None:
    if " " in path:
        path = path.replace(" ", "%20")
    pairs = laid_out(cluster(APP, [service("app")]), methods=("GET", "M!"), paths=(path,)).pairs
    text = file_text("claims.yml", ["default"], list(zip(pairs, states, strict=True)), {}, ())
    parsed = parse_claims(yaml.safe_load(text)["claims"], "elsewhere")
    assert [(claim.name, claim.source, claim.request) for claim in parsed] == [
        (pair.claim.name, pair.claim.source, pair.claim.request) for pair in pairs
    ]
    for claim, state in zip(parsed, states, strict=True):
        assert compare(stated(claim), state) == ""
        assert stated(claim).policy == state.policy
    assert file_text("claims.yml", ["default"], list(zip(pairs, states, strict=True)), {}, ()) == text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist; write it with state=observe first"),
        ("a: [", "is no YAML"),
        # The text may hold a token.
        ("claims: [{Authorization: *planted}]", "is no YAML at line 1, column 26"),
        ("- x", "must be a mapping with the one key `claims`"),
        ("claims: []\nx: 1", "must be a mapping with the one key"),
        ("claims: []", "claims is empty"),
        ("claims: [{name: a}]", "claim 1 ('a'): from: is missing"),
    ],
)
def test_files_that_are_none(tmp_path: pathlib.Path, content: str | None, words: str) -> None:
    path = tmp_path / "claims.yml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(LabError) as caught:
        read_claims(str(path))
    assert words in caught.value.message
    assert caught.value.message.startswith(f"file: {path}")


def test_a_folder_that_is_none(tmp_path: pathlib.Path) -> None:
    with pytest.raises(LabError, match=r"the folder of .* does not exist"):
        read_claims(str(tmp_path / "nowhere" / "claims.yml"))
