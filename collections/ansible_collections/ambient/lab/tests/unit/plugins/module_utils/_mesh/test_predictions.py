# What a request meets, said from the objects alone: the way, who decides on it, and what nobody can know.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._common.rounds import Retry
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import MeshConfig, Object
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import (
    ask,
    denying,
    mesh_of,
    pod,
    policy,
    service,
    target,
)

URL = "http://app:8080/"
FROM_CLIENT = {"from": [{"source": {"principals": ["cluster.local/ns/default/sa/client"]}}]}
FROM_NOBODY = {"from": [{"source": {"principals": ["cluster.local/ns/default/sa/nobody"]}}]}
GET = {"to": [{"operation": {"methods": ["GET"]}}]}
CLIENT = pod("client", ip="10.0.0.9")
APP = pod("app", ip="10.0.0.1")


# --- ztunnel alone


@pytest.mark.parametrize(
    ("policies", "outcome", "among"),
    [
        ([], "allowed", ()),
        ([denying(rules=[FROM_CLIENT])], "denied_l4", ("default/deny",)),
        ([denying(rules=[FROM_NOBODY])], "allowed", ()),
        ([policy("allow", rules=[FROM_CLIENT])], "allowed", ()),
        ([policy("allow", rules=[FROM_NOBODY])], "denied_l4", ("default/allow",)),
        ([policy("a", rules=[FROM_NOBODY]), policy("b", rules=[FROM_NOBODY])], "denied_l4", ("default/a", "default/b")),
        ([policy("a", rules=[FROM_NOBODY]), policy("b", rules=[FROM_CLIENT])], "allowed", ()),
        ([policy("a", rules=[FROM_CLIENT]), denying()], "denied_l4", ("default/deny",)),
        ([policy("nothing")], "denied_l4", ("default/nothing",)),
        ([denying(selector={"matchLabels": {"app": "app"}})], "denied_l4", ("default/deny",)),
        ([denying(selector={"matchLabels": {"app": "other"}})], "allowed", ()),
        # istiod gives a selector without labels to no workload.
        ([denying(selector={})], "allowed", ()),
        ([policy("root", "istio-system", action="DENY", rules=[{}])], "denied_l4", ("istio-system/root",)),
        ([policy("foreign", "layer7", action="DENY", rules=[{}])], "allowed", ()),
        # Bound to a Service without a waypoint it has no effect anywhere.
        ([denying(targetRefs=target())], "allowed", ()),
        ([denying(action="AUDIT")], "allowed", ()),
        ([denying(action="CUSTOM")], "allowed", ()),
        ([denying(annotations={"istio.io/dry-run": "true"})], "allowed", ()),
        ([denying(annotations={"istio.io/dry-run": "no"})], "denied_l4", ("default/deny",)),
    ],
)
def test_what_ztunnel_decides(policies: list[Object], outcome: str, among: tuple[str, ...]) -> None:
    found = ask(mesh_of(CLIENT, APP, service("app"), *policies), URL)
    assert (found.outcome, found.among) == (outcome, among)


SENT = {"AMBIENT_ENABLE_DRY_RUN_AUTHORIZATION_POLICY": "true"}


@pytest.mark.parametrize(
    ("version", "flags", "outcome"),
    [
        ((1, 29), {}, "allowed"),
        ((1, 26), {}, "allowed"),
        # istiod leaves it out since 1.25.2; the patch is not known.
        ((1, 25), {}, "unknown"),
        ((1, 25, 2), {}, "allowed"),
        ((1, 25, 1), {}, "denied_l4"),
        ((1, 24), {}, "denied_l4"),
        (None, {}, "unknown"),
        # An older ztunnel enforces what istiod sends then.
        ((1, 29), SENT, "unknown"),
    ],
)
def test_a_dry_run_is_enforced_by_older_istiods(
    version: tuple[int, int] | None, flags: dict[str, str], outcome: str
) -> None:
    tried = denying(annotations={"istio.io/dry-run": "true"})
    mesh = mesh_of(CLIENT, APP, service("app"), tried, config=MeshConfig(version=version, flags=flags))
    assert ask(mesh, URL).outcome == outcome


