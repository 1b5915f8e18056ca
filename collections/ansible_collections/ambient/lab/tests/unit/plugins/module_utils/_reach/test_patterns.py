# Samples: each way in which patterns can match together has one, and there are not too many to look at.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import itertools
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._mesh import l7
from ansible_collections.ambient.lab.plugins.module_utils._mesh.l4 import Connection, Identity, glob, rule_matches
from ansible_collections.ambient.lab.plugins.module_utils._mesh.policies import Condition, Rule, rules
from ansible_collections.ambient.lab.plugins.module_utils._reach.patterns import (
    ANY,
    TooManyError,
    like_glob,
    like_path,
    samples,
)
from ansible_collections.ambient.lab.plugins.module_utils._reach.sources import Crowd, Place
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import mesh_of, pod, policy
from hypothesis import given, settings
from hypothesis import strategies as st

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True, database=None)
WORD = st.text("ab-", min_size=1, max_size=3)
GLOB = st.sampled_from(["{}", "*{}", "{}*"]).flatmap(lambda form: WORD.map(form.format))
PART = st.sampled_from(["a", "b", "{*}", "ab"])
PATHS = st.one_of(
    st.lists(PART, min_size=1, max_size=3).map(lambda parts: f"/{'/'.join(parts)}"),
    st.lists(PART, min_size=1, max_size=2).map(lambda parts: f"/{'/'.join(parts)}/{{**}}"),
    st.sampled_from(["/a*", "/ab/*", "*b", "*/a", "/*", "*"]),
)
# All short texts, independent of how samples are found.
TEXTS = ["".join(parts) for size in range(1, 5) for parts in itertools.product("abz-", repeat=size)]
SEGMENTS = [
    f"/{'/'.join(parts)}"
    for size in range(1, 4)
    for parts in itertools.product(["a", "b", "ab", "z", "az"], repeat=size)
]


def fitting(fits: t.Callable[[str, str], bool], patterns: t.Sequence[str]) -> t.Callable[[str], tuple[bool, ...]]:
    return lambda text: tuple(fits(pattern, text) for pattern in patterns)


@SETTINGS
@given(st.lists(GLOB, min_size=1, max_size=4))
def test_globs_match_together_as_in_all_short_texts(patterns: list[str]) -> None:
    of = fitting(glob, patterns)
    assert {of(text) for text in samples(map(like_glob, patterns), of)} >= {*map(of, TEXTS)}


@SETTINGS
@given(st.lists(PATHS, min_size=1, max_size=4))
def test_paths_match_together_as_in_all_short_paths(patterns: list[str]) -> None:
    of = fitting(l7.path_fits, patterns)
    found = samples(map(like_path, patterns), of, ["/"], f"/{ANY}", l7.CHANGED)
    assert {*map(of, found)} >= {*map(of, SEGMENTS)}
    assert not [text for text in found if l7.CHANGED.search(text)]


NAMES = st.sampled_from(["a", "b", "ab", "*", "a*", "*b", "*a*", "a*b", "a*b*"])
PRINCIPAL = st.sampled_from(
    [
        *("*/sa/a", "*/ns/b/sa/a", "*/b/sa/a", "*/a", "*b", "other/*", "x/ns/*"),
        *("cluster.local/ns/a*", "cluster.local/ns/a/*", "cluster.local/ns/a/sa/b"),
    ]
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "namespaces": st.lists(NAMES, min_size=1, max_size=2),
        "notNamespaces": st.lists(NAMES, min_size=1, max_size=2),
        "principals": st.lists(PRINCIPAL, min_size=1, max_size=2),
        "notPrincipals": st.lists(PRINCIPAL, min_size=1, max_size=2),
        "serviceAccounts": st.lists(st.sampled_from(["a", "b/a"]), min_size=1, max_size=2),
    },
).filter(bool)
CALLERS = [
    Connection(Identity(domain, space, account), None, None, None)
    for domain in ("cluster.local", "other", "x", "z")
    for space in ("a", "b", "ab", "aab", "abz", "zb", "zaz", "az", "z")
    for account in ("a", "b", "ab", "z")
]


@SETTINGS
@given(st.lists(FIELDS, min_size=1, max_size=2))
def test_policies_tell_every_caller_as_they_tell_some_source(fields: list[dict[str, list[str]]]) -> None:
    """Callers of foreign trust domains count where a pattern with a star has something to say of them."""
    item = policy("x", "a", rules=[{"from": [{"source": one} for one in fields]}])
    mesh = mesh_of(pod("app", "a"), item)
    named = [one for source in rules(item)[0].sources for one in source]
    pairs = [(one.key, one.attribute, value) for one in named for value in (*one.wanted, *one.unwanted)]

    def of(caller: Connection) -> tuple[t.Any, ...]:
        full = [
            (key, value if key != "serviceAccounts" or "/" in value else f"a/{value}") for key, _attr, value in pairs
        ]
        at_ztunnel = (rule_matches([[{key: ((value,), ())}]], caller) for key, value in full)
        context = l7.Context(caller, None)
        at_waypoint = (
            l7.rule_matches(item, Rule([], [[Condition(key, attribute, (value,), ())]], []), context)
            for key, attribute, value in pairs
        )
        return (*at_ztunnel, *at_waypoint)

    foreign = any(key == "principals" and value.endswith("*") and value[0] != "*" for key, _attribute, value in pairs)
    place = Place(0, [item], [item], through=False, pods=(), local=False)
    found = [one.seen(mesh, 0) for part in Crowd([mesh]).parts([place]) for one in part]
    asked = [one for one in CALLERS if one.identity and (foreign or one.identity.trust_domain == "cluster.local")]
    assert {*map(of, found)} >= {*map(of, asked)}


def test_patterns_that_match_in_too_many_ways_are_said() -> None:
    patterns = [f"{'/{*}' * one}/{two}{'/{*}' * (9 - one)}" for one in range(9) for two in "abcdef"]
    with pytest.raises(TooManyError, match="54 patterns that match in too many ways together"):
        samples(map(like_path, patterns), fitting(l7.path_fits, patterns), ["/"], f"/{ANY}")
