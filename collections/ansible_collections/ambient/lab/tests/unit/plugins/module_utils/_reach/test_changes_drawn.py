# Concrete requests that are drawn without looking at policies: whatever meets something else then is in a change.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import itertools
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._mesh.destinations import Request
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Object
from ansible_collections.ambient.lab.plugins.module_utils._mesh.predictions import predict
from ansible_collections.ambient.lab.plugins.module_utils._reach.changes import changes_of
from ansible_collections.ambient.lab.plugins.module_utils._reach.reach import cells
from ansible_collections.ambient.lab.plugins.module_utils._reach.sources import outsider
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import policy, target
from ansible_collections.ambient.lab.tests.unit.plugins.module_utils._reach.test_reach import SETTINGS, world
from hypothesis import given, settings
from hypothesis import strategies as st


def some(*values: str) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=2)


def fields(**values: st.SearchStrategy[list[str]]) -> st.SearchStrategy[dict[str, list[str]]]:
    """Some of these fields, and of their negative twins."""
    both = {f"not{key.capitalize()}": value for key, value in values.items()} | values
    return st.fixed_dictionaries({}, optional=both).filter(bool)


SOURCES = fields(
    namespaces=some("a*", "*b", "*prod*", "layer7"),
    principals=some("*/layer7/sa/x", "*/sa/x", "cluster.local/ns/a*", "cluster.local/ns/layer7/*"),
)
OPERATIONS = fields(
    methods=some("GET", "P*"), paths=some("/a*", "*.html", "/{*}/b", "/a/{**}", "/"), hosts=some("app*", "*evil")
)
RULES = st.fixed_dictionaries(
    {},
    optional={
        "from": st.lists(SOURCES.map(lambda one: {"source": one}), min_size=1, max_size=2),
        "to": st.lists(OPERATIONS.map(lambda one: {"operation": one}), min_size=1, max_size=2),
    },
)
POLICIES = st.lists(
    st.builds(
        lambda action, rules, binding: policy("x", "layer7", action=action, rules=rules, **binding),
        st.sampled_from(["ALLOW", "DENY"]),
        st.lists(RULES, max_size=2),
        st.sampled_from([{}, {"targetRefs": target()}, {"targetRefs": target()}]),
    ),
    max_size=3,
)
CALLERS = [outsider(*one) for one in itertools.product(["layer7", "az", "zprodz", "zz"], ["x", "z"])]
CALLERS.append(outsider("zz", "z", captured=False))
REQUESTS = [
    Request(f"http://app.layer7:8080{path}", method, (("host", host),) if host else ())
    for method in ("GET", "PUT")
    for path in ("/", "/z", "/a/z", "/z/b", "/a/b", "/a/z.html", "/z.html")
    for host in ("", "z.evil")
]


@settings(SETTINGS, max_examples=12)
@given(POLICIES, POLICIES)
def test_whatever_meets_something_else_is_in_a_change(before: list[Object], after: list[Object]) -> None:
    meshes = world(*before), world(*after)
    found = changes_of(cells(meshes), *meshes)
    said = {
        (one.kind if one.kind == "unclear" else tuple(met.outcome for met in one.met))
        for one in found
        if one.cell.door.name == "Service layer7/app:8080"
    }
    for caller, request in itertools.product(CALLERS, REQUESTS):
        outcomes: t.Any = tuple(predict(mesh, caller, request, "layer7")[1].outcome for mesh in meshes)
        if "allowed" in outcomes and len({*outcomes}) > 1 and "unknown" not in outcomes:
            assert said & {outcomes, "unclear"}, (caller["spec"], request)
