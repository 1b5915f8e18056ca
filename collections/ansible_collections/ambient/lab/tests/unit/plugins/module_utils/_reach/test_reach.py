# Classes of sources and requests: whoever is in one meets the same, nothing falls between them, and there are few.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import itertools
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._mesh.destinations import Request
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh, Object
from ansible_collections.ambient.lab.plugins.module_utils._mesh.predictions import Prediction
from ansible_collections.ambient.lab.plugins.module_utils._reach.reach import Cell, cells, predicted
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import gateway, mesh_of, pod, policy, service, target
from ansible_collections.ambient.lab.tests.unit.plugins.module_utils._mesh.test_properties import SETS
from hypothesis import HealthCheck, given, settings

SETTINGS = settings(
    max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
ENROLLED = {"istio.io/use-waypoint": "waypoint"}
GRID = [*itertools.product(["GET", "POST", "PUT"], ["/", "/a", "/ab", "/x"], [(), (("x", "y"),), (("x", "z"),)])]


def world(*policies: Object) -> Mesh:
    """An app behind a waypoint, and clients of its namespace, of another one, and outside of the mesh."""
    named = [{**item, "metadata": {**item["metadata"], "name": f"p{index}"}} for index, item in enumerate(policies)]
    clients = [
        pod("client", "layer7", ip="10.0.0.9"),
        pod("client", ip="10.0.0.8"),
        pod("far", "plain", captured=False),
    ]
    app = pod("app", "layer7", ip="10.0.0.1")
    return mesh_of(app, *clients, gateway(), service("app", "layer7", labels=ENROLLED), *named)


def met(found: Prediction) -> tuple[t.Any, ...]:
    """What sets a prediction apart from others."""
    return found.outcome, found.among, found.rules


@SETTINGS
@given(SETS)
def test_whoever_is_in_a_class_meets_the_same(policies: list[Object]) -> None:
    mesh = world(*policies)
    for cell in cells([mesh]):
        for source in cell.sources:
            assert met(predicted(mesh, source, 0, cell.door, cell.kind.request)) == met(cell.found[0]), source.name


@SETTINGS
@given(SETS)
def test_no_request_falls_between_the_classes(policies: list[Object]) -> None:
    mesh = world(*policies)
    found = [cell for cell in cells([mesh]) if cell.door.name == "Service layer7/app:8080"]
    for source in {source.name: source for cell in found for source in cell.sources}.values():
        known = {met(cell.found[0]) for cell in found if source in cell.sources}
        for method, path, headers in GRID:
            request = Request(f"http://app.layer7:8080{path}", method, headers)
            assert met(predicted(mesh, source, 0, found[0].door, request)) in known, (source.name, request)


def labels(*policies: Object, door: str = "Service layer7/app:8080") -> list[tuple[str, str, str]]:
    """What the classes of a destination are called, and what they meet."""
    found: list[Cell] = [cell for cell in cells([world(*policies)]) if cell.door.name == door]
    return [
        (", ".join(source.name for source in cell.sources), cell.kind.label, cell.found[0].outcome) for cell in found
    ]


OTHER_GET = "GET (any other method) / (any other path) or GET (any other method) /a"
ALL_IN = "default/client, layer7/app, layer7/client, default/any other, layer7/any other, any other/any other"
L7: Object = {"targetRefs": target(), "action": "ALLOW"}
POST = {"to": [{"operation": {"methods": ["POST"], "paths": ["/a", "/a/*"]}}]}


@pytest.mark.parametrize(
    ("policies", "wanted"),
    [
        ([], {(ALL_IN, "any request", "allowed"), ("plain/far, outside of the mesh", "any request", "allowed")}),
        (
            [policy("x", "layer7", rules=[POST], **L7)],
            {
                (ALL_IN, "POST /a or POST /a/any-other", "allowed"),
                (ALL_IN, f"{OTHER_GET} and 2 alike", "denied_l7"),
                ("plain/far, outside of the mesh", "any request", "allowed"),
            },
        ),
        (
            [policy("x", "layer7", rules=[{"from": [{"source": {"serviceAccounts": ["client"]}}]}], **L7)],
            {
                ("layer7/client", "any request", "allowed"),
                (ALL_IN.replace("layer7/client, ", ""), "any request", "denied_l7"),
                ("plain/far, outside of the mesh", "any request", "allowed"),
            },
        ),
        # Behind a waypoint ztunnel sees no caller of the mesh.
        (
            [policy("x", "layer7", rules=[{"from": [{"source": {"serviceAccounts": ["client"]}}]}])],
            {
                (ALL_IN, "any request", "denied_upstream"),
                ("plain/far, outside of the mesh", "any request", "denied_l4"),
            },
        ),
    ],
)
def test_there_is_one_of_each_class(policies: list[Object], wanted: set[tuple[str, str, str]]) -> None:
    found = labels(*policies)
    assert {*found} == wanted
    assert len(found) == len(wanted)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("principals", "cluster.local/ns/layer7/sa/nobody", "layer7/nobody"),
        ("principals", "cluster.local/ns/team-*", "team-any other/any other"),
        ("principals", "*/sa/robot", "any other/robot"),
        ("principals", "other.example/ns/a/sa/b", "other.example/a/b"),
        ("namespaces", "*-prod", "any other-prod/any other"),
        ("serviceAccounts", "robot", "layer7/robot"),
        ("ipBlocks", "192.0.2.0/24", "outside of the mesh, at 192.0.2.1"),
    ],
)
def test_identities_that_only_policies_name_are_sources(field: str, value: str, named: str) -> None:
    """They may come any day, and what they then may do is written already."""
    rule = {"from": [{"source": {field: [value]}}]}
    direct = labels(policy("x", "layer7", action="ALLOW", rules=[rule]), door="pod layer7/app:8080")
    assert [sources for sources, _label, outcome in direct if outcome == "allowed"] == [named]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        # Prefixes and suffixes, namespaces and accounts, and trust domains, each with each.
        ({"principals": ["cluster.local/ns/layer7/*"], "notPrincipals": ["*/sa/guest"]}, "layer7/guest"),
        ({"namespaces": ["team-*"], "notNamespaces": ["*-dev"]}, "team-dev/any other"),
        ({"namespaces": ["layer7"], "notPrincipals": ["cluster.local/*"]}, "any other domain/layer7/any other"),
        # An address outside of the blocks within a block.
        ({"ipBlocks": ["10.0.0.0/8", "10.0.0.0/16"]}, "outside of the mesh, at 10.255.255.255"),
    ],
)
def test_what_patterns_tell_apart_together_is_a_source(fields: dict[str, list[str]], named: str) -> None:
    mesh = world(policy("x", "layer7", rules=[{"from": [{"source": fields}]}]))
    assert named in {source.name for cell in cells([mesh]) for source in cell.sources}


