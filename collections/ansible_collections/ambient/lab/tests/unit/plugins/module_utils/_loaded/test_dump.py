# What a proxy has loaded: dumps that a ztunnel and an Envoy gave for each policy, against all of the policies.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import copy
import json
import pathlib
import typing as t

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._loaded.dump import (
    Loaded,
    tells_apart,
    waypoint_has,
    ztunnel_has,
)

Object = dict[str, t.Any]

# Per policy, as istiod translated it: its spec, and what the proxy's dump then had of it.
SAMPLES = json.loads((pathlib.Path(__file__).parent / "samples.json").read_text())
POD = {"metadata": {"namespace": "default", "name": "app"}}
# No rules or none written is the same; of two DENY rules with HTTP attributes alone ztunnel gets nothing.
SAME = {"ztunnel": [{2, 4}, {9, 11}], "waypoint": []}
ENVOY = "type.googleapis.com/envoy.extensions.filters.{}.rbac.v3.RBAC"


def policy(kind: str, spec: Object) -> Object:
    namespace = "default" if kind == "ztunnel" else "layer7"
    return {"metadata": {"namespace": namespace, "name": "variant"}, "spec": spec}


def ztunnel_dump(sample: Object) -> Object:
    pod = {**POD["metadata"], "authorizationPolicies": sample["workload"]}
    return {"policies": sample["loaded"], "workloads": [{"namespace": "default", "name": "other"}, pod]}


def waypoint_dump(sample: Object) -> Object:
    chains = []
    for item in sample["loaded"]:
        rules = {f"ns[layer7]-policy[variant]-rule[{number}]": rule for number, rule in item["rules"].items()}
        action = {} if item["action"] == "ALLOW" else {"action": item["action"]}
        rbac = {
            "@type": ENVOY.format("network" if item["tcp"] else "http"),
            "rules": {"policies": rules, **action},
        }
        chains.append({"name": f"inbound-vip|{item['port']}|http|app", "filters": [{"typed_config": rbac}]})
    return {"configs": [{"active_state": {"listener": {"name": "main_internal", "filter_chains": chains}}}]}


def has(kind: str, spec: Object, sample: Object) -> Loaded:
    if kind == "ztunnel":
        return ztunnel_has(ztunnel_dump(sample), policy(kind, spec), [POD], "istio-system")
    return waypoint_has(waypoint_dump(sample), policy(kind, spec))


@pytest.mark.parametrize("kind", ["ztunnel", "waypoint"])
def test_every_policy_is_known_from_every_other(kind: str) -> None:
    samples = SAMPLES[kind]
    assert len(samples) > 10
    for here, mine in enumerate(samples):
        for there, dumped in enumerate(samples):
            same = here == there or any({here, there} <= group for group in SAME[kind])
            found = has(kind, mine["spec"], dumped)
            assert (found.state, bool(found.why)) == ("current" if same else "old", not same), (here, there, found)


def changes(value: t.Any) -> t.Iterator[t.Any]:
    """The value with one of its texts or lists changed, in every way."""
    if isinstance(value, str):
        yield f"{value}x" if not value.isdecimal() else f"{int(value) + 1}"
    elif isinstance(value, list):
        for number, item in enumerate(value):
            for other in changes(item):
                yield [*value[:number], other, *value[number + 1 :]]
            if len(value) > 1:
                yield value[:number] + value[number + 1 :]
    elif isinstance(value, dict):
        for key, item in value.items():
            for other in changes(item):
                yield {**value, key: other}


# What ztunnel is never given, and what the comparison with Envoy leaves out, as its docstring says.
LEFT_OUT = {"ztunnel": ("methods", "request."), "waypoint": ("requestPrincipals", "request.auth")}


@pytest.mark.parametrize("kind", ["ztunnel", "waypoint"])
def test_an_edit_of_any_value_is_noticed(kind: str) -> None:
    seen = 0
    for sample in SAMPLES[kind]:
        rules = sample["spec"].get("rules")
        if any(word in json.dumps(rules) for word in LEFT_OUT[kind]):
            continue
        for edited in changes(rules):
            if keys(edited) == keys(rules):
                seen += 1
                found = has(kind, {**sample["spec"], "rules": edited}, sample)
                assert found.state == "old", (edited, rules)
    assert seen > 20


def keys(rules: list[Object]) -> list[str]:
    return [when["key"] for rule in rules for when in rule.get("when") or []]


def test_what_is_missing_is_absent() -> None:
    spec = SAMPLES["ztunnel"][0]["spec"]
    assert ztunnel_has({}, policy("ztunnel", spec), [POD], "istio-system").state == "absent"
    assert waypoint_has({}, policy("waypoint", spec)).state == "absent"
    # The question whether a deleted policy is gone needs its name alone.
    gone = {"metadata": {"namespace": "default", "name": "variant"}}
    assert ztunnel_has(ztunnel_dump(SAMPLES["ztunnel"][0]), gone, [], "istio-system").state == "old"
    gone = {"metadata": {"namespace": "layer7", "name": "variant"}}
    assert waypoint_has(waypoint_dump(SAMPLES["waypoint"][0]), gone).state == "old"


def test_a_policy_with_a_selector_must_be_named_by_the_workload() -> None:
    sample = SAMPLES["ztunnel"][0]
    known = ztunnel_dump(sample)
    unnamed = ztunnel_dump({**sample, "workload": ["default/other"]})
    assert has("ztunnel", sample["spec"], sample).state == "current"
    found = ztunnel_has(unnamed, policy("ztunnel", sample["spec"]), [POD], "istio-system")
    assert found == Loaded("old", "it has the policy, but not for pod default/app")
    found = ztunnel_has({**known, "workloads": []}, policy("ztunnel", sample["spec"]), [POD], "istio-system")
    assert found == Loaded("old", "it has the policy, but does not know pod default/app")
    # Older ztunnels wrote maps.
    maps = {key: dict(enumerate(items)) for key, items in known.items()}
    assert ztunnel_has(maps, policy("ztunnel", sample["spec"]), [POD], "istio-system").state == "current"


