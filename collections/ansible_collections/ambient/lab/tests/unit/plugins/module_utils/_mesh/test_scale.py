# What a large cluster costs more than a small one: pages of lists, and one look at each object. No clock is needed.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import collections

from ansible_collections.ambient.lab.plugins.module_utils._check.run import ClaimRun
from ansible_collections.ambient.lab.plugins.module_utils._mesh.load import Asked, Loader
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import PATHS, Mesh, Object
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import gateway, pod, policy, service, target
from ansible_collections.ambient.lab.tests.unit.fakes.objects import claim, claims
from ansible_collections.ambient.lab.tests.unit.plugins.module_utils._mesh.test_load import Api

WAYPOINT = {"istio.io/use-waypoint": "waypoint"}


def asked(pods: int, requests: int) -> collections.Counter[str]:
    """API calls for these requests of a client in a cluster with as many pods in its namespace, and elsewhere."""
    crowd = [pod(f"p{number}", ip=f"10.1.{number // 250}.{number % 250}") for number in range(pods - 2)]
    others = [pod("p", f"team-{number}", ip="10.2.0.1") for number in range(pods // 100)]
    api = Api(pod("client"), pod("app"), service("app"), crowd, others)
    loader = Loader(api, [Asked("app", 8080 + number, "default") for number in range(requests)], {"default"})
    assert len(loader.load().items("Pod")) == pods
    return collections.Counter(api.asked)


def test_more_pods_cost_pages_alone_and_more_claims_nothing() -> None:
    few, many = asked(10, 1), asked(5000, 100)
    assert many - few == {PATHS["Pod"].format("/namespaces/default"): 9}
    assert not few - many


class Walked(Mesh):
    """A mesh that counts the objects that are walked over."""

    walked = 0

    def items(self, kind: str, namespace: str | None = None) -> list[Object]:
        found = super().items(kind, namespace)
        self.walked += len(found)
        return found


def walked(requests: int) -> int:
    """Objects that are walked over to say what requests of one client to a Service with a waypoint meet."""
    crowd = [pod(f"p{number}", ip=f"10.1.0.{number}") for number in range(100)]
    policies = [
        policy(f"p{number}", action="DENY", rules=[{}], targetRefs=target(f"s{number}")) for number in range(100)
    ]
    others = [
        policy(f"o{number}", action="DENY", rules=[{}], selector={"matchLabels": {"a": "b"}}) for number in range(100)
    ]
    objects = [pod("client"), pod("app"), service("app", labels=WAYPOINT), *gateway(namespace="default"), *crowd]
    spaces: list[Object] = [{"kind": "Namespace", "metadata": {"name": "default"}}]
    mesh = Walked([*spaces, *objects, *policies, *others])
    raw = [claim(f"c{number}", source={"pod": "client"}, to=f"http://app:8080/{number}") for number in range(requests)]
    runs = [ClaimRun.of(item, "after", mesh) for item in claims(*raw)]
    assert {run.prediction.outcome for run in runs} == {"allowed"}
    return mesh.walked


def test_what_claims_share_is_worked_out_once() -> None:
    assert walked(100) == walked(1)
