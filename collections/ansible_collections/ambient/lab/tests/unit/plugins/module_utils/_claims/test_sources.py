# Sources: which pod is meant, and what is said of one that can't probe.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Source
from ansible_collections.ambient.lab.plugins.module_utils._claims.sources import Target, Unusable, find_target
from ansible_collections.ambient.lab.plugins.module_utils._common.rounds import Retry
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object, pod

BY_LABEL = Source("default", labels=(("app", "curl"),))


def curl(name: str, **fields: t.Any) -> Object:
    """A pod that BY_LABEL fits."""
    return pod(name, labels={"app": "curl"}, **fields)


@pytest.mark.parametrize(
    ("source", "pods", "expected"),
    [
        (Source("default", pod="curl"), [pod("curl")], Target("default", "curl", "main")),
        (
            Source("default", service_account="sa"),
            [pod("x", service_account="sa")],
            Target("default", "x", "main"),
        ),
        (BY_LABEL, [curl("c"), curl("b"), pod("a")], Target("default", "b", "main")),
        (BY_LABEL, [curl("a", ready=False), curl("b")], Target("default", "b", "main")),
        (BY_LABEL, [curl("a", phase="Failed"), curl("b")], Target("default", "b", "main")),
        (
            Source("default", pod="curl", container="two"),
            [pod("curl", containers=["one", "two"])],
            Target("default", "curl", "two"),
        ),
        (
            Source("default", pod="curl", container="three"),
            [pod("curl", containers=["one", "two"])],
            Unusable("pod default/curl has no container 'three', it has one, two", Retry.POINTLESS),
        ),
        (
            Source("default", pod="curl"),
            [pod("other")],
            Unusable("pod default/curl does not exist", Retry.POINTLESS),
        ),
        (
            Source("default", service_account="sa"),
            [],
            Unusable("a pod with ServiceAccount default/sa does not exist", Retry.POINTLESS),
        ),
        (
            BY_LABEL,
            [],
            Unusable("a pod with labels app=curl in namespace default does not exist", Retry.POINTLESS),
        ),
        (
            BY_LABEL,
            [curl("a", phase="Succeeded", ready=False)],
            Unusable("pod default/a is Succeeded and won't come back", Retry.POINTLESS),
        ),
        (BY_LABEL, [curl("a", phase="Pending", ready=False)], Unusable("pod default/a is Pending")),
        (BY_LABEL, [curl("a", ready=False)], Unusable("pod default/a is Running, but not ready")),
        (BY_LABEL, [curl("a", deleting=True)], Unusable("pod default/a is being deleted")),
        (
            BY_LABEL,
            [curl("a", ready=False, waiting="CrashLoopBackOff")],
            Unusable("pod default/a is not ready: container main is waiting, CrashLoopBackOff"),
        ),
    ],
)
def test_find_target(source: Source, pods: list[Object], expected: Target | Unusable) -> None:
    found = find_target(source, pods)
    if isinstance(expected, Target) and isinstance(found, Target):
        expected = dataclasses.replace(expected, workload=expected.pod)
    assert found == expected