def test_a_policy_that_became_the_waypoints_is_old_at_ztunnel() -> None:
    sample = SAMPLES["ztunnel"][0]
    spec = {"targetRefs": [{"kind": "Service", "name": "app"}], "rules": sample["spec"]["rules"]}
    assert has("ztunnel", spec, sample).state == "old"


def test_listeners_that_envoy_does_not_use_do_not_count() -> None:
    sample = SAMPLES["waypoint"][0]
    dump = waypoint_dump(sample)
    (config,) = dump["configs"]
    assert waypoint_has(
        {"configs": [{"warming_state": config["active_state"]}]}, policy("w", sample["spec"])
    ).state == ("absent")
    other = waypoint_dump(SAMPLES["waypoint"][1])["configs"][0]["active_state"]
    both = {"configs": [{**config, "draining_state": other, "error_state": other}]}
    assert waypoint_has(both, policy("w", sample["spec"])).state == "current"
    # Every chain must have it: one with the older version keeps it in force there.
    assert waypoint_has({"configs": [config, {"active_state": other}]}, policy("w", sample["spec"])).state == "old"


def test_a_filter_for_tcp_can_not_have_http_attributes() -> None:
    spec = {"rules": [{"to": [{"operation": {"ports": ["80"]}}]}, {"to": [{"operation": {"methods": ["GET"]}}]}]}
    permission = {"and_rules": {"rules": [{"or_rules": {"rules": [{"destination_port": 80}]}}]}}
    item = {
        "action": "ALLOW",
        "port": "81",
        "tcp": True,
        "rules": {"0": {"permissions": [permission], "principals": [{}]}},
    }
    assert has("waypoint", spec, {"loaded": [item]}).state == "current"
    assert has("waypoint", spec, {"loaded": [{**item, "tcp": False}]}).why.endswith("it has 1 of 2 rules")
    other = copy.deepcopy(spec)
    other["rules"][0]["to"][0]["operation"]["ports"] = ["82"]
    assert has("waypoint", other, {"loaded": [item]}).state == "old"


@pytest.mark.parametrize(
    ("source", "principal"),
    [
        # Versions differ in where they write the identity, and in whether they quote the dots of a name.
        ({"namespaces": ["a.b"]}, {"authenticated": {"principal_name": {"safe_regex": {"regex": ".*/ns/a.b/.*"}}}}),
        ({"namespaces": ["a.b"]}, {"authenticated": {"principal_name": {"safe_regex": {"regex": r".*/ns/a\.b/.*"}}}}),
        ({"principals": ["*"]}, {"authenticated": {"principal_name": {"safe_regex": {"regex": ".+"}}}}),
        ({"principals": ["td/ns/a/sa/b"]}, {"authenticated": {"principal_name": {"exact": "spiffe://td2/ns/a/sa/b"}}}),
        ({"ipBlocks": ["10.1.2.3/8"]}, {"source_ip": {"address_prefix": "10.0.0.0", "prefix_len": 8}}),
        ({"ipBlocks": ["0.0.0.0/0"]}, {"direct_remote_ip": {"address_prefix": "0.0.0.0"}}),
    ],
)
def test_spellings_of_other_versions(source: Object, principal: Object) -> None:
    item = {"action": "ALLOW", "port": "", "tcp": False}
    rule = {"permissions": [{"any": True}], "principals": [{"and_ids": {"ids": [{"or_ids": {"ids": [principal]}}]}}]}
    loaded = {"loaded": [{**item, "rules": {"0": rule}}]}
    assert has("waypoint", {"rules": [{"from": [{"source": source}]}]}, loaded).state == "current"
    assert has("waypoint", {"rules": [{"from": [{"source": {"namespaces": ["c"]}}]}]}, loaded).state == "old"


def test_a_custom_policy_without_its_provider_is_there_and_denies() -> None:
    sample = next(item for item in SAMPLES["waypoint"] if item["loaded"][0]["action"] == "DENY")
    dump = json.loads(
        json.dumps(waypoint_dump(sample))
        .replace('"ns[', '"istio-ext-authz-p-ns[')
        .replace(']": {', ']-deny-due-to-bad-CUSTOM-action": {')
    )
    found = waypoint_has(dump, policy("waypoint", {**sample["spec"], "action": "CUSTOM"}))
    assert (found.state, "does not have its provider" in found.why) == ("old", True), found


@pytest.mark.parametrize("kind", ["ztunnel", "waypoint"])
def test_versions_are_told_apart_as_in_the_dumps(kind: str) -> None:
    specs = [sample["spec"] for sample in SAMPLES[kind]]
    for here, old in enumerate(specs):
        for there, new in enumerate(specs):
            same = here == there or any({here, there} <= group for group in SAME[kind])
            assert tells_apart(policy(kind, old), policy(kind, new), "istio-system") == (not same), (old, new)


REFS = {"targetRefs": [{"kind": "Service", "name": "app"}]}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ({**REFS, "rules": [{"from": [{"source": {"requestPrincipals": ["a/b"]}}]}]}, {**REFS, "rules": [{}]}, False),
        ({"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}, {"rules": []}, False),
        ({"selector": {"matchLabels": {"a": "b"}}}, {"selector": {"matchLabels": {"a": "c"}}}, True),
        (REFS, None, True),
    ],
)
def test_what_proxies_do_not_show_is_not_told_apart(old: Object, new: Object | None, told: bool) -> None:
    assert tells_apart(policy("", old), new and policy("", new), "istio-system") is told
