# Which pod refuses plain text at which port, of which PeerAuthentication: levels, ports, age.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Object
from ansible_collections.ambient.lab.plugins.module_utils._mesh.peers import strictness
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import mesh_of, pod

STATIC = "istio-system/istio_converted_static_strict"
CONVERTED = "default/converted_peer_authentication_own"
POD = pod("app")


def peer(level: str, mode: str, age: int = 5, **ports: str) -> Object:
    """A PeerAuthentication for the whole mesh, a namespace, or the pod's own labels."""
    name, space = {"mesh": ("all", "istio-system"), "space": ("space", "default"), "own": ("own", "default")}[level]
    spec: Object = {"mtls": {"mode": mode}} if mode else {}
    if level == "own":
        spec["selector"] = {"matchLabels": {"app": "app"}}
    if ports:
        spec["portLevelMtls"] = {number.removeprefix("p"): {"mode": mode} for number, mode in ports.items()}
    metadata = {"name": name, "namespace": space, "creationTimestamp": f"2026-01-0{age}T00:00:00Z"}
    return {"kind": "PeerAuthentication", "metadata": metadata, "spec": spec}


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ([], ""),
        ([peer("mesh", "STRICT")], STATIC),
        ([peer("mesh", "PERMISSIVE")], ""),
        ([peer("space", "STRICT")], STATIC),
        ([peer("mesh", "STRICT"), peer("space", "PERMISSIVE")], ""),
        ([peer("mesh", "STRICT"), peer("space", "UNSET")], STATIC),
        ([peer("mesh", "STRICT"), peer("space", "")], STATIC),
        ([peer("space", "PERMISSIVE"), peer("own", "STRICT")], STATIC),
        ([peer("space", "STRICT"), peer("own", "DISABLE")], ""),
        ([peer("space", "STRICT"), peer("own", "UNSET")], STATIC),
        # Ports.
        ([peer("own", "STRICT", p8080="PERMISSIVE")], ""),
        ([peer("own", "STRICT", p9090="PERMISSIVE")], CONVERTED),
        ([peer("own", "STRICT", p9090="STRICT")], STATIC),
        ([peer("own", "PERMISSIVE", p8080="STRICT")], CONVERTED),
        ([peer("own", "PERMISSIVE", p9090="STRICT")], ""),
        ([peer("space", "STRICT"), peer("own", "UNSET", p8080="PERMISSIVE")], ""),
        # DISABLE is no exception where the level above is strict.
        ([peer("space", "STRICT"), peer("own", "UNSET", p8080="DISABLE")], STATIC),
        ([peer("own", "UNSET", p8080="STRICT")], CONVERTED),
    ],
)
def test_who_refuses_plain_text(objects: list[Object], expected: str) -> None:
    found = strictness(mesh_of(*objects), POD, 8080)
    assert (found.policy if found.strict else "", found.doubt) == (expected, "")


def test_of_one_level_the_oldest_counts() -> None:
    old, new = peer("space", "STRICT", age=1), peer("space", "PERMISSIVE", age=2)
    new["metadata"]["name"] = "new"
    assert strictness(mesh_of(new, old), POD, 8080).cause == "default/space"


def test_one_with_a_selector_in_the_root_namespace_counts_for_nothing() -> None:
    item = peer("mesh", "STRICT")
    item["spec"]["selector"] = {"matchLabels": {"app": "app"}}
    assert not strictness(mesh_of(item), POD, 8080).strict


@pytest.mark.parametrize(
    "objects",
    [
        [peer("mesh", "STRICT"), peer("own", "PERMISSIVE", p8080="STRICT")],
        [peer("mesh", "STRICT"), peer("space", "UNSET"), peer("own", "UNSET", p9090="PERMISSIVE")],
    ],
)
def test_where_istiod_may_lose_the_policy_nobody_says_that_it_is_strict(objects: list[Object]) -> None:
    assert strictness(mesh_of(*objects), POD, 8080).doubt


def test_what_could_not_be_read_is_a_doubt() -> None:
    lost: dict[str, t.Any] = {"PeerAuthentication": "forbidden"}
    assert "forbidden" in strictness(mesh_of(**lost), POD, 8080).doubt


def test_of_two_of_the_same_age_nobody_knows_which_one_counts() -> None:
    one, two = peer("space", "STRICT"), peer("space", "PERMISSIVE")
    two["metadata"]["name"] = "two"
    assert (
        strictness(mesh_of(one, two), POD, 8080).doubt
        == "PeerAuthentications default/space, default/two are of the same age"
    )
    # Where both say the same it does not matter; of those with ports the name is told apart.
    two["spec"] = one["spec"]
    assert strictness(mesh_of(one, two), POD, 8080).policy == STATIC
    first, other = peer("own", "STRICT", p9090="PERMISSIVE"), peer("own", "STRICT", p9090="PERMISSIVE")
    other["metadata"]["name"] = "other"
    assert strictness(mesh_of(first, other), POD, 8080).doubt