def test_ztunnel_matches_the_port_of_the_pod_and_not_of_the_service() -> None:
    mesh = mesh_of(CLIENT, APP, service("app", port=80), denying(rules=[{"to": [{"operation": {"ports": ["80"]}}]}]))
    assert ask(mesh, "http://app/").outcome == "allowed"


def test_http_attributes_at_ztunnel_are_named() -> None:
    mesh = mesh_of(CLIENT, APP, service("app"), policy("get", rules=[GET]))
    found = ask(mesh, URL)
    assert found.outcome == "denied_l4"
    assert "AuthorizationPolicy default/get has methods, which ztunnel can't match" in found.why


@pytest.mark.parametrize(
    ("client", "objects", "outcome"),
    [
        # Without an identity no principal matches, and every negative one does.
        (
            pod("client", captured=False, labels={"istio.io/dataplane-mode": "none"}),
            [denying(rules=[FROM_CLIENT])],
            "allowed",
        ),
        (
            pod("client", captured=False, labels={"istio.io/dataplane-mode": "none"}),
            [denying(rules=[{"from": [{"source": {"notPrincipals": ["*"]}}]}])],
            "denied_l4",
        ),
        (CLIENT, [denying(rules=[{"from": [{"source": {"ipBlocks": ["10.0.0.9"]}}]}])], "denied_l4"),
    ],
)
def test_what_ztunnel_knows_of_the_source(client: Object, objects: list[Object], outcome: str) -> None:
    assert ask(mesh_of(client, APP, service("app"), *objects), URL).outcome == outcome


def test_strict_peer_authentication_refuses_plain_text_under_a_name_that_no_policy_has() -> None:
    strict = {
        "kind": "PeerAuthentication",
        "metadata": {"name": "strict", "namespace": "default"},
        "spec": {"mtls": {"mode": "STRICT"}},
    }
    outside = pod("client", "plain", captured=False)
    found = ask(mesh_of(outside, APP, service("app"), strict), "http://app.default:8080/", namespace="plain")
    assert (found.outcome, found.cause) == ("denied_l4", "default/strict")
    assert found.among == ("istio-system/istio_converted_static_strict",)
    assert ask(mesh_of(CLIENT, APP, service("app"), strict), URL).outcome == "allowed"


def test_a_destination_outside_of_the_mesh_is_not_guarded_and_why() -> None:
    opted_out = pod("app", captured=False, labels={"app": "app", "istio.io/dataplane-mode": "none"})
    found = ask(mesh_of(CLIENT, opted_out, service("app"), denying()), URL)
    assert found.outcome == "allowed"
    assert "has opted out of the mesh (its label istio.io/dataplane-mode=none)" in found.why
    assert all(reason.retry is Retry.POINTLESS for reason in found.reasons)


def test_pods_that_are_not_alike_leave_it_open() -> None:
    other = pod("other", ip="10.0.0.2", labels={"app": "app", "canary": "yes"})
    mesh = mesh_of(CLIENT, APP, other, service("app"), denying(selector={"matchLabels": {"canary": "yes"}}))
    assert ask(mesh, URL).outcome == "unknown"
    assert ask(mesh, "http://10.0.0.2:8080/").outcome == "denied_l4"
    assert ask(mesh, "http://10.0.0.1:8080/").outcome == "allowed"


def test_a_node_port_reaches_the_pods_without_an_identity() -> None:
    item = service("app", type="NodePort")
    item["spec"]["ports"][0]["nodePort"] = 30080
    found = ask(mesh_of(CLIENT, APP, item, policy("allow", rules=[FROM_CLIENT])), "http://192.168.1.1:30080/")
    assert found.outcome == "denied_l4"
