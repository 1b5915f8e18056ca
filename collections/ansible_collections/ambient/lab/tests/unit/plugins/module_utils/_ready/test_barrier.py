# The policy barrier on a cluster in memory: who must have a policy, when it passes, what it says where it does not.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import pathlib
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import PolicyRef
from ansible_collections.ambient.lab.plugins.module_utils._cluster.channel import Answer
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._common.rounds import Clock, Retry
from ansible_collections.ambient.lab.plugins.module_utils._ready.barrier import Barrier, Passed
from ansible_collections.ambient.lab.plugins.module_utils._ready.policy_ready import policy_ready, refs
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi
from ansible_collections.ambient.lab.tests.unit.fakes.objects import condition, pod, policy

Object = dict[str, t.Any]

POLICIES = "/apis/security.istio.io/v1/namespaces/default/authorizationpolicies"
PODS = "/api/v1/namespaces/default/pods"
SERVICES = "/api/v1/namespaces/default/services"
GATEWAYS = "/apis/gateway.networking.k8s.io/v1/namespaces/default/gateways"
RULES = [{"to": [{"operation": {"ports": ["8080"]}}]}]
SELECTOR = {"matchLabels": {"app": "app"}}
L4 = policy("p", selector=SELECTOR, action="DENY", rules=RULES, conditions=[condition()])
REFS = [{"kind": "Service", "name": "app"}]
L7 = policy("p", targetRefs=REFS, rules=RULES, conditions=[condition(kind="WaypointAccepted")])


def on(node: str, item: Object) -> Object:
    return {**item, "spec": {**item["spec"], "nodeName": node}}


APP = on("n1", pod("app"))
OWNER = {"kind": "DaemonSet", "name": "ztunnel", "controller": True}


def ztunnel(name: str, node: str, **fields: t.Any) -> Object:
    item = on(node, pod(name, "mesh", containers=["istio-proxy"], **fields))
    return {**item, "metadata": {**item["metadata"], "ownerReferences": [OWNER]}}


ZTUNNEL = ztunnel("zt", "n1")
WAYPOINT = on("n1", pod("wp", containers=["istio-proxy"], labels={"gateway.networking.k8s.io/gateway-name": "wp"}))
GATEWAY: dict[str, t.Any] = {
    "metadata": {"name": "wp", "namespace": "default"},
    "spec": {"listeners": [{"port": 15008, "protocol": "HBONE", "allowedRoutes": {"namespaces": {"from": "All"}}}]},
    "status": {"addresses": [{"value": "10.96.9.9"}]},
}
SERVICE = {"metadata": {"name": "app", "namespace": "default", "labels": {"istio.io/use-waypoint": "wp"}}}


def ztunnel_dump(*, action: str = "Deny", named: bool = True, there: bool = True, tried: bool = False) -> Object:
    found: Object = {"name": "p", "namespace": "default", "scope": "WorkloadSelector", "action": action}
    found["dryRun"] = tried
    found["rules"] = [[[{"destinationPorts": [8080]}]]]
    workload = {"name": "app", "namespace": "default", "authorizationPolicies": ["default/p"] if named else []}
    return {"policies": [found] if there else [], "workloads": [workload]}


def waypoint_dump(port: int = 8080, name: str = "p") -> Object:
    rule = {"permissions": [{"destination_port": port}], "principals": [{"any": True}]}
    return {"rbac": {"rules": {"policies": {f"ns[default]-policy[{name}]-rule[0]": rule}}}}