def test_a_workload_stays_the_same_source_in_both_states() -> None:
    """One of two with the same account leaves the mesh: in the old state it was still in."""
    old, new = (
        mesh_of(pod("a", account="x"), pod("b", account="x", captured=left), pod("app")) for left in (True, False)
    )
    sources = {source.name: source for cell in cells([old, new]) for source in cell.sources if source.real}
    pods = sources["default/x (pod b)"].pods
    assert [one["metadata"]["name"] for one in pods] == ["b", "b"]
    assert (old.membership(pods[0]).captured, new.membership(pods[1]).captured) == (True, False)


def test_a_waypoint_calls_for_others_alone() -> None:
    rule = {"from": [{"source": {"serviceAccounts": ["waypoint"]}}]}
    found = cells([world(policy("x", "layer7", rules=[rule]))])
    assert "layer7/waypoint" not in {source.name for cell in found for source in cell.sources}


def test_a_pod_is_a_door_of_its_own_where_it_leads_around_a_waypoint() -> None:
    assert {cell.door.name for cell in cells([world()])} == {"Service layer7/app:8080", "pod layer7/app:8080"} | {
        f"pod {name}:8080" for name in ("default/client", "layer7/client", "plain/far")
    }
    plain = mesh_of(pod("app"), service("app"))
    assert {cell.door.name for cell in cells([plain])} == {"Service default/app:8080"}


def test_two_states_are_told_apart_by_the_policies_of_both() -> None:
    old = world(policy("x", "layer7", rules=[POST], **L7))
    new = world(policy("x", "layer7", rules=[{"to": [{"operation": {"methods": ["PUT"]}}]}], **L7))
    inside = [cell for cell in cells([old, new]) if len(cell.sources) > 2]
    found = {cell.kind.label.partition(" or ")[0]: [item.outcome for item in cell.found] for cell in inside}
    assert found["POST /a"] == ["allowed", "denied_l7"]
    assert found["PUT / (any other path)"] == ["denied_l7", "allowed"]
    assert found["GET (any other method) / (any other path)"] == ["denied_l7", "denied_l7"]


def test_names_that_policies_of_other_destinations_have_are_no_sources() -> None:
    """Each namespace has a policy of its own: all sources at all destinations would never end."""
    spaces = [f"n{number}" for number in range(30)]
    rule = "*/sa/x-{}"
    policies = [policy("x", one, rules=[{"from": [{"source": {"principals": [rule.format(one)]}}]}]) for one in spaces]
    found = cells([mesh_of(*(pod("app", one, ip=f"10.0.0.{number}") for number, one in enumerate(spaces)), *policies)])
    assert {sum(len(cell.sources) for cell in found if cell.door.namespace == one) for one in spaces} == {63}
    assert all(
        any(source.name == f"any other/x-{cell.door.namespace}" for source in cell.sources)
        for cell in found
        if cell.found[0].outcome == "allowed"
    )