class World:
    """A cluster whose every answer may be a list: one per look, the last one for good."""

    def __init__(self, objects: Object, dumps: Object) -> None:
        self.objects = objects
        self.dumps = dumps
        self.time = 0.0
        self.asked: list[str] = []

    def clock(self) -> Clock:
        return Clock(lambda: self.time, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def _next(self, store: Object, key: str) -> t.Any:
        found = store.get(key)
        if isinstance(found, tuple):
            store[key] = found[1:] if len(found) > 2 else found[1]
            return found[0]
        return found

    def get(self, path: str, **_query: str) -> Object | None:
        return t.cast("Object | None", self._next(self.objects, path))

    def items(self, path: str, **query: str) -> list[Object]:
        return list(self._next(self.objects, f"{path}?{query['labelSelector']}" if query else path) or [])

    def ask(self, path: str, **_query: str) -> Answer:
        """The namespace, or a list."""
        if path == "/api/v1/namespaces/default":
            return Answer(200, {}, b'{"metadata": {"name": "default"}}')
        found = self._next(self.objects, path)
        return Answer(404, {}, b"") if found is None else Answer(200, {}, json.dumps({"items": found}).encode())

    def forward(self, namespace: str, pod: str, port: int, path: str) -> Answer:
        assert port == 15000
        self.asked.append(f"{namespace}/{pod}{path}")
        dump = self._next(self.dumps, f"{namespace}/{pod}")
        if isinstance(dump, Exception):
            raise dump
        return Answer(200 if dump else 404, {}, json.dumps(dump).encode())


ISTIODS = "/apis/apps/v1/deployments"
ISTIOD = {
    "metadata": {"name": "istiod-x", "namespace": "istio-system"},
    "spec": {"template": {"spec": {"containers": [{"env": [{"name": "REVISION", "value": "default"}]}]}}},
}
CANARY: Object = {**L4, "metadata": {**L4["metadata"], "labels": {"istio.io/rev": "canary"}}}
FOR_ALL = {**L7, "spec": {**L7["spec"], "targetRefs": [{"kind": "GatewayClass", "name": "istio-waypoint"}]}}


def world(changed: Object | None = None, dumps: Object | None = None) -> World:
    objects: Object = {
        f"{POLICIES}/p": L4,
        PODS: [APP, pod("client"), pod("done", phase="Succeeded", labels={"app": "app"}), WAYPOINT],
        "/api/v1/pods?app=ztunnel": [ZTUNNEL, ztunnel("zt2", "n2")],
        SERVICES: [SERVICE],
        GATEWAYS: [GATEWAY],
        "/api/v1/pods?gateway.istio.io/managed": [WAYPOINT],
    }
    return World(objects | (changed or {}), {"mesh/zt": ztunnel_dump(), "default/wp": waypoint_dump()} | (dumps or {}))


def wait(cluster: World, state: str = "present", known: Object | None = None) -> Passed:
    barrier = Barrier(cluster, [PolicyRef("default", "p")], state, cluster.clock(), known)
    return barrier.wait(2, 0.1)


def test_a_policy_that_every_proxy_has() -> None:
    cluster = world()
    passed = wait(cluster)
    assert (passed.waited, passed.gaps) == (0, [])
    assert [(item.kind, item.proxy, item.after) for item in passed.arrivals] == [
        ("istiod", "istiod", 0),
        ("ztunnel", "mesh/zt", 0),
    ]
    # The other node has no pod that the policy selects.
    assert cluster.asked == ["mesh/zt/config_dump"]


def test_a_policy_that_a_waypoint_has() -> None:
    cluster = world({f"{POLICIES}/p": L7})
    passed = wait(cluster)
    assert [(item.kind, item.proxy) for item in passed.arrivals] == [("istiod", "istiod"), ("waypoint", "default/wp")]
    assert cluster.asked == ["default/wp/config_dump?resource=dynamic_listeners"]


def test_a_waypoint_of_a_class_of_the_users_own() -> None:
    spec: Object = t.cast(Object, GATEWAY["spec"])
    own = {**GATEWAY, "spec": {**spec, "gatewayClassName": "mine"}}
    mine = {"metadata": {"name": "mine"}, "spec": {"controllerName": "istio.io/mesh-controller"}}
    classes = "/apis/gateway.networking.k8s.io/v1/gatewayclasses"
    assert not wait(world({f"{POLICIES}/p": L7, GATEWAYS: [own], classes: [mine]})).gaps


def test_waits_for_the_last_proxy_and_asks_the_others_no_more() -> None:
    nodes = {PODS: [APP, on("n2", pod("app2", labels={"app": "app"}))]}
    late = ztunnel_dump()
    late["workloads"].append({"name": "app2", "namespace": "default", "authorizationPolicies": ["default/p"]})
    cluster = world(nodes, {"mesh/zt2": (ztunnel_dump(there=False), ztunnel_dump(action="Allow"), late)})
    passed = wait(cluster)
    assert passed.waited == pytest.approx(0.2)
    assert {item.proxy: round(item.after, 1) for item in passed.arrivals} == {
        "istiod": 0,
        "mesh/zt": 0,
        "mesh/zt2": 0.2,
    }
    assert cluster.asked.count("mesh/zt/config_dump") == 1


def test_a_policy_that_is_edited_meanwhile_must_arrive_anew() -> None:
    edited = {**L4, "metadata": {**L4["metadata"], "generation": 3}, "status": {"conditions": [condition(seen=3)]}}
    unsaid = {**edited, "status": L4["status"]}
    cluster = world({f"{POLICIES}/p": (L4, unsaid, edited)}, {"mesh/zt": (ztunnel_dump(there=False), ztunnel_dump())})
    passed = wait(cluster)
    assert passed.waited == pytest.approx(0.2)
    assert not passed.gaps


TRIED = {**L4, "metadata": {**L4["metadata"], "annotations": {"istio.io/dry-run": "true"}}}
REFUSED = LabError("Can't GET: HTTP 403: pods is forbidden")
NOT_READY = [ztunnel("zt", "n1", ready=False)]


@pytest.mark.parametrize(
    ("changed", "dumps", "said"),
    [
        ({f"{POLICIES}/p": None}, {}, "the cluster: AuthorizationPolicy does not exist"),
        ({}, {"mesh/zt": ztunnel_dump(there=False)}, "ztunnel mesh/zt: it has not been given the policy"),
        ({}, {"mesh/zt": ztunnel_dump(action="Allow")}, "ztunnel mesh/zt: it has a version with another action"),
        ({}, {"mesh/zt": ztunnel_dump(named=False)}, "ztunnel mesh/zt: it has the policy, but not for pod default/app"),
        (
            {},
            {"mesh/zt": None},
            "ztunnel mesh/zt: its configuration can't be read: its admin port answers with HTTP 404",
        ),
        ({}, {"mesh/zt": LabError("gone")}, "ztunnel mesh/zt: its configuration can't be read: gone"),
        ({PODS: [pod("client")]}, {}, "its path: it selects no pod"),
        ({PODS: [pod("app", mesh=False)]}, {}, "its path: none of the 1 pods that it selects is in the mesh"),
        ({"/api/v1/pods?app=ztunnel": []}, {}, "its path: node n1, where it selects a pod, has no ztunnel"),
        ({"/api/v1/pods?app=ztunnel": NOT_READY}, {}, "its path: ztunnel mesh/zt is not ready"),
        ({f"{POLICIES}/p": {**L4, "status": {}}}, {}, "istiod: it has not written ZtunnelAccepted for this version"),
        ({f"{POLICIES}/p": L7, SERVICES: []}, {}, "its path: Service default/app does not exist"),
        (
            {f"{POLICIES}/p": L7, SERVICES: [{"metadata": {"name": "app", "namespace": "default"}}]},
            {},
            "its path: Service default/app has no waypoint",
        ),
        (
            {f"{POLICIES}/p": L7, PODS: [APP]},
            {},
            "its path: waypoint default/wp has no pod",
        ),
        ({f"{POLICIES}/p": L7, GATEWAYS: []}, {}, "its path: the waypoint default/wp does not exist"),
        (
            {f"{POLICIES}/p": CANARY, ISTIODS: [ISTIOD]},
            {},
            "its path: it is for revision canary (label istio.io/rev), and istiod's is default",
        ),
        (
            {f"{POLICIES}/p": FOR_ALL},
            {},
            "its path: a policy for GatewayClass istio-waypoint counts in the root namespace istio-system alone",
        ),
        (
            {f"{POLICIES}/p": {**L7, "spec": {**L7["spec"], "targetRefs": [{"kind": "HTTPRoute", "name": "r"}]}}},
            {},
            "its path: no waypoint takes a policy whose targetRefs have kind HTTPRoute",
        ),
        (
            {f"{POLICIES}/p": {**L7, "spec": {**L7["spec"], "targetRefs": [{**REFS[0], "group": "example.com"}]}}},
            {},
            "its path: Service app of its targetRefs has another group or namespace: it binds nothing",
        ),
        ({}, {"mesh/zt": ztunnel_dump(tried=True)}, "ztunnel mesh/zt: it only tries the policy (dry run)"),
        (
            {f"{POLICIES}/p": L7},
            {"default/wp": waypoint_dump(81)},
            "waypoint default/wp: a listener has another version",
        ),
        ({f"{POLICIES}/p": L7}, {"default/wp": waypoint_dump(name="q")}, "waypoint default/wp: no listener has the"),
    ],
)
def test_says_who_does_not_have_it_and_why(changed: Object, dumps: Object, said: str) -> None:
    passed = wait(world(changed, dumps))
    assert passed.waited == pytest.approx(2)
    assert [f"{gap.who}: {gap.why}" for gap in passed.gaps if f"{gap.who}: {gap.why}".startswith(said)]
    assert not any(gap.retry is Retry.POINTLESS for gap in passed.gaps)


@pytest.mark.parametrize(
    ("changed", "dumps", "said"),
    [
        (
            {f"{POLICIES}/p": {**L4, "status": {"conditions": [condition("UnsupportedValue")]}}},
            {},
            "ZtunnelAccepted=True, UnsupportedValue: ",
        ),
        ({f"{POLICIES}/p": TRIED}, {}, "it is only tried (annotation istio.io/dry-run): it decides nothing"),
        ({}, {"mesh/zt": REFUSED}, "the user lacks the right to create pods/portforward in namespace mesh"),
    ],
)
def test_does_not_wait_for_what_waiting_can_not_change(changed: Object, dumps: Object, said: str) -> None:
    passed = wait(world(changed, dumps))
    assert passed.waited == 0
    assert [gap.retry for gap in passed.gaps if gap.why.startswith(said)] == [Retry.POINTLESS]


def test_a_deleted_policy_is_gone_when_no_proxy_has_it() -> None:
    gone = ztunnel_dump(there=False)
    dumps = {"mesh/zt": (ztunnel_dump(), gone), "mesh/zt2": gone, "default/wp": waypoint_dump(name="q")}
    cluster = world({f"{POLICIES}/p": (L4, None)}, dumps)
    passed = wait(cluster, "absent")
    assert passed.waited == pytest.approx(0.2)
    # Nobody knows any more whom it selected.
    assert {item.proxy for item in passed.arrivals} == {"mesh/zt", "mesh/zt2", "default/wp"}


def test_a_waypoint_of_another_namespace_has_it_still() -> None:
    elsewhere = on("n1", pod("wp", "infra", containers=["istio-proxy"]))
    changed = {f"{POLICIES}/p": None, "/api/v1/pods?gateway.istio.io/managed": [elsewhere]}
    gone = ztunnel_dump(there=False)
    still = wait(world(changed, {"mesh/zt": gone, "mesh/zt2": gone, "infra/wp": waypoint_dump()}), "absent")
    assert [f"{gap.who}: {gap.why}" for gap in still.gaps] == ["waypoint infra/wp: it still has the policy"]


@pytest.mark.parametrize(("kind", "action"), [("CUSTOM", "DENY"), ("AUDIT", "LOG")])
def test_what_a_waypoint_has_of_policies_that_refuse_nothing_themselves(kind: str, action: str) -> None:
    key = "shadow_rules" if kind == "CUSTOM" else "rules"
    dump = waypoint_dump()
    dump["rbac"] = {key: {**dump["rbac"]["rules"], "action": action}}
    item = {**L7, "spec": {**L7["spec"], "action": kind}}
    passed = wait(world({f"{POLICIES}/p": item}, {"default/wp": dump}))
    assert [(item.kind, item.proxy) for item in passed.arrivals] == [("istiod", "istiod"), ("waypoint", "default/wp")]
    none = {"mesh/zt": ztunnel_dump(there=False), "mesh/zt2": ztunnel_dump(there=False), "default/wp": dump}
    still = wait(world({f"{POLICIES}/p": None}, none), "absent")
    assert [gap.why for gap in still.gaps] == ["it still has the policy"]


def test_who_knew_the_policy_asks_only_those_who_had_it() -> None:
    cluster = world({f"{POLICIES}/p": None}, {"mesh/zt": ztunnel_dump(there=False)})
    passed = wait(cluster, "absent", {"default/p": L4})
    assert (passed.waited, passed.gaps) == (0, [])
    assert cluster.asked == ["mesh/zt/config_dump"]
    still = wait(world({f"{POLICIES}/p": None}), "absent", {"default/p": L4})
    assert [f"{gap.who}: {gap.why}" for gap in still.gaps] == ["ztunnel mesh/zt: it still has the policy"]
    still = wait(world(), "absent")
    assert [f"{gap.who}: {gap.why}" for gap in still.gaps] == ["the cluster: AuthorizationPolicy still exists"]


def test_a_policy_that_was_moved_is_in_force_once_those_it_bound_have_it_no_more() -> None:
    nobody = {"matchLabels": {"app": "nobody"}}
    moved: Object = {**L4, "spec": {**L4["spec"], "selector": nobody}}
    dumps = {"mesh/zt": (ztunnel_dump(), ztunnel_dump(named=False))}
    passed = wait(world({f"{POLICIES}/p": moved}, dumps), known={"default/p": L4})
    assert passed.waited == pytest.approx(0.1)
    assert passed.gaps == []
    # What istiod says of it does not count, only that it has seen this version.
    lost = {"conditions": [condition("TargetNotFound", kind="WaypointAccepted", status="False")]}
    moved = {**L7, "spec": {**L7["spec"], "targetRefs": [{**REFS[0], "name": "nobody"}]}, "status": lost}
    dumps = {"default/wp": (waypoint_dump(), waypoint_dump(name="q"))}
    passed = wait(world({f"{POLICIES}/p": moved}, dumps), known={"default/p": L7})
    assert passed.waited == pytest.approx(0.1)
    assert passed.gaps == []
    still = wait(world({f"{POLICIES}/p": moved}), known={"default/p": L7})
    assert [f"{gap.who}: {gap.why}" for gap in still.gaps] == ["waypoint default/wp: it still has the policy"]


@pytest.mark.parametrize("names", [[], ["p"], ["default/"], ["default/P"], ["a/b/c"]])
def test_names_are_read_strictly(names: list[str]) -> None:
    with pytest.raises(LabError, match="policies"):
        refs(names)


def test_from_parameters_to_the_message(tmp_path: pathlib.Path) -> None:
    objects: Object = {
        f"{POLICIES}/p": L4,
        "/api/v1/namespaces/default": {"metadata": {"name": "default"}},
        PODS: {"items": [APP]},
        "/api/v1/pods": {"items": [ZTUNNEL]},
    }
    with FakeApi(objects) as api:
        params: Object = {"kubeconfig": api.kubeconfig(tmp_path), "context": None, "policies": ["default/p"]}
        params |= {"state": "present", "timeout": 0.2, "interval": 0.05}
        api.forwarded["mesh/zt:15000/config_dump"] = ztunnel_dump()
        result = policy_ready(params)
        assert (result["changed"], [item["proxy"] for item in result["proxies"]]) == (False, ["istiod", "mesh/zt"])
        api.forwarded["mesh/zt"] = 403
        with pytest.raises(LabError) as caught:
            policy_ready(params)
    lines = caught.value.message.splitlines()
    assert lines[0] == "1 policy is not in force and waiting won't help:"
    assert "lacks the right to create pods/portforward in namespace mesh" in lines[1]
    assert lines[2].endswith("-n default get authorizationpolicy p -o yaml")
    with pytest.raises(LabError, match="timeout must be"):
        policy_ready({**params, "timeout": -1})
